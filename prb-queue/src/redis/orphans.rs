//! Withdraws open jobs of this submitter that nobody awaits: those of an earlier process, and those that Redis has
//! brought back from an older snapshot. What is still wanted is submitted again by those who want it.

use std::sync::atomic::{AtomicBool, Ordering};

use prb_core::{primitives::Hash, queue::JobId};
use redis::RedisResult;
use tokio::sync::Notify;

use super::{Shared, leasing::number, random_name};

/// Maximum number of index entries in one request.
const MAX_CHUNK: usize = 1000;
/// Length of the part of a mark that names the submitter.
const NAME_CHARS: usize = 16;

/// Whether orphans may wait in Redis.
#[derive(Debug)]
pub(super) struct Orphans {
    due: AtomicBool,
    /// Notified when they may.
    pub(super) changed: Notify,
}

impl Default for Orphans {
    fn default() -> Self {
        Self { due: AtomicBool::new(true), changed: Notify::new() }
    }
}

impl Orphans {
    /// Notes a new connection: the server may have restarted with an older state.
    pub(super) fn connected(&self) {
        self.due.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// Returns the start of a submitter's marks.
fn prefix(submitter: &str) -> String {
    format!("{}-", &hex::encode(Hash::of(submitter.as_bytes()).0)[..NAME_CHARS])
}

/// Returns a new mark for a job.
pub(super) fn new_mark(submitter: Option<&str>) -> String {
    format!("{}{}", submitter.map(prefix).unwrap_or_default(), random_name())
}

/// Withdraws the orphans if there may be any. Only called between submissions: otherwise a job whose id is not known yet
/// would count as one.
pub(super) async fn withdraw(shared: &Shared) -> RedisResult<()> {
    let Some(submitter) = &shared.config.submitter else { return Ok(()) };
    if !shared.orphans.due.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let result = withdraw_all(shared, &prefix(submitter)).await;
    match &result {
        Ok(0) => {}
        Ok(jobs) => tracing::warn!(
            jobs,
            "withdrew jobs of this submitter that nobody awaits: they are of an earlier process, or Redis has returned \
             to an older snapshot"
        ),
        Err(_) => shared.orphans.due.store(true, Ordering::SeqCst),
    }
    result.map(drop)
}

async fn withdraw_all(shared: &Shared, prefix: &str) -> RedisResult<usize> {
    let mut count = 0;
    for list in ["waiting", "delayed"] {
        let mut script = shared.link.scripts.list.call();
        script.arg(list).arg(0).arg(u32::MAX);
        let (_, jobs): (usize, Vec<(String, String)>) = shared.link.run(&script).await?;
        let ids: Vec<JobId> = jobs.iter().filter_map(|(id, _)| number(id)).collect();
        for ids in ids.chunks(MAX_CHUNK) {
            for (id, mark) in unawaited(shared, ids, prefix).await? {
                let mut script = shared.link.scripts.withdraw.call();
                script.arg(id.0).arg(mark);
                count += usize::from(shared.link.run::<String>(&script).await? != "R");
            }
        }
    }
    Ok(count)
}

/// Returns those of the jobs that are this submitter's and not awaited, with their marks.
async fn unawaited(shared: &Shared, ids: &[JobId], prefix: &str) -> RedisResult<Vec<(JobId, String)>> {
    let mut pipe = redis::pipe();
    for id in ids {
        pipe.hget(shared.link.key("prb:books"), id.0);
    }
    let entries: Vec<Option<String>> = shared.link.query(&pipe).await?;
    let marks = ids.iter().zip(entries).filter_map(|(id, entry)| {
        let entry = entry?;
        let mark = entry.split('|').next().filter(|mark| mark.starts_with(prefix))?;
        (!shared.pending.awaits(*id, mark)).then(|| (*id, mark.to_owned()))
    });
    Ok(marks.collect())
}
