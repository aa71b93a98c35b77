//! [`FailureTracker`]: tracks consecutive failures: backoff, and the reason shown to operators.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    sync::{Backoff, BackoffConfig},
    worker::{Failure, Reason},
};

/// Consecutive failures of one kind of operation.
pub(super) struct FailureTracker {
    backoff: Backoff,
    reason: Option<Reason>,
    due: Instant,
}

impl FailureTracker {
    pub(super) fn new(config: BackoffConfig) -> Self {
        Self { backoff: Backoff::new(config), reason: None, due: Instant::now() }
    }

    /// Records a failure.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.due = Instant::now() + self.backoff.fail();
        self.reason = Some(reason);
    }

    /// Schedules a retry after `wait`, without counting a failure.
    pub(super) fn defer(&mut self, reason: Reason, wait: Duration) {
        self.due = Instant::now() + wait;
        self.reason = Some(reason);
    }

    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.reason = None;
    }

    /// Consecutive failures.
    pub(super) const fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    /// Whether to log a warning: for the first of several consecutive failures, and every tenth.
    pub(super) const fn should_warn(&self) -> bool {
        self.backoff.attempts() % 10 == 1
    }

    pub(super) fn failure(&self, now: Instant) -> Option<Failure> {
        let reason = self.reason.clone()?;
        Some(Failure { reason, attempts: self.backoff.attempts(), due: self.due <= now })
    }

    /// When the retry is due, if that is in the future.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        (self.reason.is_some() && self.due > now).then_some(self.due)
    }
}
