//! [`RedisQueue`]: a job queue shared between processes, in bee-queue 1.4's layout.
//!
//! Lifecycle managers and traders of the original, and dashboards for bee-queue, can work on the same queue:
//! keys, job JSON and events are bee-queue's, actions and payloads the original's. Additional data of this
//! implementation is stored in separate fields, and in keys that start with `prb:` after the queue's prefix.
//!
//! ```text
//!  submit ──▶ one script: jobs, waiting, accounting       take ◀── lease
//!  events ◀── one script: active, jobs, succeeded|failed ◀── finish ◀── complete, fail
//!  fates  ──▶ polled every few seconds, in case an event was missed
//! ```
//!
//! - Every change of more than one key is one script: a crash of any party leaves no partial step.
//! - A call whose connection was lost is repeated, and recognised by its sequence number or by its effect: it
//!   is applied once.
//! - Lease tokens and job marks are never reused: a Redis that lost its data, or was restored from an old
//!   snapshot, can neither end another consumer's lease nor report another submitter's job. Submitters learn
//!   that their job is gone, and consumers that their lease is lost.
//! - Up to seven jobs are prefetched for consumers that return quickly to a long queue; jobs not fetched
//!   within 10 ms return to the front of the queue.
//! - While Redis is unavailable, calls fail after [`Config::call_timeout`], and after
//!   [`Config::outage_limit`] the handles of jobs submitted before report a failure.
//!
//! Consumers of this implementation and the original's workers may serve one queue together. The original has
//! no lease tokens: a job of ours that its check for stalled jobs takes away from a process that hung for
//! [`Config::stall_interval`] may be executed by both.
//!
//! Requires Redis 6.2 or newer (`BLMOVE`), a single server, no cluster. `rediss://` is TLS.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prb_core::queue::{
    Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Lease, Progress, Stats, admin::now_ms,
};
use rand::Rng;
use redis::aio::MultiplexedConnection;
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::{self, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    connection::Connection,
    consume::{End, Opened},
    finish::Ending,
    held_leases::HeldLeases,
    leasing::{LeaseRequest, millis},
    pending::Pending,
    record::{Event, Record},
    submit::Submission,
};

mod account_lease;
mod action;
mod admin;
mod config;
mod connection;
mod consume;
mod finish;
mod held_leases;
mod leasing;
mod maintenance;
mod outcomes;
mod pending;
mod prefetch;
mod record;
mod scripts;
mod server_error;
mod submit;

pub use account_lease::RedisAccounts;
pub use config::{BlockHint, Config, Signers, StartError};

/// Capacity of the channels to the tasks, in calls; further callers wait for space.
const CHANNEL_CAPACITY: usize = 256;
/// Timeout for returning prefetched jobs when the queue is closed.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of [`RedisQueue::ready`]: short, because the caller wants to report the cause.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of leases in one script.
const MAX_RENEWED: usize = 256;

/// A queue in Redis. Clones share it; it ends with the last one. [`RedisQueue::shutdown`] returns prefetched
/// jobs; if the queue is only dropped, these are available again when their leases expire.
#[derive(Clone)]
pub struct RedisQueue(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
    requests: mpsc::Sender<LeaseRequest>,
    endings: mpsc::Sender<Ending>,
    /// The supervisor, which owns all tasks.
    _tasks: JoinSet<()>,
}

/// State shared by the tasks.
struct Shared {
    config: Config,
    connection: Connection,
    /// This process's unique name in Redis.
    caller: String,
    pending: Pending,
    leases: HeldLeases,
    seq: AtomicU64,
    /// Whether this process has submitted a job: before that it does not subscribe to events.
    submits: watch::Sender<bool>,
    /// Whether the subscription to events is established.
    listening: watch::Sender<bool>,
    /// Notified when a job may become due earlier than known.
    sooner: Notify,
    /// The last error of waiting for jobs.
    consumer: watch::Sender<Option<Arc<str>>>,
    /// The connection that blocks for jobs.
    blocking: Mutex<Option<MultiplexedConnection>>,
    closed: CancellationToken,
    /// Cancelled when the tasks have ended.
    ended: CancellationToken,
}

impl Shared {
    /// Returns the next sequence number of a call.
    fn seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }
}

fn random_name() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}

impl RedisQueue {
    /// Starts the queue's tasks. Redis need not be reachable yet: see [`RedisQueue::ready`].
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let connection = Connection::new(&config)?;
        let shared = Arc::new(Shared {
            config,
            connection,
            caller: random_name(),
            pending: Pending::default(),
            leases: HeldLeases::default(),
            seq: AtomicU64::new(1),
            submits: watch::Sender::new(false),
            listening: watch::Sender::new(false),
            sooner: Notify::new(),
            consumer: watch::Sender::new(None),
            blocking: Mutex::new(None),
            closed: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (submissions, to_submit) = mpsc::channel(CHANNEL_CAPACITY);
        let (requests, to_lease) = mpsc::channel(CHANNEL_CAPACITY);
        let (endings, to_finish) = mpsc::channel(CHANNEL_CAPACITY);
        let mut tasks = JoinSet::new();
        tasks.spawn(submit::run(shared.clone(), to_submit));
        let dispatcher = tasks.spawn(leasing::run(shared.clone(), to_lease)).id();
        tasks.spawn(finish::run(shared.clone(), to_finish));
        tasks.spawn(outcomes::listen(shared.clone()));
        tasks.spawn(outcomes::poll(shared.clone()));
        tasks.spawn(maintenance::run(shared.clone()));
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(shared.clone(), tasks, dispatcher));
        Ok(Self(Arc::new(Inner { shared, submissions, requests, endings, _tasks: supervisor })))
    }

    /// Checks that Redis is reachable and suitable, and reports the error that prevents consumers from
    /// getting jobs.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with the cause.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("server");
        let (info,): (String,) = self
            .0
            .shared
            .connection
            .query_within(READY_TIMEOUT, &pipe)
            .await
            .map_err(|e| self.0.shared.connection.unavailable(e))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        if let Some(text) = server_error::too_old(version) {
            return Err(Error::Unavailable(text.into()));
        }
        let consumer = self.0.shared.consumer.borrow().clone();
        consumer.map_or(Ok(()), |text| Err(Error::Unavailable(text.to_string().into())))
    }

    /// Completes when the queue has ended: it was closed, or one of its tasks failed.
    pub async fn ended(&self) {
        self.0.shared.ended.cancelled().await;
    }

    /// Closes the queue: it accepts and leases no more jobs. Submitters of this process get a failure; their
    /// jobs stay in Redis. Granted leases expire, unless they were ended or released before. Prefetched jobs
    /// are returned in the background, within a second.
    pub fn close(&self) {
        self.0.shared.closed.cancel();
    }

    /// Closes the queue and waits until prefetched jobs are returned: for at most one second, even if Redis
    /// is unavailable. Cancel safe: the return continues in the background.
    pub async fn shutdown(&self) {
        self.close();
        self.0.shared.ended.cancelled().await;
    }

    async fn unless_closed<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.0.shared.closed.cancelled() => Err(Error::Closed),
            result = call => result,
        }
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisQueue").field(&self.0.shared.config).finish()
    }
}

/// Ends all tasks when the queue is closed, or when a task ends by itself, which is a bug.
async fn supervise(shared: Arc<Shared>, mut tasks: JoinSet<()>, dispatcher: task::Id) {
    let _ended = shared.ended.clone().drop_guard();
    tokio::select! {
        () = shared.closed.cancelled() => {
            shared.pending.close("the queue was closed before the job's end");
        }
        ended = tasks.join_next() => {
            // A task whose channel was closed ends when the last clone is dropped, and this one with it.
            if ended.is_some_and(|task| task.is_err_and(|e| e.is_panic())) {
                tracing::error!("a task of the queue panicked, the queue is closed");
            }
            shared.closed.cancel();
            shared.pending.close("a task of the queue ended before the job's end");
        }
    }
    // This task returns the prefetched jobs.
    let jobs_returned = async {
        while let Some(ended) = tasks.join_next_with_id().await {
            if ended.map_or_else(|e| e.id(), |(id, ())| id) == dispatcher {
                break;
            }
        }
    };
    let _ = timeout(RETURN_TIMEOUT, jobs_returned).await;
    tasks.shutdown().await;
}

/// The progress texts of the original.
const fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Taken => "RP_INIT",
        Progress::Prepared => "RP_PREPROCESSED",
        _ => "RP_WORKING",
    }
}

/// Encodes a job's JSON, and the rest of its accounting entry.
fn encoded(job: &Job, mark: &str) -> Result<(String, String), serde_json::Error> {
    let encoded = action::encode(job, mark.to_owned())?;
    let book = format!("{mark}|{}|{}", job.pool, encoded.action);
    let data: Box<RawValue> = encoded.data;
    let record = Record::new(data, job.retries, now_ms())?;
    Ok((record.write(&record.tail)?, book))
}

#[async_trait]
impl JobQueue for RedisQueue {
    async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
        job.check()?;
        let mark = random_name();
        let (json, book) = encoded(&job, &mark).map_err(|e| Error::Unavailable(Box::new(e)))?;
        let calls = job.calls.len();
        drop(job);
        let (submitter, outcome) = oneshot::channel();
        let (added, answer) = oneshot::channel();
        self.unless_closed(async {
            let submission = Submission { json, book, mark, calls, submitter, added };
            self.0.submissions.send(submission).await.map_err(|_| Error::Closed)?;
            let id = answer.await.map_err(|_| Error::Closed)??;
            Ok(JobHandle::new(id, outcome))
        })
        .await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        self.unless_closed(async {
            loop {
                let (grant, granted) = oneshot::channel();
                self.0.requests.send(LeaseRequest { ttl, grant }).await.map_err(|_| Error::Closed)?;
                let grant = granted.await.map_err(|_| Error::Closed)??;
                let Some(taken) = grant.taken() else { continue };
                match self.open(taken).await {
                    Ok(Opened { lease, held }) => {
                        // The job was taken for a caller that was cancelled, with another TTL.
                        if taken.ttl_ms != millis(ttl) {
                            let lost = self.heartbeat(&[(lease.id, lease.token)], ttl).await?;
                            if !lost.is_empty() {
                                continue;
                            }
                        }
                        self.0.shared.leases.add(lease.id, held);
                        drop(grant.accept());
                        return Ok(lease);
                    }
                    Err(refusal) => self.refuse(grant, refusal).await,
                }
            }
        })
        .await
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error> {
        let shared = &self.0.shared;
        let mut lost = Vec::new();
        for chunk in leases.chunks(MAX_RENEWED) {
            let mut script = shared.connection.scripts.renew.call();
            script.arg(millis(ttl));
            for (id, token) in chunk {
                script.arg(id.0).arg(token);
            }
            let ids: Vec<u64> =
                shared.connection.run(&script).await.map_err(|e| self.0.shared.connection.unavailable(e))?;
            lost.extend(ids.into_iter().map(JobId));
        }
        for (id, token) in leases.iter().filter(|(id, _)| lost.contains(id)) {
            shared.leases.forget(*id, *token);
        }
        Ok(lost)
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        let shared = &self.0.shared;
        // A delay below a millisecond must not become zero.
        let delay_ms = if after.is_zero() { 0 } else { millis(after) };
        let mut leases = leases.to_vec();
        leases.sort_unstable();
        // The oldest job must be at the front of the queue, so its chunk is returned last.
        for chunk in leases.rchunks(MAX_RENEWED) {
            let mut script = shared.connection.scripts.return_jobs.call();
            script.arg(delay_ms).arg("");
            for (id, token) in chunk {
                script.arg(id.0).arg(token);
            }
            let _: u64 =
                shared.connection.run(&script).await.map_err(|e| self.0.shared.connection.unavailable(e))?;
            for (id, token) in chunk {
                shared.leases.forget(*id, *token);
            }
        }
        if delay_ms > 0 {
            shared.sooner.notify_one();
        }
        Ok(())
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        let shared = &self.0.shared;
        let mut pipe = redis::pipe();
        let mut any = false;
        for (id, token) in leases {
            let Some(held) = shared.leases.get(*id, *token) else { continue };
            *held.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(progress);
            let data = Some(word(progress));
            let event = Event { id: id.to_string().into(), event: "progress".into(), data, mark: None };
            let event = serde_json::to_string(&event).map_err(|e| Error::Unavailable(Box::new(e)))?;
            pipe.publish(shared.connection.key("events"), event).ignore();
            any = true;
        }
        if any {
            let () =
                shared.connection.query(&pipe).await.map_err(|e| self.0.shared.connection.unavailable(e))?;
        }
        Ok(())
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error> {
        self.end(id, token, End::Succeeded(outcome)).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error> {
        self.end(id, token, End::Failed { message: failure.message, retry_after }).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let key = |name| self.0.shared.connection.key(name);
        type Counts = (usize, usize, usize, u64, u64, (Option<u64>, Option<u64>));
        let mut pipe = redis::pipe();
        pipe.llen(key("waiting"))
            .llen(key("active"))
            .zcard(key("delayed"))
            .scard(key("succeeded"))
            .scard(key("failed"))
            .hmget(key("prb:meta"), &["trimmed_succeeded", "trimmed_failed"]);
        let counts: Counts = self
            .0
            .shared
            .connection
            .query(&pipe)
            .await
            .map_err(|e| self.0.shared.connection.unavailable(e))?;
        let (waiting, active, delayed, succeeded, failed, (trimmed_succeeded, trimmed_failed)) = counts;
        let succeeded = succeeded + trimmed_succeeded.unwrap_or_default();
        let failed = failed + trimmed_failed.unwrap_or_default();
        Ok(Stats { waiting, delayed, active, succeeded, failed })
    }
}
