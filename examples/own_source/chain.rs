//! The exported blocks, as a `ChainPieces` that batches are assembled from.
use std::{convert::Infallible, ops::RangeInclusive};

use prb_core::blob::Span;
use prb_core::blob::assemble::{BatchEnd, ChainPieces};
use prb_core::primitives::{ParaNumber, RelayNumber};

/// A justified relay block; the fields are those of [`BatchEnd`].
pub(crate) struct JustifiedBlock {
    pub(crate) number: u32,
    pub(crate) justification: Vec<u8>,
    pub(crate) set_id: u64,
    pub(crate) para_head: Option<ParaNumber>,
    pub(crate) proof: Vec<u8>,
    pub(crate) next_set: Option<Vec<u8>>,
}

/// SCALE-encoded as nodes serve it, already verified, and without gaps.
pub(crate) struct Chain {
    pub(crate) first_relay: u32,
    pub(crate) relay: Vec<Vec<u8>>,
    pub(crate) justified: Vec<JustifiedBlock>,
    /// Headers and storage changes, from block 0 on.
    pub(crate) para: Vec<(Vec<u8>, Vec<u8>)>,
}

impl JustifiedBlock {
    fn as_batch_end(&self) -> BatchEnd<'_> {
        let Self { number, justification, set_id, para_head, proof, next_set } = self;
        let (number, next_set) = (RelayNumber(*number), next_set.as_deref());
        BatchEnd { number, justification, set_id: *set_id, para_head: *para_head, proof, next_set }
    }
}

/// The items of `span`, where the first item is that of block `base`; fewer at the end of the chain.
fn run<T>(items: &[T], base: u32, span: RangeInclusive<u32>) -> &[T] {
    let from = span.start().saturating_sub(base) as usize;
    let end = ((span.end() + 1).saturating_sub(base) as usize).min(items.len());
    items.get(from..end).unwrap_or_default()
}

type Take<'t, T> = &'t mut dyn FnMut(T) -> bool;
type Taken = Result<(), Infallible>;

impl ChainPieces for Chain {
    type Error = Infallible;

    fn first_relay(&self) -> RelayNumber {
        RelayNumber(self.first_relay)
    }
    fn batch_ends<'a>(&'a self, from: RelayNumber, take: Take<'_, BatchEnd<'a>>) -> Taken {
        let _ = self
            .justified
            .iter()
            .filter(|block| block.number >= from.0)
            .all(|block| take(block.as_batch_end()));
        Ok(())
    }
    fn batch_end_before<'a>(&'a self, number: RelayNumber) -> Result<Option<BatchEnd<'a>>, Infallible> {
        Ok(self.justified.iter().rfind(|block| block.number < number.0).map(JustifiedBlock::as_batch_end))
    }
    fn relay_headers<'a>(&'a self, of: Span<RelayNumber>, take: Take<'_, &'a [u8]>) -> Taken {
        let _ = run(&self.relay, self.first_relay, of.first.0..=of.last.0).iter().all(|header| take(header));
        Ok(())
    }
    fn para_headers<'a>(&'a self, of: Span<ParaNumber>, take: Take<'_, &'a [u8]>) -> Taken {
        let _ = run(&self.para, 0, of.first.0..=of.last.0).iter().all(|(header, _)| take(header));
        Ok(())
    }
    fn para_blocks<'a>(
        &'a self,
        of: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) -> Taken {
        let blocks = run(&self.para, 0, of.first.0..=of.last.0);
        let _ = blocks.iter().all(|(header, changes)| take(header, changes));
        Ok(())
    }
}
