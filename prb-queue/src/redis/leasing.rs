//! Leasing jobs: one task takes them from Redis for all who wait.
//!
//! `BLMOVE waiting waiting RIGHT RIGHT` blocks until there is a job and moves nothing; the script that leases
//! stands right behind it on the same connection, so a job is on its way to a consumer in the moment it comes.
//! Neither a lost connection nor a consumer that leaves can lose one: a script whose answer was lost is sent
//! again and answers the same. What was taken goes to those who wait, in the order in which they came; what
//! nobody wants any more goes back to the front.
//!
//! Where a consumer ends a lease while nobody waits, its end goes over this connection too, since it will come
//! back at once: end and take are then one packet each way.

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

use super::{Shared, error::ConsumerError, scripts::Call};

/// Most jobs that one script takes.
const MAX_BATCH: usize = 128;
/// How long one blocking wait lasts, and so how late a lease that another process gave is seen to be over. A
/// dead connection is noticed after that and a call's time-out.
pub(super) const WAIT_SECS: u64 = 2;
/// Pause after a failure, before those who wait are tried for again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a script may take that goes ahead of a take, before it is sent again by itself; at most half of a call's
/// time-out.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a take that is on its way is waited for where the queue is closed.
const LAST_TAKE: Duration = Duration::from_millis(500);

/// After so many failed waits in a row, those who wait for jobs are told.
const MAX_FAILURES: u32 = 3;

/// Somebody who waits for a job.
pub(super) struct Want {
    pub(super) ttl: Duration,
    pub(super) grant: oneshot::Sender<Result<Grant, Error>>,
}

/// A job that was taken and not yet accepted; goes back where it is dropped.
pub(super) struct Grant {
    taken: Option<Taken>,
    returns: mpsc::Sender<(String, u64)>,
}

/// A job as it came out of Redis.
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) tries: u32,
    pub(super) json: Vec<u8>,
    /// The lease's.
    pub(super) ttl_ms: u64,
}

impl Grant {
    pub(super) fn taken(&self) -> Option<&Taken> {
        self.taken.as_ref()
    }

    /// It is the caller's from now on.
    pub(super) fn accept(mut self) -> Option<Taken> {
        self.taken.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            // Full only where hundreds of consumers leave at once; then the leases run out.
            let _ = self.returns.try_send((taken.id, taken.token));
        }
    }
}

/// One call of the script `take`; repeated until it is answered, so that nothing stays taken unseen.
struct Take {
    seq: u64,
    /// When a script last looked at the timers, by the server's clock in ms.
    looked_ms: u64,
    /// Of each job wanted, the lease's ms and its token.
    leases: Vec<(u64, u64)>,
}

/// When the timers were looked at; the ms to the next of them, -1 where there is none; and of each job its id, token,
/// earlier hand-outs and JSON.
type Answer = (u64, i64, Vec<(String, u64, u32, Vec<u8>)>);

impl Take {
    fn script<'a>(&self, shared: &'a Shared) -> Call<'a> {
        let mut script = shared.link.scripts.take.call();
        script.arg(self.seq).arg(&shared.caller).arg(self.looked_ms);
        for (ttl, token) in &self.leases {
            script.arg(ttl).arg(token);
        }
        script
    }
}

/// A take that waits for a job, and how it went.
type Waiting = BoxFuture<'static, (Arc<Take>, RedisResult<Answer>)>;

struct Dispatcher {
    shared: Arc<Shared>,
    wants: VecDeque<Want>,
    returns: mpsc::Sender<(String, u64)>,
    /// A take whose answer was lost.
    unsettled: Option<Arc<Take>>,
    /// When the next delay or lease is over, as far as is known.
    timer: Option<Instant>,
    looked_ms: u64,
}

/// Runs until its queue is dropped, or closed: then jobs that were taken ahead go back.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Want>) {
    let (returns, mut returned) = mpsc::channel(1024);
    let closed = shared.closed.clone();
    let mut dispenser =
        Dispatcher { shared, wants: VecDeque::new(), returns, unsettled: None, timer: None, looked_ms: 0 };
    let mut waiting: Option<Waiting> = None;
    // Whether a delay or a lease may be over.
    let mut look = true;
    let mut failures = 0;
    loop {
        if waiting.is_none() {
            dispenser.wants.retain(|want| !want.grant.is_closed());
        }
        if !dispenser.wants.is_empty() {
            if (std::mem::take(&mut look) || dispenser.unsettled.is_some())
                && let Err(e) = dispenser.look().await
            {
                look = true;
                dispenser.refuse_all(&e).await;
            } else if waiting.is_none() && !dispenser.wants.is_empty() {
                waiting = Some(dispenser.take());
            }
        }
        let due: OptionFuture<_> = dispenser.timer.map(sleep_until).into();
        tokio::select! {
            () = closed.cancelled() => break,
            want = incoming.recv() => match want {
                Some(want) => {
                    dispenser.wants.push_back(want);
                    dispenser.wants.extend(std::iter::from_fn(|| incoming.try_recv().ok()));
                }
                None => return,
            },
            Some(back) = returned.recv() => {
                let mut all = vec![back];
                while let Ok(back) = returned.try_recv() {
                    all.push(back);
                }
                dispenser.give_back(&all).await;
            }
            Some((take, result)) = OptionFuture::from(waiting.as_mut()) => {
                waiting = None;
                match result {
                    Ok(answer) => {
                        failures = 0;
                        dispenser.shared.consumer.send_if_modified(|trouble| trouble.take().is_some());
                        dispenser.settle(&take, answer).await;
                    }
                    Err(e) => {
                        dispenser.unsettled = Some(take);
                        failures += 1;
                        let trouble = ConsumerError::new(&dispenser.shared.link.endpoint_error(e.clone()));
                        dispenser.shared.consumer.send_replace(Some(trouble));
                        if failures > MAX_FAILURES {
                            dispenser.refuse_all(&e).await;
                        }
                    }
                }
            }
            Some(()) = due => {
                dispenser.timer = None;
                look = true;
            }
            () = dispenser.shared.sooner.notified() => look = true,
        }
    }
    // What nobody will fetch any more goes back, also what a take brings now.
    if let Some(take) = waiting
        && let Ok((take, Ok(answer))) = timeout(LAST_TAKE, take).await
    {
        dispenser.settle(&take, answer).await;
    }
    let jobs: Vec<_> = std::iter::from_fn(|| returned.try_recv().ok()).collect();
    dispenser.give_back(&jobs).await;
}

/// Waits for a job, and takes as many as are wanted; comes back empty-handed after a while.
async fn wait_and_take(shared: &Shared, take: &Take) -> RedisResult<Answer> {
    let mut slot = shared.blocking.lock().await;
    let mut connection = match slot.take() {
        Some(connection) => connection,
        None => {
            let mut connection = shared.link.blocking(Duration::from_secs(WAIT_SECS)).await?;
            shared.link.scripts.take.load(&mut connection).await?;
            connection
        }
    };
    let waiting = shared.link.key("waiting");
    let mut pipe = redis::pipe();
    pipe.cmd("BLMOVE").arg(&waiting).arg(&waiting).arg("RIGHT").arg("RIGHT").arg(WAIT_SECS).ignore();
    pipe.add_command(take.script(shared).into_command());
    let (answer,) = pipe.query_async(&mut connection).await?;
    *slot = Some(connection);
    Ok(answer)
}

/// Runs a script that may be repeated on the connection that waits for jobs, where nothing waits there now: a take
/// that is about to follow goes in the same packet. `None` where that cannot be, or was not answered in time.
pub(super) async fn ahead_of_take<T: FromRedisValue>(shared: &Shared, script: &Call<'_>) -> Option<T> {
    let call = {
        let slot = shared.blocking.try_lock().ok()?;
        let mut connection = slot.clone()?;
        let mut call = Box::pin(async move { script.run(&mut connection).await });
        // This puts it in line. A take that was there before would keep it waiting.
        if let Poll::Ready(answer) = futures::poll!(&mut call) {
            return answer.ok();
        }
        call
    };
    timeout(AHEAD_TIMEOUT.min(shared.config.call_timeout / 2), call).await.ok()?.ok()
}

impl Dispatcher {
    /// Takes jobs for those who wait, once there are any.
    fn take(&self) -> Waiting {
        let base: u64 = rand::rng().random::<u64>() >> 8;
        let ttls = self.wants.iter().take(MAX_BATCH).map(|want| millis(want.ttl));
        let leases = ttls.zip(base + 1..).collect();
        let take = Arc::new(Take { seq: self.shared.seq(), looked_ms: self.looked_ms, leases });
        let shared = self.shared.clone();
        async move {
            let answer = wait_and_take(&shared, &take).await;
            (take, answer)
        }
        .boxed()
    }

    /// Puts in line what is due, and learns what became of a take whose answer was lost.
    async fn look(&mut self) -> RedisResult<()> {
        if let Some(take) = self.unsettled.clone() {
            let answer = self.shared.link.run(&take.script(&self.shared)).await?;
            self.unsettled = None;
            self.settle(&take, answer).await;
        } else {
            let due = self.shared.link.run(&self.shared.link.scripts.promote.call()).await?;
            self.timer = instant(due);
        }
        Ok(())
    }

    /// Hands out what a take brought; what nobody wants any more goes back to the front of the line.
    async fn settle(&mut self, take: &Take, (looked_ms, due, jobs): Answer) {
        let timer = instant(due);
        self.timer =
            if looked_ms == take.looked_ms { self.timer.into_iter().chain(timer).min() } else { timer };
        self.looked_ms = looked_ms;
        let ttls: HashMap<_, _> = take.leases.iter().map(|(ttl, token)| (*token, *ttl)).collect();
        let mut unwanted = Vec::new();
        for (id, token, tries, json) in jobs {
            let ttl_ms = ttls.get(&token).copied().unwrap_or_default();
            let left = self.give(Taken { id, token, tries, json, ttl_ms });
            unwanted.extend(left.map(|taken| (taken.id, taken.token)));
        }
        self.give_back(&unwanted).await;
    }

    /// To the first who still waits; comes back where nobody does.
    fn give(&mut self, taken: Taken) -> Option<Taken> {
        let mut grant = Grant { taken: Some(taken), returns: self.returns.clone() };
        while let Some(want) = self.wants.pop_front() {
            match want.grant.send(Ok(grant)) {
                Ok(()) => return None,
                Err(Ok(unwanted)) => grant = unwanted,
                Err(Err(_)) => return None,
            }
        }
        grant.accept()
    }

    /// The hand-out did not happen, and does not count.
    async fn give_back(&self, jobs: &[(String, u64)]) {
        if jobs.is_empty() {
            return;
        }
        let mut script = self.shared.link.scripts.hand_back.call();
        script.arg(0).arg("u");
        let mut jobs: Vec<_> = jobs.iter().collect();
        jobs.sort_by_key(|(id, _)| id.parse::<JobNumber>().ok());
        for (id, token) in jobs {
            script.arg(id).arg(token);
        }
        let result: RedisResult<u64> = self.shared.link.run(&script).await;
        if let Err(error) = result {
            tracing::warn!(%error, "jobs were not handed back; their leases run out");
        }
    }

    /// Whoever waits learns of the failure. A pause, so that those who come again at once do no harm.
    async fn refuse_all(&mut self, error: &RedisError) {
        for want in self.wants.drain(..) {
            let _ = want.grant.send(Err(self.shared.link.unavailable(error.clone())));
        }
        sleep(PAUSE).await;
    }
}

/// Of a timer, as the scripts tell it.
fn instant(ms: i64) -> Option<Instant> {
    u64::try_from(ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms))
}

type JobNumber = u64;

/// A lease's or a delay's ms: at least 1, and few enough for Redis.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::MAX >> 12)
}

/// The id as the seam knows it, where it is one.
pub(super) fn number(id: &str) -> Option<JobId> {
    id.parse().ok().map(JobId)
}
