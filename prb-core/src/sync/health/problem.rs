//! Causes of sync problems, and their backoffs.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::crash::MIN_CRASHES;
use crate::{primitives::ParaNumber, sync::BackoffConfig};

/// Backoffs after sync failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct HealthConfig {
    /// After 'RCU in progress'. Default: 500 ms to 30 s.
    pub busy: BackoffConfig,
    /// After other failures of the worker. Default: 1 s to 60 s.
    pub failing: BackoffConfig,
    /// After repeated connection failures while the same blocks were dispatched.
    /// Default: 10 s to 10 minutes.
    pub crashing: BackoffConfig,
    /// After failures of the source. Default: 1 s to 60 s.
    pub source: BackoffConfig,
    /// While the source returns no data although its heights include it. Default: 1 s to 60 s.
    pub no_data: BackoffConfig,
    /// The worker's info is requested after every this many consecutive `RCU in progress` answers.
    /// Default: 4.
    pub busy_before_info: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            busy: BackoffConfig { first: Duration::from_millis(500), max: secs(30) },
            failing: BackoffConfig { first: secs(1), max: secs(60) },
            crashing: BackoffConfig { first: secs(10), max: secs(600) },
            source: BackoffConfig { first: secs(1), max: secs(60) },
            no_data: BackoffConfig { first: secs(1), max: secs(60) },
            busy_before_info: 4,
        }
    }
}

/// Why a worker's sync is held up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The worker is busy with another call.
    Busy,
    /// The worker refuses, times out, or breaks the connection.
    Failing,
    /// The worker accepts data without advancing.
    NoProgress {
        /// The block at which it stays: the next one that it needs.
        block: ParaNumber,
        /// How often in a row.
        count: u32,
        /// pRuntime's version; empty if not known.
        version: Arc<str>,
    },
    /// The connection breaks whenever this block is dispatched.
    CrashesAt {
        /// The block.
        block: ParaNumber,
        /// How often it broke there.
        count: u32,
        /// pRuntime's version; empty if not known.
        version: Arc<str>,
    },
    /// The source has no data for it yet.
    NoData,
    /// The source fails.
    SourceFailing,
}

impl Cause {
    /// Its name in logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Failing => "failing",
            Self::NoProgress { .. } => "no_progress",
            Self::CrashesAt { .. } => "crashes_at",
            Self::NoData => "no_data",
            Self::SourceFailing => "source_failing",
        }
    }

    /// Whether the source is the cause, not the worker.
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::NoData | Self::SourceFailing)
    }

    /// Whether an operator should look at the worker: it does not recover by itself.
    pub const fn is_alert(&self) -> bool {
        match self {
            Self::CrashesAt { .. } => true,
            Self::NoProgress { count, .. } => *count >= MIN_CRASHES,
            Self::Busy | Self::Failing | Self::NoData | Self::SourceFailing => false,
        }
    }
}

/// A problem that holds up a worker's sync.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The cause.
    pub cause: Cause,
    /// Consecutive failures: of the worker, or of the source if it is the cause.
    pub failures: u32,
    /// The message for operators.
    pub message: Arc<str>,
    /// When it is retried; if the source is the cause, also when its heights grow.
    pub due: Instant,
}
