//! One worker's life: observe → [`decide`] → act → observe again.
//!
//! [`decide`] is a pure function of what is wanted ([`Desired`]), what is so ([`Observed`]) and the fleet's
//! [`Settings`]. It names one [`Action`] and, beside it, what to sync next; the task that carries them out
//! knows no rule of its own. Nothing is trusted from memory after an error, and no error is an end: everything
//! is tried again, later each time. What the chain would refuse is not sent, and what it has refused is not
//! sent again before the state that caused it has changed.
//!
//! Every message that a worker shows is a [`Reason`]; `docs/worker-states.md` lists them with their cures.
//!
//! Not for: many workers (see [`crate::fleet`]), or how a transaction is made (see [`crate::trade`]).

use std::time::Duration;

use crate::{
    inventory::AfterStop,
    sync::{self, BackoffConfig, HealthConfig},
};

mod action;
mod command;
mod decide;
mod egress;
mod event;
mod goal;
mod keys;
mod observed;
mod operate;
mod reason;
mod save;
mod slot;
mod stakes;
mod state;
mod status;
mod task;

pub use action::{Action, Decision, Operation};
pub use command::Command;
pub use decide::decide;
pub use event::{Event, EventKind, MAX_EVENTS};
pub use observed::{Desired, Failure, Failures, Grant, LastKey, Observed, Refused, Rules};
pub use reason::{AfterCoolDown, Reason};
pub use state::State;
pub use status::{Checkpoint, WorkerStatus};

pub(crate) use command::preview;
pub(crate) use keys::Keys;
pub(crate) use save::Saver;
pub(crate) use slot::Slot;
pub(crate) use stakes::StakeQueue;
pub(crate) use task::{Context, Task};

/// What holds for every worker of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Send nothing on chain for any worker (`PHALA_SYNC_ONLY`).
    pub sync_only: bool,
    /// Register again until the score reaches the minimum (`PHALA_ENFORCE_MIN_BENCH_SCORE`).
    pub enforce_min_bench_score: bool,
    /// The minimum score (`PHALA_MIN_BENCH_SCORE`).
    pub min_bench_score: u32,
    /// Initialise with a fixed development key and without attestation (`PHALA_DEV_SKIP_RA`).
    pub dev_skip_ra: bool,
    /// What happens after a stop from elsewhere, where neither the worker nor its pool has a setting
    /// (`PRB_AFTER_STOP`).
    pub after_stop: AfterStop,
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
            after_stop: AfterStop::default(),
        }
    }
}

/// Waits and sizes of a worker's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// After failures to reach the worker.
    pub connection_backoff: BackoffConfig,
    /// After failures to sync it.
    pub sync_health: HealthConfig,
    /// After failures on chain: of operations and of message jobs.
    pub chain_backoff: BackoffConfig,
    /// How long a job's outcome is awaited. Longer than a transaction lives and a queue is: it is meant for
    /// an outcome that was lost.
    pub job_patience: Duration,
    /// The largest batch that is asked for, in bytes.
    pub max_batch_bytes: usize,
    /// How often a worker that catches up is asked for its info. At the tip it is asked after each dispatch.
    pub observe_interval: Duration,
    /// After that long without any answer a worker at the tip is asked whether it is still there.
    pub max_silence: Duration,
    /// A worker that is at most so many blocks behind has caught up.
    pub caught_up_within: u32,
    /// A worker that had caught up is synching again when it is more blocks behind than this.
    pub behind_after: u32,
    /// What the planner holds back for.
    pub limits: sync::Limits,
}

impl Default for Tuning {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            connection_backoff: BackoffConfig { first: secs(1), max: secs(60) },
            sync_health: HealthConfig::default(),
            chain_backoff: BackoffConfig { first: secs(6), max: secs(300) },
            job_patience: secs(2 * 3600),
            max_batch_bytes: 8 * 1024 * 1024,
            observe_interval: secs(10),
            max_silence: secs(60),
            caught_up_within: 4,
            behind_after: 64,
            limits: sync::Limits::default(),
        }
    }
}
