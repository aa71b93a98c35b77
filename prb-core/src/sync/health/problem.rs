//! What can stand in the way of a worker's sync, and the pauses that it makes.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::crash::SURE_AFTER;
use crate::{primitives::ParaNumber, sync::BackoffConfig};

/// Pauses after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthConfig {
    /// After 'RCU in progress'.
    pub busy: BackoffConfig,
    /// After other failures of the worker.
    pub failing: BackoffConfig,
    /// After a connection that broke while blocks were dispatched, where that happened before.
    pub crashing: BackoffConfig,
    /// After failures of the source.
    pub source: BackoffConfig,
    /// While the source gives nothing although its heights promise it.
    pub no_data: BackoffConfig,
    /// After every so many answers 'RCU in progress' in a row the worker is asked for its info.
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

/// Why a worker's sync does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The worker is busy with another call.
    Busy,
    /// The worker refuses, is too slow, or breaks the connection.
    Failing,
    /// The worker answers that it took what it was sent, and stays where it is.
    NoProgress {
        /// The block that it stays at: the next that it wants.
        block: ParaNumber,
        /// How often in a row.
        count: u32,
        /// pRuntime's version; empty if not known.
        version: Arc<str>,
    },
    /// The connection breaks whenever this block is dispatched.
    DiesAt {
        /// The block.
        block: ParaNumber,
        /// How often.
        count: u32,
        /// pRuntime's version; empty if not known.
        version: Arc<str>,
    },
    /// The source has nothing for it yet.
    NoData,
    /// The source fails.
    SourceFailing,
}

impl Cause {
    /// Its name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Failing => "failing",
            Self::NoProgress { .. } => "no_progress",
            Self::DiesAt { .. } => "dies_at",
            Self::NoData => "no_data",
            Self::SourceFailing => "source_failing",
        }
    }

    /// Whether it lies with the source, and not with the worker.
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::NoData | Self::SourceFailing)
    }

    /// Whether somebody should look at the worker: it does not mend itself.
    pub const fn is_alert(&self) -> bool {
        match self {
            Self::DiesAt { .. } => true,
            Self::NoProgress { count, .. } => *count >= SURE_AFTER,
            Self::Busy | Self::Failing | Self::NoData | Self::SourceFailing => false,
        }
    }
}

/// What stands in the way of a worker's sync.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Why.
    pub cause: Cause,
    /// Failures in a row: of the worker, or of the source where the cause is there.
    pub failures: u32,
    /// What operators are told.
    pub message: Arc<str>,
    /// When it is tried again; for a cause that lies with the source also when its heights grow.
    pub due: Instant,
}
