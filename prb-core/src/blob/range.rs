//! The seam [`RangeSource`]: the division of a source's chain into ranges, for peers that request by range.
//!
//! Providers of the original bridge store fixed ranges and name blobs after them; a source that knows where
//! ranges end can serve those names from blocks that it stores once.
//!
//! Not for: workers' batches, which are requested by cursor (see [`BlobSource`]).

use async_trait::async_trait;

use super::{BlobSource, Error, HeaderBatch, HeaderCursor, Span};
use crate::primitives::{ParaNumber, RelayNumber};

/// A run of relay headers that a worker can be sent at once, and the parachain headers that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The relay headers; the last one is justified.
    pub relay: Span<RelayNumber>,
    /// The parachain headers that the last relay header proves, starting after those that a justified header
    /// before the range is known to prove. `None` if the parachain has not advanced.
    ///
    /// Sources drop justifications of past authority sets, so that the span may begin earlier than it once
    /// did: pRuntime skips headers that it has.
    pub para: Option<Span<ParaNumber>>,
    /// The authority set that justifies the last header.
    pub set_id: u64,
    /// Whether the next set takes over after the last header: the range will never be longer.
    pub ends_set: bool,
}

/// The ranges that begin at a relay header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Ends at the next justified header.
    pub shortest: Range,
    /// Ends at the last header of the authority set, as far as the source has it: the longest batch
    /// available.
    pub longest: Range,
}

/// A [`BlobSource`] that knows the ranges of its chain.
///
/// A source with its own encoded blocks implements both traits with [`assemble`](super::assemble):
///
/// ```
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use prb_core::{
///     blob::{
///         BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights,
///         assemble::{self, ChainPieces},
///         range::{RangeSource, Ranges},
///     },
///     primitives::RelayNumber,
/// };
/// use tokio::sync::watch;
///
/// # #[derive(Debug)]
/// struct Source<V> {
///     view: Arc<V>,
///     genesis: Genesis,
///     heights: watch::Sender<Heights>,
/// }
///
/// #[async_trait]
/// impl<V: ChainPieces + Send + Sync + std::fmt::Debug> BlobSource for Source<V> {
///     fn heights(&self) -> watch::Receiver<Heights> {
///         self.heights.subscribe()
///     }
///
///     async fn genesis(&self) -> Result<Genesis, Error> {
///         Ok(self.genesis.clone())
///     }
///
///     async fn headers(&self, at: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
///         assemble::headers(&*self.view, at, max_bytes)
///     }
///
///     async fn blocks(&self, at: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
///         assemble::blocks(&*self.view, at, max_bytes)
///     }
/// }
///
/// #[async_trait]
/// impl<V: ChainPieces + Send + Sync + std::fmt::Debug> RangeSource for Source<V> {
///     async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, Error> {
///         assemble::ranges(&*self.view, from)
///     }
///
///     async fn headers_to(
///         &self,
///         at: HeaderCursor,
///         end: RelayNumber,
///         max_bytes: usize,
///     ) -> Result<Option<HeaderBatch>, Error> {
///         assemble::headers_to(&*self.view, at, end, max_bytes)
///     }
/// }
/// ```
#[async_trait]
pub trait RangeSource: BlobSource {
    /// Returns the ranges that begin at a relay header; `None` if there are none yet.
    ///
    /// # Errors
    /// [`Error::BadCursor`] for relay blocks before the start, [`Error::NotReady`] before the start is known,
    /// [`Error::Unavailable`], [`Error::Storage`].
    ///
    /// # Cancel safety
    /// Safe: only the answer is lost.
    async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, Error>;

    /// Returns the header batch at the cursor that ends at this relay header, or at the next justified one if
    /// the source has dropped its justification. `None` if there is none in the cursor's authority set.
    ///
    /// # Errors
    /// [`Error::BadCursor`] for relay blocks before the start, [`Error::TooLarge`] if that batch exceeds the limit,
    /// [`Error::NotReady`], [`Error::Unavailable`], [`Error::Storage`].
    ///
    /// # Cancel safety
    /// Safe: only the answer is lost.
    async fn headers_to(
        &self,
        cursor: HeaderCursor,
        end: RelayNumber,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, Error>;
}
