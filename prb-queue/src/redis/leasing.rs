//! Leases jobs: one task takes them from Redis for all waiting consumers.
//!
//! `BLMOVE waiting waiting RIGHT RIGHT` blocks until there is a job and moves nothing; the leasing script is
//! pipelined behind it on the same connection, so a job is on its way to a consumer as soon as it arrives.
//! Neither a lost connection nor a cancelled consumer can lose a job: a script whose answer was lost is sent
//! again and returns the same. Taken jobs go to the consumers in the order in which they came; jobs that no
//! consumer wants any more return to the front.
//!
//! If consumers return quickly to a long queue, a take prefetches a few jobs for the next ones
//! ([`super::prefetch`]). If a consumer ends a lease while no other waits, its end is sent over this connection
//! too, since the consumer will return at once: end and take are then one packet in each direction.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt, OptionFuture};
use prb_core::queue::{Error, JobId};
use rand::Rng;
use redis::{FromRedisValue, RedisError, RedisResult};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Shared,
    prefetch::{self, Prefetch},
    scripts::Call,
};

/// Maximum number of jobs taken by one script.
const MAX_BATCH: usize = 128;
/// Duration of one blocking wait, and so the delay until an expired lease of another process is noticed. A
/// dead connection is noticed after that and the call timeout.
const WAIT_SECS: u64 = 2;
/// Pause after a failure, before the next attempt for the waiting consumers.
const PAUSE: Duration = Duration::from_millis(200);

/// Timeout of a script that is sent ahead of a take, before it is sent again by itself; at most half of the
/// call timeout.
const BEFORE_TAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for a take in flight when the queue is closed.
const LAST_TAKE: Duration = Duration::from_millis(500);

/// Consecutive failed waits after which the waiting consumers get the error.
const MAX_FAILURES: u32 = 3;

/// A consumer's request for a job.
pub(super) struct LeaseRequest {
    pub(super) ttl: Duration,
    pub(super) grant: oneshot::Sender<Result<Grant, Error>>,
}

/// A taken job that is not accepted yet; returns to the queue when dropped.
pub(super) struct Grant {
    taken: Option<Taken>,
    returns: mpsc::Sender<(String, u64)>,
}

/// A job as returned by Redis.
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) tries: u32,
    pub(super) json: Vec<u8>,
    /// TTL of the lease, in milliseconds.
    pub(super) ttl_ms: u64,
}

impl Grant {
    pub(super) fn taken(&self) -> Option<&Taken> {
        self.taken.as_ref()
    }

    /// Accepts the job: it belongs to the caller from now on.
    pub(super) fn accept(mut self) -> Option<Taken> {
        self.taken.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            // Full only if hundreds of consumers are cancelled at once; then the leases expire.
            let _ = self.returns.try_send((taken.id, taken.token));
        }
    }
}

/// One call of the script `take`; repeated until it is answered, so that no job stays taken unnoticed.
struct Take {
    seq: u64,
    /// When a script last processed the timers, by the server's clock in milliseconds.
    timers_ms: u64,
    /// For each job wanted, the lease's TTL in milliseconds and its token.
    leases: Vec<(u64, u64)>,
}

/// When the timers were processed; milliseconds until the next one, -1 if there is none; and for each job its
/// id, token, number of earlier leases, and JSON.
type Answer = (u64, i64, Vec<(String, u64, u32, Vec<u8>)>);

impl Take {
    fn script<'a>(&self, shared: &'a Shared) -> Call<'a> {
        let mut script = shared.connection.scripts.take.call();
        script.arg(self.seq).arg(&shared.caller).arg(self.timers_ms);
        for (ttl, token) in &self.leases {
            script.arg(ttl).arg(token);
        }
        script
    }
}

/// A take that waits for a job, with its result.
type Waiting = BoxFuture<'static, (Arc<Take>, RedisResult<Answer>)>;

struct Dispatcher {
    shared: Arc<Shared>,
    requests: VecDeque<LeaseRequest>,
    returns: mpsc::Sender<(String, u64)>,
    /// A take whose answer was lost.
    unsettled: Option<Arc<Take>>,
    prefetch: Prefetch,
    /// When the next delay or lease ends, as far as known.
    timer: Option<Instant>,
    timers_ms: u64,
}

/// Runs until its queue is dropped, or closed: then prefetched jobs are returned.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: mpsc::Receiver<LeaseRequest>) {
    let (returns, mut returned) = mpsc::channel(1024);
    let closed = shared.closed.clone();
    let mut dispatcher = Dispatcher {
        shared,
        requests: VecDeque::new(),
        returns,
        unsettled: None,
        prefetch: Prefetch::new(),
        timer: None,
        timers_ms: 0,
    };
    // Armed when needed, not at each job, so it may fire too early.
    let mut stale = pin!(sleep(Duration::ZERO));
    let mut waiting: Option<Waiting> = None;
    // Whether a delay or a lease may have ended.
    let mut check_timers = true;
    let mut failures = 0;
    loop {
        if waiting.is_none() {
            dispatcher.requests.retain(|request| !request.grant.is_closed());
        }
        if !dispatcher.requests.is_empty() {
            if (std::mem::take(&mut check_timers) || dispatcher.unsettled.is_some())
                && let Err(e) = dispatcher.check_timers().await
            {
                check_timers = true;
                dispatcher.fail_requests(&e).await;
            } else if waiting.is_none() && !dispatcher.requests.is_empty() {
                // Prefetched jobs precede what is taken now, so they must return to the queue first.
                dispatcher.clear().await;
                waiting = Some(dispatcher.take());
            }
        }
        let due: OptionFuture<_> = dispatcher.timer.map(sleep_until).into();
        if stale.is_elapsed() && !dispatcher.prefetch.is_empty() {
            stale.as_mut().reset(dispatcher.prefetch.until());
        }
        tokio::select! {
            () = closed.cancelled() => break,
            request = incoming.recv() => match request {
                Some(request) => {
                    dispatcher.add_request(request);
                    while let Ok(request) = incoming.try_recv() {
                        dispatcher.add_request(request);
                    }
                }
                None => return,
            },
            () = stale.as_mut(), if !dispatcher.prefetch.is_empty() => {
                if dispatcher.prefetch.until() <= Instant::now() {
                    dispatcher.clear().await;
                }
            }
            Some(back) = returned.recv() => {
                let mut all = vec![back];
                while let Ok(back) = returned.try_recv() {
                    all.push(back);
                }
                dispatcher.return_jobs(&all).await;
            }
            Some((take, result)) = OptionFuture::from(waiting.as_mut()) => {
                waiting = None;
                match result {
                    Ok(answer) => {
                        failures = 0;
                        dispatcher.shared.consumer.send_if_modified(|server_error| server_error.take().is_some());
                        dispatcher.settle(&take, answer);
                    }
                    Err(e) => {
                        dispatcher.unsettled = Some(take);
                        failures += 1;
                        let server_error = dispatcher.shared.connection.server_error(e.clone()).to_string();
                        dispatcher.shared.consumer.send_replace(Some(server_error.into()));
                        if failures > MAX_FAILURES {
                            dispatcher.fail_requests(&e).await;
                        }
                    }
                }
            }
            Some(()) = due => {
                dispatcher.timer = None;
                check_timers = true;
            }
            () = dispatcher.shared.sooner.notified() => check_timers = true,
        }
    }
    // Jobs that no consumer will fetch any more are returned, including those of a take in flight.
    if let Some(take) = waiting
        && let Ok((take, Ok(answer))) = timeout(LAST_TAKE, take).await
    {
        dispatcher.settle(&take, answer);
    }
    let mut jobs = dispatcher.prefetch.clear();
    jobs.extend(std::iter::from_fn(|| returned.try_recv().ok()));
    dispatcher.return_jobs(&jobs).await;
}

/// Waits for a job, and takes as many as are wanted; returns none after a timeout.
async fn wait_and_take(shared: &Shared, take: &Take) -> RedisResult<Answer> {
    let mut slot = shared.blocking.lock().await;
    let mut connection = match slot.take() {
        Some(connection) => connection,
        None => {
            let mut connection = shared.connection.blocking(Duration::from_secs(WAIT_SECS)).await?;
            shared.connection.scripts.take.load(&mut connection).await?;
            connection
        }
    };
    let waiting = shared.connection.key("waiting");
    let mut pipe = redis::pipe();
    pipe.cmd("BLMOVE").arg(&waiting).arg(&waiting).arg("RIGHT").arg("RIGHT").arg(WAIT_SECS).ignore();
    pipe.add_command(take.script(shared).into_command());
    let (answer,) = pipe.query_async(&mut connection).await?;
    *slot = Some(connection);
    Ok(answer)
}

/// Runs an idempotent script on the connection that blocks for jobs, if nothing blocks there now: a take that
/// follows goes into the same packet. `None` if that is not possible, or if it is not answered in time.
pub(super) async fn before_next_take<T: FromRedisValue>(shared: &Shared, script: &Call<'_>) -> Option<T> {
    let call = {
        let slot = shared.blocking.try_lock().ok()?;
        let mut connection = slot.clone()?;
        let mut call = Box::pin(async move { script.run(&mut connection).await });
        // The poll enqueues the command. A take that was sent before it would delay its answer.
        if let Poll::Ready(answer) = futures::poll!(&mut call) {
            return answer.ok();
        }
        call
    };
    timeout(BEFORE_TAKE_TIMEOUT.min(shared.config.call_timeout / 2), call).await.ok()?.ok()
}

impl Dispatcher {
    /// Adds a consumer's request.
    fn add_request(&mut self, request: LeaseRequest) {
        self.requests.push_back(request);
        if let Some(unwanted) = self.prefetch.next().and_then(|job| self.give(job)) {
            self.prefetch.put_back(unwanted);
        }
    }

    /// Takes jobs for the waiting consumers, and prefetches a few, once there are any.
    fn take(&self) -> Waiting {
        let base: u64 = rand::rng().random::<u64>() >> 8;
        let ttls = self.requests.iter().take(MAX_BATCH).map(|request| millis(request.ttl));
        let last = self
            .requests
            .back()
            .map(|request| millis(request.ttl))
            .filter(|ttl_ms| *ttl_ms >= prefetch::MIN_TTL_MS);
        let prefetch = last.into_iter().cycle().take(self.prefetch.extra(self.requests.len()));
        let leases = ttls.chain(prefetch).zip(base + 1..).collect();
        let take = Arc::new(Take { seq: self.shared.seq(), timers_ms: self.timers_ms, leases });
        let shared = self.shared.clone();
        async move {
            let answer = wait_and_take(&shared, &take).await;
            (take, answer)
        }
        .boxed()
    }

    /// Makes due jobs available, and gets the result of a take whose answer was lost.
    async fn check_timers(&mut self) -> RedisResult<()> {
        if let Some(take) = self.unsettled.clone() {
            let answer = self.shared.connection.run(&take.script(&self.shared)).await?;
            self.unsettled = None;
            self.settle(&take, answer);
        } else {
            let due = self.shared.connection.run(&self.shared.connection.scripts.promote.call()).await?;
            self.timer = instant(due);
        }
        Ok(())
    }

    fn settle(&mut self, take: &Take, (timers_ms, due, jobs): Answer) {
        let timer = instant(due);
        self.timer =
            if timers_ms == take.timers_ms { self.timer.into_iter().chain(timer).min() } else { timer };
        self.timers_ms = timers_ms;
        self.prefetch.take_ended(jobs.len() == take.leases.len());
        let ttls: HashMap<_, _> = take.leases.iter().map(|(ttl, token)| (*token, *ttl)).collect();
        for (id, token, tries, json) in jobs {
            let ttl_ms = ttls.get(&token).copied().unwrap_or_default();
            if let Some(unwanted) = self.give(Taken { id, token, tries, json, ttl_ms }) {
                self.prefetch.push(unwanted);
            }
        }
    }

    /// Gives a job to the first consumer that still waits; returns it if there is none.
    fn give(&mut self, taken: Taken) -> Option<Taken> {
        let mut grant = Grant { taken: Some(taken), returns: self.returns.clone() };
        while let Some(request) = self.requests.pop_front() {
            match request.grant.send(Ok(grant)) {
                Ok(()) => return None,
                Err(Ok(unwanted)) => grant = unwanted,
                Err(Err(_)) => return None,
            }
        }
        grant.accept()
    }

    /// Returns prefetched jobs to the queue.
    async fn clear(&mut self) {
        let jobs = self.prefetch.clear();
        self.return_jobs(&jobs).await;
    }

    /// Returns jobs to the queue, as if they had not been leased: it does not count as an attempt.
    async fn return_jobs(&self, jobs: &[(String, u64)]) {
        if jobs.is_empty() {
            return;
        }
        let mut script = self.shared.connection.scripts.return_jobs.call();
        script.arg(0).arg("u");
        let mut jobs: Vec<_> = jobs.iter().collect();
        jobs.sort_by_key(|(id, _)| id.parse::<JobNumber>().ok());
        for (id, token) in jobs {
            script.arg(id).arg(token);
        }
        let result: RedisResult<u64> = self.shared.connection.run(&script).await;
        if let Err(error) = result {
            tracing::warn!(%error, "jobs were not returned to the queue; their leases expire");
        }
    }

    /// Fails the waiting requests with the error. Pauses, so that consumers that retry at once do no harm.
    async fn fail_requests(&mut self, error: &RedisError) {
        for request in self.requests.drain(..) {
            let _ = request.grant.send(Err(self.shared.connection.unavailable(error.clone())));
        }
        sleep(PAUSE).await;
    }
}

/// Converts a timer as the scripts return it.
fn instant(ms: i64) -> Option<Instant> {
    u64::try_from(ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms))
}

type JobNumber = u64;

/// The milliseconds of a TTL or a delay: at least 1, and within the range of Redis.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::MAX >> 12)
}

/// The id as a [`JobId`], if it is a number.
pub(super) fn number(id: &str) -> Option<JobId> {
    id.parse().ok().map(JobId)
}
