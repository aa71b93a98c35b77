//! [`FailureTracker`]: what fails, how often, and when it is tried again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    sync::{Backoff, BackoffConfig},
    worker::{Failure, Reason},
};

/// Consecutive failures of one thing: their backoff and the reason shown to operators.
pub(super) struct FailureTracker {
    backoff: Backoff,
    reason: Option<Reason>,
    due: Instant,
}

impl FailureTracker {
    pub(super) fn new(config: BackoffConfig) -> Self {
        Self { backoff: Backoff::new(config), reason: None, due: Instant::now() }
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.due = Instant::now() + self.backoff.fail();
        self.reason = Some(reason);
    }

    /// To be tried again after `wait`, without counting as a failure.
    pub(super) fn defer(&mut self, reason: Reason, wait: Duration) {
        self.due = Instant::now() + wait;
        self.reason = Some(reason);
    }

    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.reason = None;
    }

    /// Failures in a row.
    pub(super) const fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    /// Whether to log: the first of several failures in a row, and every tenth.
    pub(super) const fn is_worth_a_warning(&self) -> bool {
        self.backoff.attempts() % 10 == 1
    }

    pub(super) fn failure(&self, now: Instant) -> Option<Failure> {
        let reason = self.reason.clone()?;
        Some(Failure { reason, attempts: self.backoff.attempts(), due: self.due <= now })
    }

    /// When it is due, if that is to come.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        (self.reason.is_some() && self.due > now).then_some(self.due)
    }
}
