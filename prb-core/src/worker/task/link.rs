//! [`Link`]: the connection to one worker, and what it last said of itself.

use std::sync::Arc;

use tokio::time::Instant;

use super::failures::FailureTracker;
use crate::{
    prpc::PhactoryInfo,
    pruntime::PRuntime,
    sync::Backoff,
    worker::{Context, Desired, Reason, Tuning, decide::FAILURES_BEFORE_ERROR},
};

/// The client, the last `GetInfo`, and when to ask again.
pub(super) struct Link {
    /// A client, or why there is none for the endpoint.
    pub(super) client: Result<PRuntime, Arc<str>>,
    pub(super) info: Option<Arc<PhactoryInfo>>,
    seen_at: Instant,
    /// Whether `info` is to be renewed.
    pub(super) stale: bool,
    pub(super) kicked: bool,
    pub(super) failures: FailureTracker,
    recheck: Backoff,
    recheck_at: Option<Instant>,
}

impl Link {
    pub(super) fn new(ctx: &Context, desired: &Desired) -> Self {
        Self {
            client: connect(ctx, desired),
            info: None,
            seen_at: Instant::now(),
            stale: false,
            kicked: false,
            failures: FailureTracker::new(ctx.tuning.connection_backoff),
            recheck: Backoff::new(ctx.tuning.connection_backoff),
            recheck_at: None,
        }
    }

    /// Connects again and forgets what the worker said.
    pub(super) fn reset(&mut self, ctx: &Context, desired: &Desired) {
        self.client = connect(ctx, desired);
        self.lose_sight();
        self.failures.reset();
    }

    /// Forgets what the worker said.
    pub(super) fn lose_sight(&mut self) {
        self.info = None;
        self.stale = false;
    }

    pub(super) fn client(&self) -> Result<PRuntime, Arc<str>> {
        self.client.clone()
    }

    /// The worker has answered.
    pub(super) fn saw(&mut self, info: PhactoryInfo) {
        self.failures.reset();
        self.kicked = false;
        self.stale = false;
        self.seen_at = Instant::now();
        self.info = Some(Arc::new(info));
    }

    /// The worker has not answered; gives whether it counts as out of sight from now on.
    pub(super) fn not_reached(&mut self, error: Arc<str>) -> bool {
        self.failures.fail(Reason::Unreachable { error });
        let lost = self.failures.attempts() >= FAILURES_BEFORE_ERROR;
        if lost {
            self.info = None;
        }
        lost
    }

    pub(super) fn is_initialised(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.initialized)
    }

    fn ask_again_at(&self, tuning: &Tuning, caught_up: bool) -> Instant {
        self.seen_at + if caught_up { tuning.max_silence } else { tuning.observe_interval }
    }

    /// Marks the info as stale where its time is over.
    pub(super) fn age(&mut self, now: Instant, tuning: &Tuning, caught_up: bool) {
        self.stale |= self.info.is_some() && now >= self.ask_again_at(tuning, caught_up);
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck_at = None;
            self.stale = true;
        }
    }

    /// Has the worker asked again after a pause that grows while nothing else happens.
    pub(super) fn recheck_later(&mut self, now: Instant) {
        if self.recheck_at.is_none() {
            self.recheck_at = Some(now + self.recheck.fail());
        }
    }

    /// There is something better to do than to recheck.
    pub(super) fn stop_rechecking(&mut self) {
        self.recheck.reset();
        self.recheck_at = None;
    }

    /// When time alone makes a difference.
    pub(super) fn wakes_at(&self, now: Instant, tuning: &Tuning, caught_up: bool) -> Option<Instant> {
        let ask_again = self.info.is_some().then(|| self.ask_again_at(tuning, caught_up));
        [ask_again, self.recheck_at, self.failures.wakes_at(now)]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}

fn connect(ctx: &Context, desired: &Desired) -> Result<PRuntime, Arc<str>> {
    let client = ctx.connect.connect(&desired.worker.endpoint);
    client.map(PRuntime::new).map_err(|error| error.to_string().into())
}
