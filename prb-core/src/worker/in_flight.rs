//! [`InFlight`]: the operation or messages of a worker that are on their way to the chain.

use std::{fmt, str::FromStr, time::SystemTime};

use crate::queue::JobId;

/// What a worker's task has submitted, or prepares to submit, and whose outcome is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The [name](super::Operation::name) of the operation, or [`InFlight::MESSAGES`].
    pub operation: &'static str,
    /// Its stage.
    pub stage: Stage,
    /// Since when it is at that stage.
    pub since: SystemTime,
    /// Its job, once the queue has it.
    pub job: Option<JobId>,
}

impl InFlight {
    /// The value of [`operation`](Self::operation) for messages of the worker to the chain.
    pub const MESSAGES: &'static str = "messages";
}

/// The stage of an operation or message on its way to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The worker provides data for it, such as an attestation.
    Preparing,
    /// The queue has not accepted the job yet.
    Submitting,
    /// The job is in the queue or with a trader.
    Queued,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 3] = [Self::Preparing, Self::Submitting, Self::Queued];

    /// A short name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Submitting => "submitting",
            Self::Queued => "queued",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a [`Stage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be preparing, submitting or queued")]
pub struct UnknownStage;

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text).ok_or(UnknownStage)
    }
}
