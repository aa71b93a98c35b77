//! The seam [`JobQueue`]: carries jobs from lifecycle managers, which need calls on chain, to traders, which send them.
//!
//! Deliveries are at-least-once: a job whose consumer vanished is leased again. Operations are
//! idempotent against the chain's state (see [`ChainSubmitter::effects`](crate::chain::ChainSubmitter)).
//!
//! Not for: batching (see [`crate::trade`]) and nonces (see [`ChainSubmitter`](crate::chain::ChainSubmitter)).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    chain::Call,
    encoding::decimal_option,
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId},
    vault::Sealed,
};

pub mod admin;
mod backend;
mod error;
pub mod memory;

pub use self::{
    backend::{UNSIGNABLE_LIMIT, expires, too_old, unsignable_delay, withdrawn},
    error::Error,
};

/// The id of a job within its queue; ascending in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The signer of a job: the key stays sealed until the trader opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSigner {
    /// The operator's account.
    pub operator: AccountId,
    /// Its key, sealed; empty (`Sealed(vec![])`) if a key service holds it and [`Signers`](crate::signer::Signers)
    /// need none.
    pub key: Sealed,
    /// The account that the operator acts for, if the pool is proxied.
    pub proxied: Option<AccountId>,
}

/// Calls for one pool; the unit that succeeds or fails.
///
/// Its serde representation is stable (see [`Call`]), and so are those of [`Lease`], [`JobOutcome`] and
/// [`JobFailure`]: a queue can store them directly, and later versions read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The pool that the calls are for.
    pub pool: PoolId,
    /// The signer.
    pub signer: JobSigner,
    /// The calls, in order: message batches have several, anything else has one.
    pub calls: Vec<Call>,
    /// How often it may be retried after a failure that a retry may resolve. Only [`JobQueue::fail`]
    /// uses one up: neither an expired lease nor a released job counts.
    pub retries: u32,
}

/// Maximum number of calls in a job; more must be split into several jobs.
pub const MAX_CALLS_PER_JOB: usize = 100;
/// Maximum size of a job, in bytes of [`Job::size_bytes`]: the parachain's limit for one transaction is
/// higher.
pub const MAX_JOB_BYTES: usize = 3 * 1024 * 1024;

impl Job {
    /// Bytes of its calls and its sealed key, without the fixed part of each.
    pub fn size_bytes(&self) -> usize {
        // The fixed part is small and bounded by the number of calls.
        self.signer.key.0.len() + self.calls.iter().map(Call::size_bytes).sum::<usize>()
    }

    /// Checks the limits that every queue enforces.
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

/// The state of a job, for observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// Waiting to be leased.
    Waiting,
    /// Released or failed, due later.
    Delayed,
    /// Leased by a trader.
    Active,
    /// Executed; its calls have results.
    Succeeded,
    /// Failed, without retries left.
    Failed,
}

/// The progress of a trader with a job, for observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// Leased from the queue.
    Taken,
    /// In a batch that is about to be sent.
    Prepared,
    /// Sent; its block is awaited.
    Sent,
}

impl Progress {
    /// Its name, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Prepared => "prepared",
            Self::Sent => "sent",
        }
    }
}

/// The outcome of a job that was executed: one result per call, in the job's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// The calls' results.
    pub calls: Vec<CallOutcome>,
    /// The finalised parachain block whose state shows the effects: readers wait for a view at or after it.
    pub block: ParaNumber,
    /// The last transaction's hash; `None` if nothing had to be sent.
    pub extrinsic: Option<Hash>,
    /// What the operator paid for the transactions, of which a large job may need several; calls of other jobs may be
    /// in them.
    #[serde(default, with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub fee: Option<Balance>,
}

/// One call's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallOutcome {
    /// It took effect now.
    Done,
    /// Its effect was already on chain; it was not sent.
    AlreadyDone,
    /// It failed on chain with this error (`Pallet::Error`).
    Failed(String),
}

impl CallOutcome {
    /// The error's name, if it failed.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(name) => Some(name),
            _ => None,
        }
    }
}

/// Why a job failed before it was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("job failed: {message}")]
pub struct JobFailure {
    /// What went wrong, for operators.
    pub message: String,
}

/// A submitted job; resolves once its outcome is known.
#[derive(Debug)]
pub struct JobHandle {
    /// The job's id.
    pub id: JobId,
    outcome: oneshot::Receiver<Result<JobOutcome, JobFailure>>,
}

impl JobHandle {
    /// Creates a handle whose outcome arrives through `outcome`, a [`tokio::sync::oneshot::Receiver`]. For backends.
    pub const fn new(id: JobId, outcome: oneshot::Receiver<Result<JobOutcome, JobFailure>>) -> Self {
        Self { id, outcome }
    }

    /// Waits for the job's outcome.
    ///
    /// # Errors
    /// [`JobFailure`], also if the queue was dropped: then the job's effects must be read from the chain.
    pub async fn outcome(self) -> Result<JobOutcome, JobFailure> {
        self.outcome.await.unwrap_or_else(|_| {
            Err(JobFailure { message: "the queue was dropped before the job ended".into() })
        })
    }
}

/// A leased job, ended by [`JobQueue::complete`] or [`JobQueue::fail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The job's id.
    pub id: JobId,
    /// Identifies this lease of the job: a consumer whose lease was lost cannot end the job any more.
    pub token: u64,
    /// How often it was leased before, regardless of why it came back.
    pub attempt: u32,
    /// How many of [`Job::retries`] are left: [`JobQueue::fail`] with a delay returns the job to the queue
    /// while there are any.
    pub retries_left: u32,
    /// The job.
    pub job: Job,
}

/// The answer of [`JobQueue::withdraw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withdrawal {
    /// It was withdrawn, and no consumer had ever leased it: its calls were not sent.
    Unsent,
    /// It was withdrawn after earlier leases, in which its calls may have been sent: the chain shows their effects.
    MaybeSent,
    /// It was not withdrawn: it is leased, has ended or is unknown, or the queue cannot withdraw jobs.
    Refused,
}

/// Numbers of jobs by state.
///
/// The totals of ended jobs never fall: they count from the creation of the queue, or from the start of the process if the
/// backend keeps jobs in memory only or deletes ended ones without counting them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Waiting to be leased.
    pub waiting: usize,
    /// Released or failed, to be leased later.
    pub delayed: usize,
    /// Leased. A backend may count a job whose lease has expired here until it is leased again.
    pub active: usize,
    /// Total of jobs that succeeded.
    pub succeeded: u64,
    /// Total of jobs that failed, without retries left.
    pub failed: u64,
}

/// A queue of jobs between lifecycle managers and traders.
///
/// # Durable and shared backends
///
/// - A [`JobHandle`] resolves wherever the job ended. If submitters and traders are different processes, notify the
///   submitter, or let it poll. A worker has at most one operation and, for each sender, four jobs with messages in
///   flight: without outcomes it soon sends nothing more, not even heartbeats. It gives up a job after
///   [`Tuning::job_timeout`](crate::worker::Tuning::job_timeout), 2 hours by default.
/// - A handle ends with the process that submitted the job; the job does not. A submitter that is started again reads
///   effects from the chain instead of waiting for old outcomes.
/// - Ids ascend, also across restarts.
/// - No two leases of a job have the same token, also across restarts: a consumer from before a restart must not end
///   the lease of another one. Leases of different jobs may have equal tokens.
/// - Capacity counts open jobs in every state, waiting, delayed and active; ended ones do not count.
/// - A lease that has expired may still be renewed and ended by its consumer until the job is leased again. A
///   backend may also treat it as lost from its expiry on: callers rely on neither.
/// - A job that has waited for too long should fail instead of being leased ([`too_old`] is the failure, [`expires`] which
///   jobs do): what was wanted then may not be wanted now. Submitters submit again what they still want.
/// - Released jobs keep their order ([`release`](Self::release)). The position of a job after a delayed failure or
///   an expired lease is up to the backend: it should precede younger jobs, unless its leases expire repeatedly
///   because it crashes its consumers.
///
/// The suite `prb_core::conformance::queue` checks handles across processes (`shared`), but restarts no queue: test
/// separately what yours keeps.
///
/// # Examples
///
/// [`examples/sqlite_queue`] keeps jobs in a database, for submitters and traders in one process.
///
/// [`examples/sqlite_queue`]: https://github.com/Phala-Network/runtime-bridge/tree/main/examples/sqlite_queue
///
/// A decorator forwards every method, also those with a default: without `withdraw` nothing is withdrawn, and without
/// `progress` the queue page shows none.
///
/// ```
/// use std::time::Duration;
/// use async_trait::async_trait;
/// use prb_core::queue::{
///     Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Lease, Progress, Stats, Withdrawal,
/// };
///
/// /// Logs every submitted job.
/// #[derive(Debug)]
/// struct Audited<Q>(Q);
///
/// #[async_trait]
/// impl<Q: JobQueue> JobQueue for Audited<Q> {
///     async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
///         println!("{}", serde_json::to_string(&job.calls).unwrap_or_default());
///         self.0.submit(job).await
///     }
///
///     async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
///         self.0.withdraw(id).await
///     }
///
///     async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
///         self.0.lease(ttl).await
///     }
///
///     async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error> {
///         self.0.heartbeat(leases, ttl).await
///     }
///
///     async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
///         self.0.release(leases, after).await
///     }
///
///     async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
///         self.0.progress(leases, progress).await
///     }
///
///     async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error> {
///         self.0.complete(id, token, outcome).await
///     }
///
///     async fn fail(
///         &self,
///         id: JobId,
///         token: u64,
///         failure: JobFailure,
///         retry_after: Option<Duration>,
///     ) -> Result<(), Error> {
///         self.0.fail(id, token, failure, retry_after).await
///     }
///
///     async fn stats(&self) -> Result<Stats, Error> {
///         self.0.stats().await
///     }
/// }
/// ```
#[async_trait]
pub trait JobQueue: Send + Sync + fmt::Debug {
    /// Adds a job behind all that were added before. A backend first checks it with [`Job::check`].
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::FullBytes`], [`Error::BadJob`], [`Error::TooLarge`], [`Error::Closed`],
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have added the job; its outcome is lost.
    async fn submit(&self, job: Job) -> Result<JobHandle, Error>;

    /// Takes back a job that is not wanted any more, if it waits or is delayed: it is not leased again, counts in no
    /// state, and its handle ends with a failure that says that it was withdrawn. A job whose lease has expired waits
    /// again; until then a backend may refuse.
    ///
    /// By default nothing is withdrawn: a submitter then relies on an age limit of
    /// the backend, such as [`memory::Config::max_age`]: until then, a job that waits for a consumer may be carried out
    /// although nobody wants it any more.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have withdrawn the job: repeated, it then returns [`Withdrawal::Refused`].
    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        let _ = id;
        Ok(Withdrawal::Refused)
    }

    /// Waits for a job and leases it for `ttl`; a lease that is neither ended nor renewed within it expires,
    /// and the job is leased again. That uses up none of its retries: no consumer reported a failure.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: a cancelled call leases nothing. A backend must not lease in work that continues after this future is
    /// dropped: a job leased inside [`spawn_blocking`](tokio::task::spawn_blocking) or a spawned task would stay leased
    /// without a consumer until the lease expires. Such a backend releases the job if its caller is gone.
    async fn lease(&self, ttl: Duration) -> Result<Lease, Error>;

    /// Renews leases for another `ttl` from now; returns the ids of those that are lost. A `ttl` below one
    /// millisecond counts as one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have renewed some of the leases, and does not return which are lost: repeat it.
    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error>;

    /// Ends leases without ending their jobs: they are available again after `after`, immediately if it is
    /// zero, in the order of their ids and before younger jobs. Uses up no retry. Lost leases are ignored.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have released some of the jobs; the leases of the others expire.
    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error>;

    /// Publishes the progress of leased jobs, for observers; lost leases are ignored. A backend that implements
    /// [`QueueAdmin`](admin::QueueAdmin) stores it and shows it in
    /// [`JobRecord::progress`](admin::JobRecord::progress), for example as [`Progress::as_str`]. Others need not:
    /// by default nothing is stored.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have published it for some of the jobs.
    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        let _ = (leases, progress);
        Ok(())
    }

    /// Ends a job that was executed, whatever the results of its calls.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have ended the job: repeated, it then returns [`Error::LeaseLost`].
    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error>;

    /// Ends a job that was not executed: it is leased again after `retry_after` if that is given and the job
    /// has retries left, which uses one up; otherwise the job has failed.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// As for [`complete`](Self::complete).
    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error>;

    /// Returns the numbers of jobs by state.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    async fn stats(&self) -> Result<Stats, Error>;
}
