//! Leasing jobs: one task takes them from Redis for all who wait.
//!
//! It waits for jobs with `BLMOVE waiting waiting RIGHT RIGHT`: that blocks until there is one and moves
//! nothing, so neither a lost connection nor a consumer that leaves can lose a job. What it takes then goes
//! to those who wait, in the order in which they came; what nobody wants any more goes back to the front.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt, OptionFuture};
use prb_core::queue::{Error, JobId};
use rand::Rng;
use redis::{RedisError, RedisResult};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Shared, link::unavailable, scripts};

/// Most jobs that one script takes.
const MAX_BATCH: usize = 64;
/// How long one blocking wait lasts. A dead connection is noticed after that and a call's time-out.
const WAIT_SECS: u64 = 5;
/// Pause after a failure, before those who wait are tried for again.
const PAUSE: Duration = Duration::from_millis(200);

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
}

/// Runs until its queue is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: mpsc::Receiver<Want>) {
    let (returns, mut returned) = mpsc::channel(1024);
    let mut dispenser = Dispenser { shared, wants: VecDeque::new(), returns, unsettled: None };
    let mut blocked: Option<BoxFuture<'static, RedisResult<()>>> = None;
    loop {
        dispenser.wants.retain(|want| !want.grant.is_closed());
        let mut timer = None;
        if !dispenser.wants.is_empty() {
            match dispenser.take().await {
                Ok(next) => timer = next.map(|ms| Instant::now() + Duration::from_millis(ms)),
                Err(e) => {
                    blocked = None;
                    dispenser.refuse_all(&e);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            if !dispenser.wants.is_empty() && blocked.is_none() {
                blocked = Some(wait_for_jobs(dispenser.shared.clone()).boxed());
            }
        }
        let due: OptionFuture<_> = timer.map(sleep_until).into();
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
            }
            Some(result) = OptionFuture::from(blocked.as_mut()) => {
                blocked = None;
                if let Err(e) = result {
                    dispenser.refuse_all(&e);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Some(()) = due => {}
            () = dispenser.shared.sooner.notified() => {}
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
    /// Takes as many jobs as are wanted and gives them out. The ms to the next timer where there were fewer.
    async fn take(&mut self) -> RedisResult<Option<u64>> {
        loop {
            let take = self.unsettled.get_or_insert_with(|| {
                let base: u64 = rand::rng().random::<u64>() >> 8;
                let leases = self.wants.iter().take(MAX_BATCH).enumerate();
                let lease = |(n, want): (usize, &Want)| {
                    (u64::try_from(want.ttl.as_millis()).unwrap_or(u64::MAX >> 12), base + n as u64 + 1)
                };
                Take { nonce: self.shared.nonce(), leases: leases.map(lease).collect() }
            });
            let wanted = take.leases.len();
            let mut script = scripts::TAKE.prepare_invoke();
            script.arg(&take.nonce).arg(&self.shared.caller);
            for (ttl, token) in &take.leases {
                script.arg(*ttl.min(&(u64::MAX >> 12))).arg(token);
            }
            type Answer = (i64, Vec<(String, u64, u32, Vec<u8>)>);
            let (next, jobs): Answer = self.shared.link.settle(&mut script).await?;
            self.unsettled = None;
            let taken = jobs.len();
            for (id, token, tries, json) in jobs {
                self.give(Taken { id, token, tries, json });
            }
            self.wants.retain(|want| !want.grant.is_closed());
            if taken < wanted || self.wants.is_empty() {
                return Ok(u64::try_from(next).ok());
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
        let mut script = scripts::RENEW.prepare_invoke();
        script.arg(0).arg("u");
        let mut jobs: Vec<_> = jobs.iter().collect();
        jobs.sort_by_key(|(id, _)| id.parse::<JobNumber>().ok());
        for (id, token) in jobs {
            script.arg(id).arg(token);
        }
        let result: RedisResult<Vec<String>> = self.shared.link.run(&mut script).await;
        if let Err(error) = result {
            tracing::warn!(%error, "jobs were not handed back; their leases run out");
        }
    }

    fn refuse_all(&mut self, error: &RedisError) {
        for want in self.wants.drain(..) {
            let _ = want.grant.send(Err(unavailable(error.clone())));
        }
    }
}

type JobNumber = u64;

/// The id as the seam knows it, where it is one.
pub(super) fn number(id: &str) -> Option<JobId> {
    id.parse().ok().map(JobId)
}
