//! What workers refused: who gave it, and whether others give the same.
//!
//! A worker's refusal alone says little: the worker may be broken. So the provider is only suspected: others
//! are asked first at that place, and one of them is asked the same question. Where it gives the same bytes,
//! the provider is cleared; where it gives others, the provider is put aside. Of two that differ the refused one
//! pays; if it was the right one, workers will refuse the other's bytes too, time and again, and its times aside
//! grow.
//!
//! Where nobody else can be asked because the provider alone claims to be that far, it is put aside at once. Where it
//! is the only provider, or the own node knows that the chain is that far, it stays.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prb_core::blob::{BlockCursor, RefusedData};
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{
    ask::{Ask, Blocks, Headers, Question},
    pool::Pool,
    provider::{Kind, Provider},
};

/// Answers whose origin is remembered.
const REMEMBERED: usize = 1024;
/// Suspicions at once.
const MAX_SUSPICIONS: usize = 64;
/// How long a suspicion lasts that nobody could clear up.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);

/// Who gave an answer, and what it was.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) provider: Arc<str>,
    max_bytes: usize,
    spans: [u32; 4],
    print: (usize, u32),
}

impl Record {
    pub(super) fn of<Q: Ask>(provider: &Provider, question: &Q, batch: &Q::Batch) -> Self {
        let body = Q::body(batch);
        Self {
            provider: provider.id.clone(),
            max_bytes: question.max_bytes(),
            spans: Q::spans(batch),
            print: (body.len(), crc32c::crc32c(body)),
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

    /// What a refusal is about.
    pub(super) fn find(&self, refusal: &RefusedData) -> Option<(Question, Record)> {
        let question = match refusal {
            RefusedData::Headers { cursor, .. } => Question::Headers(*cursor),
            RefusedData::Blocks { blocks, .. } => Question::Blocks(blocks.first),
            _ => return None,
        };
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        served.iter().rev().find(|(asked, _)| *asked == question).cloned()
    }
}

/// Providers that are asked last at some place.
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

    /// Blocks that a worker had not taken are asked for from the bad one on, which lies behind the first.
    pub(super) fn is_suspected(&self, question: Question, provider: &str) -> bool {
        /// The most blocks that are in one batch, as far as suspicions go.
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

/// Looks into refusals, one after the other.
pub(super) async fn run(pool: Arc<Pool>, mut refusals: mpsc::Receiver<RefusedData>) {
    while let Some(refusal) = refusals.recv().await {
        let Some((question, record)) = pool.served.find(&refusal) else { continue };
        let Some(suspect) = pool.provider(&record.provider).filter(|suspect| !suspect.is_aside()) else {
            continue;
        };
        let same = match refusal {
            RefusedData::Headers { cursor, .. } => {
                let question = Headers { cursor, max_bytes: record.max_bytes };
                compare(&pool, &suspect, &record, question).await
            }
            RefusedData::Blocks { blocks, at, .. } => {
                // The same run of blocks first; the one that cannot be applied, where that has grown or shrunk.
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
            pool.put_aside(suspect, reason, true);
            pool.suspects.clear(question, &suspect.id);
        }
        None if pool.stands_alone(suspect, question) => {
            let reason =
                format!("a worker refused its answer to {question:?}, and nobody else claims to have that");
            pool.put_aside(suspect, reason, true);
            pool.suspects.clear(question, &suspect.id);
        }
        None => {
            warn!(provider = %suspect.id, %question, "a worker refused what nobody else could be asked for");
        }
    }
}

/// Whether another provider gives the same bytes, and who it is. `None` where nobody gave the same run.
async fn compare<Q: Ask>(
    pool: &Pool,
    suspect: &Provider,
    record: &Record,
    question: Q,
) -> Option<(bool, Arc<str>)> {
    let (other, batch) = ask_other(pool, suspect, question).await?;
    let found = Record::of(&other, &question, &batch);
    if found.spans == record.spans {
        return Some((found.print == record.print, other.id.clone()));
    }
    // The tip has moved since: the suspect is asked again.
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
    (again.spans == other.spans).then_some(again.print == other.print)
}

/// Asks those that are not suspected; the original's providers cut otherwise, and are not asked.
async fn ask_other<Q: Ask>(
    pool: &Pool,
    suspect: &Provider,
    question: Q,
) -> Option<(Arc<Provider>, Q::Batch)> {
    for (other, kind) in pool.rank(&question) {
        if other.id == suspect.id || kind == Kind::Original {
            continue;
        }
        match pool.ask_one(&other, kind, question).await {
            Ok(batch) => return Some((other, batch)),
            Err(failure) => drop(failure.settle(pool, &other)),
        }
    }
    None
}
