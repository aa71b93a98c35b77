//! [`Connection`]: the connection to one worker, and its last info.

use std::sync::Arc;

use tokio::time::Instant;

use super::failures::FailureTracker;
use crate::{
    prpc::PhactoryInfo,
    pruntime::PRuntime,
    sync::Backoff,
    text::describe,
    worker::{Context, Desired, Reason, Tuning, decide::FAILURES_BEFORE_ERROR},
};

/// The client, the last `GetInfo`, and when to refresh it.
pub(super) struct Connection {
    /// The client, or why none could be created for the endpoint.
    pub(super) client: Result<PRuntime, Arc<str>>,
    pub(super) info: Option<Arc<PhactoryInfo>>,
    answered_at: Instant,
    /// Whether `info` must be refreshed.
    pub(super) stale: bool,
    pub(super) kicked: bool,
    pub(super) failures: FailureTracker,
    recheck: Backoff,
    recheck_at: Option<Instant>,
}

impl Connection {
    pub(super) fn new(ctx: &Context, desired: &Desired) -> Self {
        Self {
            client: connect(ctx, desired),
            info: None,
            answered_at: Instant::now(),
            stale: false,
            kicked: false,
            failures: FailureTracker::new(ctx.tuning.connection_backoff),
            recheck: Backoff::new(ctx.tuning.connection_backoff),
            recheck_at: None,
        }
    }

    /// Connects again and discards the worker's info.
    pub(super) fn reset(&mut self, ctx: &Context, desired: &Desired) {
        self.client = connect(ctx, desired);
        self.discard_info();
        self.failures.reset();
    }

    /// Discards the worker's info.
    pub(super) fn discard_info(&mut self) {
        self.info = None;
        self.stale = false;
    }

    pub(super) fn client(&self) -> Result<PRuntime, Arc<str>> {
        self.client.clone()
    }

    /// Records an answer of the worker.
    pub(super) fn info_received(&mut self, info: PhactoryInfo) {
        self.failures.reset();
        self.kicked = false;
        self.stale = false;
        self.answered_at = Instant::now();
        self.info = Some(Arc::new(info));
    }

    /// Records a failed call; returns whether the worker counts as unreachable from now on.
    pub(super) fn call_failed(&mut self, error: Arc<str>) -> bool {
        self.failures.fail(Reason::Unreachable { error });
        let lost = self.failures.attempts() >= FAILURES_BEFORE_ERROR;
        // Before that the info and the claim on the key are kept: one lost call does not give the key to
        // another entry.
        if lost {
            self.info = None;
        }
        lost
    }

    pub(super) fn is_initialised(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.initialized)
    }

    fn expires_at(&self, tuning: &Tuning, caught_up: bool) -> Instant {
        // At the tip each dispatched block brings a new info, so this only covers a chain or source that
        // stands still.
        self.answered_at + if caught_up { tuning.max_silence } else { tuning.observe_interval }
    }

    /// Marks the info as stale once it has expired.
    pub(super) fn expire_info(&mut self, now: Instant, tuning: &Tuning, caught_up: bool) {
        self.stale |= self.info.is_some() && now >= self.expires_at(tuning, caught_up);
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck_at = None;
            self.stale = true;
        }
    }

    /// Schedules a refresh of the info, with a pause that doubles while nothing else happens.
    pub(super) fn recheck_later(&mut self, now: Instant) {
        if self.recheck_at.is_none() {
            self.recheck_at = Some(now + self.recheck.fail());
        }
    }

    /// Cancels scheduled refreshes: the worker has other work again.
    pub(super) fn stop_rechecking(&mut self) {
        self.recheck.reset();
        self.recheck_at = None;
    }

    /// When the passing of time alone changes something.
    pub(super) fn wakes_at(&self, now: Instant, tuning: &Tuning, caught_up: bool) -> Option<Instant> {
        let expires = self.info.is_some().then(|| self.expires_at(tuning, caught_up));
        [expires, self.recheck_at, self.failures.wakes_at(now)]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}

fn connect(ctx: &Context, desired: &Desired) -> Result<PRuntime, Arc<str>> {
    let client = ctx.connect.connect(&desired.worker.endpoint);
    client.map(PRuntime::new).map_err(|error| describe(&error).into())
}
