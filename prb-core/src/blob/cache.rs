//! A byte-bounded cache over a [`BlobSource`]: equal cursors share one fetch and one encoding.
//!
//! What a worker refuses is forgotten, so that the next fetch shows whether the source has it better by then.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use metrics::counter;
use moka::future::Cache;
use tokio::sync::{OnceCell, watch};

use super::{
    BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, Refusal, Span,
};
use crate::{primitives::ParaNumber, sync::Cooldown};

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

type Entries<C, B> = Cache<(C, usize), Arc<Entry<B>>>;

/// A [`BlobSource`] that remembers what another one answered.
pub struct CachedSource<S: ?Sized> {
    headers: Entries<HeaderCursor, HeaderBatch>,
    blocks: Entries<BlockCursor, BlockBatch>,
    genesis: OnceCell<Genesis>,
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
            headers: entries(config, |batch: &HeaderBatch| batch.body.len()),
            blocks: entries(config, |batch: &BlockBatch| batch.body.len()),
            genesis: OnceCell::new(),
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
        self.headers.run_pending_tasks().await;
        self.blocks.run_pending_tasks().await;
        self.headers.weighted_size() + self.blocks.weighted_size()
    }

    fn forget(&self, refusal: &Refusal) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Refusal::Headers { cursor, .. } if recent.headers.admit(*cursor) => {
                let touched = self.headers.iter().filter(|(key, _)| key.0 == *cursor);
                touched.for_each(|(_, entry)| entry.forget("headers"));
            }
            Refusal::Blocks { blocks, at, .. } if recent.blocks.admit(blocks.first) => {
                let suspect = at.map_or(*blocks, |at| Span { first: at, last: at });
                let touched = self.blocks.iter().filter(|(_, entry)| entry.holds(suspect));
                let now = touched.filter(|(key, _)| recent.entries.admit(**key));
                now.for_each(|(_, entry)| entry.forget("blocks"));
            }
            Refusal::Headers { .. } | Refusal::Blocks { .. } => {}
        }
    }

    fn relay_height_above(&self, batch: &HeaderBatch) -> bool {
        self.heights.borrow().relay.is_some_and(|tip| tip > batch.relay.last)
    }

    fn para_height_above(&self, batch: &BlockBatch) -> bool {
        self.heights.borrow().para.is_some_and(|tip| tip > batch.blocks.last)
    }
}

fn entries<C, B>(config: Config, size: fn(&B) -> usize) -> Entries<C, B>
where
    C: std::hash::Hash + Eq + Send + Sync + 'static,
    B: Send + Sync + 'static,
{
    /// Kept beside each body: key, map and pointers.
    const OVERHEAD_BYTES: usize = 256;
    Cache::builder()
        .max_capacity(config.max_bytes)
        .time_to_live(config.max_age)
        .weigher(move |_, entry: &Arc<Entry<B>>| {
            let body = entry.answer.as_ref().ok().and_then(Option::as_ref).map_or(0, size);
            u32::try_from(body + OVERHEAD_BYTES).unwrap_or(u32::MAX)
        })
        .build()
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

fn count(kind: &'static str, hit: bool) {
    counter!("prb_blob_cache_total", "kind" => kind, "outcome" => if hit { "hit" } else { "miss" })
        .increment(1);
}

#[async_trait]
impl<S: BlobSource + ?Sized> BlobSource for CachedSource<S> {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.clone()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        self.genesis.get_or_try_init(|| self.inner.genesis()).await.cloned()
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        let fetch = async {
            let tip = self.heights.borrow().relay;
            let answer = self.inner.headers(cursor, max_bytes).await.map_err(Arc::new);
            // A batch that ends below the tip was cut by a change of set or by the limit: it cannot grow.
            let ended_at_tip = matches!(&answer, Ok(Some(batch)) if tip <= Some(batch.relay.last));
            Arc::new(Entry::new(answer, ended_at_tip))
        };
        let outdated = |entry: &Arc<Entry<_>>| entry.is_outdated(|batch| self.relay_height_above(batch));
        let entry = self.headers.entry((cursor, max_bytes)).or_insert_with_if(fetch, outdated).await;
        count("headers", !entry.is_fresh());
        entry.into_value().answer.as_ref().cloned().map_err(unshare)
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        let fetch = async {
            let tip = self.heights.borrow().para;
            let answer = self.inner.blocks(cursor, max_bytes).await.map_err(Arc::new);
            let ended_at_tip = matches!(&answer, Ok(Some(batch))
                if batch.blocks.last < cursor.to && tip <= Some(batch.blocks.last));
            Arc::new(Entry::new(answer, ended_at_tip))
        };
        let outdated = |entry: &Arc<Entry<_>>| entry.is_outdated(|batch| self.para_height_above(batch));
        let entry = self.blocks.entry((cursor, max_bytes)).or_insert_with_if(fetch, outdated).await;
        count("blocks", !entry.is_fresh());
        entry.into_value().answer.as_ref().cloned().map_err(unshare)
    }

    fn refused(&self, refusal: &Refusal) {
        self.forget(refusal);
        self.inner.refused(refusal);
    }
}
