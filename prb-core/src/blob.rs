//! The seam [`BlobSource`]: verified chain data in the form that workers take as it is.
//!
//! A source answers by *cursor*: the worker says what it wants next, the source gives the longest run that
//! the worker's rules and the caller's byte limit allow. Answers are whole request bodies, so that a
//! thousand workers at one cursor cost one fetch, one encoding, and a thousand sends.
//!
//! Not for: deciding what a worker needs (that is [`crate::sync`]), or for reading on-chain state
//! ([`crate::chain`]).

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::primitives::{Hash, ParaNumber, RelayNumber};

pub mod assemble;
pub mod cache;
pub mod memory;
pub mod range;

/// How far a source has data, as the newest blocks it can give.
///
/// Both only grow while a source lives; those of a source that fetches from others fall where the best of them
/// is lost, or did not have what it claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heights {
    /// Newest relay block that a header batch can end at (a justified one).
    pub relay: Option<RelayNumber>,
    /// Newest parachain block whose header such a batch carries and whose changes are held.
    pub para: Option<ParaNumber>,
    /// Newest finalised relay block that the source's chain node knows: the target of the sync.
    pub relay_target: Option<RelayNumber>,
    /// Newest finalised parachain block that the source's chain node knows.
    pub para_target: Option<ParaNumber>,
}

/// What `InitRuntime` needs, and which chain this is.
#[derive(Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The parachain's id on the relay chain.
    pub para_id: u32,
    /// The relay block that workers start after.
    pub relay_number: RelayNumber,
    /// Hash of that relay block; a worker shows it as `genesis_block_hash`.
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

/// The next headers that a worker wants.
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

/// The next blocks that a worker can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockCursor {
    /// Next parachain block.
    pub from: ParaNumber,
    /// Last one that the worker has the header of: no block after it is given.
    pub to: ParaNumber,
}

impl fmt::Display for BlockCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {} to {}", self.from, self.to)
    }
}

/// An inclusive run of blocks.
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

/// Relay headers up to a justified one, and the parachain headers that its state vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderBatch {
    /// The relay headers in it; starts at the cursor.
    pub relay: Span<RelayNumber>,
    /// The parachain headers in it; starts at the cursor. `None` where the parachain has not advanced.
    pub para: Option<Span<ParaNumber>>,
    /// Protobuf [`CombinedHeadersToSync`](crate::prpc::CombinedHeadersToSync): the request body.
    pub body: Bytes,
}

/// Parachain blocks in sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockBatch {
    /// The blocks in it; starts at the cursor.
    pub blocks: Span<ParaNumber>,
    /// Protobuf [`Blocks`](crate::prpc::Blocks): the request body.
    pub body: Bytes,
}

/// Why a source has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is known yet: no provider found, or the first blocks are still being fetched.
    #[error("the source has no data yet")]
    NotReady,
    /// The cursor lies before the chain's start or names blocks that can never be given together.
    #[error("cursor {cursor} is not on this source's chain: {reason}")]
    BadCursor {
        /// The cursor, for people.
        cursor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The smallest possible answer is larger than the caller allows.
    #[error(
        "the smallest batch at {cursor} has at least {size_bytes} bytes, more than the {limit_bytes} allowed"
    )]
    TooLarge {
        /// The cursor, for people.
        cursor: String,
        /// Size of that answer, at least.
        size_bytes: usize,
        /// What was allowed.
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
    /// Whether the same question may be answered later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotReady | Self::Unavailable(_) | Self::Storage(_))
    }
}

/// A worker's word that it could not use what a source gave it.
///
/// One worker may be wrong itself: what is refused is suspect, not yet found bad.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A header batch, asked for at this cursor.
    Headers {
        /// Where it was asked for.
        cursor: HeaderCursor,
        /// What the worker said.
        message: String,
    },
    /// Blocks.
    Blocks {
        /// The blocks that were sent.
        blocks: Span<ParaNumber>,
        /// The one that could not be applied, where the worker says so (`StateRootMismatch block=N`).
        at: Option<ParaNumber>,
        /// What the worker said.
        message: String,
    },
}

/// Verified chain data for workers.
///
/// Implementations must give only what pRuntime accepts: a header batch ends at a justified relay header
/// of the cursor's authority set, crosses no change of set but at its last header, and carries the
/// parachain headers from the cursor's up to the newest one that the last relay header's state names.
///
/// Every method may be cancelled by dropping its future; nothing is lost but the answer.
#[async_trait]
pub trait BlobSource: Send + Sync + fmt::Debug {
    /// Heights now and whenever they grow.
    fn heights(&self) -> watch::Receiver<Heights>;

    /// What `InitRuntime` needs.
    ///
    /// # Errors
    /// [`Error::NotReady`] until the source knows its chain.
    async fn genesis(&self) -> Result<Genesis, Error>;

    /// The largest header batch at the cursor whose body has at most `max_bytes`; `None` when no batch is
    /// there yet (wait for [`heights`](Self::heights) to grow).
    ///
    /// # Errors
    /// [`Error::BadCursor`] for relay blocks before the start, [`Error::TooLarge`] where even the smallest
    /// batch does not fit.
    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error>;

    /// As many blocks from the cursor as fit into `max_bytes`, at least one; `None` when the first is not
    /// there yet.
    ///
    /// # Errors
    /// [`Error::BadCursor`] for block 0 (it is in the genesis state), [`Error::TooLarge`] where the first
    /// block alone does not fit.
    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error>;

    /// Hears that a worker refused what this source gave: a store looks at it again, a remote source suspects
    /// the provider that it came from, a cache forgets it. Returns at once; does nothing by default.
    fn refused(&self, refusal: &Refusal) {
        let _ = refusal;
    }
}
