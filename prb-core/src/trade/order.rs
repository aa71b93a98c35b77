//! Tracks the jobs that a trader gave back to the queue and expects again, so that no younger job of the same
//! operator is sent before them: a worker's messages are taken by the chain in their order alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{primitives::AccountId, queue::JobId};

/// How much later than an older job a younger one comes again.
pub(super) const BEHIND_OLDER: Duration = Duration::from_millis(100);
/// Jobs that are tracked at most, of all operators. Above it nothing is leased.
const MAX_AWAY: usize = 100_000;

/// A job that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) id: JobId,
    /// When the queue hands it out again.
    pub(super) due: Instant,
    /// Until when younger jobs wait for it: it may have ended, or another trader may have it.
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Order(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    away: HashMap<AccountId, BTreeMap<JobId, (Instant, Instant)>>,
    count: usize,
}

impl Order {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes jobs that are given back. Must come before the queue is told, so that none is back before it is
    /// noted.
    pub(super) fn leave(
        &self,
        operator: AccountId,
        ids: impl IntoIterator<Item = JobId>,
        due: Instant,
        until: Instant,
    ) {
        let mut state = self.state();
        for id in ids {
            if state.count >= MAX_AWAY {
                tracing::warn!(
                    operator = %operator.address(), "too many jobs were given back: their order is not kept"
                );
                return;
            }
            if state.away.entry(operator).or_default().insert(id, (due, until)).is_none() {
                state.count += 1;
            }
        }
    }

    /// Notes a job that was handed out again.
    pub(super) fn come_back(&self, operator: AccountId, id: JobId) {
        let mut state = self.state();
        let Some(jobs) = state.away.get_mut(&operator) else { return };
        let removed = jobs.remove(&id).is_some();
        if jobs.is_empty() {
            state.away.remove(&operator);
        }
        state.count -= usize::from(removed);
    }

    /// The operator's oldest job that is away and still waited for.
    pub(super) fn oldest(&self, operator: AccountId) -> Option<Away> {
        let now = Instant::now();
        let mut state = self.state();
        let mut forgotten = 0;
        let mut oldest = None;
        let jobs = state.away.get_mut(&operator)?;
        while let Some(first) = jobs.first_entry() {
            let (due, until) = *first.get();
            if until > now {
                oldest = Some(Away { id: *first.key(), due, until });
                break;
            }
            first.remove();
            forgotten += 1;
        }
        if oldest.is_none() {
            state.away.remove(&operator);
        }
        state.count -= forgotten;
        oldest
    }

    /// Whether no more may be given back.
    pub(super) fn is_full(&self) -> bool {
        let operators: Vec<_> = {
            let state = self.state();
            if state.count < MAX_AWAY {
                return false;
            }
            state.away.keys().copied().collect()
        };
        for operator in operators {
            let _ = self.oldest(operator);
        }
        self.state().count >= MAX_AWAY
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OPERATOR: AccountId = AccountId([1; 32]);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_waited_for_until_it_is_back_or_given_up() {
        let (order, now, second) = (Order::default(), Instant::now(), Duration::from_secs(1));
        order.leave(OPERATOR, [JobId(7), JobId(9)], now + second, now + 2 * second);
        order.leave(OPERATOR, [JobId(8)], now + second, now + 4 * second);
        assert_eq!(order.oldest(OPERATOR).unwrap().id, JobId(7));
        assert_eq!(order.oldest(AccountId([2; 32])), None);
        order.come_back(OPERATOR, JobId(7));
        order.come_back(OPERATOR, JobId(7));
        assert_eq!(order.oldest(OPERATOR).unwrap().id, JobId(8));
        tokio::time::advance(3 * second).await;
        order.come_back(OPERATOR, JobId(8));
        assert_eq!(order.oldest(OPERATOR), None, "9 is given up");
        let state = order.state();
        assert_eq!((state.count, state.away.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn its_bound_is_kept() {
        let (order, now, second) = (Order::default(), Instant::now(), Duration::from_secs(1));
        let ids = (0..=MAX_AWAY as u64).map(JobId);
        order.leave(OPERATOR, ids, now + second, now + second);
        assert!(order.is_full());
        assert_eq!(order.state().count, MAX_AWAY);
        tokio::time::advance(second).await;
        assert!(!order.is_full());
    }
}
