//! Leasing jobs: one task takes them from Redis for all who wait.
//!
//! It waits for jobs with `BLMOVE waiting waiting RIGHT RIGHT`: that blocks until there is one and moves
//! nothing, so neither a lost connection nor a consumer that leaves can lose a job. What it takes then goes
//! to those who wait, in the order in which they came; what nobody wants any more goes back to the front.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt, OptionFuture};
use prb_core::queue::{Error, JobId};
use rand::Rng;
use redis::{RedisError, RedisResult};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Shared, link::unavailable};

/// Most jobs that one script takes.
const MAX_BATCH: usize = 64;
/// How long one blocking wait lasts, and so how late a lease that another process gave is seen to be over. A
/// dead connection is noticed after that and a call's time-out.
const WAIT_SECS: u64 = 2;
/// Pause after a failure, before those who wait are tried for again.
const PAUSE: Duration = Duration::from_millis(200);

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
    nonce: String,
    leases: Vec<(u64, u64)>,
}

struct Dispenser {
    shared: Arc<Shared>,
    wants: VecDeque<Want>,
    returns: mpsc::Sender<(String, u64)>,
    unsettled: Option<Take>,
    /// How many jobs the last call left in line.
    left: usize,
    /// When the next delay or lease is over, as far as is known.
    timer: Option<Instant>,
}

/// Runs until its queue is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Want>) {
    let (returns, mut returned) = mpsc::channel(1024);
    let mut dispenser =
        Dispenser { shared, wants: VecDeque::new(), returns, unsettled: None, left: 0, timer: None };
    let mut blocked: Option<BoxFuture<'static, RedisResult<()>>> = None;
    // Whether there may be a job. Where the last look left none, the wait tells of the next.
    let mut look = true;
    let mut failures = 0;
    loop {
        dispenser.wants.retain(|want| !want.grant.is_closed());
        if !dispenser.wants.is_empty() && (look || dispenser.left > 0) {
            look = false;
            if let Err(e) = dispenser.take().await {
                blocked = None;
                dispenser.refuse_all(&e).await;
            }
        }
        if !dispenser.wants.is_empty() && blocked.is_none() {
            blocked = Some(wait_for_jobs(dispenser.shared.clone()).boxed());
        }
        let due: OptionFuture<_> = dispenser.timer.map(sleep_until).into();
        tokio::select! {
            want = incoming.recv() => match want {
                Some(want) => {
                    dispenser.wants.push_back(want);
                    while let Ok(want) = incoming.try_recv() {
                        dispenser.wants.push_back(want);
                    }
                }
                None => return,
            },
            Some(back) = returned.recv() => {
                let mut all = vec![back];
                while let Ok(back) = returned.try_recv() {
                    all.push(back);
                }
                dispenser.give_back(&all).await;
                look = true;
            }
            Some(result) = OptionFuture::from(blocked.as_mut()) => {
                blocked = None;
                look = true;
                match result {
                    Ok(()) => failures = 0,
                    // A lost connection is made anew. Where Redis is away, the look says so.
                    Err(_) if failures < MAX_FAILURES => failures += 1,
                    Err(e) => dispenser.refuse_all(&e).await,
                }
            }
            Some(()) = due => {
                dispenser.timer = None;
                look = true;
            }
            () = dispenser.shared.sooner.notified() => look = true,
        }
    }
}

/// Returns once there may be a job, or after a while.
async fn wait_for_jobs(shared: Arc<Shared>) -> RedisResult<()> {
    let mut slot = shared.blocking.lock().await;
    let mut connection = match slot.take() {
        Some(connection) => connection,
        None => shared.link.blocking(Duration::from_secs(WAIT_SECS)).await?,
    };
    let waiting = shared.link.key("waiting");
    let mut command = redis::cmd("BLMOVE");
    command.arg(&waiting).arg(&waiting).arg("RIGHT").arg("RIGHT").arg(WAIT_SECS);
    let _: Option<String> = command.query_async(&mut connection).await?;
    *slot = Some(connection);
    Ok(())
}

impl Dispenser {
    /// Takes as many jobs as are wanted, and gives them out.
    async fn take(&mut self) -> RedisResult<()> {
        loop {
            let take = self.unsettled.get_or_insert_with(|| {
                let base: u64 = rand::rng().random::<u64>() >> 8;
                let leases = self.wants.iter().take(MAX_BATCH).enumerate();
                let lease = |(n, want): (usize, &Want)| (millis(want.ttl), base + n as u64 + 1);
                Take { nonce: self.shared.nonce(), leases: leases.map(lease).collect() }
            });
            let wanted = take.leases.len();
            let mut script = self.shared.link.scripts.take.prepare_invoke();
            script.arg(&take.nonce).arg(&self.shared.caller);
            for (ttl, token) in &take.leases {
                script.arg(ttl).arg(token);
            }
            type Answer = (i64, usize, Vec<(String, u64, u32, Vec<u8>)>);
            let (next, left, jobs): Answer = self.shared.link.run(&script).await?;
            let ttls: HashMap<_, _> = take.leases.iter().map(|(ttl, token)| (*token, *ttl)).collect();
            self.unsettled = None;
            self.left = left;
            let taken = jobs.len();
            for (id, token, tries, json) in jobs {
                let ttl_ms = ttls.get(&token).copied().unwrap_or_default();
                self.give(Taken { id, token, tries, json, ttl_ms });
            }
            self.wants.retain(|want| !want.grant.is_closed());
            if taken < wanted || self.wants.is_empty() {
                self.timer = u64::try_from(next).ok().map(|ms| Instant::now() + Duration::from_millis(ms));
                return Ok(());
            }
        }
    }

    fn give(&mut self, taken: Taken) {
        let mut grant = Grant { taken: Some(taken), returns: self.returns.clone() };
        while let Some(want) = self.wants.pop_front() {
            match want.grant.send(Ok(grant)) {
                Ok(()) => return,
                Err(Ok(unwanted)) => grant = unwanted,
                Err(Err(_)) => return,
            }
        }
    }

    /// The hand-out did not happen, and does not count.
    async fn give_back(&self, jobs: &[(String, u64)]) {
        let mut script = self.shared.link.scripts.renew.prepare_invoke();
        script.arg(0).arg("u");
        let mut jobs: Vec<_> = jobs.iter().collect();
        jobs.sort_by_key(|(id, _)| id.parse::<JobNumber>().ok());
        for (id, token) in jobs {
            script.arg(id).arg(token);
        }
        let result: RedisResult<Vec<String>> = self.shared.link.run(&script).await;
        if let Err(error) = result {
            tracing::warn!(%error, "jobs were not handed back; their leases run out");
        }
    }

    /// Whoever waits learns of the failure. A pause, so that those who come again at once do no harm.
    async fn refuse_all(&mut self, error: &RedisError) {
        for want in self.wants.drain(..) {
            let _ = want.grant.send(Err(unavailable(error.clone())));
        }
        self.left = 1;
        tokio::time::sleep(PAUSE).await;
    }
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
