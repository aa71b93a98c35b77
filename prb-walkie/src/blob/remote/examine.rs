//! Examines refusals by workers: finds the provider of the data and compares it with other providers.
//!
//! A worker's refusal alone proves little, because the worker may be broken. So the provider is only
//! suspected at first: others are asked before it at that position, and one of them gets the same request. If
//! it returns the same bytes, the provider is cleared; if they differ, the provider is suspended. Of two
//! providers that differ, the refused one is suspended. If it was right, workers will refuse the other's
//! bytes too, repeatedly, and that one's suspensions grow.
//!
//! A batch that does not verify needs no comparison: its provider is suspended at once.
//!
//! If no other provider can be asked because this one alone claims to have the data, it is suspended at once, unless
//! it is the only provider or the own node confirms that the chain is that far.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prb_core::blob::{BlockCursor, HeaderCursor, RefusedData};
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{
    ask::{Ask, Blocks, Headers, Question},
    pool::Pool,
    provider::{Kind, Provider},
};

/// Answers whose provider is remembered.
const REMEMBERED: usize = 1024;
/// Most suspicions at the same time.
const MAX_SUSPICIONS: usize = 64;
/// Lifetime of a suspicion that could not be examined.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);

/// The provider of an answer, and the answer's fingerprint.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) provider: Arc<str>,
    max_bytes: usize,
    spans: [u32; 4],
    fingerprint: (usize, u32),
}

impl Record {
    pub(super) fn of<Q: Ask>(provider: &Provider, question: &Q, batch: &Q::Batch) -> Self {
        let body = Q::body(batch);
        Self {
            provider: provider.id.clone(),
            max_bytes: question.max_bytes(),
            spans: Q::spans(batch),
            fingerprint: (body.len(), crc32c::crc32c(body)),
        }
    }
}

/// The newest answers.
#[derive(Debug, Default)]
pub(super) struct Served(Mutex<VecDeque<(Question, Record)>>);

impl Served {
    pub(super) fn add(&self, question: Question, record: Record) {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if served.len() >= REMEMBERED {
            served.pop_front();
        }
        served.push_back((question, record));
    }

    /// Finds the answer that a refusal is about.
    pub(super) fn find(&self, refusal: &RefusedData) -> Option<(Question, Record)> {
        let question = match refusal {
            RefusedData::Headers { cursor, .. } => Question::Headers(*cursor),
            RefusedData::Blocks { blocks, .. } => Question::Blocks(blocks.first),
            _ => return None,
        };
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest first: an older answer to the same question may be another provider's.
        served.iter().rev().find(|(asked, _)| *asked == question).cloned()
    }

    /// The provider that gave this answer to a question about headers.
    pub(super) fn provider_of(&self, cursor: HeaderCursor, body: &[u8]) -> Option<Arc<str>> {
        let fingerprint = (body.len(), crc32c::crc32c(body));
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut given = served.iter().rev().filter(|(asked, _)| *asked == Question::Headers(cursor));
        given.find(|(_, record)| record.fingerprint == fingerprint).map(|(_, record)| record.provider.clone())
    }
}

/// Providers that are asked last at some positions.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<VecDeque<(Question, Arc<str>, Instant)>>);

impl Suspects {
    pub(super) fn add(&self, question: Question, provider: Arc<str>) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.retain(|(_, _, since)| since.elapsed() < SUSPECTED_FOR);
        if suspects.len() >= MAX_SUSPICIONS {
            suspects.pop_front();
        }
        suspects.push_back((question, provider, Instant::now()));
    }

    fn clear(&self, question: Question, provider: &str) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.retain(|(asked, who, _)| *asked != question || &**who != provider);
    }

    /// Whether a provider is suspected at a position. Blocks up to 10,000 after the suspected request count, because a
    /// worker asks again from the block that it refused, which may be any of the request's.
    pub(super) fn is_suspected(&self, question: Question, provider: &str) -> bool {
        /// Upper bound of the blocks in one batch, for suspicions.
        const REACH: u32 = 10_000;
        let suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.iter().any(|(asked, who, since)| {
            let here = match (asked, question) {
                (Question::Blocks(from), Question::Blocks(now)) => {
                    (from.0..from.0.saturating_add(REACH)).contains(&now.0)
                }
                (asked, question) => *asked == question,
            };
            here && &**who == provider && since.elapsed() < SUSPECTED_FOR
        })
    }
}

/// Examines refusals one after the other.
pub(super) async fn run(pool: Arc<Pool>, mut refusals: mpsc::Receiver<RefusedData>) {
    // One at a time: each fetches data again, and a worker that refuses everything must not multiply the
    // traffic.
    while let Some(refusal) = refusals.recv().await {
        let Some((question, record)) = pool.served.find(&refusal) else { continue };
        let Some(suspect) = pool.provider(&record.provider).filter(|suspect| !suspect.is_suspended()) else {
            continue;
        };
        let same = match refusal {
            RefusedData::Headers { cursor, .. } => {
                let question = Headers { cursor, max_bytes: record.max_bytes };
                compare(&pool, &suspect, &record, question).await
            }
            RefusedData::Blocks { blocks, at, .. } => {
                // The same run of blocks first; then the refused block alone, in case the run has grown or shrunk.
                let all = BlockCursor { from: blocks.first, to: blocks.last };
                let question = Blocks { cursor: all, max_bytes: record.max_bytes };
                match (compare(&pool, &suspect, &record, question).await, at) {
                    (None, Some(at)) => {
                        let cursor = BlockCursor { from: at, to: at };
                        compare_afresh(&pool, &suspect, Blocks { cursor, ..question }).await
                    }
                    (same, _) => same,
                }
            }
            _ => None,
        };
        conclude(&pool, &suspect, question, same);
    }
}

fn conclude(pool: &Pool, suspect: &Provider, question: Question, same: Option<(bool, Arc<str>)>) {
    match same {
        Some((true, other)) => {
            info!(provider = %suspect.id, %other, %question, "workers refuse what both providers give");
            pool.suspects.clear(question, &suspect.id);
        }
        Some((false, other)) => {
            let reason = format!("a worker refused its answer to {question}, and {other} gives another");
            pool.suspend(suspect, reason, true);
            pool.suspects.clear(question, &suspect.id);
        }
        None if pool.is_sole_claimant(suspect, question) => {
            let reason =
                format!("a worker refused its answer to {question}, and nobody else claims to have that");
            pool.suspend(suspect, reason, true);
            pool.suspects.clear(question, &suspect.id);
        }
        None => {
            warn!(provider = %suspect.id, %question, "a worker refused data that no other provider could be asked for");
        }
    }
}

/// Returns whether another provider gives the same bytes, and its id. `None` if no other gave the same run.
async fn compare<Q: Ask>(
    pool: &Pool,
    suspect: &Provider,
    record: &Record,
    question: Q,
) -> Option<(bool, Arc<str>)> {
    let (other, batch) = ask_other(pool, suspect, question).await?;
    let found = Record::of(&other, &question, &batch);
    if found.spans == record.spans {
        return Some((found.fingerprint == record.fingerprint, other.id.clone()));
    }
    // The tip has moved since, so ask the suspect again.
    compare_with(pool, suspect, &found, question).await.map(|same| (same, other.id.clone()))
}

async fn compare_afresh<Q: Ask>(pool: &Pool, suspect: &Provider, question: Q) -> Option<(bool, Arc<str>)> {
    let (other, batch) = ask_other(pool, suspect, question).await?;
    let found = Record::of(&other, &question, &batch);
    compare_with(pool, suspect, &found, question).await.map(|same| (same, other.id.clone()))
}

async fn compare_with<Q: Ask>(pool: &Pool, suspect: &Provider, other: &Record, question: Q) -> Option<bool> {
    let (kind, _) = suspect.usable()?;
    let batch = pool.ask_one(suspect, kind, question).await.ok()?;
    let again = Record::of(suspect, &question, &batch);
    (again.spans == other.spans).then_some(again.fingerprint == other.fingerprint)
}

/// Asks providers that are not suspected, except the original's, which cut batches differently.
async fn ask_other<Q: Ask>(
    pool: &Pool,
    suspect: &Provider,
    question: Q,
) -> Option<(Arc<Provider>, Q::Batch)> {
    for (other, kind) in pool.rank(&question) {
        if other.id == suspect.id || kind == Kind::Original {
            continue;
        }
        // Its failures have their usual consequences: it was asked like for a worker.
        match pool.ask_one(&other, kind, question).await {
            Ok(batch) => return Some((other, batch)),
            Err(failure) => drop(failure.settle(pool, &other)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prb_core::{
        blob::Span,
        primitives::{ParaNumber, RelayNumber},
    };

    use super::*;

    fn record(provider: &str) -> Record {
        Record { provider: provider.into(), max_bytes: 1, spans: [0; 4], fingerprint: (0, 0) }
    }

    #[test]
    fn answers_are_remembered_in_a_bounded_number() {
        let served = Served::default();
        let refusal = |n| RefusedData::Blocks {
            blocks: Span { first: ParaNumber(n), last: ParaNumber(n) },
            at: None,
            message: String::new(),
        };
        (0..3000).for_each(|n| served.add(Question::Blocks(ParaNumber(n)), record(&n.to_string())));
        assert_eq!(served.0.lock().unwrap_or_else(PoisonError::into_inner).len(), 1024);
        assert!(served.find(&refusal(3000 - 1025)).is_none());
        let oldest = served.find(&refusal(3000 - 1024)).map(|(_, record)| record.provider);
        assert_eq!(oldest.as_deref(), Some("1976"));
    }

    /// A worker that refuses everything.
    #[test]
    fn suspicions_are_bounded() {
        let suspects = Suspects::default();
        let at = |n| Question::Headers(HeaderCursor { relay: RelayNumber(n), para: ParaNumber(0) });
        (0..1000).for_each(|n| suspects.add(at(n), "A".into()));
        assert_eq!(suspects.0.lock().unwrap_or_else(PoisonError::into_inner).len(), 64);
        assert!(!suspects.is_suspected(at(1000 - 65), "A") && suspects.is_suspected(at(1000 - 64), "A"));
    }
}
