//! Renews the leases of the jobs that this trader has, ends each once, and gives jobs back to the queue.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::Config;
use crate::{
    primitives::AccountId,
    queue::{Error, JobFailure, JobId, JobOutcome, JobQueue, Lease},
    text::describe,
};

/// Heartbeats a lease's life.
const HEARTBEATS: u32 = 3;
/// How often ending a job is tried where the queue cannot be reached; the lease runs out in the end, and
/// the job's effects are found on chain.
const END_ATTEMPTS: u32 = 6;
/// Pause after the first failed call of the queue; doubles up to [`QUEUE_RETRY_MAX`].
const QUEUE_RETRY_MIN: Duration = Duration::from_millis(200);
const QUEUE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Jobs given back in one call of the queue.
const MAX_RETURNED: usize = 1_024;
/// How long such a call may take; where it takes longer, the leases run out.
const RETURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Delays of jobs given back together are alike to this, so that one call gives back many.
const RETURN_TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct JobLeases {
    queue: Arc<dyn JobQueue>,
    ttl: Duration,
    held: Mutex<HashMap<JobId, Held>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    token: u64,
    operator: AccountId,
}

/// A job on its way back to the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    pub(super) id: JobId,
    pub(super) token: u64,
    pub(super) after: Duration,
}

fn pause(attempt: u32) -> Duration {
    QUEUE_RETRY_MIN.saturating_mul(1 << attempt.min(16)).min(QUEUE_RETRY_MAX)
}

impl JobLeases {
    pub(super) fn new(queue: Arc<dyn JobQueue>, config: &Config) -> Self {
        Self { queue, ttl: config.lease_ttl, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<JobId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, however long the queue is away; `None` once it is closed.
    ///
    /// # Cancel safety
    /// Safe: a cancelled call leases nothing.
    pub(super) async fn next(&self) -> Option<Lease> {
        let mut attempt = 0;
        loop {
            match self.queue.lease(self.ttl).await {
                Ok(lease) => {
                    let held = Held { token: lease.token, operator: lease.job.signer.operator };
                    self.held().insert(lease.id, held);
                    return Some(lease);
                }
                Err(Error::Closed) => return None,
                Err(e) => {
                    if attempt == 0 {
                        tracing::warn!(error = %describe(&e), "the queue gives no jobs, trying again");
                    }
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Renews all leases, for ever.
    pub(super) async fn keep(&self) {
        let period = self.ttl / HEARTBEATS;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let leases: Vec<_> = self.held().iter().map(|(id, held)| (*id, held.token)).collect();
            if leases.is_empty() {
                continue;
            }
            if let Err(e) = self.renew(&leases).await {
                tracing::warn!(error = %describe(&e), "leases were not renewed");
            }
        }
    }

    /// The same job may be held by a newer lease already: that one stays.
    fn forget(&self, leases: impl IntoIterator<Item = (JobId, u64)>) {
        let mut held = self.held();
        for (id, token) in leases {
            if held.get(&id).is_some_and(|held| held.token == token) {
                held.remove(&id);
            }
        }
    }

    /// Makes sure that these leases are held for a whole lease's life, and gives those that are lost.
    ///
    /// # Errors
    /// The queue's, where it does not know.
    pub(super) async fn renew(&self, leases: &[(JobId, u64)]) -> Result<Vec<JobId>, Error> {
        let lost = self.queue.heartbeat(leases, self.ttl).await?;
        if !lost.is_empty() {
            let jobs = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            tracing::warn!(jobs, "leases ran out and the jobs were handed out again");
            self.forget(leases.iter().filter(|(id, _)| lost.contains(id)).copied());
        }
        Ok(lost)
    }

    /// Ends a job that was carried out.
    pub(super) async fn complete(&self, lease: &Lease, outcome: JobOutcome) {
        self.end(lease, || self.queue.complete(lease.id, lease.token, outcome.clone())).await;
    }

    /// Ends a job that was not carried out, or puts it off.
    pub(super) async fn fail(&self, lease: &Lease, failure: JobFailure, retry_after: Option<Duration>) {
        self.end(lease, || self.queue.fail(lease.id, lease.token, failure.clone(), retry_after)).await;
    }

    async fn end<F: Future<Output = Result<(), Error>>>(&self, lease: &Lease, call: impl Fn() -> F) {
        for attempt in 0..END_ATTEMPTS {
            match call().await {
                Ok(()) => break,
                Err(Error::LeaseLost { .. }) => {
                    tracing::warn!(job = %lease.id, "the job's lease was lost before its end could be told");
                    break;
                }
                Err(e) if attempt + 1 == END_ATTEMPTS || !e.is_retryable() => {
                    tracing::error!(job = %lease.id, error = %describe(&e), "the job's end could not be told");
                }
                Err(_) => sleep(pause(attempt)).await,
            }
        }
        self.forget([(lease.id, lease.token)]);
    }

    /// Gives jobs back that are to come again `after` a while; says whether the queue took them.
    pub(super) async fn give_back(&self, leases: &[(JobId, u64)], after: Duration) -> bool {
        self.forget(leases.iter().copied());
        if leases.is_empty() {
            return true;
        }
        let given = self.queue.release(leases, after).await;
        if let Err(e) = &given {
            tracing::warn!(error = %describe(&e), jobs = leases.len(), "jobs were not given back; their leases run out");
        }
        given.is_ok()
    }

    /// Gives back what comes through the channel, for ever.
    pub(super) async fn keep_giving_back(&self, mut returns: mpsc::Receiver<Return>) {
        let mut jobs = Vec::new();
        while returns.recv_many(&mut jobs, MAX_RETURNED).await > 0 {
            let mut by_delay: BTreeMap<u128, Vec<(JobId, u64)>> = BTreeMap::new();
            for Return { id, token, after } in jobs.drain(..) {
                let ticks = after.as_millis().div_ceil(RETURN_TICK.as_millis());
                by_delay.entry(ticks).or_default().push((id, token));
            }
            for (ticks, mut leases) in by_delay {
                // Delays are seconds: far from this bound.
                let after = RETURN_TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
                leases.sort_unstable();
                if timeout(RETURN_TIMEOUT, self.give_back(&leases, after)).await.is_err() {
                    let jobs = leases.len();
                    tracing::warn!(jobs, "the queue takes too long to take jobs back; their leases run out");
                }
            }
        }
    }

    /// How many jobs are held.
    pub(super) fn count(&self) -> usize {
        self.held().len()
    }

    /// Whether this trader has the job, by whatever lease.
    pub(super) fn has(&self, id: JobId) -> bool {
        self.held().contains_key(&id)
    }

    /// Gives back everything that is held, and says whether the queue took it.
    pub(super) async fn give_back_all(&self) -> bool {
        let mut all: Vec<_> = self.held().iter().map(|(id, held)| (*id, held.token)).collect();
        all.sort_unstable();
        self.give_back(&all, Duration::ZERO).await
    }

    /// Lets the leases of an operator's jobs run out, and gives the jobs.
    pub(super) fn abandon(&self, operator: AccountId) -> Vec<JobId> {
        self.held().extract_if(|_, held| held.operator == operator).map(|(id, _)| id).collect()
    }
}
