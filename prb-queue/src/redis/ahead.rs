//! Jobs that are taken ahead of those who will ask for them.
//!
//! A consumer that works off a long line one job at a time would wait for a round trip to Redis before each. Where
//! consumers come back quickly and there was a job for each of them, takes bring a few more. They wait here, leased;
//! what nobody fetches in the next moment goes back to the front of the line.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::dispense::Taken;

/// Most jobs of a take that asks for more than are wanted now. Where consumers left, all of a take may wait here.
const MAX_AHEAD: usize = 8;
/// After so many takes in a row that brought all that was asked for, more is asked for.
const STREAK: u32 = 8;
/// A consumer that comes later than that ends the streak.
const QUICK: Duration = Duration::from_millis(5);
/// How long jobs wait here after the last consumer came.
const KEPT: Duration = Duration::from_millis(10);
/// Leases for less than that are not taken ahead: they would lose too much of their time here.
pub(super) const MIN_TTL_MS: u64 = 1_000;

/// The jobs that wait, in the order of the line.
pub(super) struct Ahead {
    jobs: VecDeque<Taken>,
    /// When a consumer came, or a job was taken.
    moved: Instant,
    streak: u32,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { jobs: VecDeque::new(), moved: Instant::now(), streak: 0 }
    }

    /// A consumer comes: a job for it, where one is here and still fresh.
    pub(super) fn come(&mut self) -> Option<Taken> {
        let now = Instant::now();
        let since = now - self.moved;
        if since >= QUICK {
            self.streak = 0;
        }
        if since >= KEPT && !self.jobs.is_empty() {
            return None;
        }
        self.moved = now;
        self.jobs.pop_front()
    }

    /// How many jobs to take more than are wanted.
    pub(super) fn more_than(&self, wanted: usize) -> usize {
        if self.streak < STREAK { 0 } else { MAX_AHEAD.saturating_sub(wanted) }
    }

    /// A take is over. `filled`: it brought all that was asked for.
    pub(super) fn took(&mut self, filled: bool) {
        self.streak = if filled { self.streak.saturating_add(1) } else { 0 };
        self.moved = Instant::now();
    }

    /// Nobody wants this job yet.
    pub(super) fn keep(&mut self, job: Taken) {
        self.jobs.push_back(job);
    }

    /// The one that came for this job is gone.
    pub(super) fn put_back(&mut self, job: Taken) {
        self.jobs.push_front(job);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Until when the jobs wait, if nobody comes.
    pub(super) fn until(&self) -> Instant {
        self.moved + KEPT
    }

    /// All that wait here; they go back, and for a while nothing is taken ahead.
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

    fn ready() -> Ahead {
        let mut ahead = Ahead::new();
        (0..STREAK).for_each(|_| ahead.took(true));
        ahead
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_taken_ahead_before_a_streak() {
        let mut ahead = Ahead::new();
        for _ in 1..STREAK {
            ahead.took(true);
            assert!(ahead.come().is_none());
        }
        assert_eq!(ahead.more_than(1), 0);
        ahead.took(true);
        assert_eq!(ahead.more_than(1), MAX_AHEAD - 1);
        assert_eq!(ahead.more_than(1_000), 0);
        ahead.took(false);
        assert_eq!(ahead.more_than(1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_takes_time_ends_the_streak() {
        let mut ahead = ready();
        tokio::time::advance(QUICK).await;
        assert!(ahead.come().is_none());
        assert_eq!(ahead.more_than(1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_go_out_in_order_while_they_are_fresh() {
        let mut ahead = ready();
        (0..4).for_each(|n| ahead.keep(job(n)));
        for n in 0..2 {
            tokio::time::advance(KEPT / 2).await;
            let job = ahead.come().unwrap();
            assert_eq!(job.token, n);
            ahead.put_back(job);
            assert_eq!(ahead.come().map(|job| job.token), Some(n));
        }
        tokio::time::advance(KEPT).await;
        assert!(ahead.come().is_none(), "it may have hung for as long as the lease");
        assert!(ahead.until() <= Instant::now());
        assert_eq!(ahead.clear(), [("2".to_owned(), 2), ("3".to_owned(), 3)]);
        assert!(ahead.is_empty());
    }
}
