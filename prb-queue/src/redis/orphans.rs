//! Withdraws open jobs of this submitter that nobody awaits: those of an earlier process, and those that Redis has
//! brought back from an older snapshot. What is still wanted is submitted again by those who want it.
//!
//! Two kinds stay. Messages of workers: the worker that signed them may not answer for now, so that nobody could submit them
//! again, and those that the chain has are not sent again. And failed jobs that an operator has put back.
//!
//! What a trader has cannot be withdrawn. Such jobs are looked at again, since the trader may hand them back.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prb_core::{primitives::Hash, queue::JobId};
use redis::RedisResult;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Shared, job_encoding, leasing::number, random_name, record::Record};

/// Maximum number of index entries in one request.
const MAX_CHUNK: usize = 1000;
/// Length of the part of a mark that names the submitter.
const NAME_CHARS: usize = 16;
/// How often leased orphans are looked at again: a job that is tried again is delayed for longer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(4);

/// Whether orphans may wait in Redis.
#[derive(Debug)]
pub(super) struct Orphans {
    due: AtomicBool,
    /// When those that a trader had at the last look are looked at again.
    look_again_at: Mutex<Option<Instant>>,
    restarted: Notify,
    /// Locked while jobs are added, as long as their ids are not known: they would count as orphans.
    pub(super) adding: tokio::sync::Mutex<()>,
}

impl Default for Orphans {
    fn default() -> Self {
        let (look_again_at, restarted, adding) = Default::default();
        Self { due: AtomicBool::new(true), look_again_at, restarted, adding }
    }
}

impl Orphans {
    /// Notes that a connection was lost or made: the server may have restarted, with an older state.
    pub(super) fn note_restart(&self) {
        self.due.store(true, Ordering::SeqCst);
        self.restarted.notify_one();
    }

    fn look_again_at(&self, at: Option<Instant>) {
        *self.look_again_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Waits until there may be some.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn wait(&self) {
        let at = *self.look_again_at.lock().unwrap_or_else(PoisonError::into_inner);
        let look_again = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.restarted.notified() => {}
            () = look_again => self.due.store(true, Ordering::SeqCst),
        }
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

/// Withdraws the orphans if there may be any. Called before jobs are added, and before jobs are taken on a new connection:
/// this process may have a trader as well.
pub(super) async fn withdraw(shared: &Shared) -> RedisResult<()> {
    let Some(submitter) = &shared.config.submitter else { return Ok(()) };
    let _adding = shared.orphans.adding.lock().await;
    if !shared.orphans.due.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let result = withdraw_all(shared, &prefix(submitter)).await;
    match &result {
        Ok(0) => {}
        Ok(jobs) => tracing::info!(
            jobs,
            "withdrew jobs of this submitter that nobody awaits: they are of an earlier process, or Redis has returned \
             to an older snapshot"
        ),
        Err(_) => shared.orphans.due.store(true, Ordering::SeqCst),
    }
    result.map(drop)
}

async fn withdraw_all(shared: &Shared, prefix: &str) -> RedisResult<usize> {
    // Before the others: one that is handed back in between is looked at again.
    let leased = in_state(shared, "active", prefix).await?;
    shared.orphans.look_again_at((!leased.is_empty()).then(|| Instant::now() + LOOK_AGAIN_AFTER));
    let mut count = 0;
    for state in ["waiting", "delayed"] {
        for (id, mark) in in_state(shared, state, prefix).await? {
            if is_put_back(shared, id).await? {
                continue;
            }
            let mut script = shared.link.scripts.withdraw.call();
            script.arg(id.0).arg(mark);
            count += usize::from(shared.link.run::<String>(&script).await? != "R");
        }
    }
    Ok(count)
}

/// Returns the orphans in a state, with their marks.
async fn in_state(shared: &Shared, state: &str, prefix: &str) -> RedisResult<Vec<(JobId, String)>> {
    let mut script = shared.link.scripts.list.call();
    script.arg(state).arg(0).arg(u32::MAX);
    let (_, jobs): (usize, Vec<(String, String)>) = shared.link.run(&script).await?;
    let ids: Vec<JobId> = jobs.iter().filter_map(|(id, _)| number(id)).collect();
    let mut orphans = Vec::new();
    for ids in ids.chunks(MAX_CHUNK) {
        orphans.extend(unawaited(shared, ids, prefix).await?);
    }
    Ok(orphans)
}

/// Returns those of the jobs that are this submitter's operations and not awaited, with their marks.
async fn unawaited(shared: &Shared, ids: &[JobId], prefix: &str) -> RedisResult<Vec<(JobId, String)>> {
    let mut pipe = redis::pipe();
    for id in ids {
        pipe.hget(shared.link.key("prb:books"), id.0);
    }
    let entries: Vec<Option<String>> = shared.link.query(&pipe).await?;
    let marks = ids.iter().zip(entries).filter_map(|(id, entry)| {
        let entry = entry?;
        let mut fields = entry.split('|');
        let (mark, action) = (fields.next()?, fields.nth(1)?);
        let is_orphan =
            mark.starts_with(prefix) && action != job_encoding::MESSAGES && !shared.pending.awaits(*id, mark);
        is_orphan.then(|| (*id, mark.to_owned()))
    });
    Ok(marks.collect())
}

/// Whether an operator has put a failed job back.
async fn is_put_back(shared: &Shared, id: JobId) -> RedisResult<bool> {
    let mut pipe = redis::pipe();
    pipe.hget(shared.link.key("jobs"), id.0);
    let (json,): (Option<Vec<u8>>,) = shared.link.query(&pipe).await?;
    Ok(json.and_then(|json| Record::read(&json).ok()).is_some_and(|record| record.tail.is_failed()))
}
