//! Ends jobs that nobody wants any more: a start of a worker that is stopped meanwhile must not be sent.
use std::time::Duration;

use prb_core::queue::{Error, JobFailure, JobId, Lease, Withdrawal, expires, too_old, withdrawn};

use crate::{table::Table, time};

/// The age from which a job fails instead of being leased.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// The failure of a job that is too old. Messages have no limit.
pub(crate) fn too_old_to_send(lease: &Lease, age: Duration) -> Option<JobFailure> {
    (age >= MAX_AGE && expires(&lease.job)).then(|| too_old(age, MAX_AGE, lease.attempt > 0))
}

impl Table {
    /// Deletes a job that is not leased, in one statement. The token counts leases: without any, nothing was sent.
    pub(crate) fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        let sql = "DELETE FROM jobs WHERE id = ?1 AND (NOT leased OR due <= ?2) RETURNING token";
        // Beyond the largest id there is no job.
        let params = [i64::try_from(id.0).unwrap_or(i64::MAX), time(Duration::ZERO)];
        let Some(token) = self.row(sql, params, |row| row.get::<_, i64>(0))? else {
            return Ok(Withdrawal::Refused);
        };
        self.notify(id, Err(withdrawn()));
        Ok(if token == 0 { Withdrawal::Unsent } else { Withdrawal::MaybeSent })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prb_core::{conformance::queue::job, queue::JobQueue};

    use super::*;
    use crate::SqliteQueue;

    #[tokio::test]
    async fn an_old_job_fails_instead_of_being_leased() -> anyhow::Result<()> {
        let queue = SqliteQueue::open(Path::new(":memory:"), 10)?;
        let (old, new) = (queue.submit(job(1, 3)).await?, queue.submit(job(2, 3)).await?);
        let sql = "UPDATE jobs SET added = added - 1800000 WHERE id = ?1 RETURNING id";
        queue.table.row(sql, [old.id.0 as i64], |row| row.get::<_, i64>(0))?;
        assert_eq!(queue.lease(MAX_AGE).await?.id, new.id);
        let failed = old.outcome().await.map(|outcome| outcome.block).map_err(|failure| failure.message);
        assert!(failed.as_ref().is_err_and(|text| text.contains("has waited for 30 min")), "{failed:?}");
        assert_eq!(queue.stats().await?.failed, 1);
        Ok(())
    }
}
