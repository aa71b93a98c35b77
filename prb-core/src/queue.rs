//! The seam [`JobQueue`]: what is to be sent on chain, from those who want it to those who send it.
//!
//! Deliveries are at-least-once: a job whose consumer vanished is handed out again. Operations are
//! idempotent against the chain's state (see [`ChainSubmitter::effects`](crate::chain::ChainSubmitter)).
//!
//! Not for: batching and nonces (see [`crate::trade`]).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    chain::Call,
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId},
    vault::Sealed,
};

pub mod admin;
pub mod memory;

/// A job's number within its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is to sign, as a job carries it: the key stays sealed until the trader opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSigner {
    /// The operator's account.
    pub operator: AccountId,
    /// Its key, sealed.
    pub key: Sealed,
    /// The account that the operator acts for, where the pool is proxied.
    pub proxied: Option<AccountId>,
}

/// Calls of one pool to be sent; the unit that succeeds or fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The pool that it is for.
    pub pool: PoolId,
    /// Who signs.
    pub signer: JobSigner,
    /// The calls, in order: message batches have several, anything else has one.
    pub calls: Vec<Call>,
    /// How often it may be handed out again after a failure that a retry may mend. Only [`JobQueue::fail`]
    /// uses one up: neither a lease that runs out nor a job that is released counts.
    pub retries: u32,
}

/// The longest list of calls in a job; more belong in several jobs.
pub const MAX_CALLS_PER_JOB: usize = 100;
/// The largest job, in bytes of [`Job::size_bytes`]: a block of the parachain takes less in one transaction.
pub const MAX_JOB_BYTES: usize = 3 * 1024 * 1024;

impl Job {
    /// Bytes that its calls and its sealed key hold, without the fixed part of each.
    pub fn size_bytes(&self) -> usize {
        self.signer.key.0.len() + self.calls.iter().map(Call::size_bytes).sum::<usize>()
    }

    /// Checks the bounds that every queue keeps.
    ///
    /// # Errors
    /// [`Error::BadJob`], [`Error::TooLarge`].
    pub fn check(&self) -> Result<(), Error> {
        let (calls, size_bytes) = (self.calls.len(), self.size_bytes());
        if !(1..=MAX_CALLS_PER_JOB).contains(&calls) {
            return Err(Error::BadJob { calls });
        }
        if size_bytes > MAX_JOB_BYTES {
            return Err(Error::TooLarge { size_bytes });
        }
        Ok(())
    }
}

/// How far a job is, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// In line.
    Waiting,
    /// Put back, due later.
    Delayed,
    /// Handed out to a trader.
    Active,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
}

/// What a trader is doing with a job, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// Taken from the queue.
    Taken,
    /// In a batch that is about to be sent.
    Prepared,
    /// Sent; its block is awaited.
    Sent,
}

/// What became of a job that was carried out: one result a call, in the job's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// The calls' results.
    pub calls: Vec<CallOutcome>,
    /// The finalised parachain block whose state shows them: readers wait for a view at or after it.
    pub block: ParaNumber,
    /// The transaction, `None` where nothing had to be sent.
    pub extrinsic: Option<Hash>,
    /// What the operator paid for the transaction; calls of other jobs may be in it.
    #[serde(default, with = "fee", skip_serializing_if = "Option::is_none")]
    pub fee: Option<Balance>,
}

/// A fee in JSON: a decimal string, as numbers are too small for it.
mod fee {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::primitives::Balance;

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(fee: &Option<Balance>, to: S) -> Result<S::Ok, S::Error> {
        match fee {
            Some(fee) => to.collect_str(fee),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Balance>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// One call's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallOutcome {
    /// It took effect now.
    Done,
    /// Its effect was on chain already; it was not sent.
    AlreadyDone,
    /// It failed on chain, with the error's name (`Pallet::Error`).
    Failed(String),
}

impl CallOutcome {
    /// The error's name, where it failed.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(name) => Some(name),
            _ => None,
        }
    }
}

/// Why a job was given up before it was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("job failed: {message}")]
pub struct JobFailure {
    /// What went wrong, for people.
    pub message: String,
}

/// A submitted job; resolves once its fate is known.
#[derive(Debug)]
pub struct JobHandle {
    /// The job's number.
    pub id: JobId,
    outcome: oneshot::Receiver<Result<JobOutcome, JobFailure>>,
}

impl JobHandle {
    /// For backends: a handle whose outcome comes through `outcome`.
    pub const fn new(id: JobId, outcome: oneshot::Receiver<Result<JobOutcome, JobFailure>>) -> Self {
        Self { id, outcome }
    }

    /// Waits for the job's fate.
    ///
    /// # Errors
    /// [`JobFailure`], also where the queue was dropped: then the job's fate must be read from the chain.
    pub async fn outcome(self) -> Result<JobOutcome, JobFailure> {
        self.outcome.await.unwrap_or_else(|_| {
            Err(JobFailure { message: "the queue went away before the job's end".into() })
        })
    }
}

/// A job handed out, to be ended by [`JobQueue::complete`] or [`JobQueue::fail`].
#[derive(Clone, Debug)]
pub struct Lease {
    /// The job's number.
    pub id: JobId,
    /// Which hand-out this is: a consumer whose lease was taken away cannot end the job any more.
    pub token: u64,
    /// How often it was handed out before, for whatever reason it came back.
    pub attempt: u32,
    /// How many of [`Job::retries`] are left: [`JobQueue::fail`] with a delay hands the job out again while
    /// there are any.
    pub retries_left: u32,
    /// The job.
    pub job: Job,
}

/// Jobs by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// In line.
    pub waiting: usize,
    /// Due later.
    pub delayed: usize,
    /// Handed out.
    pub active: usize,
    /// Done since the start.
    pub succeeded: u64,
    /// Given up since the start.
    pub failed: u64,
}

/// Why a queue refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its bound is reached.
    #[error("the queue holds its {limit} jobs")]
    Full {
        /// The bound.
        limit: usize,
    },
    /// Its bound on bytes is reached.
    #[error("the queue holds its {limit_bytes} bytes of jobs")]
    FullBytes {
        /// The bound.
        limit_bytes: usize,
    },
    /// A job larger than any transaction.
    #[error("a job has at most {MAX_JOB_BYTES} bytes, not {size_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// A job with no calls, or too many.
    #[error("a job has 1 to {MAX_CALLS_PER_JOB} calls, not {calls}")]
    BadJob {
        /// How many it has.
        calls: usize,
    },
    /// The lease was lost: it ran out and the job was handed out again, or ended.
    #[error("job {id} is not leased to this consumer any more")]
    LeaseLost {
        /// The job.
        id: JobId,
    },
    /// Closed.
    #[error("the queue is closed")]
    Closed,
    /// The backend cannot be reached.
    #[error("the queue is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::FullBytes { .. } | Self::Unavailable(_))
    }
}

/// A queue of jobs between lifecycle managers and traders.
#[async_trait]
pub trait JobQueue: Send + Sync + fmt::Debug {
    /// Adds a job. Its place in line is behind all that were added before.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::FullBytes`], [`Error::BadJob`], [`Error::TooLarge`], [`Error::Closed`],
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have added the job, and its outcome is lost.
    async fn submit(&self, job: Job) -> Result<JobHandle, Error>;

    /// Waits for a job and leases it for `ttl`; a lease that is not ended or renewed within it is taken
    /// away and the job handed out again. That uses up none of its retries: nobody has said that it failed.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: a cancelled call leases nothing.
    async fn lease(&self, ttl: Duration) -> Result<Lease, Error>;

    /// Renews leases for another `ttl`, at least a millisecond; gives those that are lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error>;

    /// Ends leases without ending their jobs: they are in line again after `after`, at once where that is zero,
    /// in the order of their ids and before younger jobs. Uses up no retry. Lost leases are passed over.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have released some of the jobs; leases that it has not released run out.
    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error>;

    /// Shows how far leased jobs are. Nothing depends on it: lost leases are passed over, and a backend may
    /// keep nothing of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        let _ = (leases, progress);
        Ok(())
    }

    /// Ends a job that was carried out, whatever its calls' results.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error>;

    /// Ends a job that was not carried out: handed out again after `retry_after` while it has retries left
    /// and `retry_after` is given, which uses one up; else failed.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error>;

    /// Counts by state.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn stats(&self) -> Result<Stats, Error>;
}
