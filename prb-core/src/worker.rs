//! The reconciliation of one worker: observe → [`decide`] → act → observe again.
//!
//! [`decide`] is a pure function of the configuration ([`Desired`]), the observation ([`Observed`]) and the
//! fleet's [`Settings`]. It returns one [`Action`] and what to sync next; the task that carries them out has
//! no rules of its own. Nothing is trusted from memory after an error, and no error is terminal: every
//! failure is retried with backoff. An operation that the chain would refuse is not sent, and one that it has
//! refused is not sent again before the state that caused the refusal changes.
//!
//! Every message that a worker shows is a [`Reason`]; `docs/worker-states.md` lists them with their cause and
//! remedy.
//!
//! Not for: many workers (see [`crate::fleet`]), or the submission of transactions (see [`crate::trade`]).

use std::time::Duration;

use crate::{
    inventory::AfterExternalStop,
    sync::{self, BackoffConfig, HealthConfig},
};

mod action;
mod command;
mod decide;
mod egress;
mod event;
mod in_flight;
mod job_driver;
mod key_registry;
mod line_limit;
mod observed;
mod obsolete;
mod reason;
mod record;
mod requests;
mod saver;
mod slot;
mod stakes;
mod state;
mod status;
mod task;
mod views;

pub use action::{Action, Decision, Operation};
pub use command::Command;
pub use decide::decide;
pub use event::{Event, EventKind, MAX_EVENTS};
pub use in_flight::{InFlight, Stage, UnknownStage};
pub use observed::{Desired, Failure, Failures, Grant, LastKey, NodeBehind, Observed, Refused, Rules};
pub use reason::{AfterCoolDown, Reason};
pub use state::State;
pub use status::{Checkpoint, WorkerStatus};

pub(crate) use command::preview;
pub(crate) use job_driver::JobDriver;
pub(crate) use key_registry::Keys;
pub(crate) use line_limit::LineLimit;
pub(crate) use saver::Saver;
pub(crate) use slot::{Slot, Taken};
pub(crate) use stakes::StakeQueue;
pub(crate) use task::{Context, Task};
pub(crate) use views::Views;

/// Settings that apply to every worker of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Settings {
    /// Send nothing on chain for any worker. Default: `false`.
    pub sync_only: bool,
    /// Register again until the score reaches the minimum. Default: `false`.
    pub enforce_min_bench_score: bool,
    /// The minimum score. Default: 50.
    pub min_bench_score: u32,
    /// Initialise with a fixed development key and without attestation. Default: `false`.
    pub dev_skip_ra: bool,
    /// What happens after a stop that this fleet did not send, unless the worker or its pool has its own
    /// setting. Default: [`AfterExternalStop::StayStopped`].
    pub after_stop: AfterExternalStop,
}

/// Default of [`Settings::min_bench_score`].
pub const MIN_BENCH_SCORE: u32 = 50;

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_only: false,
            enforce_min_bench_score: false,
            min_bench_score: MIN_BENCH_SCORE,
            dev_skip_ra: false,
            after_stop: AfterExternalStop::default(),
        }
    }
}

/// Backoffs, intervals and size limits of a worker's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Tuning {
    /// Backoff after failures to reach the worker. Default: 1 s to 60 s.
    pub connection_backoff: BackoffConfig,
    /// Backoff and thresholds for failures to sync it. Default: those of [`HealthConfig`].
    pub sync_health: HealthConfig,
    /// Backoff after failures on chain: of operations and of message jobs. Default: 6 s to 5 minutes.
    pub chain_backoff: BackoffConfig,
    /// How long to wait for a job's outcome. Longer than a transaction can stay valid and a queue can be: it
    /// only covers an outcome that was lost. Default: 2 hours.
    pub job_timeout: Duration,
    /// Size of the first batch, and of the largest one except for a single item that is larger, in bytes.
    /// Default: 8 MiB.
    pub max_batch_bytes: usize,
    /// Interval of `GetInfo` calls while a worker catches up. At the tip it is called after each dispatch.
    /// Default: 10 s.
    pub observe_interval: Duration,
    /// Time without any answer after which a worker at the tip is checked with `GetInfo`. Default: 60 s.
    pub max_silence: Duration,
    /// Number of blocks behind the tip within which a worker counts as caught up. Default: 4.
    pub caught_up_within: u32,
    /// Number of blocks behind the tip beyond which a worker that had caught up counts as synching again.
    /// Default: 64.
    pub behind_after: u32,
    /// Limits of the sync planner. Default: those of [`sync::Limits`].
    pub limits: sync::Limits,
}

impl Default for Tuning {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            connection_backoff: BackoffConfig { first: secs(1), max: secs(60) },
            sync_health: HealthConfig::default(),
            chain_backoff: BackoffConfig { first: secs(6), max: secs(300) },
            job_timeout: secs(2 * 3600),
            max_batch_bytes: 8 * 1024 * 1024,
            observe_interval: secs(10),
            max_silence: secs(60),
            caught_up_within: 4,
            behind_after: 64,
            limits: sync::Limits::default(),
        }
    }
}
