//! Tracks the jobs that a trader released to the queue and expects back, so that no younger job of the same
//! operator is sent before them: the chain accepts a worker's messages only in sequence.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{primitives::AccountId, queue::JobId};

/// How much later than an older job a younger one is leased again.
pub(super) const BEHIND_OLDER: Duration = Duration::from_millis(100);
/// Maximum number of tracked jobs of all operators. Beyond it nothing is leased.
const MAX_RELEASED: usize = 100_000;

/// A job that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReleasedJob {
    pub(super) id: JobId,
    /// When the queue offers it again.
    pub(super) due: Instant,
    /// Until when younger jobs wait for it: it may have ended, or another trader may hold it.
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct ReleasedJobs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    released: HashMap<AccountId, BTreeMap<JobId, (Instant, Instant)>>,
    count: usize,
}

impl ReleasedJobs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tracks jobs that are being released. Must be called before the queue is, so that none returns before
    /// it is tracked.
    pub(super) fn track(
        &self,
        operator: AccountId,
        ids: impl IntoIterator<Item = JobId>,
        due: Instant,
        until: Instant,
    ) {
        let mut state = self.state();
        for id in ids {
            if state.count >= MAX_RELEASED {
                tracing::warn!(operator = %operator.address(), "too many released jobs: their order is not kept");
                return;
            }
            if state.released.entry(operator).or_default().insert(id, (due, until)).is_none() {
                state.count += 1;
            }
        }
    }

    /// Stops tracking a job that was leased again.
    pub(super) fn returned(&self, operator: AccountId, id: JobId) {
        let mut state = self.state();
        let Some(jobs) = state.released.get_mut(&operator) else { return };
        let removed = jobs.remove(&id).is_some();
        if jobs.is_empty() {
            state.released.remove(&operator);
        }
        state.count -= usize::from(removed);
    }

    /// The operator's oldest released job that is still waited for.
    pub(super) fn oldest(&self, operator: AccountId) -> Option<ReleasedJob> {
        let now = Instant::now();
        let mut state = self.state();
        let mut forgotten = 0;
        let mut oldest = None;
        let jobs = state.released.get_mut(&operator)?;
        // Expired entries are dropped here: they are not waited for, and no timer removes them.
        while let Some(first) = jobs.first_entry() {
            let (due, until) = *first.get();
            if until > now {
                oldest = Some(ReleasedJob { id: *first.key(), due, until });
                break;
            }
            first.remove();
            forgotten += 1;
        }
        if oldest.is_none() {
            state.released.remove(&operator);
        }
        state.count -= forgotten;
        oldest
    }

    /// Whether no more jobs may be released.
    pub(super) fn is_full(&self) -> bool {
        // Copied, because `oldest` takes the same lock.
        let operators: Vec<_> = {
            let state = self.state();
            if state.count < MAX_RELEASED {
                return false;
            }
            state.released.keys().copied().collect()
        };
        for operator in operators {
            // Drops the jobs that are no longer waited for.
            let _ = self.oldest(operator);
        }
        self.state().count >= MAX_RELEASED
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OPERATOR: AccountId = AccountId([1; 32]);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_waited_for_until_it_is_back_or_given_up() {
        let (released, now, second) = (ReleasedJobs::default(), Instant::now(), Duration::from_secs(1));
        released.track(OPERATOR, [JobId(7), JobId(9)], now + second, now + 2 * second);
        released.track(OPERATOR, [JobId(8)], now + second, now + 4 * second);
        assert_eq!(released.oldest(OPERATOR).unwrap().id, JobId(7));
        assert_eq!(released.oldest(AccountId([2; 32])), None);
        released.returned(OPERATOR, JobId(7));
        released.returned(OPERATOR, JobId(7));
        assert_eq!(released.oldest(OPERATOR).unwrap().id, JobId(8));
        tokio::time::advance(3 * second).await;
        released.returned(OPERATOR, JobId(8));
        assert_eq!(released.oldest(OPERATOR), None, "9 is given up");
        let state = released.state();
        assert_eq!((state.count, state.released.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn its_bound_is_kept() {
        let (released, now, second) = (ReleasedJobs::default(), Instant::now(), Duration::from_secs(1));
        let ids = (0..=MAX_RELEASED as u64).map(JobId);
        released.track(OPERATOR, ids, now + second, now + second);
        assert!(released.is_full());
        assert_eq!(released.state().count, MAX_RELEASED);
        tokio::time::advance(second).await;
        assert!(!released.is_full());
    }
}
