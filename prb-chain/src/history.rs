//! The seam [`HistorySource`]: past blocks from elsewhere than the chains' nodes.
//!
//! Nodes are asked by [`crate::ingest`], several at once and each by what it is able to do. Whatever else has
//! blocks implements this trait: an archive on disk or over HTTP ([`archive`]), a headers cache over HTTP
//! ([`headers_cache`]), another data provider ([`blobs`]). Nothing that a source gives is believed: [`Replay`] puts
//! it through the checks that nodes' answers pass before it is stored, names the source of what fails them, and
//! goes on with the next one.
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
//!
//! Which relay block workers start after is the word of whoever gives it. Where there are nodes, theirs counts,
//! and a source of another chain is refused; without nodes it is the first source's, checked as far as it can be
//! ([`Start`]'s authorities by proof, the parachain's genesis state by its root).

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

#[expect(unused_imports, reason = "for the documentation")]
use crate::verify::Start;

/// Relay headers in sequence, up to a justified one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Encoded headers; the last one is justified.
    pub headers: Vec<Vec<u8>>,
    /// GRANDPA justification of the last one.
    pub justification: Vec<u8>,
    /// Trie nodes under the last one's state root that prove the parachain's head and, where it ends its
    /// authority set, the next one.
    pub proof: Vec<Vec<u8>>,
}

/// What is to come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The next relay header.
    pub relay: RelayNumber,
    /// The parachain head that the relay block before it names; 0 where there is none. Sources that prove heads
    /// only along with new headers start there.
    pub head: ParaNumber,
}

/// The newest blocks that a source says it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Newest justified relay block.
    pub relay: Option<RelayNumber>,
    /// Newest parachain block.
    pub para: Option<ParaNumber>,
}

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be reached or read at the moment.
    #[error("{what}")]
    Unavailable {
        /// What failed.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it has is damaged, or is not what it should be.
    #[error("{0}")]
    Bad(String),
}

/// Blocks of the past, not verified yet.
///
/// Answers start at the block that was asked for, without gaps; an empty one says that the source does not have
/// that block (yet). How much an answer has is the source's choice, within memory that it bounds itself.
///
/// Every method may be cancelled by dropping its future; nothing is lost but the answer.
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
    /// What it is and where, without secrets: for messages.
    fn name(&self) -> &str;

    /// How far it has blocks, as far as it knows.
    fn extent(&self) -> Extent;

    /// The start of the chains; none where it does not have it.
    ///
    /// # Errors
    /// See [`Error`].
    async fn genesis(&self) -> Result<Option<Genesis>, Error>;

    /// Relay headers from `next` on, one piece after the other.
    ///
    /// # Errors
    /// See [`Error`].
    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error>;

    /// Encoded parachain headers from the span's first on, and none after its last.
    ///
    /// # Errors
    /// See [`Error`].
    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error>;

    /// SCALE storage changes of blocks from the span's first on, and none after its last.
    ///
    /// # Errors
    /// See [`Error`].
    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error>;
}
