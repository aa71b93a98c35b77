//! [`RedisQueue`]: jobs between processes, in bee-queue 1.4's layout.
//!
//! Lifecycle managers and traders of the original, and dashboards that know bee-queue, work on the same
//! queue: keys, job JSON and events are bee-queue's, actions and payloads the original's. What ours need
//! besides stands in fields of its own and in keys that start with `prb:` behind the queue's prefix.
//!
//! ```text
//!  submit ──▶ one script: jobs, waiting, books            take ◀── lease
//!  events ◀── one script: active, jobs, succeeded|failed ◀── finish ◀── complete, fail
//!  fates  ──▶ asked every few seconds, should an event have been missed
//! ```
//!
//! - Whatever changes more than one key is one script: a crash of any side leaves whole steps.
//! - A call whose connection was lost is repeated, and known again by its number or by what it left: it happens
//!   once.
//! - Leases have tokens that never come twice, and jobs have marks: a Redis that lost its data, or went back
//!   to an old snapshot, can neither end somebody else's lease nor tell a submitter of somebody else's job.
//!   Submitters learn that theirs is gone, and consumers that their leases are lost.
//! - While Redis is away, calls fail after [`Config::call_timeout`], and after [`Config::outage_limit`] the
//!   jobs submitted before are given up.
//!
//! Our consumers and the original's workers may serve one queue together. The original keeps no tokens: a
//! job of ours that its check for stalled jobs takes away from a process that hung for
//! [`Config::stall_interval`] may be done by both.
//!
//! Needs Redis 6.2 or newer (`BLMOVE`), one server, no cluster. `rediss://` is TLS.

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
    connections::Connections,
    consume::{End, Opened},
    error::ConsumerError,
    finish::Ending,
    lease_table::LeaseTable,
    leasing::{Want, millis},
    pending::Pending,
    record::{Event, Record},
    submit::Submission,
};

mod account_lease;
mod action;
mod admin;
mod config;
mod connections;
mod consume;
mod error;
mod events;
mod finish;
mod housekeeping;
mod lease_table;
mod leasing;
mod pending;
mod record;
mod scripts;
mod submit;

pub use account_lease::RedisAccounts;
pub use config::{BlockHint, Config, PoolSigners, StartError};

/// Calls that may wait for a task; more wait at its door.
const DOOR: usize = 256;
/// How long handing back what nobody fetched may take where the queue is closed.
const HAND_BACK: Duration = Duration::from_secs(1);
/// How long Redis may take to say that it is ready: whoever asks wants to know the cause soon.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Most leases in one script.
const MAX_RENEWED: usize = 256;

/// A queue in Redis. Clones share it; it ends with the last. [`RedisQueue::shutdown`] hands back what was taken
/// and not fetched; a queue that is only dropped leaves that, if there is any, to the end of its leases.
#[derive(Clone)]
pub struct RedisQueue(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
    wants: mpsc::Sender<Want>,
    endings: mpsc::Sender<Ending>,
    /// The supervisor, and with it all tasks.
    _tasks: JoinSet<()>,
}

/// What the tasks share.
struct Shared {
    config: Config,
    link: Connections,
    /// This process's name in Redis.
    caller: String,
    pending: Pending,
    held: LeaseTable,
    seq: AtomicU64,
    /// Whether this process submits: until then nobody hears events.
    submits: watch::Sender<bool>,
    /// Whether events are heard.
    listening: watch::Sender<bool>,
    /// A job may fall due sooner than was known.
    sooner: Notify,
    /// What went wrong when jobs were last waited for.
    consumer: watch::Sender<Option<ConsumerError>>,
    /// What went wrong when the queue was last put in order.
    upkeep: watch::Sender<Option<Arc<str>>>,
    /// The connection that waits for jobs.
    blocking: Mutex<Option<MultiplexedConnection>>,
    closed: CancellationToken,
    /// Its tasks have ended.
    ended: CancellationToken,
}

impl Shared {
    /// A number for a call, higher than all before.
    fn seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }
}

fn random_name() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}

impl RedisQueue {
    /// Starts working on a queue. Redis need not be there yet: see [`RedisQueue::ready`].
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let link = Connections::new(&config)?;
        let shared = Arc::new(Shared {
            config,
            link,
            caller: random_name(),
            pending: Pending::default(),
            held: LeaseTable::default(),
            seq: AtomicU64::new(1),
            submits: watch::Sender::new(false),
            listening: watch::Sender::new(false),
            sooner: Notify::new(),
            consumer: watch::Sender::new(None),
            upkeep: watch::Sender::new(None),
            blocking: Mutex::new(None),
            closed: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (submissions, to_submit) = mpsc::channel(DOOR);
        let (wants, to_dispense) = mpsc::channel(DOOR);
        let (endings, to_finish) = mpsc::channel(DOOR);
        let mut tasks = JoinSet::new();
        tasks.spawn(submit::run(shared.clone(), to_submit));
        let dispenser = tasks.spawn(leasing::run(shared.clone(), to_dispense)).id();
        tasks.spawn(finish::run(shared.clone(), to_finish));
        tasks.spawn(events::listen(shared.clone()));
        tasks.spawn(events::ask(shared.clone()));
        tasks.spawn(housekeeping::run(shared.clone()));
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(shared.clone(), tasks, dispenser));
        Ok(Self(Arc::new(Inner { shared, submissions, wants, endings, _tasks: supervisor })))
    }

    /// Asks Redis whether it is there and fit, and tells what keeps those who wait for jobs here from getting any,
    /// and the queue from being written to.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with what is wrong.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("server");
        let (info,): (String,) = self
            .0
            .shared
            .link
            .query_within(READY_WITHIN, &pipe)
            .await
            .map_err(|e| self.0.shared.link.unavailable(e))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        if let Some(text) = error::too_old(version) {
            return Err(Error::Unavailable(format!("{}: {text}", self.0.shared.link.endpoint()).into()));
        }
        let shared = &self.0.shared;
        let consumer = shared.consumer.borrow().as_ref().and_then(|trouble| trouble.now(&shared.config));
        let trouble = consumer.or_else(|| shared.upkeep.borrow().clone());
        trouble.map_or(Ok(()), |text| Err(Error::Unavailable(text.to_string().into())))
    }

    /// Completes when the queue has ended: closed, or because one of its tasks broke.
    pub async fn ended(&self) {
        self.0.shared.ended.cancelled().await;
    }

    /// Takes no more jobs and hands none out. Submitters of this process learn no more: their jobs stay in
    /// Redis. Leases that it gave out run out, unless they were ended or handed back before. What was taken and not
    /// fetched is handed back, within a second and behind this call.
    pub fn close(&self) {
        self.0.shared.closed.cancel();
    }

    /// Closes the queue and waits until what was taken and not fetched is handed back: a second at most, also where Redis is
    /// away. Cancel safe: it goes on behind.
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

/// Ends all where the queue is closed, or where a task ends by itself: that is a fault of the program.
async fn supervise(shared: Arc<Shared>, mut tasks: JoinSet<()>, dispenser: task::Id) {
    let _ended = shared.ended.clone().drop_guard();
    tokio::select! {
        () = shared.closed.cancelled() => {
            shared.pending.close("the queue was closed before the job's end");
        }
        ended = tasks.join_next() => {
            // Tasks whose door was closed end when the last clone is dropped, and this one with them.
            if ended.is_some_and(|task| task.is_err_and(|e| e.is_panic())) {
                tracing::error!("a task of the queue panicked, the queue is closed");
            }
            shared.closed.cancel();
            shared.pending.close("a task of the queue ended before the job's end");
        }
    }
    // It hands back what nobody fetched.
    let handed_back = async {
        while let Some(ended) = tasks.join_next_with_id().await {
            if ended.map_or_else(|e| e.id(), |(id, ())| id) == dispenser {
                break;
            }
        }
    };
    let _ = timeout(HAND_BACK, handed_back).await;
    tasks.shutdown().await;
}

/// The original's words.
const fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Taken => "RP_INIT",
        Progress::Prepared => "RP_PREPROCESSED",
        _ => "RP_WORKING",
    }
}

/// A job's JSON, and the rest of its book.
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
                self.0.wants.send(Want { ttl, grant }).await.map_err(|_| Error::Closed)?;
                let grant = granted.await.map_err(|_| Error::Closed)??;
                let Some(taken) = grant.taken() else { continue };
                match self.open(taken).await {
                    Ok(Opened { lease, held }) => {
                        // It was taken for somebody who left.
                        if taken.ttl_ms != millis(ttl) {
                            let lost = self.heartbeat(&[(lease.id, lease.token)], ttl).await?;
                            if !lost.is_empty() {
                                continue;
                            }
                        }
                        self.0.shared.held.add(lease.id, held);
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
            shared.held.forget(*id, *token);
        }
        Ok(lost)
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        let shared = &self.0.shared;
        // Less than a millisecond is not nothing.
        let delay_ms = if after.is_zero() { 0 } else { millis(after) };
        let mut leases = leases.to_vec();
        leases.sort_unstable();
        // The oldest is the first in line, so its chunk goes last.
        for chunk in leases.rchunks(MAX_RENEWED) {
            let mut script = shared.link.scripts.hand_back.call();
            script.arg(delay_ms).arg("");
            for (id, token) in chunk {
                script.arg(id.0).arg(token);
            }
            let _: u64 = shared.link.run(&script).await.map_err(|e| self.0.shared.link.unavailable(e))?;
            for (id, token) in chunk {
                shared.held.forget(*id, *token);
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
            let Some(held) = shared.held.get(*id, *token) else { continue };
            *held.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(progress);
            let data = Some(word(progress));
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
        let succeeded = succeeded + trimmed_succeeded.unwrap_or_default();
        let failed = failed + trimmed_failed.unwrap_or_default();
        Ok(Stats { waiting, delayed, active, succeeded, failed })
    }
}
