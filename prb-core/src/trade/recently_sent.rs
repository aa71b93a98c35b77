//! Remembers the calls that a lane sent recently. A submitter that lost a job's outcome (its manager was
//! killed, or the queue lost its data) submits the job again, and the new job does not show that it is not
//! the first.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use codec::Encode;

use crate::{chain::Call, wire::MessageOrigin};

/// Calls remembered: several full batches.
const MAX_REMEMBERED: usize = 32_768;

/// A hash of what a call acts on, regardless of its other arguments. Two calls with the same subject must not
/// be sent without reading effects in between.
pub(super) fn subject(call: &Call) -> u64 {
    // A collision is harmless: effects are read once more than necessary.
    let mut hasher = DefaultHasher::new();
    call.name().hash(&mut hasher);
    match call {
        Call::SyncOffchainMessage(signed) => {
            (signed.message.sender.encode(), signed.sequence).hash(&mut hasher);
        }
        Call::UpdateWorkerEndpoint { payload, .. } => payload.pubkey.0.hash(&mut hasher),
        Call::RegisterWorker { worker, .. } | Call::RegisterWorkerV1 { worker, .. } => {
            worker.0.hash(&mut hasher);
        }
        Call::AddWorker { pool, worker }
        | Call::RemoveWorker { pool, worker }
        | Call::StartComputing { pool, worker, .. }
        | Call::RestartComputing { pool, worker, .. }
        | Call::StopComputing { pool, worker }
        | Call::ReclaimWorker { pool, worker } => (pool.0, worker.0).hash(&mut hasher),
    }
    hasher.finish()
}

/// A hash of the worker or other sender whose calls must stay in order.
pub(super) fn sender(call: &Call) -> u64 {
    let mut hasher = DefaultHasher::new();
    match call {
        Call::SyncOffchainMessage(signed) => Some(signed.message.sender.encode()).hash(&mut hasher),
        other => other.worker().map(|worker| MessageOrigin::Worker(worker).encode()).hash(&mut hasher),
    }
    hasher.finish()
}

/// The subjects of the most recent calls.
#[derive(Debug, Default)]
pub(super) struct RecentlySent {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl RecentlySent {
    pub(super) fn add<'a>(&mut self, calls: impl IntoIterator<Item = &'a Call>) {
        for subject in calls.into_iter().map(subject) {
            // Keeps its first position: `order` would otherwise grow with every repetition.
            if !self.known.insert(subject) {
                continue;
            }
            self.order.push_back(subject);
            if self.order.len() > MAX_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn has_any<'a>(&self, calls: impl IntoIterator<Item = &'a Call>) -> bool {
        calls.into_iter().any(|call| self.known.contains(&subject(call)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{PoolId, WorkerKey};

    #[test]
    fn the_newest_are_known_and_the_rest_forgotten() {
        let call = |n: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            Call::AddWorker { pool: PoolId(1), worker: WorkerKey(key) }
        };
        let mut recent = RecentlySent::default();
        let most = u32::try_from(MAX_REMEMBERED).unwrap_or_default();
        for n in 0..most * 2 {
            recent.add([&call(n), &call(n)]);
            assert!(recent.has_any([&call(n)]) && !recent.has_any([&call(n + 1)]));
            assert!(recent.order.len() <= MAX_REMEMBERED && recent.known.len() == recent.order.len());
        }
        assert!(!recent.has_any([&call(most - 1)]));
    }
}
