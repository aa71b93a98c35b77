//! The seam [`BlobSource`]: verified chain data, encoded as request bodies for workers.
//!
//! A source answers by *cursor*: the worker states what it needs next, and the source returns the longest run
//! that the worker's rules and the caller's byte limit permit. Answers are complete request bodies, so that a
//! thousand workers at the same cursor cost one fetch, one encoding, and a thousand sends.
//!
//! Not for: deciding what a worker needs (see [`crate::sync`]), or reading on-chain state
//! (see [`crate::chain`]).

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::primitives::{Hash, ParaNumber, RelayNumber};

pub mod assemble;
pub mod cache;
#[cfg(feature = "testing")]
pub mod memory;
pub mod range;

/// The newest blocks that a source has data for.
///
/// Heights only grow while a source lives, with one exception: those of a source that fetches from others fall if
/// the best of them is lost, or did not have what it claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heights {
    /// Newest relay block that a header batch can end at: the newest justified block whose parachain headers, up to
    /// the head that its state names, are available as well. A newer one does not count until they are.
    pub relay: Option<RelayNumber>,
    /// Newest parachain block whose header such a batch contains and whose changes are stored: at most the head that
    /// the state of block `relay` names.
    pub para: Option<ParaNumber>,
    /// Newest finalised relay block that the source's chain node knows: the target of the sync.
    pub relay_target: Option<RelayNumber>,
    /// Newest finalised parachain block that the source's chain node knows.
    pub para_target: Option<ParaNumber>,
}

/// The data for `InitRuntime`, and the chain's identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The parachain's id on the relay chain.
    pub para_id: u32,
    /// The relay block that workers are initialised with; the first header that they sync is its child.
    pub relay_number: RelayNumber,
    /// Hash of that relay block; a worker reports it as `genesis_block_hash`.
    pub relay_hash: Hash,
    /// Hash of parachain block 1: the chain's identity among peers.
    pub chain_identity: Hash,
    /// SCALE [`GenesisBlockInfo`](crate::wire::GenesisBlockInfo).
    pub info: Bytes,
    /// SCALE `Vec<(key, value)>`: the parachain's genesis state.
    pub state: Bytes,
}

impl fmt::Debug for Genesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Genesis")
            .field("para_id", &self.para_id)
            .field("relay_number", &self.relay_number)
            .field("chain_identity", &self.chain_identity)
            .field("state_bytes", &self.state.len())
            .finish_non_exhaustive()
    }
}

/// The next headers that a worker needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderCursor {
    /// Next relay header.
    pub relay: RelayNumber,
    /// Next parachain header.
    pub para: ParaNumber,
}

impl fmt::Display for HeaderCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "headers from relay block {} and parachain block {} on", self.relay, self.para)
    }
}

/// The next blocks that a worker can accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockCursor {
    /// Next parachain block.
    pub from: ParaNumber,
    /// The last block that the worker has the header of: no block after it is returned.
    pub to: ParaNumber,
}

impl fmt::Display for BlockCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {} to {}", self.from, self.to)
    }
}

/// An inclusive range of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<N> {
    /// First block.
    pub first: N,
    /// Last block.
    pub last: N,
}

impl<N: fmt::Display> fmt::Display for Span<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// Relay headers up to a justified one, and the parachain headers that its state proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderBatch {
    /// The relay headers contained; starts at the cursor.
    pub relay: Span<RelayNumber>,
    /// The parachain headers contained; starts at the cursor. `None` if the parachain has not advanced.
    pub para: Option<Span<ParaNumber>>,
    /// Protobuf [`CombinedHeadersToSync`](crate::prpc::CombinedHeadersToSync): the request body.
    pub body: Bytes,
}

/// Consecutive parachain blocks. The example of `prb_chain::source` decodes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockBatch {
    /// The blocks contained; starts at the cursor.
    pub blocks: Span<ParaNumber>,
    /// Protobuf [`Blocks`](crate::prpc::Blocks): the request body.
    pub body: Bytes,
}

/// Why a source cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source knows nothing yet: no provider was found, or the first blocks are still being fetched.
    #[error("the source has no data yet")]
    NotReady,
    /// The cursor is before the chain's start, or is block 0.
    #[error("cursor {cursor} is not on this source's chain: {reason}")]
    BadCursor {
        /// The cursor, as text.
        cursor: String,
        /// The problem.
        reason: String,
    },
    /// The smallest possible answer exceeds the caller's limit.
    #[error(
        "the smallest batch at {cursor} has at least {size_bytes} bytes, more than the limit of {limit_bytes}"
    )]
    TooLarge {
        /// The cursor, as text.
        cursor: String,
        /// Size of that answer, or a lower bound of it.
        size_bytes: usize,
        /// The caller's limit.
        limit_bytes: usize,
    },
    /// The source cannot be reached or did not answer in time.
    #[error("the source is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Stored data cannot be read.
    #[error("the stored data cannot be read")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotReady | Self::Unavailable(_) | Self::Storage(_))
    }
}

/// A worker's report that it could not use data of a source.
///
/// A single worker may be at fault itself: refused data is suspect, not proven invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedData {
    /// A header batch, requested at this cursor.
    Headers {
        /// The cursor of the request.
        cursor: HeaderCursor,
        /// The worker's error text.
        message: String,
    },
    /// Blocks.
    Blocks {
        /// The blocks that were sent.
        blocks: Span<ParaNumber>,
        /// The block that could not be applied, if the worker names it (`StateRootMismatch block=N`).
        at: Option<ParaNumber>,
        /// The worker's error text.
        message: String,
    },
    /// A header batch that was proven false before a worker got it.
    FalseHeaders(FalseHeaders),
}

/// A header batch that does not verify: its provider is at fault.
#[derive(Clone, PartialEq, Eq)]
pub struct FalseHeaders {
    /// The cursor of the request.
    pub cursor: HeaderCursor,
    /// The batch's body, by which a remote source finds the provider that returned it.
    pub body: Bytes,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Debug for FalseHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FalseHeaders")
            .field("cursor", &self.cursor)
            .field("body_bytes", &self.body.len())
            .field("reason", &self.reason)
            .finish()
    }
}

/// Verified chain data for workers.
///
/// Implementations must return only what pRuntime accepts: a header batch ends at a justified relay header
/// of the cursor's authority set, crosses no change of set except at its last header, and contains the
/// parachain headers from the cursor's up to the newest one in the last relay header's state.
///
/// Every method may be cancelled by dropping its future; only the answer is lost.
///
/// A source with its own encoded blocks builds batches with [`assemble`]: see [`RangeSource`](range::RangeSource)
/// for an example. A source that is served to peers (`prb_walkie::blob`) must implement that trait as well.
///
/// # Examples
///
/// A minimal implementation:
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::blob::{BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights};
/// use tokio::sync::watch;
///
/// /// Knows the genesis, but has no blocks yet.
/// #[derive(Debug)]
/// struct Empty {
///     genesis: Genesis,
///     heights: watch::Sender<Heights>,
/// }
///
/// #[async_trait]
/// impl BlobSource for Empty {
///     fn heights(&self) -> watch::Receiver<Heights> {
///         self.heights.subscribe()
///     }
///
///     async fn genesis(&self) -> Result<Genesis, Error> {
///         Ok(self.genesis.clone())
///     }
///
///     async fn headers(&self, _: HeaderCursor, _max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
///         Ok(None)
///     }
///
///     async fn blocks(&self, _: BlockCursor, _max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
///         Ok(None)
///     }
/// }
/// ```
///
/// A decorator forwards every method, also those with a default: without `refused`, the sources below evict nothing,
/// check nothing again and suspend no provider. It returns bodies unchanged, because the provider of a false batch is
/// found by the body's length and checksum:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use async_trait::async_trait;
/// use bytes::Bytes;
/// use prb_core::blob::{
///     BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
/// };
/// use tokio::sync::watch;
///
/// /// Counts the bytes of the batches that a source returns.
/// #[derive(Debug)]
/// struct Counted<S> {
///     inner: S,
///     bytes: AtomicU64,
/// }
///
/// impl<S> Counted<S> {
///     fn add(&self, body: &Bytes) {
///         self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
///     }
/// }
///
/// #[async_trait]
/// impl<S: BlobSource> BlobSource for Counted<S> {
///     fn heights(&self) -> watch::Receiver<Heights> {
///         self.inner.heights()
///     }
///
///     async fn genesis(&self) -> Result<Genesis, Error> {
///         self.inner.genesis().await
///     }
///
///     async fn headers(&self, at: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
///         let batch = self.inner.headers(at, max_bytes).await?;
///         Ok(batch.inspect(|batch| self.add(&batch.body)))
///     }
///
///     async fn blocks(&self, at: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
///         let batch = self.inner.blocks(at, max_bytes).await?;
///         Ok(batch.inspect(|batch| self.add(&batch.body)))
///     }
///
///     fn refused(&self, refusal: &RefusedData) {
///         self.inner.refused(refusal);
///     }
/// }
/// ```
#[async_trait]
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// The current heights, as a watch.
    ///
    /// Copy what it borrows before calling anything else: the fleet reads the same watch, and a second read waits for a
    /// writer that waits for the end of the first one.
    fn heights(&self) -> watch::Receiver<Heights>;

    /// Returns the data for `InitRuntime`.
    ///
    /// # Errors
    /// [`Error::NotReady`] until the source knows its chain, [`Error::Unavailable`], [`Error::Storage`].
    async fn genesis(&self) -> Result<Genesis, Error>;

    /// Returns the largest header batch at the cursor whose body has at most `max_bytes`; `None` if there is no
    /// batch yet (wait for [`heights`](Self::heights) to grow).
    ///
    /// # Errors
    /// [`Error::BadCursor`] for relay blocks before the start, [`Error::TooLarge`] if even the smallest
    /// batch exceeds the limit, [`Error::NotReady`], [`Error::Unavailable`], [`Error::Storage`].
    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error>;

    /// Returns as many blocks from the cursor as fit into `max_bytes`, at least one; `None` if the first is not
    /// available yet, or is after [`BlockCursor::to`].
    ///
    /// # Errors
    /// [`Error::BadCursor`] for block 0 (it is in the genesis state), [`Error::TooLarge`] if the first
    /// block alone exceeds the limit, [`Error::NotReady`], [`Error::Unavailable`], [`Error::Storage`].
    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error>;

    /// Reports that a worker refused data of this source: a store verifies it again, a remote source suspects
    /// the provider that it came from, a cache evicts it. Returns at once; does nothing by default.
    fn refused(&self, refusal: &RefusedData) {
        // A source that cannot fetch the data again has no use for the report.
        let _ = refusal;
    }
}
