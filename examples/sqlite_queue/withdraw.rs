//! Takes jobs back that nobody has leased: a start of a worker that is stopped meanwhile must not be sent.
use std::time::Duration;

use prb_core::queue::{Error, JobId, Withdrawal, withdrawn};

use crate::{table::Table, time};

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
