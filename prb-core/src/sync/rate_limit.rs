//! A rate limit of one action per subject and period.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Admits each subject once per period. Holds a bounded number of subjects; while it is full of recent ones,
/// new ones are rejected.
#[derive(Debug)]
pub struct RateLimit<K> {
    period: Duration,
    capacity: usize,
    until: HashMap<K, Instant>,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// Admits each subject once per `period`, and at most `capacity` subjects in one period.
    pub fn new(period: Duration, capacity: usize) -> Self {
        Self { period, capacity, until: HashMap::new() }
    }

    /// Whether the subject is admitted now; if so, it is not admitted again before the period ends.
    pub fn admit(&mut self, subject: K) -> bool {
        let now = Instant::now();
        // Expired subjects are only dropped when room is needed: admitting stays cheap.
        if self.until.len() >= self.capacity {
            self.until.retain(|_, until| *until > now);
        }
        let room = self.until.len() < self.capacity;
        match self.until.get_mut(&subject) {
            Some(until) if *until > now => false,
            Some(until) => {
                *until = now + self.period;
                true
            }
            None if room => {
                self.until.insert(subject, now + self.period);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_subject_is_logged_once_per_period() {
        let mut rate_limit = RateLimit::new(Duration::from_secs(5), 10);
        assert!(rate_limit.admit("a"));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!rate_limit.admit("a"), "too soon");
        assert!(rate_limit.admit("b"), "subjects do not share their time");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rate_limit.admit("a"), "a refusal does not prolong the period");
        assert!(!rate_limit.admit("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_subjects_is_bounded() {
        let mut rate_limit = RateLimit::new(Duration::from_secs(5), 100);
        let admitted = (0..10_000).filter(|n| rate_limit.admit(*n)).count();
        assert_eq!((admitted, rate_limit.until.len()), (100, 100));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(rate_limit.admit(9_999));
        assert_eq!(rate_limit.until.len(), 1, "what is over takes no room");
    }
}
