//! Tracks failures of one worker's sync: their cause, their number in a row, and when to retry.
//!
//! Pure: fed with the result of each step, the worker's info and the time; returns when the next attempt is
//! due. The backoff doubles with consecutive failures, whatever their kinds. Failures of the source are not
//! attributed to the worker, and their backoff ends when the source's heights grow. A block at which the
//! worker's connection breaks repeatedly is isolated by sending fewer blocks, and reported.
//!
//! Not for: other calls than sync steps, or a worker that does not answer at
//! all.

use std::{fmt::Write, sync::Arc, time::Duration};

use metrics::counter;
use tokio::time::Instant;

use super::{
    BackoffConfig, Error, Outcome, PlannedStep, Position, SentBatch, Step, StepResult, backoff::jittered,
};
use crate::{
    blob::{self, Heights},
    prpc::PhactoryInfo,
    pruntime,
    text::describe,
};

mod crash;
mod problem;
#[cfg(test)]
mod tests;

use crash::CrashTracker;
pub use problem::{Cause, HealthConfig, Problem};

/// What the result of a step requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepAdvice {
    /// The worker's position is unknown: call `GetInfo` before the next step.
    pub observe: bool,
}

/// The sync health of one worker.
#[derive(Debug)]
pub struct Health {
    config: HealthConfig,
    worker: Option<Problem>,
    source: Option<Problem>,
    /// Failures of the worker since it last accepted something.
    failures: u32,
    /// Consecutive busy answers.
    busy: u32,
    /// Failures of the source since it last returned something.
    source_failures: u32,
    /// The source's heights at its last failure.
    failed_at: Heights,
    /// The worker's position when it failed, if it may have advanced without an answer reaching us.
    may_move_from: Option<Position>,
    crashes: CrashTracker,
    stuck: Stuck,
    version: Arc<str>,
    memory_bytes: Option<u64>,
}

/// Detects a worker that answers with new positions but still reports the old one in its info.
#[derive(Debug, Default)]
struct Stuck {
    reported: Option<Position>,
    answered: bool,
    count: u32,
}

/// Labels of `prb_sync_failures_total`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Busy,
    Refused,
    TimedOut,
    ConnectionLost,
    BadAnswer,
    NoProgress,
    NoData,
    Source,
}

impl Health {
    /// Starts without failures.
    pub fn new(config: HealthConfig) -> Self {
        Self {
            config,
            worker: None,
            source: None,
            failures: 0,
            busy: 0,
            source_failures: 0,
            failed_at: Heights::default(),
            may_move_from: None,
            crashes: CrashTracker::default(),
            stuck: Stuck::default(),
            version: "".into(),
            memory_bytes: None,
        }
    }

    /// The current problem, if any: the worker's takes precedence over the source's. A problem that is due
    /// does not hold up the next step, but is shown until a step succeeds.
    pub fn problem(&self) -> Option<&Problem> {
        self.worker.as_ref().or(self.source.as_ref())
    }

    /// Consecutive failures of the worker.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next step may be tried, if not now. `heights` are the source's: a backoff caused by the
    /// source ends when they differ from those at the failure.
    pub fn wakes_at(&self, heights: &Heights, now: Instant) -> Option<Instant> {
        // Targets do not count: they grow with the chain, whether or not the source has more data.
        let same = (heights.relay, heights.para) == (self.failed_at.relay, self.failed_at.para);
        let source = self.source.as_ref().filter(|_| same);
        let due = self.worker.iter().chain(source).map(|problem| problem.due);
        due.filter(|due| *due > now).max()
    }

    /// Narrows a step in order to isolate the block at which the connection breaks.
    #[must_use]
    pub fn narrow(&self, step: Step) -> Step {
        self.crashes.narrow(step)
    }

    /// Applies the worker's info.
    pub fn observed(&mut self, info: &PhactoryInfo, now: Instant) {
        if *self.version != *info.version {
            self.version = info.version.as_str().into();
        }
        self.memory_bytes = info.memory_usage.as_ref().map(|memory| memory.rust_used);
        self.crashes.set_version(&self.version);
        self.crashes.observed(info.initialized.then(|| Position::of(info)));
        if info.initialized {
            self.position_observed(Position::of(info), now);
        } else {
            self.stuck = Stuck::default();
            self.may_move_from = None;
        }
    }

    fn position_observed(&mut self, position: Position, now: Instant) {
        // Kept while the position is unchanged: a long dispatch ends only after several observations.
        let advanced = self.may_move_from.is_some_and(|from| is_ahead(position, from));
        self.crashes.passed(position);
        let unchanged = self.stuck.reported == Some(position);
        let answered = std::mem::take(&mut self.stuck.answered);
        self.stuck.reported = Some(position);
        if unchanged && answered {
            self.no_progress("the data sent", position, now);
        } else if !unchanged && self.stuck.count > 0 {
            self.stuck.count = 0;
            self.recover(now);
        } else if advanced {
            // It was slow, or its answer was lost: the data sent has taken effect.
            self.recover(now);
        }
    }

    /// Applies the result of a step.
    pub fn stepped(&mut self, stepped: &StepResult, now: Instant) -> StepAdvice {
        // Data arrived: whatever the worker made of it, the source works.
        if stepped.sent.is_some() {
            self.source = None;
            self.source_failures = 0;
        }
        match &stepped.result {
            Ok(Outcome::Advanced { position, bytes }) => {
                count_bytes(stepped.sent, *bytes);
                self.stuck.answered = true;
                // Clears suspected blocks before the new position even if the worker crashes again later.
                self.crashes.passed(*position);
                self.recover(now);
                StepAdvice::default()
            }
            Ok(Outcome::NotYet { .. }) if stepped.planned.step == Step::Wait => StepAdvice::default(),
            Ok(Outcome::NotYet { .. }) | Err(Error::Source(blob::Error::NotReady)) => {
                self.no_data(&stepped.planned, now)
            }
            Err(error) if error.is_source() => self.source_failed(&stepped.planned, error, now),
            Err(Error::Worker(error)) => self.worker_failed(stepped, error, now),
            Err(error) => {
                self.no_progress(sent_kind(stepped.planned.step), stepped.planned.position, now);
                tracing::debug!(%error, "no progress");
                StepAdvice { observe: true }
            }
        }
    }

    /// Discards everything: on an operator's command, or because another worker answers.
    pub fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    /// Ends the backoff after a success. A known recurring problem is still shown.
    fn recover(&mut self, now: Instant) {
        self.failures = 0;
        self.busy = 0;
        self.may_move_from = None;
        self.worker = None;
        if let Some(cause) = self.crashes.found() {
            self.set_crash(cause, now);
        } else if let Some(at) = self.stuck.reported.filter(|_| self.stuck.count > 0) {
            let message = self.stuck_message("the data sent", at);
            self.set(self.stuck_cause(at), self.stuck.count, message, now);
        }
    }

    fn no_data(&mut self, planned: &PlannedStep, now: Instant) -> StepAdvice {
        count_failure(Kind::NoData);
        let message = format!("The data source has no {} for it yet", wanted(planned));
        self.set_source(Cause::NoData, self.config.no_data, message, planned, now)
    }

    fn source_failed(&mut self, planned: &PlannedStep, error: &Error, now: Instant) -> StepAdvice {
        count_failure(Kind::Source);
        let message = format!("Cannot get {} for it: {}", wanted(planned), describe(error));
        self.set_source(Cause::SourceFailing, self.config.source, message, planned, now)
    }

    fn set_source(
        &mut self,
        cause: Cause,
        config: BackoffConfig,
        message: String,
        planned: &PlannedStep,
        now: Instant,
    ) -> StepAdvice {
        self.source_failures = self.source_failures.saturating_add(1);
        self.failed_at = planned.heights;
        let failures = self.source_failures;
        let due = now + pause(config, failures);
        self.source = Some(Problem { cause, failures, message: message.into(), due });
        StepAdvice::default()
    }

    fn worker_failed(&mut self, stepped: &StepResult, error: &pruntime::Error, now: Instant) -> StepAdvice {
        let kind = kind_of(error);
        count_failure(kind);
        self.failures = self.failures.saturating_add(1);
        // pRuntime may still apply the data sent before, without an answer that reaches us.
        if matches!(kind, Kind::Busy | Kind::TimedOut | Kind::ConnectionLost) {
            self.may_move_from = Some(stepped.planned.position);
        }
        let failures = self.failures;
        if kind == Kind::Busy {
            self.busy = self.busy.saturating_add(1);
            let message = format!(
                "Worker has been busy with another call for {failures} attempts in a row ({})",
                error.refusal().unwrap_or_default()
            );
            self.set(Cause::Busy, failures, message.into(), now + pause(self.config.busy, failures));
            return StepAdvice { observe: self.busy.is_multiple_of(self.config.busy_before_info.max(1)) };
        }
        self.busy = 0;
        let mut message = describe(error);
        // Without a connection the worker has received nothing at which it could crash.
        if let (pruntime::Error::Unreachable { connected: true, .. }, Some(SentBatch::Blocks(blocks))) =
            (error, stepped.sent)
        {
            let count = self.crashes.connection_broke(blocks, stepped.planned.position, &self.version);
            if let Some(cause) = self.crashes.found() {
                // The first break was backed off as an ordinary failure and does not count here.
                self.set_crash(cause, now + pause(self.config.crashing, count - 1));
                return StepAdvice { observe: true };
            }
            // Writing to a `String` cannot fail.
            let _ = write!(
                message,
                ", {count} times while it dispatched blocks {} to {}",
                blocks.first, blocks.last
            );
        }
        self.set(Cause::Failing, failures, message.into(), now + pause(self.config.failing, failures));
        StepAdvice { observe: true }
    }

    fn no_progress(&mut self, what: &str, at: Position, now: Instant) {
        count_failure(Kind::NoProgress);
        self.failures = self.failures.saturating_add(1);
        self.stuck.count = self.stuck.count.saturating_add(1);
        // An answer that claims progress ends the row of failures, but not the row of unchanged reported
        // positions.
        let attempts = self.failures.max(self.stuck.count);
        let message = self.stuck_message(what, at);
        self.set(self.stuck_cause(at), attempts, message, now + pause(self.config.failing, attempts));
    }

    fn stuck_cause(&self, at: Position) -> Cause {
        Cause::NoProgress { block: at.block, count: self.stuck.count, version: Arc::clone(&self.version) }
    }

    fn stuck_message(&self, what: &str, at: Position) -> Arc<str> {
        format!(
            "{} accepts {what} and stays at block {}, relay header {} and parachain header {} ({} times in a row): \
             restart it, and report this version if that does not help",
            self.runtime(),
            at.block,
            at.relay_header,
            at.para_header,
            self.stuck.count,
        )
        .into()
    }

    fn set_crash(&mut self, cause: Cause, due: Instant) {
        let Cause::CrashesAt { block, count, .. } = &cause else { return };
        let memory = match self.memory_bytes {
            Some(bytes) => format!("; it used {} MiB before", bytes >> 20),
            None => String::new(),
        };
        let message = format!(
            "{} breaks the connection whenever it dispatches block {block} ({count} times{memory}): \
             check pRuntime's log, give it more memory, or use another version",
            self.runtime(),
        );
        let count = *count;
        self.set(cause, count, message.into(), due);
    }

    fn set(&mut self, cause: Cause, failures: u32, message: Arc<str>, due: Instant) {
        self.worker = Some(Problem { cause, failures, message, due });
    }

    fn runtime(&self) -> String {
        format!("pRuntime {}", if self.version.is_empty() { "(version unknown)" } else { &self.version })
    }
}

fn is_ahead(position: Position, before: Position) -> bool {
    position.block > before.block
        || position.relay_header > before.relay_header
        || position.para_header > before.para_header
}

/// The wait after `failures` consecutive failures.
fn pause(config: BackoffConfig, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    jittered(config.first.saturating_mul(1 << doublings).min(config.max))
}

fn kind_of(error: &pruntime::Error) -> Kind {
    use pruntime::Error as E;
    match error {
        _ if error.is_busy() => Kind::Busy,
        E::Unreachable { .. } => Kind::ConnectionLost,
        E::TimedOut { .. } => Kind::TimedOut,
        E::BadAnswer { .. } => Kind::BadAnswer,
        E::Refused { .. } | E::TooLarge { .. } => Kind::Refused,
    }
}

/// Describes the data that the step would send.
fn wanted(planned: &PlannedStep) -> String {
    match planned.step {
        Step::Headers(cursor) => format!("headers from relay block {} on", cursor.relay),
        Step::Blocks(cursor) => format!("blocks from {} on", cursor.from),
        Step::Wait => "chain data".to_owned(),
    }
}

const fn sent_kind(step: Step) -> &'static str {
    match step {
        Step::Headers(_) => "headers",
        Step::Blocks(_) => "blocks",
        Step::Wait => "the data sent",
    }
}

fn count_failure(kind: Kind) {
    let kind = match kind {
        Kind::Busy => "busy",
        Kind::Refused => "refused",
        Kind::TimedOut => "timed_out",
        Kind::ConnectionLost => "connection_lost",
        Kind::BadAnswer => "bad_answer",
        Kind::NoProgress => "no_progress",
        Kind::NoData => "no_data",
        Kind::Source => "source",
    };
    counter!("prb_sync_failures_total", "kind" => kind).increment(1);
}

fn count_bytes(sent: Option<SentBatch>, bytes: usize) {
    let kind = if matches!(sent, Some(SentBatch::Blocks(_))) { "blocks" } else { "headers" };
    counter!("prb_sync_bytes_total", "kind" => kind).increment(bytes as u64);
}
