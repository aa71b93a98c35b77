//! Renews the leases of the jobs that this trader holds, ends each exactly once, and releases jobs to the
//! queue.

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

/// Heartbeats per TTL.
const HEARTBEATS: u32 = 3;
/// Attempts to report a job's end while the queue is unreachable. After that the lease expires, and the job's
/// effects are found on chain.
const MAX_END_ATTEMPTS: u32 = 6;
/// Pause after the first failed call to the queue; doubles up to [`QUEUE_RETRY_MAX`].
const QUEUE_RETRY_MIN: Duration = Duration::from_millis(200);
const QUEUE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Maximum jobs released in one call to the queue.
const MAX_RELEASED_PER_CALL: usize = 1_024;
/// Timeout of such a call; after it the leases expire.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Delays of released jobs are rounded up to this, so that one call releases many.
const RELEASE_DELAY_STEP: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct JobLeases {
    queue: Arc<dyn JobQueue>,
    ttl: Duration,
    held: Mutex<HashMap<JobId, HeldLease>>,
}

#[derive(Clone, Copy, Debug)]
struct HeldLease {
    token: u64,
    operator: AccountId,
}

/// A job being released to the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
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

    fn held(&self) -> MutexGuard<'_, HashMap<JobId, HeldLease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, however long the queue is unavailable; `None` once it is closed.
    ///
    /// # Cancel safety
    /// Safe: a cancelled call leases nothing.
    pub(super) async fn next(&self) -> Option<Lease> {
        let mut attempt = 0;
        loop {
            match self.queue.lease(self.ttl).await {
                Ok(lease) => {
                    let held = HeldLease { token: lease.token, operator: lease.job.signer.operator };
                    // No await since the lease arrived, so a cancelled call cannot lose it.
                    self.held().insert(lease.id, held);
                    return Some(lease);
                }
                Err(Error::Closed) => return None,
                Err(e) => {
                    // Once per outage, which can last for hours.
                    if attempt == 0 {
                        tracing::warn!(error = %describe(&e), "cannot lease jobs from the queue; retrying");
                    }
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Renews all leases. Never returns.
    pub(super) async fn run_heartbeats(&self) {
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
                tracing::warn!(error = %describe(&e), "job leases were not renewed");
            }
        }
    }

    /// Removes leases, except for jobs that are already held by a newer lease.
    fn forget(&self, leases: impl IntoIterator<Item = (JobId, u64)>) {
        let mut held = self.held();
        for (id, token) in leases {
            if held.get(&id).is_some_and(|held| held.token == token) {
                held.remove(&id);
            }
        }
    }

    /// Ensures that these leases are held for a whole TTL; returns those that are lost.
    ///
    /// # Errors
    /// Returns the queue's error if the lost leases are unknown.
    pub(super) async fn renew(&self, leases: &[(JobId, u64)]) -> Result<Vec<JobId>, Error> {
        let lost = self.queue.heartbeat(leases, self.ttl).await?;
        if !lost.is_empty() {
            let jobs = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            tracing::warn!(jobs, "leases expired and the jobs were leased again");
            self.forget(leases.iter().filter(|(id, _)| lost.contains(id)).copied());
        }
        Ok(lost)
    }

    /// Ends a job that was executed.
    pub(super) async fn complete(&self, lease: &Lease, outcome: JobOutcome) {
        self.end(lease, || self.queue.complete(lease.id, lease.token, outcome.clone())).await;
    }

    /// Ends a job that was not executed, or delays it.
    pub(super) async fn fail(&self, lease: &Lease, failure: JobFailure, retry_after: Option<Duration>) {
        self.end(lease, || self.queue.fail(lease.id, lease.token, failure.clone(), retry_after)).await;
    }

    async fn end<F: Future<Output = Result<(), Error>>>(&self, lease: &Lease, call: impl Fn() -> F) {
        for attempt in 0..MAX_END_ATTEMPTS {
            match call().await {
                Ok(()) => break,
                // Not a failure of this job: its next consumer reads its effects from the chain.
                Err(Error::LeaseLost { .. }) => {
                    tracing::warn!(job = %lease.id, "the job's lease was lost before its end could be reported");
                    break;
                }
                Err(e) if attempt + 1 == MAX_END_ATTEMPTS || !e.is_retryable() => {
                    tracing::error!(job = %lease.id, error = %describe(&e), "the job's end could not be reported");
                }
                Err(_) => sleep(pause(attempt)).await,
            }
        }
        // Even if no attempt succeeded: without heartbeats the lease expires, and whoever leases the job next
        // finds its effects on chain.
        self.forget([(lease.id, lease.token)]);
    }

    /// Releases jobs so that they are leased again `after` a delay; returns whether the queue accepted that.
    pub(super) async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> bool {
        // Before the call, so that no heartbeat renews them, or reports them as lost, while it runs.
        self.forget(leases.iter().copied());
        if leases.is_empty() {
            return true;
        }
        let released = self.queue.release(leases, after).await;
        if let Err(e) = &released {
            tracing::warn!(error = %describe(&e), jobs = leases.len(), "jobs were not released; their leases expire");
        }
        released.is_ok()
    }

    /// Releases the jobs received through the channel. Never returns while the channel is open.
    pub(super) async fn run_releases(&self, mut returns: mpsc::Receiver<Release>) {
        let mut jobs = Vec::new();
        while returns.recv_many(&mut jobs, MAX_RELEASED_PER_CALL).await > 0 {
            let mut by_delay: BTreeMap<u128, Vec<(JobId, u64)>> = BTreeMap::new();
            for Release { id, token, after } in jobs.drain(..) {
                let ticks = after.as_millis().div_ceil(RELEASE_DELAY_STEP.as_millis());
                by_delay.entry(ticks).or_default().push((id, token));
            }
            for (ticks, mut leases) in by_delay {
                // Delays are seconds, far from this bound.
                let after = RELEASE_DELAY_STEP.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
                leases.sort_unstable();
                if timeout(RELEASE_TIMEOUT, self.release(&leases, after)).await.is_err() {
                    let jobs = leases.len();
                    tracing::warn!(jobs, "the queue takes too long to release jobs; their leases expire");
                }
            }
        }
    }

    /// The number of jobs held.
    pub(super) fn count(&self) -> usize {
        self.held().len()
    }

    /// Whether this trader holds the job, by any lease.
    pub(super) fn is_held(&self, id: JobId) -> bool {
        self.held().contains_key(&id)
    }

    /// Releases all held jobs; returns whether the queue accepted that.
    pub(super) async fn release_all(&self) -> bool {
        let mut all: Vec<_> = self.held().iter().map(|(id, held)| (*id, held.token)).collect();
        all.sort_unstable();
        self.release(&all, Duration::ZERO).await
    }

    /// Lets the leases of an operator's jobs expire; returns the jobs.
    pub(super) fn abandon(&self, operator: AccountId) -> Vec<JobId> {
        self.held().extract_if(|_, held| held.operator == operator).map(|(id, _)| id).collect()
    }
}
