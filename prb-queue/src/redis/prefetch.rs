//! Prefetching of jobs for consumers that will ask for them soon.
//!
//! A consumer that works through a long queue one job at a time would wait for a round trip to Redis before
//! each. If consumers return quickly and there was a job for each of them, a take fetches a few more. These
//! wait here, leased; those that no consumer fetches in the next moment return to the front of the queue.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::leasing::Taken;

/// Maximum number of jobs of a take that asks for more than are wanted now. If consumers leave, all jobs of a
/// take may wait here.
const MAX_AHEAD: usize = 8;
/// Consecutive complete takes after which jobs are prefetched.
const STREAK: u32 = 8;
/// A consumer that returns later than this ends the streak.
const QUICK: Duration = Duration::from_millis(5);
/// How long prefetched jobs wait after the last consumer came.
const MAX_IDLE: Duration = Duration::from_millis(10);
/// Minimum TTL for prefetching: shorter leases would lose too much of their time here.
pub(super) const MIN_TTL_MS: u64 = 1_000;

/// The prefetched jobs, in queue order.
pub(super) struct Prefetch {
    jobs: VecDeque<Taken>,
    /// When a consumer came, or a job was taken.
    moved: Instant,
    streak: u32,
}

impl Prefetch {
    pub(super) fn new() -> Self {
        Self { jobs: VecDeque::new(), moved: Instant::now(), streak: 0 }
    }

    /// Returns a prefetched job for a consumer, if one is available and still fresh.
    pub(super) fn next(&mut self) -> Option<Taken> {
        let now = Instant::now();
        let since = now - self.moved;
        if since >= QUICK {
            self.streak = 0;
        }
        if since >= MAX_IDLE && !self.jobs.is_empty() {
            return None;
        }
        self.moved = now;
        self.jobs.pop_front()
    }

    /// Returns how many jobs to take in addition to those wanted.
    pub(super) fn extra(&self, wanted: usize) -> usize {
        if self.streak < STREAK { 0 } else { MAX_AHEAD.saturating_sub(wanted) }
    }

    /// Notes the end of a take. `filled`: it returned as many jobs as requested.
    pub(super) fn take_ended(&mut self, filled: bool) {
        self.streak = if filled { self.streak.saturating_add(1) } else { 0 };
        self.moved = Instant::now();
    }

    /// Adds a job that no consumer wants yet.
    pub(super) fn push(&mut self, job: Taken) {
        self.jobs.push_back(job);
    }

    /// Returns a job whose consumer is gone to the front.
    pub(super) fn put_back(&mut self, job: Taken) {
        self.jobs.push_front(job);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Until when the jobs wait, if no consumer comes.
    pub(super) fn until(&self) -> Instant {
        self.moved + MAX_IDLE
    }

    /// Removes all jobs, to be returned to the queue; prefetching pauses until there is a new streak.
    pub(super) fn clear(&mut self) -> Vec<(String, u64)> {
        if !self.jobs.is_empty() {
            self.streak = 0;
        }
        self.jobs.drain(..).map(|job| (job.id, job.token)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn job(token: u64) -> Taken {
        Taken { id: token.to_string(), token, tries: 0, json: Vec::new(), ttl_ms: 1_000 }
    }

    fn ready() -> Prefetch {
        let mut prefetch = Prefetch::new();
        (0..STREAK).for_each(|_| prefetch.take_ended(true));
        prefetch
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_taken_ahead_before_a_streak() {
        let mut prefetch = Prefetch::new();
        for _ in 1..STREAK {
            prefetch.take_ended(true);
            assert!(prefetch.next().is_none());
        }
        assert_eq!(prefetch.extra(1), 0);
        prefetch.take_ended(true);
        assert_eq!(prefetch.extra(1), MAX_AHEAD - 1);
        assert_eq!(prefetch.extra(1_000), 0);
        prefetch.take_ended(false);
        assert_eq!(prefetch.extra(1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_takes_time_ends_the_streak() {
        let mut prefetch = ready();
        tokio::time::advance(QUICK).await;
        assert!(prefetch.next().is_none());
        assert_eq!(prefetch.extra(1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_go_out_in_order_while_they_are_fresh() {
        let mut prefetch = ready();
        (0..4).for_each(|n| prefetch.push(job(n)));
        for n in 0..2 {
            tokio::time::advance(MAX_IDLE / 2).await;
            let job = prefetch.next().unwrap();
            assert_eq!(job.token, n);
            prefetch.put_back(job);
            assert_eq!(prefetch.next().map(|job| job.token), Some(n));
        }
        tokio::time::advance(MAX_IDLE).await;
        assert!(prefetch.next().is_none(), "it may have hung for as long as the lease");
        assert!(prefetch.until() <= Instant::now());
        assert_eq!(prefetch.clear(), [("2".to_owned(), 2), ("3".to_owned(), 3)]);
        assert!(prefetch.is_empty());
    }
}
