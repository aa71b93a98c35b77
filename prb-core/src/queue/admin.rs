//! The seam [`QueueAdmin`]: a queue's jobs as its operator sees them, those that ended included.
//!
//! Not for: consumers and submitters (see [`JobQueue`](super::JobQueue)).

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Error, JobId, JobOutcome, JobState};
use crate::{
    chain::Call,
    primitives::{PoolId, WorkerKey},
};

/// Most steps of a job's history that are kept: the newest.
pub const MAX_STEPS: usize = 16;

/// Which jobs to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those in this state only.
    pub state: Option<JobState>,
    /// Those of this pool only.
    pub pool: Option<PoolId>,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// How many jobs the filter lets through.
    pub total: usize,
    /// The page's jobs, newest first.
    pub jobs: Vec<JobRecord>,
}

/// One step of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The state that it came to.
    pub state: JobState,
    /// When, in ms since the Unix epoch.
    pub at_ms: u64,
    /// Why, where there is more to say: the error of a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a queue knows of a job, without its calls' content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// The pool that it is for; `None` where another program's job does not say.
    pub pool: Option<PoolId>,
    /// What it does: the action's name in the queue's layout; of a job of several kinds, all of them.
    pub action: String,
    /// The workers that its calls are about, each once; at most one a call.
    pub workers: Vec<WorkerKey>,
    /// When it was submitted, in ms since the Unix epoch.
    pub created_ms: u64,
    /// When it ended, in ms since the Unix epoch.
    pub ended_ms: Option<u64>,
    /// How often it was handed out.
    pub hand_outs: u32,
    /// How often a failure may still be retried.
    pub retries_left: u32,
    /// How far its trader is, in the queue's words.
    pub progress: Option<String>,
    /// Why it failed, or why its last attempt did.
    pub error: Option<String>,
    /// What became of it: results, block and transaction.
    pub outcome: Option<JobOutcome>,
    /// Its states so far, oldest first; at most [`MAX_STEPS`].
    pub history: Vec<Step>,
}

/// One job with its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobDetail {
    /// What the queue knows of it.
    pub record: JobRecord,
    /// Its calls in words, one each; empty where they cannot be read.
    pub calls: Vec<String>,
    /// Its data as the queue keeps it, in JSON and without the sealed key; `Null` where it cannot be read.
    pub data: serde_json::Value,
}

/// What an operator may do with a queue's jobs.
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
    /// A page of the jobs that `filter` lets through, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, Error>;

    /// One job, `None` where the queue has none of that number (any more).
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error>;

    /// Puts a failed job in line again; says whether there was one. Its submitter has been told of the
    /// failure and learns no more.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Full`], [`Error::FullBytes`].
    async fn retry(&self, id: JobId) -> Result<bool, Error>;

    /// Forgets a job in any state; says whether there was one. Its submitter learns that it is gone, and
    /// its consumer finds the lease lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn remove(&self, id: JobId) -> Result<bool, Error>;
}

/// A call in words, for people: no message's content.
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

/// The kinds among names, each once and with how often it comes: `a ×2, b`.
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

/// The workers that calls are about, each once.
pub fn workers(calls: &[Call]) -> Vec<WorkerKey> {
    let mut workers = Vec::new();
    for worker in calls.iter().filter_map(Call::worker) {
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }
    workers
}

/// Adds a step to a history and forgets its oldest where there are too many.
pub fn push_step(history: &mut Vec<Step>, step: Step) {
    if history.len() >= MAX_STEPS {
        history.drain(..=history.len() - MAX_STEPS);
    }
    history.push(step);
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
