//! What fails, and when it is tried again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    sync::{Backoff, BackoffConfig},
    worker::Trouble,
};

/// Something that fails, since when, and when it is tried again.
pub(super) struct Ache {
    pub(super) backoff: Backoff,
    pub(super) message: Option<Arc<str>>,
    due: Instant,
}

impl Ache {
    pub(super) fn new(config: BackoffConfig) -> Self {
        Self { backoff: Backoff::new(config), message: None, due: Instant::now() }
    }

    pub(super) fn fail(&mut self, message: &str) {
        self.due = Instant::now() + self.backoff.fail();
        self.message = Some(message.into());
    }

    /// To be tried again soon, without counting as a failure.
    pub(super) fn defer(&mut self, message: &str, wait: Duration) {
        self.due = Instant::now() + wait;
        self.message = Some(message.into());
    }

    pub(super) fn heal(&mut self) {
        self.backoff.reset();
        self.message = None;
    }

    pub(super) fn trouble(&self, now: Instant) -> Option<Trouble> {
        let message = Arc::clone(self.message.as_ref()?);
        Some(Trouble { message, attempts: self.backoff.attempts(), due: self.due <= now })
    }

    /// When it is due, if that is to come.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        (self.message.is_some() && self.due > now).then_some(self.due)
    }
}
