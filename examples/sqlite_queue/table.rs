//! One SQLite table of jobs. `due` is when a job can be leased: now, after a delay, or when its lease expires.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{collections::HashMap, path::Path, time::Duration};

use prb_core::queue::{Error, Job, JobFailure, JobHandle, JobId, JobOutcome, Lease};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use tokio::sync::oneshot;

use crate::time;

/// The table, and the submitters of this process.
#[derive(Debug)]
pub(crate) struct Table {
    db: Mutex<Connection>,
    submitters: Mutex<HashMap<u64, oneshot::Sender<Result<JobOutcome, JobFailure>>>>,
}

pub(crate) type Read<T> = fn(&Row<'_>) -> rusqlite::Result<T>;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable(Box::new(error))
}

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let db = Connection::open(path).map_err(unavailable)?;
        let sql = "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, \
                   added INTEGER NOT NULL, due INTEGER NOT NULL, leased INTEGER NOT NULL DEFAULT 0, \
                   token INTEGER NOT NULL DEFAULT 0, retries INTEGER NOT NULL)";
        db.execute(sql, ()).map_err(unavailable)?;
        Ok(Self { db: Mutex::new(db), submitters: Mutex::default() })
    }

    // Short enough for an async task; on a slow disk use `spawn_blocking`, and release the lease if the caller was
    // cancelled meanwhile. `?3 > 0` is always true: SQLite rejects a parameter that a statement does not mention.
    pub(crate) fn change(&self, sql: &str, lease: (JobId, u64), due: Duration) -> Result<bool, Error> {
        let sql = format!("{sql} id = ?1 AND token = ?2 AND leased AND ?3 > 0");
        let params = [lease.0.0 as i64, lease.1 as i64, time(due)];
        Ok(lock(&self.db).execute(&sql, params).map_err(unavailable)? > 0)
    }
    pub(crate) fn row<T>(&self, sql: &str, params: impl Params, read: Read<T>) -> Result<Option<T>, Error> {
        lock(&self.db).query_row(sql, params, read).optional().map_err(unavailable)
    }
    pub(crate) fn add(&self, job: &Job) -> Result<JobHandle, Error> {
        let (text, now) = (serde_json::to_string(job).map_err(unavailable)?, time(Duration::ZERO));
        let sql = "INSERT INTO jobs (job, added, due, retries) VALUES (?1, ?2, ?2, ?3) RETURNING id";
        let id = self.row(sql, params![text, now, job.retries], |row| row.get::<_, i64>(0))?;
        let (id, (submitter, outcome)) = (id.unwrap_or_default() as u64, oneshot::channel());
        lock(&self.submitters).insert(id, submitter);
        Ok(JobHandle::new(JobId(id), outcome))
    }
    /// Leases the oldest job that is due; returns its age as well. The token counts the job's leases.
    pub(crate) fn take(&self, ttl: Duration) -> Result<Option<(Lease, Duration)>, Error> {
        let sql = "UPDATE jobs SET leased = 1, token = token + 1, due = ?2 WHERE id = (SELECT min(id) FROM jobs \
                   WHERE due <= ?1) RETURNING id, token, retries, job, max(?1 - added, 0)";
        let read: Read<(i64, u32, u32, String, i64)> = |row| row.try_into();
        let row = self.row(sql, [time(Duration::ZERO), time(ttl)], read)?;
        let Some((id, token, retries_left, job, age)) = row else { return Ok(None) };
        let (id, job) = (JobId(id as u64), serde_json::from_str(&job).map_err(unavailable)?);
        let lease = Lease { id, token: token.into(), attempt: token - 1, retries_left, job };
        Ok(Some((lease, Duration::from_millis(age as u64))))
    }
    /// Numbers of waiting, delayed and leased jobs.
    pub(crate) fn counts(&self) -> Result<(usize, usize, usize), Error> {
        let sql = "SELECT count(*) FILTER (WHERE due <= ?1), count(*) FILTER (WHERE due > ?1 AND NOT leased), \
                   count(*) FILTER (WHERE due > ?1 AND leased) FROM jobs";
        let read: Read<[i64; 3]> = |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]);
        let [waiting, delayed, leased] = self.row(sql, [time(Duration::ZERO)], read)?.unwrap_or_default();
        Ok((waiting as usize, delayed as usize, leased as usize))
    }
    pub(crate) fn notify(&self, id: JobId, end: Result<JobOutcome, JobFailure>) {
        // The submitter may be gone.
        let _ = lock(&self.submitters).remove(&id.0).map(|submitter| submitter.send(end));
    }
}
