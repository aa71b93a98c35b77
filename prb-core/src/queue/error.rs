//! Failures of a queue.

use super::{JobId, MAX_CALLS_PER_JOB, MAX_JOB_BYTES};

/// Why a call to a queue failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It holds its maximum number of jobs.
    #[error("the queue is full: it holds its maximum of {limit} jobs")]
    Full {
        /// The maximum.
        limit: usize,
    },
    /// It holds its maximum of bytes.
    #[error("the queue is full: its jobs have reached the maximum of {limit_bytes} bytes")]
    FullBytes {
        /// The maximum.
        limit_bytes: usize,
    },
    /// The job is larger than any transaction can be.
    #[error("the job has {size_bytes} bytes, more than the maximum of {MAX_JOB_BYTES}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// The job has no calls, or too many.
    #[error("the job has {calls} calls, not 1 to {MAX_CALLS_PER_JOB}")]
    BadJob {
        /// How many it has.
        calls: usize,
    },
    /// The lease was lost: it expired and the job was leased again, or the job ended.
    #[error("job {id} is no longer leased to this consumer")]
    LeaseLost {
        /// The job.
        id: JobId,
    },
    /// The queue was closed for good: a trader that gets this error ends. For failures that may pass, backends return
    /// [`Error::Unavailable`].
    #[error("the queue is closed")]
    Closed,
    /// The backend cannot be reached.
    #[error("the queue is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::FullBytes { .. } | Self::Unavailable(_))
    }
}
