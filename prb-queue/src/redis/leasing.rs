//! Leases jobs: one task takes them from Redis for all waiting consumers.
//!
//! `BLMOVE waiting waiting RIGHT RIGHT` blocks until there is a job, and moves nothing. The leasing script is
//! pipelined behind it on the same connection, so a job is leased as soon as it arrives. Neither a lost
//! connection nor a consumer that leaves loses a job: a script whose answer was lost is sent again and returns
//! the same answer. Leased jobs go to the waiting consumers in the order of their requests; jobs that nobody
//! waits for any more go back to the front of the waiting list.
//!
//! A consumer that ends a lease usually requests the next job at once. If no consumer waits at that moment, the
//! script that ends the lease is sent over this connection too, ahead of the next take, which saves a round
//! trip.

use std::{
    collections::{HashMap, VecDeque},
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

use super::{Shared, error::ConsumerError, orphans, scripts::Call};

/// Maximum number of jobs that one script takes.
const MAX_BATCH: usize = 128;
/// Duration of one blocking wait, and so the longest delay until an expired lease of another process is
/// noticed. A dead connection is noticed after this time plus a call's timeout.
pub(super) const WAIT_SECS: u64 = 2;
/// Pause after a failure, before the next call.
const PAUSE: Duration = Duration::from_millis(200);

/// Timeout of a script that runs ahead of a take, before it is sent again separately; at most half of a
/// call's timeout.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a running take is awaited when the queue closes.
const LAST_TAKE: Duration = Duration::from_millis(500);

/// Consecutive failed waits after which waiting consumers get the error.
const MAX_FAILURES: u32 = 3;

/// A consumer that waits for a job.
pub(super) struct LeaseRequest {
    pub(super) ttl: Duration,
    pub(super) grant: oneshot::Sender<Result<Grant, Error>>,
}

/// A leased job that its consumer has not accepted yet. Dropping it hands the job back.
pub(super) struct Grant {
    taken: Option<Taken>,
    returns: mpsc::Sender<(String, u64)>,
}

/// A job as taken from Redis.
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) tries: u32,
    pub(super) json: Vec<u8>,
    /// Time since its submission, in ms of the server's clock, if the server has recorded that.
    pub(super) age_ms: Option<u64>,
    /// The lease's duration, in ms.
    pub(super) ttl_ms: u64,
}

impl Grant {
    pub(super) fn taken(&self) -> Option<&Taken> {
        self.taken.as_ref()
    }

    /// Takes the job out, so that it is not handed back.
    pub(super) fn accept(mut self) -> Option<Taken> {
        self.taken.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            // The channel is full only if hundreds of consumers leave at once; those leases expire instead.
            let _ = self.returns.try_send((taken.id, taken.token));
        }
    }
}

/// One call of the script `take`. It is repeated with the same number until it is answered, so that no job
/// stays leased without a consumer that knows of it.
struct Take {
    seq: u64,
    /// When a script last checked the timers, in ms of the server's clock.
    timers_checked_ms: u64,
    /// For each wanted job, the lease's duration in ms and its token.
    leases: Vec<(u64, u64)>,
}

/// When the timers were checked; ms until the next timer, -1 if there is none; and for each job its id,
/// token, earlier hand-outs, JSON and age in ms, -1 if it is not recorded.
type Answer = (u64, i64, Vec<(String, u64, u32, Vec<u8>, i64)>);

impl Take {
    fn script<'a>(&self, shared: &'a Shared) -> Call<'a> {
        let mut script = shared.link.scripts.take.call();
        script.arg(self.seq).arg(&shared.caller).arg(self.timers_checked_ms);
        for (ttl, token) in &self.leases {
            script.arg(ttl).arg(token);
        }
        script
    }
}

/// A running take, and its result.
type Waiting = BoxFuture<'static, (Arc<Take>, RedisResult<Answer>)>;

struct Dispatcher {
    shared: Arc<Shared>,
    lease_requests: VecDeque<LeaseRequest>,
    returns: mpsc::Sender<(String, u64)>,
    /// A take whose answer was lost.
    unanswered: Option<Arc<Take>>,
    /// When the next delay or lease ends, as far as known.
    timer: Option<Instant>,
    timers_checked_ms: u64,
    /// Consecutive failed takes.
    failures: u32,
}

/// Runs until the queue is dropped or closed. On close, unclaimed jobs are handed back.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: mpsc::Receiver<LeaseRequest>) {
    let (returns, mut returned) = mpsc::channel(1024);
    let closed = shared.closed.clone();
    let (lease_requests, unanswered, timer) = Default::default();
    let mut dispatcher =
        Dispatcher { shared, lease_requests, returns, unanswered, timer, timers_checked_ms: 0, failures: 0 };
    let mut waiting: Option<Waiting> = None;
    // Whether a delay or a lease may have ended.
    let mut check_timers = true;
    loop {
        if waiting.is_none() {
            // Not while a take runs: it was made for a number of consumers, and its jobs go to those that still wait.
            dispatcher.lease_requests.retain(|want| !want.grant.is_closed());
        }
        if !dispatcher.lease_requests.is_empty() {
            if (std::mem::take(&mut check_timers) || dispatcher.unanswered.is_some())
                && let Err(e) = dispatcher.check_timers().await
            {
                check_timers = true;
                dispatcher.refuse_all(&e).await;
            } else if waiting.is_none() && !dispatcher.lease_requests.is_empty() {
                waiting = Some(dispatcher.take());
            }
        }
        let due: OptionFuture<_> = dispatcher.timer.map(sleep_until).into();
        tokio::select! {
            () = closed.cancelled() => break,
            want = incoming.recv() => match want {
                Some(want) => {
                    // All consumers that came in the meantime share the next take.
                    dispatcher.lease_requests.push_back(want);
                    dispatcher.lease_requests.extend(std::iter::from_fn(|| incoming.try_recv().ok()));
                }
                None => return,
            },
            Some(first) = returned.recv() => {
                let others = std::iter::from_fn(|| returned.try_recv().ok());
                let jobs: Vec<_> = std::iter::once(first).chain(others).collect();
                dispatcher.give_back(&jobs).await;
            }
            Some((take, result)) = OptionFuture::from(waiting.as_mut()) => {
                waiting = None;
                dispatcher.take_ended(take, result).await;
            }
            Some(()) = due => {
                dispatcher.timer = None;
                check_timers = true;
            }
            () = dispatcher.shared.timer_moved.notified() => check_timers = true,
        }
    }
    dispatcher.hand_back_unclaimed(waiting, returned).await;
}

/// Waits for a job and takes as many as wanted; returns an empty answer after [`WAIT_SECS`].
async fn wait_and_take(shared: &Shared, take: &Take) -> RedisResult<Answer> {
    // Locked during the whole wait; other users only try the lock.
    let mut slot = shared.blocking.lock().await;
    // A connection on which this call failed or was cancelled is not put back: an answer may still be outstanding.
    let mut connection = match slot.take() {
        Some(connection) => connection,
        None => {
            let mut connection = shared.link.blocking(Duration::from_secs(WAIT_SECS)).await?;
            shared.link.scripts.take.load(&mut connection).await?;
            shared.orphans.note_restart();
            orphans::withdraw(shared).await?;
            connection
        }
    };
    let waiting = shared.link.key("waiting");
    // Moving the last element to its own place changes nothing, but blocks until there is one. The script is in the
    // same pipeline, so that no round trip passes between a job's arrival and its lease.
    let mut pipe = redis::pipe();
    pipe.cmd("BLMOVE").arg(&waiting).arg(&waiting).arg("RIGHT").arg("RIGHT").arg(WAIT_SECS).ignore();
    pipe.add_command(take.script(shared).into_command());
    let (answer,) = pipe.query_async(&mut connection).await?;
    *slot = Some(connection);
    Ok(answer)
}

/// Runs a repeatable script on the blocking connection if nothing is waiting there, so that it goes out in
/// one packet with the take that is about to follow. Returns `None` if the connection is busy or the answer
/// is late.
pub(super) async fn ahead_of_take<T: FromRedisValue>(shared: &Shared, script: &Call<'_>) -> Option<T> {
    let call = {
        let slot = shared.blocking.try_lock().ok()?;
        let mut connection = slot.clone()?;
        let mut call = Box::pin(async move { script.run(&mut connection).await });
        // The first poll enqueues the command. A take already in front of it would block it until a job arrives.
        if let Poll::Ready(answer) = futures::poll!(&mut call) {
            return answer.ok();
        }
        call
    };
    timeout(AHEAD_TIMEOUT.min(shared.config.call_timeout / 2), call).await.ok()?.ok()
}

impl Dispatcher {
    /// Handles the result of a take.
    async fn take_ended(&mut self, take: Arc<Take>, result: RedisResult<Answer>) {
        match result {
            Ok(answer) => {
                self.failures = 0;
                self.shared.consumer.send_if_modified(|error| error.take().is_some());
                self.hand_out(&take, answer).await;
            }
            Err(e) => {
                // It may have leased jobs: it is repeated with its number before any new take.
                self.unanswered = Some(take);
                self.shared.orphans.note_restart();
                self.failures += 1;
                let error = ConsumerError::new(&self.shared.link.endpoint_error(e.clone()));
                self.shared.consumer.send_replace(Some(error));
                if self.failures > MAX_FAILURES {
                    self.refuse_all(&e).await;
                }
            }
        }
    }

    /// Hands back unclaimed jobs on close, including those that the running take still returns.
    async fn hand_back_unclaimed(
        &mut self,
        waiting: Option<Waiting>,
        mut returned: mpsc::Receiver<(String, u64)>,
    ) {
        if let Some(take) = waiting
            && let Ok((take, Ok(answer))) = timeout(LAST_TAKE, take).await
        {
            self.hand_out(&take, answer).await;
        }
        let jobs: Vec<_> = std::iter::from_fn(|| returned.try_recv().ok()).collect();
        self.give_back(&jobs).await;
    }

    /// Starts a take for the waiting consumers.
    fn take(&self) -> Waiting {
        // Random, so that tokens of earlier processes do not match; shifted, so that counting up cannot overflow.
        let base: u64 = rand::rng().random::<u64>() >> 8;
        let ttls = self.lease_requests.iter().take(MAX_BATCH).map(|want| millis(want.ttl));
        let leases = ttls.zip(base + 1..).collect();
        let take =
            Arc::new(Take { seq: self.shared.seq(), timers_checked_ms: self.timers_checked_ms, leases });
        let shared = self.shared.clone();
        async move {
            let answer = wait_and_take(&shared, &take).await;
            (take, answer)
        }
        .boxed()
    }

    /// Moves due jobs to the waiting list, or repeats a take whose answer was lost.
    async fn check_timers(&mut self) -> RedisResult<()> {
        if let Some(take) = self.unanswered.clone() {
            orphans::withdraw(&self.shared).await?;
            let answer = self.shared.link.run(&take.script(&self.shared)).await?;
            self.unanswered = None;
            self.hand_out(&take, answer).await;
        } else {
            let due = self.shared.link.run(&self.shared.link.scripts.promote.call()).await?;
            self.timer = instant(due);
        }
        Ok(())
    }

    /// Hands out the jobs of an answered take; unclaimed ones go back to the front of the waiting list.
    async fn hand_out(&mut self, take: &Take, (timers_checked_ms, due, jobs): Answer) {
        let timer = instant(due);
        self.timer =
            // Unchanged if this take did not check the timers: its answer then names only the end of the new
            // leases.
            if timers_checked_ms == take.timers_checked_ms { self.timer.into_iter().chain(timer).min() } else { timer };
        self.timers_checked_ms = timers_checked_ms;
        let ttls: HashMap<_, _> = take.leases.iter().map(|(ttl, token)| (*token, *ttl)).collect();
        let mut unwanted = Vec::new();
        for (id, token, tries, json, age_ms) in jobs {
            let age_ms = u64::try_from(age_ms).ok();
            let ttl_ms = ttls.get(&token).copied().unwrap_or_default();
            let left = self.give(Taken { id, token, tries, json, age_ms, ttl_ms });
            unwanted.extend(left.map(|taken| (taken.id, taken.token)));
        }
        self.give_back(&unwanted).await;
    }

    /// Hands a job to the first consumer that still waits; returns it if there is none.
    fn give(&mut self, taken: Taken) -> Option<Taken> {
        let mut grant = Grant { taken: Some(taken), returns: self.returns.clone() };
        while let Some(want) = self.lease_requests.pop_front() {
            match want.grant.send(Ok(grant)) {
                Ok(()) => return None,
                Err(Ok(unwanted)) => grant = unwanted,
                Err(Err(_)) => return None,
            }
        }
        grant.accept()
    }

    /// Hands jobs back without counting the hand-out.
    async fn give_back(&self, jobs: &[(String, u64)]) {
        if jobs.is_empty() {
            return;
        }
        let mut script = self.shared.link.scripts.hand_back.call();
        script.arg(0).arg("u");
        let mut jobs: Vec<_> = jobs.iter().collect();
        // By number, not as text: the script needs the oldest first.
        jobs.sort_by_key(|(id, _)| id.parse::<JobNumber>().ok());
        for (id, token) in jobs {
            script.arg(id).arg(token);
        }
        let result: RedisResult<u64> = self.shared.link.run(&script).await;
        if let Err(error) = result {
            tracing::warn!(error = %self.shared.link.endpoint_error(error), "jobs were not returned to the queue; their leases expire");
        }
    }

    /// Reports an error to all waiting consumers. The pause bounds the rate of consumers that retry at once.
    async fn refuse_all(&mut self, error: &RedisError) {
        for want in self.lease_requests.drain(..) {
            let _ = want.grant.send(Err(self.shared.link.unavailable(error.clone())));
        }
        sleep(PAUSE).await;
    }
}

/// Converts a timer from a script's answer.
fn instant(ms: i64) -> Option<Instant> {
    u64::try_from(ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms))
}

type JobNumber = u64;

/// A duration in ms for a lease or delay: at least 1, and small enough for Lua's numbers.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::MAX >> 12)
}

/// The id as a [`JobId`], if it is a number.
pub(super) fn number(id: &str) -> Option<JobId> {
    id.parse().ok().map(JobId)
}
