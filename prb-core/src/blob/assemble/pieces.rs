//! The encoded pieces that batches are assembled from.

use crate::{
    blob::Span,
    primitives::{ParaNumber, RelayNumber},
};

/// A justified relay block, at which a header batch can end.
#[derive(Clone, Copy, Debug)]
pub struct BatchEnd<'a> {
    /// Its number.
    pub number: RelayNumber,
    /// Its GRANDPA justification.
    pub justification: &'a [u8],
    /// The id of the authority set that signed it: the one in force before this block's own `next_set`.
    pub set_id: u64,
    /// The newest parachain header in its state.
    pub para_head: Option<ParaNumber>,
    /// SCALE `Vec<Vec<u8>>`: trie nodes that prove it, and the authorities if the set changes.
    pub proof: &'a [u8],
    /// SCALE [`AuthoritySet`](crate::wire::AuthoritySet) in force after it, if it changes the set.
    pub next_set: Option<&'a [u8]>,
}

/// The encoded pieces of a chain at one moment, from which [`headers`](super::headers),
/// [`headers_to`](super::headers_to), [`ranges`](super::ranges) and [`blocks`](super::blocks) assemble the
/// answers of a source.
///
/// Spans are iterated from their first block on and without gaps; they end where the view's blocks end. A method
/// stops when `take` returns false. Over blocks in lists, relay blocks from 1 and parachain blocks from 0:
///
/// ```
/// use std::convert::Infallible;
/// use prb_core::{
///     blob::{BlockCursor, Span, assemble::{self, BatchEnd, ChainPieces}},
///     primitives::{ParaNumber, RelayNumber},
/// };
///
/// struct Blocks {
///     relay: Vec<Vec<u8>>,
///     /// Justified relay blocks: number, justification, newest parachain header, proof.
///     justified: Vec<(u32, Vec<u8>, u32, Vec<u8>)>,
///     /// Header and storage changes.
///     para: Vec<(Vec<u8>, Vec<u8>)>,
/// }
///
/// fn end((number, justification, head, proof): &(u32, Vec<u8>, u32, Vec<u8>)) -> BatchEnd<'_> {
///     let (number, para_head) = (RelayNumber(*number), Some(ParaNumber(*head)));
///     // This chain never changes its authority set.
///     BatchEnd { number, justification, set_id: 0, para_head, proof, next_set: None }
/// }
///
/// impl ChainPieces for Blocks {
///     type Error = Infallible;
///     fn first_relay(&self) -> RelayNumber {
///         RelayNumber(1)
///     }
///     fn batch_ends<'a>(&'a self, from: RelayNumber, take: &mut dyn FnMut(BatchEnd<'a>) -> bool) -> Result<(), Infallible> {
///         self.justified.iter().filter(|block| block.0 >= from.0).all(|block| take(end(block)));
///         Ok(())
///     }
///     fn batch_end_before<'a>(&'a self, number: RelayNumber) -> Result<Option<BatchEnd<'a>>, Infallible> {
///         Ok(self.justified.iter().rfind(|block| block.0 < number.0).map(end))
///     }
///     fn relay_headers<'a>(&'a self, of: Span<RelayNumber>, take: &mut dyn FnMut(&'a [u8]) -> bool) -> Result<(), Infallible> {
///         (of.first.0..=of.last.0).map_while(|n| self.relay.get(n as usize - 1)).all(|header| take(header));
///         Ok(())
///     }
///     fn para_headers<'a>(&'a self, of: Span<ParaNumber>, take: &mut dyn FnMut(&'a [u8]) -> bool) -> Result<(), Infallible> {
///         (of.first.0..=of.last.0).map_while(|n| self.para.get(n as usize)).all(|(header, _)| take(header));
///         Ok(())
///     }
///     fn para_blocks<'a>(
///         &'a self,
///         of: Span<ParaNumber>,
///         take: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
///     ) -> Result<(), Infallible> {
///         (of.first.0..=of.last.0).map_while(|n| self.para.get(n as usize)).all(|(header, changes)| take(header, changes));
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), prb_core::blob::Error> {
/// let block = (vec![1; 100], vec![2; 50]);
/// let chain = Blocks { relay: Vec::new(), justified: Vec::new(), para: vec![block; 4] };
/// let batch = assemble::blocks(&chain, BlockCursor { from: ParaNumber(1), to: ParaNumber(9) }, 400)?;
/// assert_eq!(batch.map(|batch| batch.blocks), Some(Span { first: ParaNumber(1), last: ParaNumber(2) }));
/// # Ok(())
/// # }
/// ```
pub trait ChainPieces {
    /// Why a piece cannot be read.
    type Error: Into<Box<dyn std::error::Error + Send + Sync>>;

    /// The first relay header that a worker needs: the child of the genesis's relay block
    /// ([`Genesis::relay_number`](crate::blob::Genesis::relay_number)). Cursors before it are refused.
    fn first_relay(&self) -> RelayNumber;

    /// Calls `take` with each batch end from `from` on, that block included, in order, until it returns false.
    ///
    /// # Errors
    /// If the pieces cannot be read.
    fn batch_ends<'a>(
        &'a self,
        from: RelayNumber,
        take: &mut dyn FnMut(BatchEnd<'a>) -> bool,
    ) -> Result<(), Self::Error>;

    /// Returns the newest batch end strictly before a relay block, which may be in an earlier authority set. Only
    /// [`ranges`](super::ranges) calls it: its parachain head is where the parachain headers of the next range begin.
    ///
    /// # Errors
    /// If the pieces cannot be read.
    fn batch_end_before<'a>(&'a self, number: RelayNumber) -> Result<Option<BatchEnd<'a>>, Self::Error>;

    /// Calls `take` with each relay header of the span until it returns false: SCALE
    /// [`Header`](crate::wire::Header), from [`first_relay`](Self::first_relay) on.
    ///
    /// # Errors
    /// If the pieces cannot be read.
    fn relay_headers<'a>(
        &'a self,
        span: Span<RelayNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error>;

    /// Calls `take` with each parachain header of the span until it returns false: SCALE
    /// [`Header`](crate::wire::Header), from block 0 on, which a worker's first batch contains.
    ///
    /// # Errors
    /// If the pieces cannot be read.
    fn para_headers<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error>;

    /// Calls `take` with header and storage changes of each block of the span until it returns false: SCALE
    /// [`Header`](crate::wire::Header) and SCALE [`StorageChanges`](crate::wire::StorageChanges), from block 1 on.
    ///
    /// # Errors
    /// If the pieces cannot be read.
    fn para_blocks<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) -> Result<(), Self::Error>;
}
