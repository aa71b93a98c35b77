//! [`Syncing`]: syncs one worker, one step at a time.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    blob::Heights,
    prpc::PhactoryInfo,
    pruntime::PRuntime,
    sync::{
        BatchSizes, Driver, Health, Lane, Outcome, PlannedStep, Position, Problem, Step, StepAdvice,
        StepResult, plan,
    },
    worker::Tuning,
};

/// Without data for this long, a worker that is behind says so. Less is usual between two blocks.
const WAITS_FOR_DATA: Duration = Duration::from_secs(30);

/// The worker's position, the step in flight, and the results of the last ones.
pub(super) struct Syncing {
    driver: Driver,
    sizes: BatchSizes,
    /// The step in flight.
    running: Option<BoxFuture<'static, StepResult>>,
    pub(super) health: Health,
    pub(super) position: Position,
    /// A step that the source had no data for, and the heights at that time.
    empty: Option<(Step, Heights)>,
    /// Since when the source has had nothing for it.
    waits_since: Option<Instant>,
    pub(super) caught_up: bool,
}

impl Syncing {
    pub(super) fn new(driver: Driver, tuning: &Tuning) -> Self {
        Self {
            driver,
            sizes: BatchSizes::new(tuning.max_batch_bytes),
            running: None,
            health: Health::new(tuning.sync_health),
            position: Position::default(),
            empty: None,
            waits_since: None,
            caught_up: false,
        }
    }

    /// Discards the worker's position. A step in flight is dropped: it may or may not take effect.
    pub(super) fn reset(&mut self, tuning: &Tuning) {
        *self = Self::new(self.driver.clone(), tuning);
    }

    /// Drops the step in flight: the worker is unreachable, and its position is read again when it answers.
    pub(super) fn cancel(&mut self) {
        self.running = None;
        self.empty = None;
        self.waits_since = None;
        self.caught_up = false;
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Applies the position that the worker reports.
    pub(super) fn info_received(&mut self, info: &PhactoryInfo, now: Instant) {
        self.health.observed(info, now);
        self.empty = None;
        // A step in flight was planned from the current position and ends with a newer one.
        if self.running.is_none() {
            self.position = Position::of(info);
        }
    }

    /// Updates whether the worker is at the tip.
    pub(super) fn note_lag(&mut self, heights: &Heights, tuning: &Tuning) {
        let within = if self.caught_up { tuning.behind_after } else { tuning.caught_up_within };
        self.caught_up = self.position.lag(heights).is_some_and(|lag| lag <= within);
    }

    /// Notes the next step; returns whether the source has had nothing for the worker for a long time.
    pub(super) fn awaits_data(&mut self, next: Step, now: Instant) -> bool {
        if next == Step::Wait && self.running.is_none() {
            now.duration_since(*self.waits_since.get_or_insert(now)) >= WAITS_FOR_DATA
        } else {
            self.waits_since = None;
            false
        }
    }

    /// Returns the next step.
    pub(super) fn next_step(&self, heights: &Heights, tuning: &Tuning) -> Step {
        let step = plan(self.position, heights, &tuning.limits);
        // The source had no data although its heights include it: asking again only helps once they change.
        if self.empty == Some((step, *heights)) { Step::Wait } else { step }
    }

    /// The current problem, and whether its retry is due.
    pub(super) fn problem(&self, heights: &Heights, now: Instant) -> Option<(&Problem, bool)> {
        let problem = self.health.problem()?;
        Some((problem, self.health.wakes_at(heights, now).is_none()))
    }

    pub(super) fn wakes_at(&self, heights: &Heights, now: Instant) -> Option<Instant> {
        self.health.wakes_at(heights, now)
    }

    /// Starts a step.
    pub(super) fn start(&mut self, worker: PRuntime, step: Step, heights: Heights, tuning: &Tuning) {
        // A worker that has caught up keeps the tip's lane until it counts as behind again (hysteresis).
        let within = if self.caught_up { tuning.behind_after } else { tuning.caught_up_within };
        let lane = Lane::of(self.position.lag(&heights), within);
        let planned = PlannedStep::new(self.position, heights, self.health.narrow(step), lane);
        self.running = Some(Box::pin(self.driver.step(worker, planned, self.sizes)));
    }

    /// Waits for the step in flight; pending forever if there is none.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn next(&mut self) -> StepResult {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let stepped = running.await;
        self.running = None;
        stepped
    }

    /// Applies the result of a step; returns what it requires.
    pub(super) fn ended(&mut self, stepped: &StepResult, now: Instant) -> StepAdvice {
        self.sizes = stepped.sizes;
        let advice = self.health.stepped(stepped, now);
        match &stepped.result {
            Ok(Outcome::Advanced { position, .. }) => self.position = *position,
            Ok(Outcome::NotYet { heights }) => self.empty = Some((stepped.planned.step, *heights)),
            Err(_) => {}
        }
        advice
    }
}
