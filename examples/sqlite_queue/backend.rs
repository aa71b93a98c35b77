//! `JobQueue` over the table.
use std::time::Duration;

use async_trait::async_trait;
use prb_core::queue::{
    Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Lease, Stats, Withdrawal,
};

use crate::{SqliteQueue, obsolete::too_old_to_send};

#[async_trait]
impl JobQueue for SqliteQueue {
    async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
        job.check()?;
        let Stats { waiting, delayed, active, .. } = self.stats().await?;
        if waiting + delayed + active >= self.max_jobs {
            return Err(Error::Full { limit: self.max_jobs });
        }
        let handle = self.table.add(&job)?;
        self.changed.notify_waiters();
        Ok(handle)
    }

    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        self.table.withdraw(id)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        loop {
            // Created before the query, so that a job added after it is not missed.
            let changed = self.changed.notified();
            if let Some((lease, age)) = self.table.take(ttl)? {
                let Some(failure) = too_old_to_send(&lease, age) else { return Ok(lease) };
                self.end((lease.id, lease.token), Err(failure))?;
                continue;
            }
            // Nothing signals the end of a delay or a lease.
            let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
        }
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error> {
        let renewed = |lease: &(JobId, u64)| Ok((lease.0, self.change("SET due = ?3 WHERE", *lease, ttl)?));
        let renewed: Vec<_> = leases.iter().map(renewed).collect::<Result<_, Error>>()?;
        Ok(renewed.into_iter().filter(|(_, renewed)| !renewed).map(|(id, _)| id).collect())
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        for lease in leases {
            self.change("SET leased = 0, due = ?3 WHERE", *lease, after)?;
        }
        Ok(())
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error> {
        self.end((id, token), Ok(outcome))
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error> {
        let again = "SET leased = 0, retries = retries - 1, due = ?3 WHERE retries > 0 AND";
        match retry_after {
            Some(after) if self.change(again, (id, token), after)? => Ok(()),
            _ => self.end((id, token), Err(failure)),
        }
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let ((waiting, delayed, active), ended) = (self.table.counts()?, self.ended());
        Ok(Stats { waiting, delayed, active, ..ended })
    }
}
