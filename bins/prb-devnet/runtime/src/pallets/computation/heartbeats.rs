//! Heartbeats: challenges of computing workers, their answers, and workers that do not answer.

use codec::Decode;
use frame_system::pallet_prelude::BlockNumberFor;
use sp_core::U256;
use sp_runtime::traits::Zero;

use super::pallet::{
    Config, Event, HeartbeatInterval, OnlineWorkers, Pallet, SessionBindings, SessionIds, Sessions,
    TokenomicParameters, Unanswered, WorkerBindings,
};
use crate::{
    pallets::{mq, registry},
    types::{
        AccountId, HeartbeatChallenge, Message, MessageOrigin, SystemEvent, WORKING_REPORT_TOPIC,
        WorkerEvent, WorkerPublicKey, WorkerState, WorkingReportEvent,
    },
};

impl<T: Config> Pallet<T> {
    /// Handles a worker's report.
    pub fn on_message(message: &Message) {
        let MessageOrigin::Worker(worker) = &message.sender else { return };
        if !mq::is_topic(&message.destination, WORKING_REPORT_TOPIC) {
            return;
        }
        // Ignored if it cannot be decoded: an error would keep the sender's sequence from advancing.
        let Ok(report) = WorkingReportEvent::decode(&mut &message.payload[..]) else { return };
        let (WorkingReportEvent::Heartbeat { session_id, challenge_time, iterations, .. }
        | WorkingReportEvent::HeartbeatV2 { session_id, challenge_time, iterations, .. }) = report;
        // It may have been unbound since it wrote the message.
        let Some(session) = WorkerBindings::<T>::get(worker) else { return };
        // A late heartbeat of an earlier session says nothing about this one.
        if SessionIds::<T>::get(&session) == Some(session_id) {
            Self::on_heartbeat(&session, *worker, challenge_time, iterations);
        }
    }

    fn on_heartbeat(session: &AccountId, worker: WorkerPublicKey, challenge_time: u64, iterations: u64) {
        let Some(mut info) = Sessions::<T>::get(session) else { return };
        if !info.state.is_computing() {
            return;
        }
        // A worker counts iterations from its session's start, not from the last heartbeat.
        let start_ms = info.benchmark.working_start_time.saturating_mul(1000);
        let elapsed_ms = challenge_time.saturating_sub(start_ms);
        info.benchmark.p_instant = registry::score(iterations, elapsed_ms);
        info.benchmark.iterations = iterations;
        info.benchmark.challenge_time_last = challenge_time / 1000;
        info.v_updated_at = Self::now_secs();
        Unanswered::<T>::remove(session);
        let p_instant = info.benchmark.p_instant;
        if info.state == WorkerState::WorkerUnresponsive {
            info.state = WorkerState::WorkerIdle;
            registry::Pallet::<T>::push_worker_event(worker, WorkerEvent::ExitUnresponsive);
            Self::deposit_event(Event::WorkerExitUnresponsive { session: session.clone() });
        }
        Sessions::<T>::insert(session, info);
        let session = session.clone();
        Self::deposit_event(Event::BenchmarkUpdated { session, p_instant });
    }

    // On the real chain a gatekeeper reports silent workers; here the pallet does.
    pub(super) fn challenge(number: BlockNumberFor<T>) {
        if OnlineWorkers::<T>::get().is_zero() {
            return;
        }
        let rules = TokenomicParameters::<T>::get().unwrap_or_default();
        let parent = frame_system::Pallet::<T>::parent_hash();
        // Not random, so that the same configuration yields the same chain.
        let seed = sp_io::hashing::blake2_256(&codec::Encode::encode(&(parent, number)));
        let challenge = HeartbeatChallenge {
            seed: U256::from_big_endian(&seed),
            // A worker's hash XOR the seed is uniform: in each block one worker in this many is challenged.
            online_target: U256::MAX / HeartbeatInterval::<T>::get().max(1),
        };
        let window = BlockNumberFor::<T>::from(rules.heartbeat_window);
        let computing: Vec<_> = SessionIds::<T>::iter_keys().collect();
        for session in computing {
            let Some(worker) = SessionBindings::<T>::get(&session) else { continue };
            match Unanswered::<T>::get(&session) {
                Some(since) if number > since + window => Self::silence(&session, worker),
                None if challenge.concerns(&worker) => {
                    // From the first unanswered challenge on: later ones do not extend the time.
                    Unanswered::<T>::insert(&session, number);
                }
                _ => {}
            }
        }
        let event = SystemEvent::HeartbeatChallenge(challenge);
        mq::Pallet::<T>::push_system_event(b"PhalaComputation", event);
    }

    fn silence(session: &AccountId, worker: WorkerPublicKey) {
        let Some(mut info) = Sessions::<T>::get(session) else { return };
        if info.state != WorkerState::WorkerIdle {
            return;
        }
        // It keeps its stake and its id: the next heartbeat ends this.
        info.state = WorkerState::WorkerUnresponsive;
        Sessions::<T>::insert(session, info);
        registry::Pallet::<T>::push_worker_event(worker, WorkerEvent::EnterUnresponsive);
        Self::deposit_event(Event::WorkerEnterUnresponsive { session: session.clone() });
    }
}
