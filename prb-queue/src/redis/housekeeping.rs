//! Maintenance: marks leased jobs as alive for the original's workers, recovers stalled jobs, applies
//! retention, repairs the job index, and warns of a server that may evict jobs.

use std::{collections::HashSet, sync::Arc, time::Duration};

use redis::RedisResult;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{READY_TIMEOUT, Shared, leasing::millis};

/// Renewals per stall interval: the original's own workers make two.
const RENEWALS: u32 = 4;
/// Maximum number of leases, or ids, in one script.
const MAX_CHUNK: usize = 256;
/// Maximum number of jobs that one script deletes, and of scripts in a row.
const TRIM_CHUNK: usize = 128;
const MAX_TRIMS: usize = 100;
/// Poll intervals for which every ended job is kept, since its submitter may still poll for it.
const GRACE_POLLS: u32 = 4;

/// Runs until the queue is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let config = &shared.config;
    let mut ticks = interval((config.stall_interval / RENEWALS).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept_at = Instant::now();
    // Counts that disagree even after a repair are not repaired again until they change.
    let mut settled = None;
    let (mut leases, mut order) = (StepLog::new("lease renewal"), StepLog::new("queue maintenance"));
    let mut eviction = EvictionLog::default();
    let mut snapshots = SnapshotLog::default();
    loop {
        ticks.tick().await;
        leases.record(&shared, mark_leases_alive(&shared).await);
        snapshots.check(&shared).await;
        let is_due = swept_at.elapsed() >= config.stall_interval;
        if is_due || !eviction.asked {
            eviction.check(&shared).await;
        }
        if is_due {
            swept_at = Instant::now();
            let result = sweep(&shared, &mut settled).await.map(Some);
            // The sweep writes. A server that refuses writes is unusable even if it answers reads, so readiness reports
            // it.
            let error = result
                .as_ref()
                .err()
                .map(|error| shared.link.endpoint_error(error.clone()).to_string().into());
            shared.maintenance.send_replace(error);
            order.record(&shared, result);
        }
    }
}

/// Logs failures of one maintenance step: once, and again when the error changes. Each step has its own, so
/// that a working step does not clear the failure of another.
struct StepLog {
    what: &'static str,
    failing: Option<String>,
}

impl StepLog {
    const fn new(what: &'static str) -> Self {
        Self { what, failing: None }
    }

    /// Records a result. `None` means that no call was made, which neither sets nor clears a failure.
    fn record(&mut self, shared: &Shared, result: RedisResult<Option<()>>) {
        match result {
            Err(error) => {
                let error = shared.link.endpoint_error(error).to_string();
                if self.failing.as_ref() != Some(&error) {
                    tracing::warn!(error, "{} failed, retrying", self.what);
                    self.failing = Some(error);
                }
            }
            Ok(Some(())) if self.failing.take().is_some() => {
                tracing::info!(endpoint = %shared.link.endpoint(), "{} works again", self.what);
            }
            Ok(_) => {}
        }
    }
}

/// Warns while the server's settings let it delete keys when its memory is used up. The queue cannot prevent that: all
/// jobs are in one key.
#[derive(Debug, Default)]
struct EvictionLog {
    /// Whether the server was asked.
    asked: bool,
    /// The policy of the last warning.
    warned: Option<String>,
}

impl EvictionLog {
    /// Asks the server. One that does not answer is asked again before the next sweep.
    async fn check(&mut self, shared: &Shared) {
        self.asked = true;
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("memory");
        let Ok((info,)) = shared.link.query_within::<(String,)>(READY_TIMEOUT, &pipe).await else { return };
        let policy = evicts(&info);
        if policy == self.warned.as_deref() {
            return;
        }
        let endpoint = shared.link.endpoint();
        match policy {
            Some(policy) => tracing::warn!(
                %endpoint,
                policy,
                "this Redis deletes keys when its maxmemory is reached: jobs and the leases of accounts can be lost; \
                 set its maxmemory-policy to noeviction"
            ),
            None => {
                tracing::info!(%endpoint, "this Redis deletes no keys any more when its memory is used up")
            }
        }
        self.warned = policy.map(str::to_owned);
    }
}

/// Returns the eviction policy of a server that evicts, from its `INFO memory`.
fn evicts(info: &str) -> Option<&str> {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Without a limit, nothing is evicted.
    let is_limited = value("maxmemory:").is_some_and(|bytes| bytes != "0");
    value("maxmemory_policy:").filter(|policy| is_limited && *policy != "noeviction")
}

/// Warns once of a server that returns to an older state when it restarts: it saves snapshots, and no log of its writes.
#[derive(Debug, Default)]
struct SnapshotLog {
    /// Whether the server has answered.
    answered: bool,
}

impl SnapshotLog {
    /// Asks the server. One that does not answer is asked again with the next tick.
    async fn check(&mut self, shared: &Shared) {
        if self.answered {
            return;
        }
        let mut pipe = redis::pipe();
        pipe.cmd("CONFIG").arg("GET").arg("save").cmd("CONFIG").arg("GET").arg("appendonly");
        let answer: RedisResult<(Vec<String>, Vec<String>)> =
            shared.link.query_within(READY_TIMEOUT, &pipe).await;
        let (save, append) = match answer {
            Ok(answer) => answer,
            // A hosted server, or a user without the permission, does not tell.
            Err(error) => return self.answered = !error.is_io_error(),
        };
        self.answered = true;
        let value = |answer: &[String]| answer.get(1).cloned().unwrap_or_default();
        let (save, append) = (value(&save), value(&append));
        if !save.is_empty() && append == "no" {
            tracing::warn!(
                endpoint = %shared.link.endpoint(),
                save,
                "this Redis returns to its last snapshot when it restarts: jobs of then, old starts and stops among them, \
                 could be carried out again; set appendonly yes, or save \"\" if jobs may be lost"
            );
        }
    }
}

async fn mark_leases_alive(shared: &Shared) -> RedisResult<Option<()>> {
    let leases = shared.leases.all();
    for leases in leases.chunks(MAX_CHUNK) {
        let mut script = shared.link.scripts.mark_alive.call();
        for (id, token) in leases {
            script.arg(id.0).arg(token);
        }
        let lost: Vec<u64> = shared.link.run(&script).await?;
        for (id, token) in leases.iter().filter(|(id, _)| lost.contains(&id.0)) {
            // A job that has ended in the meantime has not lost its lease.
            if shared.leases.remove(*id, *token) {
                tracing::warn!(job = %id, "the lease of a job was lost; another consumer may carry it out");
            }
        }
    }
    Ok((!leases.is_empty()).then_some(()))
}

async fn sweep(shared: &Shared, settled: &mut Option<Counts>) -> RedisResult<()> {
    let mut script = shared.link.scripts.stalled.call();
    script.arg(millis(shared.config.stall_interval));
    let stalled: Vec<String> = shared.link.run(&script).await?;
    if !stalled.is_empty() {
        tracing::warn!(
            jobs = stalled.join(","),
            "jobs of a stalled worker of another program are queued again"
        );
    }
    let counts = Counts::read(shared).await?;
    if !counts.agree() && settled.as_ref() != Some(&counts) {
        reindex(shared).await?;
        *settled = Some(Counts::read(shared).await?);
    }
    trim(shared).await
}

async fn trim(shared: &Shared) -> RedisResult<()> {
    let config = &shared.config;
    // Unlike in `leasing::millis`, zero stays zero: it means to keep nothing.
    let millis =
        |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 12).min(u64::MAX >> 12);
    // Bounded: leases are renewed by the same task, and must not expire while a long backlog is deleted.
    for _ in 0..MAX_TRIMS {
        let mut script = shared.link.scripts.trim.call();
        script.arg(millis(config.keep_age)).arg(config.keep_jobs).arg(config.keep_bytes);
        // In chunks: deleting thousands of jobs in one script would block the server.
        script.arg(millis(config.poll_interval * GRACE_POLLS)).arg(TRIM_CHUNK);
        let trimmed: usize = shared.link.run(&script).await?;
        if trimmed < TRIM_CHUNK {
            break;
        }
    }
    Ok(())
}

/// Sizes of the index and of bee-queue's sets.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    jobs: usize,
    index_entries: usize,
    ended: usize,
    succeeded: usize,
    failed: usize,
}

impl Counts {
    async fn read(shared: &Shared) -> RedisResult<Self> {
        let key = |name| shared.link.key(name);
        let mut pipe = redis::pipe();
        pipe.hlen(key("jobs"))
            .hlen(key("prb:books"))
            .zcard(key("prb:ended"))
            .scard(key("succeeded"))
            .scard(key("failed"));
        let (jobs, index_entries, ended, succeeded, failed) = shared.link.query(&pipe).await?;
        Ok(Self { jobs, index_entries, ended, succeeded, failed })
    }

    /// They disagree if another program added, ended or removed jobs.
    const fn agree(&self) -> bool {
        self.jobs == self.index_entries && self.ended == self.succeeded + self.failed
    }
}

/// Repairs the index entry of every job that any list names.
async fn reindex(shared: &Shared) -> RedisResult<()> {
    let key = |name| shared.link.key(name);
    let mut pipe = redis::pipe();
    pipe.hkeys(key("jobs"))
        .hkeys(key("prb:books"))
        .smembers(key("succeeded"))
        .smembers(key("failed"))
        .zrange(key("prb:ended"), 0, -1);
    let lists: Vec<Vec<String>> = shared.link.query(&pipe).await?;
    // A job may be named by several lists.
    let ids: HashSet<_> = lists.into_iter().flatten().collect();
    let ids: Vec<_> = ids.into_iter().collect();
    for ids in ids.chunks(MAX_CHUNK) {
        let mut script = shared.link.scripts.reindex.call();
        script.arg(ids);
        let _: usize = shared.link.run(&script).await?;
    }
    Ok(())
}
