//! A [`BlobSource`] in memory: for tests, examples, and programs that get blocks from elsewhere.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{Decode, Encode};
use tokio::sync::watch;

use super::{
    BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, Span,
    assemble::{self, BatchEnd, ChainPieces},
    range::{RangeSource, Ranges},
};
use crate::{
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::{AuthoritySet, GenesisBlockInfo, Header, StorageChanges},
};

/// The justification of a relay block, at which a header batch can end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JustifiedBlock {
    /// Its GRANDPA justification.
    pub justification: Vec<u8>,
    /// The newest parachain header in the block's state.
    pub para_head: Option<ParaNumber>,
    /// Trie nodes that prove it.
    pub proof: Vec<Vec<u8>>,
    /// The authority set in force after it, if it changes the set.
    pub next_set: Option<AuthoritySet>,
}

struct EncodedEnd {
    number: RelayNumber,
    justification: Vec<u8>,
    set_id: u64,
    para_head: Option<ParaNumber>,
    proof: Vec<u8>,
    next_set: Option<Vec<u8>>,
}

impl EncodedEnd {
    fn as_batch_end(&self) -> BatchEnd<'_> {
        BatchEnd {
            number: self.number,
            justification: &self.justification,
            set_id: self.set_id,
            para_head: self.para_head,
            proof: &self.proof,
            next_set: self.next_set.as_deref(),
        }
    }
}

#[derive(Default)]
struct Chain {
    first_relay: RelayNumber,
    /// The id of the set that justifies the next blocks.
    set_id: u64,
    relay: Vec<Vec<u8>>,
    ends: Vec<EncodedEnd>,
    /// From block 0.
    para: Vec<Vec<u8>>,
    /// From block 1.
    changes: Vec<Vec<u8>>,
}

/// Blocks in memory, pushed by the caller. Verifies nothing but their sequence.
pub struct MemorySource {
    genesis: Genesis,
    chain: RwLock<Chain>,
    heights: watch::Sender<Heights>,
}

impl std::fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySource").field("heights", &*self.heights.borrow()).finish_non_exhaustive()
    }
}

impl MemorySource {
    /// Creates a source with only a genesis. The first authority set is that of the genesis info, or set 0 if
    /// there is none.
    pub fn new(genesis: Genesis) -> Self {
        let info = GenesisBlockInfo::decode(&mut &*genesis.info).ok();
        let chain = Chain {
            first_relay: genesis.relay_number.next(),
            set_id: info.map_or(0, |info| info.authority_set.id),
            ..Chain::default()
        };
        Self { genesis, chain: RwLock::new(chain), heights: watch::Sender::default() }
    }

    /// Creates a source of `count` empty relay blocks and as many empty parachain blocks, for test doubles of
    /// workers (such as [`ScriptedWorker`](crate::pruntime::scripted::ScriptedWorker)).
    pub fn of_empty_blocks(count: u32) -> Self {
        let source = Self::new(empty_genesis(RelayNumber(0)));
        let header = |number, parent_hash| Header {
            parent_hash,
            number,
            state_root: Hash::default(),
            extrinsics_root: Hash::default(),
            digest: Vec::new(),
        };
        let mut parent = header(0, Hash::default());
        source.push_para_header(&parent);
        for number in 1..=count {
            parent = header(number, parent.hash());
            source.push_para_header(&parent);
            source.push_changes(&StorageChanges::default());
            let para_head = Some(ParaNumber(number));
            let (justification, proof) = (Vec::new(), Vec::new());
            let justified = JustifiedBlock { justification, para_head, proof, next_set: None };
            source.push_relay(&parent, Some(justified));
        }
        source.set_targets(RelayNumber(count), ParaNumber(count));
        source
    }

    /// Adds the next relay block, starting with the one after the genesis.
    ///
    /// # Panics
    /// If the header's number is not the next.
    pub fn push_relay(&self, header: &Header, justified: Option<JustifiedBlock>) {
        self.change(|chain| {
            let next = chain.first_relay.0 + chain.relay.len() as u32;
            assert_eq!(header.number, next, "relay headers come in sequence");
            chain.relay.push(header.encode());
            if let Some(justified) = justified {
                let set_id = chain.set_id;
                // The block that changes the set is still justified by the old one.
                chain.set_id = justified.next_set.as_ref().map_or(set_id, |set| set.id);
                chain.ends.push(EncodedEnd {
                    number: RelayNumber(next),
                    justification: justified.justification,
                    set_id,
                    para_head: justified.para_head,
                    proof: justified.proof.encode(),
                    next_set: justified.next_set.map(|set| set.encode()),
                });
            }
        });
    }

    /// Adds the next parachain header, starting with block 0.
    ///
    /// # Panics
    /// If the header's number is not the next.
    pub fn push_para_header(&self, header: &Header) {
        self.change(|chain| {
            assert_eq!(header.number as usize, chain.para.len(), "parachain headers come in sequence");
            chain.para.push(header.encode());
        });
    }

    /// Adds the changes of the next parachain block, starting with block 1. Its header may come later.
    pub fn push_changes(&self, changes: &StorageChanges) {
        self.change(|chain| chain.changes.push(changes.encode()));
    }

    /// Sets the chains' newest finalised blocks, which are the targets of the sync.
    pub fn set_targets(&self, relay: RelayNumber, para: ParaNumber) {
        self.heights.send_modify(|heights| {
            heights.relay_target = Some(relay);
            heights.para_target = Some(para);
        });
    }

    fn read(&self) -> RwLockReadGuard<'_, Chain> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Chain)) {
        let mut chain = self.chain.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut chain);
        let (relay, para) = chain.heights();
        // Released before watchers are notified, because they may read at once.
        drop(chain);
        self.heights.send_if_modified(|heights| {
            let before = *heights;
            heights.relay = relay;
            heights.para = para;
            heights.relay_target = heights.relay_target.max(relay);
            heights.para_target = heights.para_target.max(para);
            *heights != before
        });
    }
}

impl Chain {
    fn heights(&self) -> (Option<RelayNumber>, Option<ParaNumber>) {
        let covered =
            |end: &&EncodedEnd| end.para_head.is_none_or(|head| (head.0 as usize) < self.para.len());
        let end = self.ends.iter().rev().find(covered);
        let carried = end.and_then(|end| end.para_head);
        // Changes start with block 1, so that their number is that of the newest block.
        let held = ParaNumber(self.changes.len() as u32);
        (end.map(|end| end.number), carried.map(|head| head.min(held)))
    }
}

fn take_slices<'a>(
    items: &'a [Vec<u8>],
    base: u32,
    first: u32,
    last: u32,
    take: &mut dyn FnMut(&'a [u8]) -> bool,
) {
    // A span may begin before the first item: what is missing there is left out.
    let from = first.saturating_sub(base) as usize;
    let to = ((last + 1).saturating_sub(base) as usize).min(items.len());
    for item in items.get(from..to).unwrap_or_default() {
        if !take(item) {
            return;
        }
    }
}

impl ChainPieces for Chain {
    type Error = std::convert::Infallible;

    fn first_relay(&self) -> RelayNumber {
        self.first_relay
    }

    fn batch_ends<'a>(
        &'a self,
        from: RelayNumber,
        take: &mut dyn FnMut(BatchEnd<'a>) -> bool,
    ) -> Result<(), Self::Error> {
        let start = self.ends.partition_point(|end| end.number < from);
        for end in &self.ends[start..] {
            if !take(end.as_batch_end()) {
                break;
            }
        }
        Ok(())
    }

    fn batch_end_before<'a>(&'a self, number: RelayNumber) -> Result<Option<BatchEnd<'a>>, Self::Error> {
        let end = self.ends.partition_point(|end| end.number < number);
        Ok(self.ends[..end].last().map(EncodedEnd::as_batch_end))
    }

    fn relay_headers<'a>(
        &'a self,
        span: Span<RelayNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        take_slices(&self.relay, self.first_relay.0, span.first.0, span.last.0, take);
        Ok(())
    }

    fn para_headers<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        take_slices(&self.para, 0, span.first.0, span.last.0, take);
        Ok(())
    }

    fn para_blocks<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        for number in span.first.0 as usize..=span.last.0 as usize {
            let (Some(header), Some(changes)) = (self.para.get(number), self.changes.get(number - 1)) else {
                break;
            };
            if !take(header, changes) {
                break;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl BlobSource for MemorySource {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        Ok(self.genesis.clone())
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        assemble::headers(&*self.read(), cursor, max_bytes)
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        assemble::blocks(&*self.read(), cursor, max_bytes)
    }
}

#[async_trait]
impl RangeSource for MemorySource {
    async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, Error> {
        assemble::ranges(&*self.read(), from)
    }

    async fn headers_to(
        &self,
        cursor: HeaderCursor,
        end: RelayNumber,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, Error> {
        assemble::headers_to(&*self.read(), cursor, end, max_bytes)
    }
}

/// An empty genesis, for sources whose workers are test doubles.
pub fn empty_genesis(relay_number: RelayNumber) -> Genesis {
    Genesis {
        para_id: 2004,
        relay_number,
        relay_hash: Hash::default(),
        chain_identity: Hash::default(),
        info: Bytes::new(),
        state: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn empty_sources_have_no_batches() {
        let source = MemorySource::new(empty_genesis(RelayNumber(9)));
        let cursor = HeaderCursor { relay: RelayNumber(10), para: ParaNumber(0) };
        assert!(matches!(source.headers(cursor, 1000).await, Ok(None)));
        let blocks = BlockCursor { from: ParaNumber(1), to: ParaNumber(5) };
        assert!(matches!(source.blocks(blocks, 1000).await, Ok(None)));
        assert_eq!(*source.heights().borrow(), Heights::default());
    }
}
