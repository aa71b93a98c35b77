//! [`WorkerStatus`]: the public status of a worker, for pages and APIs.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{Desired, InFlight, Reason, State};
use crate::{
    chain::{SessionState, WorkerOnChain},
    inventory::{self, FleetRecord, KeyChange},
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::Position,
};

/// The result of the last [`Command::Checkpoint`](super::Command::Checkpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When the result was known.
    pub at: SystemTime,
    /// The last block in the checkpoint, or why there is none.
    pub result: Result<ParaNumber, Arc<str>>,
}

/// The status of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its entry in the inventory.
    pub worker: Arc<inventory::Worker>,
    /// Its pool's entry.
    pub pool: Option<Arc<inventory::Pool>>,
    /// The runner that it is assigned to.
    pub runner: Option<usize>,
    /// The state label.
    pub state: State,
    /// Why the worker is in that state.
    pub reason: Reason,
    /// The reason in words. Has no time stamp.
    pub message: Arc<str>,
    /// When the message or the state last changed.
    pub message_at: SystemTime,
    /// The same time on the monotonic clock, which changes of the system time do not affect.
    pub message_since: Instant,
    /// The numbers that it needs next.
    pub position: Option<Position>,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Its public key; if the worker is unreachable, the last known one.
    pub public_key: Option<WorkerKey>,
    /// Its last answer to `GetInfo`; `position` is newer.
    pub info: Option<Arc<PhactoryInfo>>,
    /// The on-chain state of that key.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// The persisted record: its last known key and its goal.
    pub saved: FleetRecord,
    /// Whether it has not advanced for a long time although there is data for it.
    pub stalled: bool,
    /// Consecutive failures to reach or sync it.
    pub failures: u32,
    /// The result of the last commanded checkpoint, once it has ended.
    pub checkpoint: Option<Checkpoint>,
    /// The operation on its way to the chain; if there is none, the oldest messages that are.
    pub in_flight: Option<InFlight>,
}

impl WorkerStatus {
    /// The status of a worker that does not run.
    pub fn idle(desired: &Desired, reason: Reason, message_at: SystemTime) -> Self {
        Self {
            worker: Arc::clone(&desired.worker),
            pool: desired.pool.clone(),
            runner: None,
            state: State::Idle,
            message: reason.to_string().into(),
            reason,
            message_at,
            message_since: Instant::now(),
            position: None,
            lag: None,
            public_key: None,
            info: None,
            chain: None,
            saved: FleetRecord::default(),
            stalled: false,
            failures: 0,
            checkpoint: None,
            in_flight: None,
        }
    }

    /// The last change of its keys that was seen, if there was one.
    pub fn key_change(&self) -> Option<KeyChange> {
        self.saved.seen_keys?.changed
    }

    /// The state of its computing session, if it has one.
    pub fn session_state(&self) -> Option<SessionState> {
        self.chain.as_ref()?.session.as_ref().map(|session| session.state)
    }

    /// Whether it computes and this fleet relays its messages: without its entry, nobody sends its heartbeats, unless
    /// another manager does.
    pub fn needs_heartbeats(&self) -> bool {
        let desired = Desired { worker: Arc::clone(&self.worker), pool: self.pool.clone() };
        desired.relays() && self.session_state().is_some_and(SessionState::is_computing)
    }

    /// Whether it computes and the chain marks it unresponsive. Its label is `S_ACTIVE` nevertheless, as in
    /// the original.
    pub fn is_unresponsive(&self) -> bool {
        self.session_state() == Some(SessionState::WorkerUnresponsive)
    }
}
