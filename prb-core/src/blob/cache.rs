//! A byte-bounded cache over a [`BlobSource`]: equal cursors share one fetch and one encoding.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use metrics::counter;
use moka::future::Cache;
use tokio::sync::{OnceCell, watch};

use super::{BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights};

/// Limits of a [`CachedSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of bodies kept, of header batches and of block batches each.
    pub max_bytes: u64,
    /// How long a body is kept.
    pub max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 256 * 1024 * 1024, max_age: Duration::from_secs(1800) }
    }
}

/// What was fetched. Empty answers and failures reach those who waited for them, and nobody after.
struct Entry<B> {
    answer: Result<Option<B>, Arc<Error>>,
    /// The batch ended where the source did, so that a longer one is there once the source has grown.
    ended_at_tip: bool,
}

type Entries<C, B> = Cache<(C, usize), Arc<Entry<B>>>;

/// A [`BlobSource`] that remembers what another one answered.
pub struct CachedSource<S: ?Sized> {
    headers: Entries<HeaderCursor, HeaderBatch>,
    blocks: Entries<BlockCursor, BlockBatch>,
    genesis: OnceCell<Genesis>,
    heights: watch::Receiver<Heights>,
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
            inner,
        }
    }

    /// Bytes of bodies kept now, with what is kept beside them.
    pub async fn held_bytes(&self) -> u64 {
        self.headers.run_pending_tasks().await;
        self.blocks.run_pending_tasks().await;
        self.headers.weighted_size() + self.blocks.weighted_size()
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
    fn is_outdated(&self, source_grew: impl Fn(&B) -> bool) -> bool {
        match &self.answer {
            Ok(Some(batch)) => self.ended_at_tip && source_grew(batch),
            Ok(None) | Err(_) => true,
        }
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
            Arc::new(Entry { answer, ended_at_tip })
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
            Arc::new(Entry { answer, ended_at_tip })
        };
        let outdated = |entry: &Arc<Entry<_>>| entry.is_outdated(|batch| self.para_height_above(batch));
        let entry = self.blocks.entry((cursor, max_bytes)).or_insert_with_if(fetch, outdated).await;
        count("blocks", !entry.is_fresh());
        entry.into_value().answer.as_ref().cloned().map_err(unshare)
    }
}
