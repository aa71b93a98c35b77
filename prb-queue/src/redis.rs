//! [`RedisQueue`]: a job queue between processes, in the layout of bee-queue 1.4.
//!
//! Lifecycle managers and traders of the original Runtime Bridge (the Node.js program; 'the original' below),
//! and dashboards for bee-queue, work on the same queue: keys, job JSON and events are bee-queue's, actions
//! and payloads the original's. Additional data is kept in separate JSON fields and in keys that start with
//! `prb:` after the queue's prefix.
//!
//! ```text
//!  submit ───▶ one script: jobs, waiting, index            take ◀── lease
//!  events ◀─── one script: active, jobs, succeeded|failed ◀── finish ◀── complete, fail
//!  outcomes ─▶ polled every few seconds in case an event was missed
//! ```
//!
//! - Every change to more than one key is one script, so a crash on either side leaves no partial change.
//! - A call whose connection was lost is repeated. The server recognises the repetition by the call's number
//!   or by its effect, so each call takes effect once.
//! - Lease tokens never repeat, and each job carries a random mark from its submitter. After Redis has lost
//!   its data or returned to an old snapshot, a consumer cannot end another one's lease, and a submitter is
//!   not given another job's outcome: submitters are notified that their job is gone, consumers that their lease is
//!   lost. A consumer ends a job that it has ended before as it did then, and a named submitter ([`Config::submitter`])
//!   withdraws its operations that nobody awaits. A job that was in flight then is leased a second time: consumers read
//!   effects before they send such a call again.
//! - While Redis is unavailable, calls fail after [`Config::call_timeout`]; after [`Config::outage_limit`]
//!   the outstanding jobs are reported as failed.
//!
//! Consumers of this crate and workers of the original may share one queue. The original has no lease tokens:
//! if a process of ours hangs for [`Config::stall_interval`], the original's check for stalled jobs may hand
//! its job to another worker, and both may carry it out.
//!
//! Needs Redis 6.2 or newer (for `BLMOVE`), as a single server: clusters are not supported. `rediss://` is
//! TLS.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    queue::{
        Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Lease, Progress, Stats, Withdrawal,
        admin::now_ms,
    },
    sync::RateLimit,
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
    connections::Connections,
    consume::{End, Opened},
    ended::EndedJobs,
    error::ConsumerError,
    finish::EndRequest,
    lease_table::LeaseTable,
    leasing::{LeaseRequest, millis},
    orphans::Orphans,
    pending::Pending,
    record::{Event, Record},
    submit::Submission,
};

mod account_lease;
mod admin;
mod config;
mod connections;
mod consume;
mod ended;
mod error;
mod events;
mod finish;
mod housekeeping;
mod job_encoding;
mod lease_table;
mod leasing;
mod orphans;
mod pending;
mod record;
mod scripts;
mod submit;

pub use account_lease::RedisAccounts;
pub use config::{BlockHint, Config, PoolSigners, StartError, check_url};
#[doc(hidden)]
pub use job_encoding::{read_job, write_job};

/// Capacity of each task's request channel; further callers wait.
const REQUEST_CAPACITY: usize = 256;
/// Maximum time for returning unclaimed jobs to Redis when the queue closes.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of the readiness check; shorter than a call's, so that a probe reports the cause soon.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Minimum time between two warnings of jobs that were too old.
const TOO_OLD_WARNING_EVERY: Duration = Duration::from_secs(60);
/// Maximum number of leases that one script renews. Redis runs nothing else meanwhile, so scripts are kept short.
const MAX_RENEWED: usize = 256;

/// A job queue in Redis. Clones share one queue, which ends with the last clone. [`RedisQueue::shutdown`]
/// hands back jobs that were leased but not yet claimed; if the queue is only dropped, they wait until their
/// leases expire.
#[derive(Clone)]
pub struct RedisQueue(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
    lease_requests: mpsc::Sender<LeaseRequest>,
    end_requests: mpsc::Sender<EndRequest>,
    /// The supervisor, which owns all other tasks.
    _tasks: JoinSet<()>,
}

/// State that the tasks share.
struct Shared {
    config: Config,
    link: Connections,
    /// The name of this process in Redis.
    caller: String,
    pending: Pending,
    orphans: Orphans,
    leases: LeaseTable,
    ended_jobs: EndedJobs,
    seq: AtomicU64,
    /// Whether this process has submitted a job. Job events are only subscribed to from then on.
    submits: watch::Sender<bool>,
    /// Whether the subscription to job events is established.
    listening: watch::Sender<bool>,
    /// Limits the warnings of jobs that were too old.
    too_old_log: std::sync::Mutex<RateLimit<()>>,
    /// Notified when a job may become due earlier than the lease task's timer.
    timer_moved: Notify,
    /// The last error while waiting for jobs.
    consumer: watch::Sender<Option<ConsumerError>>,
    /// The last error of the maintenance task.
    maintenance: watch::Sender<Option<Arc<str>>>,
    /// The connection that blocks while waiting for jobs.
    blocking: Mutex<Option<MultiplexedConnection>>,
    closed: CancellationToken,
    /// Cancelled when all tasks have ended.
    ended: CancellationToken,
}

impl Shared {
    /// Returns the next call number; numbers only increase.
    fn seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }
}

fn random_name() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}

impl RedisQueue {
    /// Starts a queue client. Redis does not have to be reachable yet: see [`RedisQueue::ready`].
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// When called outside of a tokio runtime.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        events::describe_metrics();
        let link = Connections::new(&config)?;
        let shared = Arc::new(Shared {
            config,
            link,
            caller: random_name(),
            pending: Pending::default(),
            orphans: Orphans::default(),
            leases: LeaseTable::default(),
            ended_jobs: EndedJobs::default(),
            seq: AtomicU64::new(1),
            submits: watch::Sender::new(false),
            listening: watch::Sender::new(false),
            too_old_log: std::sync::Mutex::new(RateLimit::new(TOO_OLD_WARNING_EVERY, 1)),
            timer_moved: Notify::new(),
            consumer: watch::Sender::new(None),
            maintenance: watch::Sender::new(None),
            blocking: Mutex::new(None),
            closed: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (submissions, to_submit) = mpsc::channel(REQUEST_CAPACITY);
        let (lease_requests, to_dispense) = mpsc::channel(REQUEST_CAPACITY);
        let (end_requests, to_finish) = mpsc::channel(REQUEST_CAPACITY);
        let mut tasks = JoinSet::new();
        tasks.spawn(submit::run(shared.clone(), to_submit));
        let lease_task = tasks.spawn(leasing::run(shared.clone(), to_dispense)).id();
        tasks.spawn(finish::run(shared.clone(), to_finish));
        tasks.spawn(events::listen(shared.clone()));
        tasks.spawn(events::poll_outcomes(shared.clone()));
        tasks.spawn(housekeeping::run(shared.clone()));
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(shared.clone(), tasks, lease_task));
        Ok(Self(Arc::new(Inner { shared, submissions, lease_requests, end_requests, _tasks: supervisor })))
    }

    /// Checks that Redis is reachable and has a supported version, and that this process can lease jobs and write
    /// to the queue.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with the cause.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("server").cmd("INFO").arg("persistence");
        // `INFO` needs no permission on the queue's keys, so that a missing permission does not look like a missing server.
        let (info, persistence): (String, String) = self
            .0
            .shared
            .link
            .query_within(READY_TIMEOUT, &pipe)
            .await
            .map_err(|e| self.0.shared.link.unavailable(e))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        if let Some(text) = error::too_old(version) {
            return Err(Error::Unavailable(format!("{}: {text}", self.0.shared.link.endpoint()).into()));
        }
        // It answers this while other commands have to wait.
        if persistence.lines().any(|line| line == "loading:1") {
            let text = format!("{}: {}", self.0.shared.link.endpoint(), error::LOADING);
            return Err(Error::Unavailable(text.into()));
        }
        let shared = &self.0.shared;
        let consumer = shared.consumer.borrow().as_ref().and_then(|error| error.current(&shared.config));
        let error = consumer.or_else(|| shared.maintenance.borrow().clone());
        error.map_or(Ok(()), |text| Err(Error::Unavailable(text.to_string().into())))
    }

    /// Completes when the queue has ended, either because it was closed or because one of its tasks failed.
    pub async fn ended(&self) {
        self.0.shared.ended.cancelled().await;
    }

    /// Closes the queue: it accepts and leases no more jobs. Outstanding jobs stay in Redis, but submitters of
    /// this process get no outcomes any more. Leases that are neither ended nor released expire. Unclaimed jobs
    /// are handed back in the background, within a second.
    pub fn close(&self) {
        self.0.shared.closed.cancel();
    }

    /// Closes the queue and waits until unclaimed jobs are handed back, for at most a second, even if Redis is
    /// unavailable.
    ///
    /// # Cancel safety
    /// Cancel safe: the shutdown continues in the background.
    pub async fn shutdown(&self) {
        self.close();
        self.0.shared.ended.cancelled().await;
    }

    async fn unless_closed<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            // A call after `close` must fail even if its answer is ready.
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

/// Stops all tasks when the queue is closed or when a task ends by itself, which is a bug.
async fn supervise(shared: Arc<Shared>, mut tasks: JoinSet<()>, lease_task: task::Id) {
    let _ended = shared.ended.clone().drop_guard();
    tokio::select! {
        () = shared.closed.cancelled() => {
            shared.pending.close("the queue was closed before the job's end");
        }
        ended = tasks.join_next() => {
            // A task also ends when the last clone is dropped and its channel closes; this task is aborted then.
            if ended.is_some_and(|task| task.is_err_and(|e| e.is_panic())) {
                tracing::error!("a task of the job queue panicked; the queue is closed");
            }
            shared.closed.cancel();
            shared.pending.close("a task of the queue ended before the job's end");
        }
    }
    // The lease task hands back unclaimed jobs before it ends.
    let handed_back = async {
        while let Some(ended) = tasks.join_next_with_id().await {
            if ended.map_or_else(|e| e.id(), |(id, ())| id) == lease_task {
                break;
            }
        }
    };
    let _ = timeout(RELEASE_TIMEOUT, handed_back).await;
    tasks.shutdown().await;
}

/// The progress value as the original reports it.
const fn progress_code(progress: Progress) -> &'static str {
    match progress {
        Progress::Taken => "RP_INIT",
        Progress::Prepared => "RP_PREPROCESSED",
        _ => "RP_WORKING",
    }
}

/// Returns a job's JSON and its index entry without the size.
fn encoded(job: &Job, mark: &str) -> Result<(String, String), serde_json::Error> {
    let encoded = job_encoding::encode(job, mark.to_owned())?;
    let index_entry = format!("{mark}|{}|{}", job.pool, encoded.action);
    let data: Box<RawValue> = encoded.data;
    let record = Record::new(data, job.retries, now_ms())?;
    Ok((record.write(&record.tail)?, index_entry))
}

#[async_trait]
impl JobQueue for RedisQueue {
    async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
        job.check()?;
        let mark = orphans::new_mark(self.0.shared.config.submitter.as_deref());
        let (json, index_entry) = encoded(&job, &mark).map_err(|e| Error::Unavailable(Box::new(e)))?;
        let calls = job.calls.len();
        // Its JSON suffices from here on; messages can make a job large, and the wait for Redis can be long.
        drop(job);
        let (submitter, outcome) = oneshot::channel();
        let (added, answer) = oneshot::channel();
        self.unless_closed(async {
            let submission = Submission { json, index_entry, mark, calls, submitter, added };
            self.0.submissions.send(submission).await.map_err(|_| Error::Closed)?;
            let id = answer.await.map_err(|_| Error::Closed)??;
            Ok(JobHandle::new(id, outcome))
        })
        .await
    }

    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        let shared = &self.0.shared;
        // The mark, because Redis restarts its job numbers when it loses its data.
        let mark = shared.pending.withdrawing(id, true);
        let mut script = shared.link.scripts.withdraw.call();
        script.arg(id.0).arg(mark.as_deref().unwrap_or_default());
        let answer: Result<String, _> = shared.link.run(&script).await;
        let withdrawal = match answer.map_err(|e| shared.link.unavailable(e))?.as_str() {
            "U" => Withdrawal::Unsent,
            "S" => Withdrawal::MaybeSent,
            _ => Withdrawal::Refused,
        };
        match withdrawal {
            Withdrawal::Refused => drop(shared.pending.withdrawing(id, false)),
            // The script publishes no event: bee-queue has none for this.
            _ => drop(mark.map(|mark| shared.pending.gone(id, &mark))),
        }
        Ok(withdrawal)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        self.unless_closed(async {
            loop {
                let (grant, granted) = oneshot::channel();
                self.0.lease_requests.send(LeaseRequest { ttl, grant }).await.map_err(|_| Error::Closed)?;
                let grant = granted.await.map_err(|_| Error::Closed)??;
                let Some(taken) = grant.taken() else { continue };
                match self.open(taken).await {
                    Ok(Opened { lease, leased }) => {
                        // The job was leased for a caller that has left, with that caller's lease time.
                        if taken.ttl_ms != millis(ttl) {
                            let lost = self.heartbeat(&[(lease.id, lease.token)], ttl).await?;
                            if !lost.is_empty() {
                                continue;
                            }
                        }
                        self.0.shared.leases.add(lease.id, leased);
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
            let mut script = shared.link.scripts.renew.call();
            script.arg(millis(ttl));
            for (id, token) in chunk {
                script.arg(id.0).arg(token);
            }
            let ids: Vec<u64> =
                shared.link.run(&script).await.map_err(|e| self.0.shared.link.unavailable(e))?;
            lost.extend(ids.into_iter().map(JobId));
        }
        for (id, token) in leases.iter().filter(|(id, _)| lost.contains(id)) {
            shared.leases.remove(*id, *token);
        }
        Ok(lost)
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        let shared = &self.0.shared;
        // A delay below a millisecond is rounded up; zero would make the job available at once.
        let delay_ms = if after.is_zero() { 0 } else { millis(after) };
        // By id, so that released jobs return in the order of their submission.
        let mut leases = leases.to_vec();
        leases.sort_unstable();
        // Each chunk is pushed to the front of the waiting list, so the chunk with the oldest jobs goes last.
        for chunk in leases.rchunks(MAX_RENEWED) {
            let mut script = shared.link.scripts.hand_back.call();
            script.arg(delay_ms).arg("");
            for (id, token) in chunk {
                script.arg(id.0).arg(token);
            }
            let _: u64 = shared.link.run(&script).await.map_err(|e| self.0.shared.link.unavailable(e))?;
            for (id, token) in chunk {
                shared.leases.remove(*id, *token);
            }
        }
        // The released jobs may become due before the lease task's timer.
        if delay_ms > 0 {
            shared.timer_moved.notify_one();
        }
        Ok(())
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        let shared = &self.0.shared;
        let mut pipe = redis::pipe();
        let mut any = false;
        for (id, token) in leases {
            let Some(leased) = shared.leases.get(*id, *token) else { continue };
            *leased.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(progress);
            let data = Some(progress_code(progress));
            let event = Event { id: id.to_string().into(), event: "progress".into(), data, mark: None };
            let event = serde_json::to_string(&event).map_err(|e| Error::Unavailable(Box::new(e)))?;
            pipe.publish(shared.link.key("events"), event).ignore();
            any = true;
        }
        if any {
            let () = shared.link.query(&pipe).await.map_err(|e| self.0.shared.link.unavailable(e))?;
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
        let key = |name| self.0.shared.link.key(name);
        type Counts = (usize, usize, usize, u64, u64, (Option<u64>, Option<u64>));
        let mut pipe = redis::pipe();
        pipe.llen(key("waiting"))
            .llen(key("active"))
            .zcard(key("delayed"))
            .scard(key("succeeded"))
            .scard(key("failed"))
            .hmget(key("prb:meta"), &["trimmed_succeeded", "trimmed_failed"]);
        let counts: Counts =
            self.0.shared.link.query(&pipe).await.map_err(|e| self.0.shared.link.unavailable(e))?;
        let (waiting, active, delayed, succeeded, failed, (trimmed_succeeded, trimmed_failed)) = counts;
        // Deleted jobs still count: the totals must not fall when retention deletes jobs.
        let succeeded = succeeded + trimmed_succeeded.unwrap_or_default();
        let failed = failed + trimmed_failed.unwrap_or_default();
        Ok(Stats { waiting, delayed, active, succeeded, failed })
    }
}
