//! Housekeeping: keep-alives of leases for the original's stall check, stalled and due jobs, retention,
//! accounting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use redis::RedisResult;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Shared, leasing::millis};

/// Keep-alives per stall interval: the original's own workers send two.
const KEEP_ALIVES: u32 = 4;
/// Maximum number of leases, or ids, in one script.
const MAX_CHUNK: usize = 256;
/// Maximum number of jobs removed by one script, and maximum number of consecutive scripts.
const TRIM_CHUNK: usize = 128;
const MAX_TRIMS: usize = 100;
/// Minimum retention of an ended job, in poll intervals: submitters may still ask for it.
const GRACE_POLLS: u32 = 4;

/// Runs until its queue is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let config = &shared.config;
    let mut ticks = interval((config.stall_interval / KEEP_ALIVES).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept_at = Instant::now();
    let mut settled = None;
    let (mut leases, mut upkeep) = (Part::new("lease renewal"), Part::new("queue maintenance"));
    loop {
        ticks.tick().await;
        leases.log(&shared, keep_leases_alive(&shared).await);
        if swept_at.elapsed() >= config.stall_interval {
            swept_at = Instant::now();
            upkeep.log(&shared, sweep(&shared, &mut settled).await.map(Some));
        }
    }
}

/// A part of the housekeeping whose failures are logged once. Each part is tracked on its own: one that works
/// must not hide one that does not.
struct Part {
    what: &'static str,
    failing: bool,
}

impl Part {
    const fn new(what: &'static str) -> Self {
        Self { what, failing: false }
    }

    /// Logs a change between failing and working. `None` if Redis was not asked: no information.
    fn log(&mut self, shared: &Shared, result: RedisResult<Option<()>>) {
        match result {
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(error = %shared.connection.server_error(error), "{} failed, retrying", self.what);
            }
            Ok(Some(())) if self.failing => {
                self.failing = false;
                tracing::info!("{} recovered", self.what);
            }
            _ => {}
        }
    }
}

async fn keep_leases_alive(shared: &Shared) -> RedisResult<Option<()>> {
    let leases = shared.leases.all();
    for leases in leases.chunks(MAX_CHUNK) {
        let mut script = shared.connection.scripts.keep_alive.call();
        for (id, token) in leases {
            script.arg(id.0).arg(token);
        }
        let lost: Vec<u64> = shared.connection.run(&script).await?;
        for (id, token) in leases.iter().filter(|(id, _)| lost.contains(&id.0)) {
            // A job that has ended meanwhile was not lost.
            if shared.leases.forget(*id, *token) {
                tracing::warn!(job = %id, "a job's lease is lost");
            }
        }
    }
    Ok((!leases.is_empty()).then_some(()))
}

async fn sweep(shared: &Shared, settled: &mut Option<Counts>) -> RedisResult<()> {
    let mut script = shared.connection.scripts.stalled.call();
    script.arg(millis(shared.config.stall_interval));
    let stalled: Vec<String> = shared.connection.run(&script).await?;
    if !stalled.is_empty() {
        tracing::warn!(
            jobs = stalled.join(","),
            "a worker of another program abandoned its jobs; they are available again"
        );
    }
    let counts = Counts::read(shared).await?;
    if !counts.agree() && settled.as_ref() != Some(&counts) {
        account_all(shared).await?;
        *settled = Some(Counts::read(shared).await?);
    }
    trim(shared).await
}

async fn trim(shared: &Shared) -> RedisResult<()> {
    let config = &shared.config;
    let millis =
        |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 12).min(u64::MAX >> 12);
    for _ in 0..MAX_TRIMS {
        let mut script = shared.connection.scripts.trim.call();
        script.arg(millis(config.keep_age)).arg(config.keep_jobs).arg(config.keep_bytes);
        script.arg(millis(config.poll_interval * GRACE_POLLS)).arg(TRIM_CHUNK);
        let trimmed: usize = shared.connection.run(&script).await?;
        if trimmed < TRIM_CHUNK {
            break;
        }
    }
    Ok(())
}

/// The numbers of entries in the accounting and in the lists.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    jobs: usize,
    books: usize,
    ended: usize,
    succeeded: usize,
    failed: usize,
}

impl Counts {
    async fn read(shared: &Shared) -> RedisResult<Self> {
        let key = |name| shared.connection.key(name);
        let mut pipe = redis::pipe();
        pipe.hlen(key("jobs"))
            .hlen(key("prb:books"))
            .zcard(key("prb:ended"))
            .scard(key("succeeded"))
            .scard(key("failed"));
        let (jobs, books, ended, succeeded, failed) = shared.connection.query(&pipe).await?;
        Ok(Self { jobs, books, ended, succeeded, failed })
    }

    /// They differ if another program added, ended or removed jobs.
    const fn agree(&self) -> bool {
        self.jobs == self.books && self.ended == self.succeeded + self.failed
    }
}

/// Corrects the accounting of every job in any list.
async fn account_all(shared: &Shared) -> RedisResult<()> {
    let key = |name| shared.connection.key(name);
    let mut pipe = redis::pipe();
    pipe.hkeys(key("jobs"))
        .hkeys(key("prb:books"))
        .smembers(key("succeeded"))
        .smembers(key("failed"))
        .zrange(key("prb:ended"), 0, -1);
    let lists: Vec<Vec<String>> = shared.connection.query(&pipe).await?;
    let ids: HashSet<_> = lists.into_iter().flatten().collect();
    let ids: Vec<_> = ids.into_iter().collect();
    for ids in ids.chunks(MAX_CHUNK) {
        let mut script = shared.connection.scripts.account.call();
        script.arg(ids);
        let _: usize = shared.connection.run(&script).await?;
    }
    Ok(())
}
