//! The jobs that this trader holds: kept alive by heartbeats, ended once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::Config;
use crate::{
    primitives::AccountId,
    queue::{Error, JobFailure, JobId, JobOutcome, JobQueue, Lease},
};

/// Heartbeats a lease's life.
const HEARTBEATS: u32 = 3;
/// How often ending a job is tried where the queue cannot be reached; the lease runs out in the end, and
/// the job's effects are found on chain.
const END_ATTEMPTS: u32 = 6;
/// Pause after the first failed call of the queue; doubles up to [`QUEUE_RETRY_MAX`].
const QUEUE_RETRY_MIN: Duration = Duration::from_millis(200);
const QUEUE_RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Leases {
    queue: Arc<dyn JobQueue>,
    ttl: Duration,
    held: Mutex<HashMap<JobId, Held>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    token: u64,
    operator: AccountId,
}

fn pause(attempt: u32) -> Duration {
    QUEUE_RETRY_MIN.saturating_mul(1 << attempt.min(16)).min(QUEUE_RETRY_MAX)
}

impl Leases {
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
                        tracing::warn!(error = %e, "the queue gives no jobs, trying again");
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
                tracing::warn!(error = %e, "leases were not renewed");
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
            tracing::warn!(jobs = ?lost, "leases ran out and the jobs were handed out again");
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
                    tracing::error!(job = %lease.id, error = %e, "the job's end could not be told");
                }
                Err(_) => sleep(pause(attempt)).await,
            }
        }
        self.forget([(lease.id, lease.token)]);
    }

    /// Hands jobs back, to come again `after` a while.
    pub(super) async fn hand_back(&self, leases: &[(JobId, u64)], after: Duration) {
        self.forget(leases.iter().copied());
        if leases.is_empty() {
            return;
        }
        if let Err(e) = self.queue.heartbeat(leases, after).await {
            tracing::warn!(error = %e, jobs = leases.len(), "jobs were not handed back; their leases run out");
        }
    }

    /// Hands back everything that is held, and says how much that was.
    pub(super) async fn hand_back_all(&self) -> usize {
        let all: Vec<_> = self.held().iter().map(|(id, held)| (*id, held.token)).collect();
        self.hand_back(&all, Duration::ZERO).await;
        all.len()
    }

    /// Lets the leases of an operator's jobs run out.
    pub(super) fn abandon(&self, operator: AccountId) {
        self.held().retain(|_, held| held.operator != operator);
    }
}
