//! A byte-bounded cache over a [`BlobSource`]: equal cursors share one fetch and one encoding.
//!
//! A fetch continues as long as any caller waits for it, even if the one that started it is cancelled.
//! Eviction is least recently used.
//!
//! Batches that a worker refuses are evicted, so that the next fetch shows whether the source has valid data
//! by then.

use std::{
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use metrics::{counter, describe_counter};
use moka::{future::Cache, policy::EvictionPolicy};
use tokio::sync::watch;

use super::{
    BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
    Span,
};
use crate::{
    primitives::{ParaNumber, RelayNumber},
    sync::RateLimit,
};

mod single_flight;

use single_flight::SingleFlight;

const REQUESTS: &str = "prb_blob_cache_total";
const EVICTIONS: &str = "prb_blob_cache_forgotten_total";

/// Refusals remembered for rate limiting; while that many are recent, further ones evict nothing.
const REFUSALS: usize = 1024;

/// Limits of a [`CachedSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Maximum size of the cached bodies, in bytes, of header batches and of block batches each.
    /// Default: 256 MiB.
    pub max_bytes: u64,
    /// Maximum age of a cached body. Default: 30 minutes.
    pub max_age: Duration,
    /// Minimum interval between evictions of refused data, so that a worker that is itself broken does not
    /// disable the cache for the others. Default: 5 s.
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

/// A fetched answer. Empty answers and failures are returned to the callers that wait for them, and not
/// cached.
struct Entry<B> {
    answer: Result<Option<B>, Arc<Error>>,
    /// The batch ended at the source's tip, so that a longer one is available once the source has grown.
    ended_at_tip: bool,
    /// A worker refused it: the next caller gets a new one.
    evicted: AtomicBool,
}

/// Rate limits of evictions.
struct EvictionLimits {
    headers: RateLimit<HeaderCursor>,
    /// Refused batches, by their first block.
    blocks: RateLimit<ParaNumber>,
    /// Entries that overlap a refused batch, which may serve other workers.
    entries: RateLimit<(BlockCursor, usize)>,
}

type Cached<C, B> = Cache<(C, usize), Arc<Entry<B>>>;

/// Cached bodies of one kind, and the fetches in flight.
struct Entries<C: Hash + Eq, B, N: Hash + Eq> {
    cached: Cached<C, B>,
    /// Keyed by the source's height as well: a caller that has seen it grow must not get an answer from
    /// before.
    single_flight: SingleFlight<(C, usize, Option<N>), Arc<Entry<B>>>,
    kind: &'static str,
}

/// A [`BlobSource`] that caches the answers of another one.
pub struct CachedSource<S: ?Sized> {
    headers: Entries<HeaderCursor, HeaderBatch, RelayNumber>,
    blocks: Entries<BlockCursor, BlockBatch, ParaNumber>,
    heights: watch::Receiver<Heights>,
    eviction_limits: Mutex<EvictionLimits>,
    inner: Arc<S>,
}

impl<S: BlobSource + ?Sized> std::fmt::Debug for CachedSource<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedSource").field("inner", &&*self.inner).finish_non_exhaustive()
    }
}

impl<S: BlobSource + ?Sized> CachedSource<S> {
    /// Creates a cache over `inner`.
    pub fn new(inner: Arc<S>, config: Config) -> Self {
        describe_counter!(REQUESTS, "Requests to the blob cache, by kind and outcome");
        describe_counter!(
            EVICTIONS,
            "Cached blobs that were evicted because they turned out to be wrong, by kind"
        );
        Self {
            headers: Entries::new("headers", config, |batch: &HeaderBatch| batch.body.len()),
            blocks: Entries::new("blocks", config, |batch: &BlockBatch| batch.body.len()),
            heights: inner.heights(),
            eviction_limits: Mutex::new(EvictionLimits {
                headers: RateLimit::new(config.forget_every, REFUSALS),
                blocks: RateLimit::new(config.forget_every, REFUSALS),
                entries: RateLimit::new(config.forget_every, REFUSALS),
            }),
            inner,
        }
    }

    /// Bytes of cached bodies, including the overhead of their entries.
    pub async fn held_bytes(&self) -> u64 {
        self.headers.cached.run_pending_tasks().await;
        self.blocks.cached.run_pending_tasks().await;
        self.headers.cached.weighted_size() + self.blocks.cached.weighted_size()
    }

    fn evict(&self, refusal: &RefusedData) {
        let mut eviction_limits = self.eviction_limits.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            RefusedData::Headers { cursor, .. } if eviction_limits.headers.admit(*cursor) => {
                let touched = self.headers.cached.iter().filter(|(key, _)| key.0 == *cursor);
                touched.for_each(|(_, entry)| entry.evict("headers"));
            }
            RefusedData::Blocks { blocks, at, .. } if eviction_limits.blocks.admit(blocks.first) => {
                let suspect = at.map_or(*blocks, |at| Span { first: at, last: at });
                let touched = self.blocks.cached.iter().filter(|(_, entry)| entry.overlaps(suspect));
                // Limited by entry as well: refusals with different first blocks may overlap the same entry.
                let now = touched.filter(|(key, _)| eviction_limits.entries.admit(**key));
                now.for_each(|(_, entry)| entry.evict("blocks"));
            }
            // A decorator that finds a batch false reports it to the source that it wraps: a cache over the
            // decorator has never seen the batch.
            RefusedData::Headers { .. } | RefusedData::Blocks { .. } | RefusedData::FalseHeaders(_) => {}
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
        /// Per body: key, map entry and pointers.
        const OVERHEAD_BYTES: usize = 256;
        let cached = Cache::builder()
            .max_capacity(config.max_bytes)
            .time_to_live(config.max_age)
            // A frequency-based admission policy would reject new batches at the tip, which all workers
            // request now, in favour of older ones that workers in catch-up request repeatedly.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(move |_, entry: &Arc<Entry<B>>| {
                let body = entry.answer.as_ref().ok().and_then(Option::as_ref).map_or(0, size);
                u32::try_from(body + OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .build();
        Self { cached, single_flight: SingleFlight::new(), kind }
    }

    /// Returns the cached answer, unless it is outdated, or that of `fetch`: one fetch for all concurrent
    /// callers.
    async fn get(
        &self,
        key: (C, usize),
        tip: Option<N>,
        is_outdated: impl Fn(&Entry<B>) -> bool + Send + 'static,
        fetch: impl Future<Output = Entry<B>> + Send + 'static,
    ) -> Result<Option<B>, Error> {
        let cached = self.cached.get(&key).await.filter(|entry| !is_outdated(entry));
        let entry = match cached {
            Some(entry) => {
                self.count(true);
                entry
            }
            None => {
                let cached = self.cached.clone();
                let fetch = async move {
                    // A fetch that was in flight before may have ended in between.
                    if let Some(entry) = cached.get(&key).await.filter(|entry| !is_outdated(entry)) {
                        return entry;
                    }
                    let entry = Arc::new(fetch.await);
                    if matches!(entry.answer, Ok(Some(_))) {
                        cached.insert(key, Arc::clone(&entry)).await;
                    }
                    entry
                };
                let (entry, new) = self.single_flight.join((key.0, key.1, tip), fetch).await;
                self.count(!new);
                entry
            }
        };
        entry.answer.as_ref().cloned().map_err(unshare)
    }

    fn count(&self, hit: bool) {
        let outcome = if hit { "hit" } else { "miss" };
        counter!(REQUESTS, "kind" => self.kind, "outcome" => outcome).increment(1);
    }
}

impl<B> Entry<B> {
    fn new(answer: Result<Option<B>, Arc<Error>>, ended_at_tip: bool) -> Self {
        Self { answer, ended_at_tip, evicted: AtomicBool::new(false) }
    }

    fn is_outdated(&self, source_grew: impl Fn(&B) -> bool) -> bool {
        match &self.answer {
            Ok(Some(batch)) => {
                self.evicted.load(Ordering::Relaxed) || self.ended_at_tip && source_grew(batch)
            }
            Ok(None) | Err(_) => true,
        }
    }

    fn evict(&self, kind: &'static str) {
        // Marked, not removed: by its key, a removal could hit the entry of a newer fetch.
        if !self.evicted.swap(true, Ordering::Relaxed) {
            counter!(EVICTIONS, "kind" => kind).increment(1);
        }
    }
}

impl Entry<BlockBatch> {
    fn overlaps(&self, suspect: Span<ParaNumber>) -> bool {
        let batch = self.answer.as_ref().ok().and_then(Option::as_ref);
        batch.is_some_and(|b| b.blocks.first <= suspect.last && suspect.first <= b.blocks.last)
    }
}

/// Copies a shared error for each caller that waited for it.
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

/// The source of a shared error, with its own sources.
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
        // Read before the fetch: compared with a tip that grew during it, a batch that ended at the old tip would
        // look as if it had been cut by the limit, and would be cached as complete.
        let tip = self.heights.borrow().relay;
        let inner = Arc::clone(&self.inner);
        let fetch = async move {
            let answer = inner.headers(cursor, max_bytes).await.map_err(Arc::new);
            // A batch that ends below the tip was cut by a set change or by the limit: it cannot grow.
            let ended_at_tip = matches!(&answer, Ok(Some(batch)) if tip <= Some(batch.relay.last));
            Entry::new(answer, ended_at_tip)
        };
        let is_outdated =
            move |entry: &Entry<HeaderBatch>| entry.is_outdated(|batch| tip > Some(batch.relay.last));
        self.headers.get((cursor, max_bytes), tip, is_outdated, fetch).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        // Read before the fetch, as in `headers`.
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

    fn refused(&self, refusal: &RefusedData) {
        self.evict(refusal);
        self.inner.refused(refusal);
    }
}
