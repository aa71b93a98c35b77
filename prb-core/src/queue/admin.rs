//! The seam [`QueueAdmin`]: an operator's view of a queue's jobs, including those that ended.
//!
//! For backends that hold [`Job`]s: [`kinds`] and [`workers`] make [`JobRecord::action`] and
//! [`JobRecord::workers`], [`describe`] and [`job_data`] make [`JobDetail::calls`] and [`JobDetail::data`],
//! [`push_step`] keeps [`JobRecord::history`] short.
//!
//! Not for: consumers and submitters (see [`JobQueue`](super::JobQueue)).

use std::fmt;

use async_trait::async_trait;
use codec::Encode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Error, Job, JobId, JobOutcome, JobSigner, JobState};
use crate::{
    chain::Call,
    primitives::{Balance, PoolId, WorkerKey},
};

/// Maximum number of steps kept in a job's history: the newest.
pub const MAX_STEPS: usize = 16;

/// Selects jobs to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this pool.
    pub pool: Option<PoolId>,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The number of jobs that match the filter.
    pub total: usize,
    /// The page's jobs, newest first.
    pub jobs: Vec<JobRecord>,
}

/// One step of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The state that the job entered.
    pub state: JobState,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Details, if any: the error before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A queue's record of a job, without the content of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// The pool that it is for; `None` if a job of another program does not name it.
    pub pool: Option<PoolId>,
    /// What it does: the names of its calls ([`Call::name`]), joined by [`kinds`]. A queue whose layout names the
    /// action itself shows that name.
    pub action: String,
    /// The workers that its calls concern, without duplicates.
    pub workers: Vec<WorkerKey>,
    /// When it was submitted, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: Option<u64>,
    /// How often it was leased, the current lease included. A retry by an operator does not reset it.
    pub attempts: u32,
    /// How many retries are left, as in [`Lease::retries_left`](super::Lease::retries_left).
    pub retries_left: u32,
    /// Its trader's progress, in the queue's terms, for example
    /// [`Progress::as_str`](super::Progress::as_str): set by [`JobQueue::progress`](super::JobQueue::progress),
    /// `None` again once the job is leased again.
    pub progress: Option<String>,
    /// The error of its last attempt, if it failed.
    pub error: Option<String>,
    /// Its outcome: results, block and transaction.
    pub outcome: Option<JobOutcome>,
    /// Its states so far, oldest first; at most [`MAX_STEPS`]. There is a step for each of these: it was submitted
    /// ([`JobState::Waiting`]), leased ([`JobState::Active`]), failed with a delay ([`JobState::Delayed`], with the
    /// error as note), ended ([`JobState::Succeeded`], [`JobState::Failed`]). Steps for its return to the queue,
    /// after a delay, an expired lease or an operator's retry, are optional.
    pub history: Vec<Step>,
}

/// One job with its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobDetail {
    /// The record.
    pub record: JobRecord,
    /// A description of each call; empty if they cannot be decoded.
    pub calls: Vec<String>,
    /// Its data in JSON, as stored by the queue, or as made by [`job_data`]; `Null` if it cannot be decoded. The
    /// text `(sealed)` replaces the sealed key.
    pub data: Value,
}

/// Operations of an operator on a queue's jobs.
///
/// A job whose lease has expired is shown as [`JobState::Active`] or [`JobState::Waiting`] until it is leased again:
/// a backend need not look for expired leases to answer.
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::queue::{Error, JobId, admin::{Filter, JobDetail, Page, QueueAdmin}};
///
/// /// Read-only access to another queue.
/// #[derive(Debug)]
/// struct ReadOnly<Q>(Q);
///
/// #[async_trait]
/// impl<Q: QueueAdmin> QueueAdmin for ReadOnly<Q> {
///     async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, Error> {
///         self.0.list(filter, offset, limit).await
///     }
///
///     async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
///         self.0.job(id).await
///     }
///
///     async fn retry(&self, _id: JobId) -> Result<bool, Error> {
///         Ok(false)
///     }
///
///     async fn remove(&self, _id: JobId) -> Result<bool, Error> {
///         Ok(false)
///     }
/// }
/// ```
#[async_trait]
pub trait QueueAdmin: Send + Sync + fmt::Debug {
    /// Returns a page of the jobs that match `filter`, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, Error>;

    /// Returns one job; `None` if the queue has no job with that id (any more).
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error>;

    /// Returns a failed job to the queue; returns whether there was one. Its submitter has already received
    /// the failure and is not notified again. The job keeps its id and its attempts. It is leased at least once
    /// more; callers rely neither on its place among the waiting jobs nor on retries after that.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Full`], [`Error::FullBytes`], [`Error::Closed`]. The failed job is kept.
    ///
    /// # Cancel safety
    /// A cancelled call may have returned the job to the queue: repeated, it then returns false.
    async fn retry(&self, id: JobId) -> Result<bool, Error>;

    /// Removes a job in any state; returns whether there was one. Its submitter receives a failure, and its
    /// consumer finds the lease lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have removed the job: repeated, it then returns false.
    async fn remove(&self, id: JobId) -> Result<bool, Error>;
}

/// Describes a call for operators, without the content of messages: a line of [`JobDetail::calls`].
pub fn describe(call: &Call) -> String {
    let name = call.name();
    match call {
        Call::SyncOffchainMessage(message) => format!(
            "{name}: message {} of {:?} to {}, {} bytes",
            message.sequence,
            message.message.sender,
            String::from_utf8_lossy(&message.message.destination),
            message.message.payload.len()
        ),
        Call::RegisterWorker { worker, .. } | Call::RegisterWorkerV1 { worker, .. } => {
            format!("{name}: worker {worker}")
        }
        Call::UpdateWorkerEndpoint { payload, .. } => format!("{name}: worker {}", payload.pubkey),
        Call::StartComputing { pool, worker, stake } | Call::RestartComputing { pool, worker, stake } => {
            format!("{name}: pool {pool}, worker {worker}, stake {stake}")
        }
        Call::AddWorker { pool, worker }
        | Call::RemoveWorker { pool, worker }
        | Call::StopComputing { pool, worker }
        | Call::ReclaimWorker { pool, worker } => format!("{name}: pool {pool}, worker {worker}"),
    }
}

/// Joins names, each once and with its number of occurrences: `a ×2, b`. With the calls' names it makes
/// [`JobRecord::action`]: `kinds(job.calls.iter().map(Call::name))`.
pub fn kinds<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match kinds.iter_mut().find(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    let words = kinds.into_iter().map(|(kind, count)| match count {
        1 => kind.to_owned(),
        more => format!("{kind} ×{more}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The workers that calls concern, without duplicates: [`JobRecord::workers`].
pub fn workers(calls: &[Call]) -> Vec<WorkerKey> {
    let mut workers = Vec::new();
    for worker in calls.iter().filter_map(Call::worker) {
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }
    workers
}

/// Appends a step to a history, and drops the oldest beyond [`MAX_STEPS`].
pub fn push_step(history: &mut Vec<Step>, step: Step) {
    if history.len() >= MAX_STEPS {
        // Makes room for the new step; histories read from a store may be longer than the maximum.
        history.drain(..=history.len() - MAX_STEPS);
    }
    history.push(step);
}

/// A job in JSON for [`JobDetail::data`]: `(sealed)` in place of its key, bytes in hexadecimal, and amounts as text,
/// because JSON parsers lose digits of large numbers.
pub fn job_data(job: &Job) -> Value {
    let JobSigner { operator, proxied, .. } = &job.signer;
    json!({
        "pool": job.pool,
        "signer": { "operator": operator, "proxied": proxied, "key": "(sealed)" },
        "retries": job.retries,
        "calls": job.calls.iter().map(call_data).collect::<Vec<_>>(),
    })
}

/// A call in JSON: its name and its arguments.
fn call_data(call: &Call) -> Value {
    let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
    let staked = |stake: &Balance| stake.to_string();
    let arguments = match call {
        Call::SyncOffchainMessage(message) => json!({ "message": hex(&message.encode()) }),
        Call::RegisterWorker { worker, runtime_info, attestation, replaces }
        | Call::RegisterWorkerV1 { worker, runtime_info, attestation, replaces } => json!({
            "worker": worker,
            "runtime_info": hex(runtime_info),
            "attestation": hex(attestation),
            "replaces": replaces,
        }),
        Call::UpdateWorkerEndpoint { payload, signature } => json!({
            "worker": payload.pubkey,
            "payload": hex(&payload.encode()),
            "signature": hex(signature),
        }),
        Call::StartComputing { pool, worker, stake } | Call::RestartComputing { pool, worker, stake } => {
            json!({ "pool": pool, "worker": worker, "stake": staked(stake) })
        }
        Call::AddWorker { pool, worker }
        | Call::RemoveWorker { pool, worker }
        | Call::StopComputing { pool, worker }
        | Call::ReclaimWorker { pool, worker } => json!({ "pool": pool, "worker": worker }),
    };
    json!({ "call": call.name(), "arguments": arguments })
}

// Public for this workspace's other crates alone.
#[doc(hidden)]
/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
