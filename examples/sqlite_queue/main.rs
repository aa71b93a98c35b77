//! A custom queue backend: jobs in SQLite, where they survive a restart.
//!
//! Why: prb-queue keeps jobs in memory or in Redis. A program that has a database can keep them there, next to its
//! other records, by implementing the methods of `JobQueue` (backend.rs). Jobs have a stable serde
//! representation, so the table needs no mirror types (table.rs). The suite `prb_core::conformance::queue`, run here,
//! checks the contract. It is complete for submitters and traders in one process: in several they also need a table of
//! outcomes, which submitters poll. After a restart the chain shows what was done.
mod backend;
mod obsolete;
mod table;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prb_core::{
    conformance,
    queue::{Error, JobFailure, JobId, JobOutcome, JobQueue, Stats},
};
use table::Table;
use tokio::sync::Notify;

#[derive(Debug)]
struct SqliteQueue {
    table: Table,
    max_jobs: usize,
    ended: Mutex<Stats>,
    changed: Notify,
}

impl SqliteQueue {
    fn open(path: &Path, max_jobs: usize) -> Result<Self, Error> {
        let (ended, changed) = (Mutex::default(), Notify::new());
        Ok(Self { table: Table::open(path)?, max_jobs, ended, changed })
    }

    /// Changes a job that is leased under the token; false where it is not.
    fn change(&self, change: &str, lease: (JobId, u64), due: Duration) -> Result<bool, Error> {
        let changed = self.table.change(&format!("UPDATE jobs {change}"), lease, due)?;
        self.changed.notify_waiters();
        Ok(changed)
    }

    fn end(&self, lease: (JobId, u64), end: Result<JobOutcome, JobFailure>) -> Result<(), Error> {
        if !self.table.change("DELETE FROM jobs WHERE", lease, Duration::ZERO)? {
            return Err(Error::LeaseLost { id: lease.0 });
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *(if end.is_ok() { &mut ended.succeeded } else { &mut ended.failed }) += 1;
        self.table.notify(lease.0, end);
        Ok(())
    }

    fn ended(&self) -> Stats {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
/// Milliseconds since the Unix epoch `after` now: leases outlive the process, so they end by the wall clock.
fn time(after: Duration) -> i64 {
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + after).as_millis() as i64
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let make = async |max| SqliteQueue::open(Path::new(":memory:"), max).unwrap_or_else(|e| panic!("{e}"));
    conformance::queue::all(make).await;
    conformance::queue::withdrawal(make).await;
    println!("the queue conforms");

    let folder = tempfile::tempdir()?;
    let (path, job) = (folder.path().join("jobs.sqlite"), conformance::queue::job(1, 3));
    SqliteQueue::open(&path, 10)?.submit(job.clone()).await?;
    let lease = SqliteQueue::open(&path, 10)?.lease(Duration::from_secs(30)).await?;
    anyhow::ensure!(lease.job == job, "another job came back: {lease:?}");
    println!("job {} survived a restart", lease.id);
    Ok(())
}
