//! Examines refusals by workers: finds the provider of the data and compares it with other providers.
//!
//! A worker's refusal alone proves little, because the worker may be broken. So the provider is only
//! suspected at first: others are asked before it at that position, and some of them get the same request
//! ([`Comparison`]). If they all return the same bytes, the provider is cleared. If one returns others, the provider is
//! suspended, and whoever gave the refused bytes, too, is suspected; if two of the others agree, so is everybody who
//! gave something else: most providers may lie, but they are asked last then. Of two providers that differ, the refused
//! one is suspended. If it was right, workers will refuse the other's bytes too, repeatedly, and that one's suspensions
//! grow.
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
/// Lifetime of a suspicion that could not be examined, and of the result that all providers agree.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// Most providers that one refused answer is compared with, one after the other: each holds a batch in memory.
const MAX_COMPARED: usize = 12;

/// The provider of an answer, and the answer's fingerprint.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) provider: Arc<str>,
    max_bytes: usize,
    spans: [u32; 4],
    fingerprint: (usize, u32),
}

/// What tells answers apart: the numbers of their blocks, and their fingerprints.
type Content = ([u32; 4], (usize, u32));

impl Record {
    const fn content(&self) -> Content {
        (self.spans, self.fingerprint)
    }

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

/// What other providers give to the question of a refused answer.
#[derive(Debug, Default)]
struct Comparison {
    /// Those that give the refused bytes.
    same: Vec<Arc<str>>,
    /// Those that give other bytes.
    different: Vec<(Arc<str>, Content)>,
    /// Whether there are others that were not asked.
    is_partial: bool,
}

impl Comparison {
    /// A provider that gives other bytes: one that another agrees with, if there is one.
    fn witness(&self) -> Option<(&Arc<str>, Option<Content>)> {
        let agreed = self
            .different
            .iter()
            .find(|(id, bytes)| self.different.iter().any(|(other, others)| other != id && others == bytes));
        let agreed = agreed.map(|(id, bytes)| (id, Some(*bytes)));
        agreed.or_else(|| self.different.first().map(|(id, _)| (id, None)))
    }

    /// Those that are asked last from now on: they give the refused bytes, or others than two that agree.
    fn outvoted(&self) -> impl Iterator<Item = &Arc<str>> {
        let agreed = self.witness().and_then(|(_, bytes)| bytes);
        let others =
            self.different.iter().filter(move |(_, bytes)| agreed.is_some_and(|right| right != *bytes));
        self.same.iter().chain(others.map(|(id, _)| id))
    }

    fn is_empty(&self) -> bool {
        self.same.is_empty() && self.different.is_empty()
    }

    /// Whether further providers would add nothing.
    fn is_decided(&self) -> bool {
        self.witness().is_some_and(|(_, agreed)| agreed.is_some())
    }
}

/// Examines refusals one after the other.
pub(super) async fn run(pool: Arc<Pool>, mut refusals: mpsc::Receiver<RefusedData>) {
    // The last answer that a worker had refused and all providers gave.
    let mut agreed: Option<(Question, Content, Instant)> = None;
    // One at a time: each fetches data again, and a worker that refuses everything must not multiply the
    // traffic.
    while let Some(refusal) = refusals.recv().await {
        let Some((question, record)) = pool.served.find(&refusal) else { continue };
        let Some(suspect) = pool.provider(&record.provider).filter(|suspect| !suspect.is_suspended()) else {
            continue;
        };
        let is_known = |(asked, content, at): (Question, Content, Instant)| {
            asked == question && content == record.content() && at.elapsed() < SUSPECTED_FOR
        };
        if agreed.is_some_and(is_known) {
            // Another worker refuses the same, or the same one again.
            pool.suspects.clear(question, &suspect.id);
            continue;
        }
        let comparison = match refusal {
            RefusedData::Headers { cursor, .. } => {
                let question = Headers { cursor, max_bytes: record.max_bytes };
                compare(&pool, &suspect, Some(&record), question).await
            }
            RefusedData::Blocks { blocks, at, .. } => {
                // The same run of blocks first; then the refused block alone, in case the run has grown or shrunk.
                let all = BlockCursor { from: blocks.first, to: blocks.last };
                let question = Blocks { cursor: all, max_bytes: record.max_bytes };
                let run = compare(&pool, &suspect, Some(&record), question).await;
                match at.filter(|_| run.is_empty()) {
                    Some(at) => {
                        let cursor = BlockCursor { from: at, to: at };
                        compare(&pool, &suspect, None, Blocks { cursor, ..question }).await
                    }
                    None => run,
                }
            }
            _ => Comparison::default(),
        };
        if conclude(&pool, &suspect, question, &comparison) {
            agreed = Some((question, record.content(), Instant::now()));
        }
    }
}

/// Applies the result; returns whether all providers gave the refused bytes.
fn conclude(pool: &Pool, suspect: &Provider, question: Question, comparison: &Comparison) -> bool {
    let reason = match (comparison.witness(), comparison.same.first()) {
        (Some((other, _)), _) => {
            comparison.outvoted().for_each(|id| pool.suspects.add(question, id.clone()));
            format!("a worker refused its answer to {question}, and {other} gives another")
        }
        // Too many to ask all of them: the rest comes first from now on, and at the next refusal.
        (None, Some(_)) if comparison.is_partial => {
            comparison.same.iter().for_each(|id| pool.suspects.add(question, id.clone()));
            return false;
        }
        (None, Some(other)) => {
            info!(provider = %suspect.id, %other, %question, "workers refuse what all providers give");
            pool.suspects.clear(question, &suspect.id);
            return true;
        }
        (None, None) if pool.is_sole_claimant(suspect, question) => {
            format!("a worker refused its answer to {question}, and nobody else claims to have that")
        }
        (None, None) => {
            warn!(provider = %suspect.id, %question, "a worker refused data that no other provider could be asked for");
            return false;
        }
    };
    pool.suspend(suspect, reason, true);
    pool.suspects.clear(question, &suspect.id);
    false
}

/// Asks others until two agree on other bytes than the refused ones, which are those of `record` or, without one, what
/// the suspect gives now. Of the original's providers, which cut batches differently, none is asked.
async fn compare<Q: Ask>(
    pool: &Pool,
    suspect: &Provider,
    record: Option<&Record>,
    question: Q,
) -> Comparison {
    let (mut comparison, start) = (Comparison::default(), Instant::now());
    let others = pool.rank(&question).into_iter();
    let others = others.filter(|(other, kind)| other.id != suspect.id && *kind != Kind::Original);
    for (at, (other, kind)) in others.enumerate() {
        if comparison.is_decided() || at >= MAX_COMPARED || start.elapsed() >= pool.config.request_timeout {
            comparison.is_partial = true;
            break;
        }
        // Its failures have their usual consequences: it was asked like for a worker.
        let found = match pool.ask_one(&other, kind, question).await {
            Ok(batch) => Record::of(&other, &question, &batch),
            Err(failure) => {
                drop(failure.settle(pool, &other));
                continue;
            }
        };
        let is_same = match record.filter(|record| record.spans == found.spans) {
            Some(record) => Some(record.fingerprint == found.fingerprint),
            // The tip has moved since, so ask the suspect again.
            None => compare_with(pool, suspect, &found, question).await,
        };
        match is_same {
            Some(true) => comparison.same.push(other.id.clone()),
            Some(false) => comparison.different.push((other.id.clone(), found.content())),
            None => {}
        }
    }
    comparison
}

async fn compare_with<Q: Ask>(pool: &Pool, suspect: &Provider, other: &Record, question: Q) -> Option<bool> {
    let (kind, _) = suspect.usable()?;
    let batch = pool.ask_one(suspect, kind, question).await.ok()?;
    let again = Record::of(suspect, &question, &batch);
    (again.spans == other.spans).then_some(again.fingerprint == other.fingerprint)
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
