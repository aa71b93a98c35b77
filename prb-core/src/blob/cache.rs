//! A byte-bounded cache over a [`BlobSource`]: equal cursors share one fetch and one encoding.
//!
//! A fetch goes on as long as anybody waits for it, whoever asked first. Those who ask for what is kept touch it;
//! what was not touched for the longest time goes first.
//!
//! What a worker refuses is forgotten, so that the next fetch shows whether the source has it better by then.

use std::{
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use metrics::counter;
use moka::{future::Cache, policy::EvictionPolicy};
use tokio::sync::watch;

use super::{
    BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, Refusal, Span,
};
use crate::{
    primitives::{ParaNumber, RelayNumber},
    sync::Cooldown,
};

mod flights;

use flights::Flights;

/// Refusals that are remembered; while so many are recent, further ones make nothing be forgotten.
const REFUSALS: usize = 1024;

/// Limits of a [`CachedSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of bodies kept, of header batches and of block batches each.
    pub max_bytes: u64,
    /// How long a body is kept.
    pub max_age: Duration,
    /// What a worker refused is forgotten at most once in this time, so that a worker that is itself broken
    /// does not take the cache from the others.
    pub forget_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            max_age: Duration::from_secs(1800),
            forget_every: Duration::from_secs(5),
        }
    }
}

/// What was fetched. Empty answers and failures reach those who waited for them, and nobody after.
struct Entry<B> {
    answer: Result<Option<B>, Arc<Error>>,
    /// The batch ended where the source did, so that a longer one is there once the source has grown.
    ended_at_tip: bool,
    /// A worker refused it: the next who asks gets a new one.
    forgotten: AtomicBool,
}

/// What was forgotten of late.
struct Recent {
    headers: Cooldown<HeaderCursor>,
    /// Refused batches, by their first block.
    blocks: Cooldown<ParaNumber>,
    /// Entries that hold blocks of a refused batch, which may be those of other workers.
    entries: Cooldown<(BlockCursor, usize)>,
}

type Kept<C, B> = Cache<(C, usize), Arc<Entry<B>>>;

/// Bodies of one kind, and those that are being fetched.
struct Entries<C: Hash + Eq, B, N: Hash + Eq> {
    kept: Kept<C, B>,
    /// Also by the source's height: who has seen it grow must not be told what was so before.
    flights: Flights<(C, usize, Option<N>), Arc<Entry<B>>>,
    kind: &'static str,
}

/// A [`BlobSource`] that remembers what another one answered.
pub struct CachedSource<S: ?Sized> {
    headers: Entries<HeaderCursor, HeaderBatch, RelayNumber>,
    blocks: Entries<BlockCursor, BlockBatch, ParaNumber>,
    heights: watch::Receiver<Heights>,
    recent: Mutex<Recent>,
    inner: Arc<S>,
}

impl<S: BlobSource + ?Sized> std::fmt::Debug for CachedSource<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedSource").field("inner", &&*self.inner).finish_non_exhaustive()
    }
}

impl<S: BlobSource + ?Sized> CachedSource<S> {
    /// A cache over `inner`.
    pub fn new(inner: Arc<S>, config: Config) -> Self {
        Self {
            headers: Entries::new("headers", config, |batch: &HeaderBatch| batch.body.len()),
            blocks: Entries::new("blocks", config, |batch: &BlockBatch| batch.body.len()),
            heights: inner.heights(),
            recent: Mutex::new(Recent {
                headers: Cooldown::new(config.forget_every, REFUSALS),
                blocks: Cooldown::new(config.forget_every, REFUSALS),
                entries: Cooldown::new(config.forget_every, REFUSALS),
            }),
            inner,
        }
    }

    /// Bytes of bodies kept now, with what is kept beside them.
    pub async fn held_bytes(&self) -> u64 {
        self.headers.kept.run_pending_tasks().await;
        self.blocks.kept.run_pending_tasks().await;
        self.headers.kept.weighted_size() + self.blocks.kept.weighted_size()
    }

    fn forget(&self, refusal: &Refusal) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Refusal::Headers { cursor, .. } if recent.headers.admit(*cursor) => {
                let touched = self.headers.kept.iter().filter(|(key, _)| key.0 == *cursor);
                touched.for_each(|(_, entry)| entry.forget("headers"));
            }
            Refusal::Blocks { blocks, at, .. } if recent.blocks.admit(blocks.first) => {
                let suspect = at.map_or(*blocks, |at| Span { first: at, last: at });
                let touched = self.blocks.kept.iter().filter(|(_, entry)| entry.holds(suspect));
                let now = touched.filter(|(key, _)| recent.entries.admit(**key));
                now.for_each(|(_, entry)| entry.forget("blocks"));
            }
            Refusal::Headers { .. } | Refusal::Blocks { .. } => {}
        }
    }
}

impl<C, B, N> Entries<C, B, N>
where
    C: Hash + Eq + Copy + Send + Sync + 'static,
    B: Clone + Send + Sync + 'static,
    N: Hash + Eq + Copy + Send + Sync + 'static,
{
    fn new(kind: &'static str, config: Config, size: fn(&B) -> usize) -> Self {
        /// Kept beside each body: key, map and pointers.
        const OVERHEAD_BYTES: usize = 256;
        let kept = Cache::builder()
            .max_capacity(config.max_bytes)
            .time_to_live(config.max_age)
            // A policy that admits by frequency would not keep what is new at the tip, where all ask for it now,
            // while workers that catch up come back to what they asked for before.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(move |_, entry: &Arc<Entry<B>>| {
                let body = entry.answer.as_ref().ok().and_then(Option::as_ref).map_or(0, size);
                u32::try_from(body + OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .build();
        Self { kept, flights: Flights::new(), kind }
    }

    /// What is kept, if it is not outdated, or what `fetch` gives: one fetch for all who wait.
    async fn get(
        &self,
        key: (C, usize),
        tip: Option<N>,
        is_outdated: impl Fn(&Entry<B>) -> bool + Send + 'static,
        fetch: impl Future<Output = Entry<B>> + Send + 'static,
    ) -> Result<Option<B>, Error> {
        let kept = self.kept.get(&key).await.filter(|entry| !is_outdated(entry));
        let entry = match kept {
            Some(entry) => {
                self.count(true);
                entry
            }
            None => {
                let kept = self.kept.clone();
                let fetch = async move {
                    // One that was under way before may have ended in between.
                    if let Some(entry) = kept.get(&key).await.filter(|entry| !is_outdated(entry)) {
                        return entry;
                    }
                    let entry = Arc::new(fetch.await);
                    if matches!(entry.answer, Ok(Some(_))) {
                        kept.insert(key, Arc::clone(&entry)).await;
                    }
                    entry
                };
                let (entry, new) = self.flights.join((key.0, key.1, tip), fetch).await;
                self.count(!new);
                entry
            }
        };
        entry.answer.as_ref().cloned().map_err(unshare)
    }

    fn count(&self, hit: bool) {
        let outcome = if hit { "hit" } else { "miss" };
        counter!("prb_blob_cache_total", "kind" => self.kind, "outcome" => outcome).increment(1);
    }
}

impl<B> Entry<B> {
    fn new(answer: Result<Option<B>, Arc<Error>>, ended_at_tip: bool) -> Self {
        Self { answer, ended_at_tip, forgotten: AtomicBool::new(false) }
    }

    fn is_outdated(&self, source_grew: impl Fn(&B) -> bool) -> bool {
        match &self.answer {
            Ok(Some(batch)) => {
                self.forgotten.load(Ordering::Relaxed) || self.ended_at_tip && source_grew(batch)
            }
            Ok(None) | Err(_) => true,
        }
    }

    fn forget(&self, kind: &'static str) {
        if !self.forgotten.swap(true, Ordering::Relaxed) {
            counter!("prb_blob_cache_forgotten_total", "kind" => kind).increment(1);
        }
    }
}

impl Entry<BlockBatch> {
    fn holds(&self, suspect: Span<ParaNumber>) -> bool {
        let batch = self.answer.as_ref().ok().and_then(Option::as_ref);
        batch.is_some_and(|b| b.blocks.first <= suspect.last && suspect.first <= b.blocks.last)
    }
}

/// Gives a shared failure to each who waited for it.
fn unshare(e: &Arc<Error>) -> Error {
    match &**e {
        Error::NotReady => Error::NotReady,
        Error::BadCursor { cursor, reason } => {
            Error::BadCursor { cursor: cursor.clone(), reason: reason.clone() }
        }
        Error::TooLarge { cursor, size_bytes, limit_bytes } => {
            Error::TooLarge { cursor: cursor.clone(), size_bytes: *size_bytes, limit_bytes: *limit_bytes }
        }
        Error::Unavailable(_) => Error::Unavailable(Box::new(Shared(Arc::clone(e)))),
        Error::Storage(_) => Error::Storage(Box::new(Shared(Arc::clone(e)))),
    }
}

/// The source of a shared error.
#[derive(Debug)]
struct Shared(Arc<Error>);

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&*self.0) {
            Some(source) => std::fmt::Display::fmt(source, f),
            None => std::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0).and_then(std::error::Error::source)
    }
}

#[async_trait]
impl<S: BlobSource + ?Sized + 'static> BlobSource for CachedSource<S> {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.clone()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        self.inner.genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        let tip = self.heights.borrow().relay;
        let inner = Arc::clone(&self.inner);
        let fetch = async move {
            let answer = inner.headers(cursor, max_bytes).await.map_err(Arc::new);
            // A batch that ends below the tip was cut by a change of set or by the limit: it cannot grow.
            let ended_at_tip = matches!(&answer, Ok(Some(batch)) if tip <= Some(batch.relay.last));
            Entry::new(answer, ended_at_tip)
        };
        let is_outdated =
            move |entry: &Entry<HeaderBatch>| entry.is_outdated(|batch| tip > Some(batch.relay.last));
        self.headers.get((cursor, max_bytes), tip, is_outdated, fetch).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        let tip = self.heights.borrow().para;
        let inner = Arc::clone(&self.inner);
        let fetch = async move {
            let answer = inner.blocks(cursor, max_bytes).await.map_err(Arc::new);
            let ended_at_tip = matches!(&answer, Ok(Some(batch))
                if batch.blocks.last < cursor.to && tip <= Some(batch.blocks.last));
            Entry::new(answer, ended_at_tip)
        };
        let is_outdated =
            move |entry: &Entry<BlockBatch>| entry.is_outdated(|batch| tip > Some(batch.blocks.last));
        self.blocks.get((cursor, max_bytes), tip, is_outdated, fetch).await
    }

    fn refused(&self, refusal: &Refusal) {
        self.forget(refusal);
        self.inner.refused(refusal);
    }
}
