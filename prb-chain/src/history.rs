//! The seam [`HistorySource`]: past blocks from sources other than the chains' nodes.
//!
//! Nodes are asked by [`crate::ingest`], several at once, according to their capabilities. Other sources of blocks
//! implement this trait: an archive on disk or over HTTP ([`archive`]), a headers cache over HTTP
//! ([`headers_cache`]), another data provider ([`blobs`]). No source is trusted: [`Replay`] verifies all data like
//! nodes' answers before it is stored, names the source of invalid data, and continues with the next source.
//!
//! ```text
//!  archive  headers cache  data provider            relay and parachain nodes
//!     └─────────┬─────────────┘                              │
//!        HistorySource                                       │
//!               ▼                                            ▼
//!            Replay ───────────► verify ◄──────────────── Ingest
//!                                   ▼
//!                                 Store
//! ```
//! The relay block that workers start after cannot be proven. If there are nodes, they determine it, and
//! sources of another chain are refused; without nodes the first source determines it, checked as far as possible
//! (its authorities by proof, the parachain's genesis state by its root).

use std::fmt;

use async_trait::async_trait;
use prb_core::{
    blob::{Genesis, Span},
    primitives::{ParaNumber, RelayNumber},
};

pub mod archive;
pub mod blobs;
pub mod headers_cache;
mod http;
pub(crate) mod memory;
mod replay;

pub use replay::{Config, Fault, Replay, ReplayOutcome};

/// Consecutive relay headers up to a justified one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Encoded headers; the last one is justified.
    pub headers: Vec<Vec<u8>>,
    /// GRANDPA justification of the last one.
    pub justification: Vec<u8>,
    /// Trie nodes under the last header's state root that prove the parachain's head and, if it ends its
    /// authority set, the next set.
    pub proof: Vec<Vec<u8>>,
}

/// The position to continue at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The next relay header.
    pub relay: RelayNumber,
    /// The parachain head that the previous relay block names; 0 if there is none. Sources that prove heads only
    /// along with new headers start there.
    pub head: ParaNumber,
}

/// The newest blocks that a source claims to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Newest justified relay block.
    pub relay: Option<RelayNumber>,
    /// Newest parachain block.
    pub para: Option<ParaNumber>,
}

/// Why a source returned no blocks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be reached or read at the moment.
    #[error("{what}")]
    Unavailable {
        /// What failed.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its data is damaged or wrong.
    #[error("{0}")]
    Bad(String),
}

/// Past blocks, not verified yet.
///
/// Answers start at the requested block and have no gaps; an empty answer means that the source does not have
/// that block (yet). The size of an answer is the source's choice, within its own memory bounds.
///
/// All methods are cancel safe: only the answer is lost.
///
/// A source that has the storage changes of the parachain's first blocks, and nothing else:
///
/// ```
/// use async_trait::async_trait;
/// use prb_chain::history::{Error, Extent, HistorySource, Next, Piece};
/// use prb_core::{blob::{Genesis, Span}, primitives::ParaNumber};
///
/// /// Encoded storage changes of blocks 1, 2, …
/// #[derive(Debug)]
/// struct Changes(Vec<Vec<u8>>);
///
/// #[async_trait]
/// impl HistorySource for Changes {
///     fn name(&self) -> &str {
///         "changes in memory"
///     }
///
///     fn extent(&self) -> Extent {
///         Extent { relay: None, para: Some(ParaNumber(self.0.len() as u32)) }
///     }
///
///     async fn genesis(&self) -> Result<Option<Genesis>, Error> {
///         Ok(None)
///     }
///
///     async fn relay(&self, _next: Next) -> Result<Vec<Piece>, Error> {
///         Ok(Vec::new())
///     }
///
///     async fn para_headers(&self, _span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
///         Ok(Vec::new())
///     }
///
///     async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
///         let (skip, end) = (span.first.0.saturating_sub(1) as usize, span.last.0 as usize);
///         Ok(self.0.iter().take(end).skip(skip).cloned().collect())
///     }
/// }
/// ```
#[async_trait]
pub trait HistorySource: Send + Sync + fmt::Debug {
    /// The kind and place of the source, without secrets, for messages.
    fn name(&self) -> &str;

    /// The newest blocks, as far as known.
    fn extent(&self) -> Extent;

    /// Returns the start of the chains, if the source has it.
    ///
    /// # Errors
    /// See [`Error`].
    async fn genesis(&self) -> Result<Option<Genesis>, Error>;

    /// Returns consecutive pieces of relay headers from `next` on.
    ///
    /// # Errors
    /// See [`Error`].
    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error>;

    /// Returns encoded parachain headers from the span's first on, none beyond its last.
    ///
    /// # Errors
    /// See [`Error`].
    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error>;

    /// Returns SCALE storage changes of blocks from the span's first on, none beyond its last.
    ///
    /// # Errors
    /// See [`Error`].
    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error>;
}
