//! Which calls have had their effect.

use super::Model;
use crate::{
    chain::{Call, Effect, MessageEffects, SessionState},
    primitives::{PoolId, WorkerKey},
    wire::MessageOrigin,
};

impl Model {
    /// Which of the calls' effects are there, as [`ChainSubmitter::effects`](crate::chain::ChainSubmitter) means.
    pub(in crate::chain::memory) fn effects(&self, calls: &[Call]) -> Vec<Effect> {
        let mut messages = MessageEffects::default();
        calls.iter().map(|call| self.effect(call, &mut messages)).collect()
    }

    fn effect(&self, call: &Call, messages: &mut MessageEffects) -> Effect {
        let of = |worker: &WorkerKey| self.workers.get(worker);
        let session = |pool: &PoolId, worker: &WorkerKey| {
            of(worker).filter(|w| w.pool == Some(*pool)).and_then(|w| w.session.as_ref())
        };
        let present = match call {
            Call::SyncOffchainMessage(m) => {
                let ingress = match &m.message.sender {
                    MessageOrigin::Worker(worker) => of(worker).map_or(0, |w| w.ingress_sequence),
                    other => self.ingress.get(other).copied().unwrap_or_default(),
                };
                return messages.effect(m, ingress);
            }
            Call::RegisterWorker { worker, replaces, .. } => of(worker)
                .and_then(|w| w.registration.as_ref())
                .is_some_and(|r| Some(r.last_updated) != *replaces),
            Call::RegisterWorkerV1 { worker, runtime_info, replaces, .. } => of(worker)
                .and_then(|w| w.registration.as_ref())
                .is_some_and(|r| r.is_of_v1(runtime_info, *replaces)),
            Call::UpdateWorkerEndpoint { payload, .. } => {
                self.endpoints.get(&payload.pubkey).is_some_and(|at| *at >= payload.signing_time)
            }
            Call::AddWorker { pool, worker } => of(worker).is_some_and(|w| w.pool == Some(*pool)),
            Call::RemoveWorker { pool, worker } => of(worker).is_none_or(|w| w.pool != Some(*pool)),
            Call::StartComputing { pool, worker, .. } => {
                session(pool, worker).is_some_and(|s| s.state.is_computing())
            }
            Call::RestartComputing { pool, worker, stake } => {
                session(pool, worker).is_some_and(|s| s.state.is_computing() && s.stake >= Some(*stake))
            }
            Call::StopComputing { pool, worker } => {
                session(pool, worker).is_some_and(|s| !s.state.is_computing())
            }
            Call::ReclaimWorker { pool, worker } => {
                session(pool, worker).is_some_and(|s| s.state == SessionState::Ready && s.stake.is_none())
            }
        };
        if present { Effect::Present } else { Effect::Missing }
    }
}
