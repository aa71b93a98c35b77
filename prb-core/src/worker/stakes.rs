//! [`StakeQueue`]: distributes a pool's free stake among its workers, in an order that is stable across
//! restarts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::Grant;
use crate::primitives::{Balance, ParaNumber, PoolId};

/// How long a worker that has not reported its need holds up those behind it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long stake is kept for a worker that is not registered and scored yet: a few times what that takes.
const PREPARATION_TIMEOUT: Duration = Duration::from_secs(1800);

/// The free stake that a worker needs from its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Not known yet.
    Unknown,
    /// Nothing.
    Nothing,
    /// This much, for its next operation, which can be sent now.
    Stake(Balance),
    /// This much, once it is registered and scored.
    Preparing(Balance),
    /// This much, but something else keeps it from using it.
    Blocked(Balance),
}

impl Need {
    const fn stake(self) -> Option<Balance> {
        match self {
            Self::Stake(stake) | Self::Preparing(stake) | Self::Blocked(stake) => Some(stake),
            Self::Unknown | Self::Nothing => None,
        }
    }
}

/// A position in the queue: by name, then by id.
type QueueKey = (String, Uuid);

#[derive(Debug)]
struct Entry {
    need: Need,
    since: Instant,
    /// Since when it has been about to need stake.
    preparing: Option<Instant>,
}

impl Entry {
    fn set(&mut self, need: Need, now: Instant) {
        self.need = need;
        match need {
            Need::Preparing(_) => drop(self.preparing.get_or_insert(now)),
            Need::Stake(_) | Need::Nothing => self.preparing = None,
            // It may be on its way again in a moment, which starts no new time.
            Need::Blocked(_) | Need::Unknown => {}
        }
    }

    /// The stake that is kept for it: none for a worker that cannot use it, or takes too long until it can.
    fn reserved(&self, now: Instant) -> Balance {
        match self.need {
            Need::Stake(stake) => stake,
            Need::Preparing(stake) if self.preparing.is_none_or(|at| now < at + PREPARATION_TIMEOUT) => stake,
            _ => 0,
        }
    }
}

/// The queues of all pools.
#[derive(Debug, Default)]
pub(crate) struct StakeQueue(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    pools: HashMap<PoolId, PoolQueue>,
    pool_of: HashMap<Uuid, (PoolId, String)>,
}

/// The queue of one pool.
#[derive(Debug, Default)]
struct PoolQueue {
    waiting: BTreeMap<QueueKey, Entry>,
    /// The pool's free stake, as of the newest block that one of its workers has seen. An older view still shows as free
    /// what a worker before in the queue, whose view is newer, has taken.
    free: Option<(ParaNumber, Balance)>,
}

impl StakeQueue {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a worker to its pool's queue, if it is not there yet.
    pub(crate) fn join(&self, pool: PoolId, name: &str, id: Uuid) {
        let mut queues = self.queues();
        // Called for all workers at each edit of the inventory: an entry keeps what it has reported.
        if queues.pool_of.get(&id).is_some_and(|(in_pool, as_name)| *in_pool == pool && as_name == name) {
            return;
        }
        queues.leave(id);
        queues.pool_of.insert(id, (pool, name.to_owned()));
        let waiting = Entry { need: Need::Unknown, since: Instant::now(), preparing: None };
        queues.pools.entry(pool).or_default().waiting.insert((name.to_owned(), id), waiting);
    }

    /// Removes a worker from its queue.
    pub(crate) fn leave(&self, id: Uuid) {
        self.queues().leave(id);
    }

    /// Records what a worker needs and returns whether its pool can grant it. `free` is the pool's free stake at a block.
    ///
    /// Stake is kept for workers that can use it, and for a while for those that soon can; none for those that something
    /// else keeps from it.
    ///
    /// The pool's stake is granted in queue order. A worker that needs more than is left is skipped, so that
    /// no stake lies idle for one that has to wait anyway.
    pub(crate) fn request(&self, id: Uuid, need: Need, free: Option<(ParaNumber, Balance)>) -> Grant {
        let mut queues = self.queues();
        let Some((pool, name)) = queues.pool_of.get(&id).cloned() else { return Grant::Granted };
        let Some(queue) = queues.pools.get_mut(&pool) else { return Grant::Granted };
        let (key, now) = ((name, id), Instant::now());
        if let Some(waiting) = queue.waiting.get_mut(&key) {
            waiting.set(need, now);
        }
        if free.is_some_and(|(block, _)| queue.free.is_none_or(|(newest, _)| block >= newest)) {
            queue.free = free;
        }
        // Without a view of the pool, the chain itself decides.
        let (Some(mine), Some((_, free)), Some(_)) = (need.stake(), queue.free, free) else {
            return Grant::Granted;
        };
        let mut left = free;
        for waiting in queue.waiting.range(..&key).map(|(_, waiting)| waiting) {
            match waiting.need {
                // After a restart, workers report in any order. Without the wait, the first to report would
                // be served, not the first in the queue.
                Need::Unknown if now < waiting.since + REPORT_TIMEOUT => return Grant::Undecided,
                // A need that exceeds what is left is skipped, as it was for its own worker.
                _ => left = left.checked_sub(waiting.reserved(now)).unwrap_or(left),
            }
        }
        match mine.checked_sub(left) {
            None | Some(0) => Grant::Granted,
            Some(missing) => {
                let waiting = queue.waiting.values().filter(|waiting| waiting.need.stake().is_some()).count();
                Grant::Short { free, missing, waiting }
            }
        }
    }
}

impl Queues {
    fn leave(&mut self, id: Uuid) {
        let Some((pool, name)) = self.pool_of.remove(&id) else { return };
        if let Some(queue) = self.pools.get_mut(&pool) {
            queue.waiting.remove(&(name, id));
            if queue.waiting.is_empty() {
                self.pools.remove(&pool);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId(1);

    /// A pool's free stake, in the view that all see.
    fn free(stake: Balance) -> Option<(ParaNumber, Balance)> {
        Some((ParaNumber(1), stake))
    }

    fn id(n: u8) -> Uuid {
        Uuid::from_u128(n.into())
    }

    /// Workers a, b, c …, entered from the last to the first.
    fn queue(count: u8) -> StakeQueue {
        let queue = StakeQueue::default();
        for n in (0..count).rev() {
            queue.join(POOL, &char::from(b'a' + n).to_string(), id(n));
        }
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn stake_is_assigned_by_name_and_skips_needs_that_are_too_large() {
        let queue = queue(4);
        let needs = [50, 80, 40, 30];
        for (n, need) in needs.into_iter().enumerate() {
            queue.request(id(n as u8), Need::Stake(need), None);
        }
        let request = |n: u8| queue.request(id(n), Need::Stake(needs[usize::from(n)]), free(100));
        assert_eq!(request(0), Grant::Granted);
        assert_eq!(request(1), Grant::Short { free: 100, missing: 30, waiting: 4 });
        assert_eq!(request(2), Grant::Granted);
        assert_eq!(request(3), Grant::Short { free: 100, missing: 20, waiting: 4 });
        // The first one computes: its stake is gone from the pool, and so is its need.
        assert_eq!(queue.request(id(0), Need::Nothing, free(50)), Grant::Granted);
        assert_eq!(queue.request(id(2), Need::Stake(40), free(50)), Grant::Granted);
        assert_eq!(
            queue.request(id(3), Need::Stake(30), free(50)),
            Grant::Short { free: 50, missing: 20, waiting: 3 }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stake_is_not_kept_for_workers_that_cannot_use_it() {
        let queue = queue(2);
        let second = || queue.request(id(1), Need::Stake(10), free(15));
        queue.request(id(0), Need::Blocked(10), None);
        assert_eq!(second(), Grant::Granted);
        // It is about to, for a while; that it fails in between starts no new time.
        queue.request(id(0), Need::Preparing(10), None);
        assert_eq!(second(), Grant::Short { free: 15, missing: 5, waiting: 2 });
        tokio::time::advance(PREPARATION_TIMEOUT / 2).await;
        queue.request(id(0), Need::Blocked(10), None);
        queue.request(id(0), Need::Preparing(10), None);
        assert!(matches!(second(), Grant::Short { .. }));
        tokio::time::advance(PREPARATION_TIMEOUT / 2).await;
        assert_eq!(second(), Grant::Granted);
        // Once it is ready, it comes first again.
        queue.request(id(0), Need::Stake(10), None);
        assert!(matches!(second(), Grant::Short { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_not_reported_is_not_overtaken_for_a_while() {
        let queue = queue(2);
        assert_eq!(queue.request(id(1), Need::Stake(10), free(10)), Grant::Undecided);
        assert_eq!(
            queue.request(id(0), Need::Stake(10), free(10)),
            Grant::Granted,
            "behind it does not count"
        );
        queue.request(id(0), Need::Unknown, None);
        tokio::time::advance(REPORT_TIMEOUT).await;
        assert_eq!(queue.request(id(1), Need::Stake(10), free(10)), Grant::Granted);
        // Gone from the line, or in another one.
        queue.request(id(0), Need::Stake(10), None);
        assert!(matches!(queue.request(id(1), Need::Stake(10), free(10)), Grant::Short { .. }));
        queue.join(PoolId(2), "a", id(0));
        assert_eq!(queue.request(id(1), Need::Stake(10), free(10)), Grant::Granted);
        queue.leave(id(0));
        queue.leave(id(1));
        assert!(queue.queues().pools.is_empty() && queue.queues().pool_of.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn stake_that_a_newer_view_shows_as_taken_is_not_granted_again() {
        let queue = queue(2);
        // The first computes in block 2; the second still looks at block 1.
        queue.request(id(0), Need::Nothing, Some((ParaNumber(2), 0)));
        let second = |block, free| queue.request(id(1), Need::Stake(10), Some((ParaNumber(block), free)));
        assert!(matches!(second(1, 10), Grant::Short { free: 0, missing: 10, .. }));
        assert_eq!(second(3, 10), Grant::Granted);
    }
}
