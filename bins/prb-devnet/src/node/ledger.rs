//! The blocks of a chain, including retracted ones.

use std::{collections::HashMap, sync::Arc};

use codec::{Decode, Encode};
use prb_devnet_runtime::Header;
use sp_core::H256;

/// A list of changed keys with their new values.
pub type StorageCollection = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A block's changes of the state, in the SCALE layout that workers accept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct StorageChanges {
    /// The main trie's changes.
    pub main: StorageCollection,
    /// The child tries' changes.
    pub child: Vec<(Vec<u8>, StorageCollection)>,
}

/// A block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) hash: H256,
    pub(crate) header: Header,
    /// Encoded extrinsics, each with its length prefix.
    pub(crate) body: Vec<Vec<u8>>,
    pub(crate) changes: StorageChanges,
}

/// The blocks of a chain.
#[derive(Debug)]
pub(crate) struct Ledger {
    blocks: Vec<Arc<Block>>,
    numbers: HashMap<H256, u32>,
    /// Retracted blocks.
    stale: HashMap<H256, Arc<Block>>,
    finalized: u32,
    /// Justifications stored with blocks.
    justifications: HashMap<u32, Vec<u8>>,
    /// The newest justification and its block.
    best_justification: Option<(u32, Vec<u8>)>,
    /// The last block of each past authority set.
    set_ends: Vec<u32>,
}

impl Ledger {
    pub(crate) fn new(genesis: Block) -> Self {
        Self {
            numbers: HashMap::from([(genesis.hash, 0)]),
            blocks: vec![Arc::new(genesis)],
            stale: HashMap::new(),
            finalized: 0,
            justifications: HashMap::new(),
            best_justification: None,
            set_ends: Vec::new(),
        }
    }

    pub(crate) fn best(&self) -> u32 {
        u32::try_from(self.blocks.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn finalized(&self) -> u32 {
        self.finalized
    }

    pub(crate) fn block(&self, number: u32) -> Option<Arc<Block>> {
        self.blocks.get(number as usize).cloned()
    }

    pub(crate) fn number(&self, hash: &H256) -> Option<u32> {
        self.numbers.get(hash).copied()
    }

    pub(crate) fn by_hash(&self, hash: &H256) -> Option<Arc<Block>> {
        self.number(hash).and_then(|number| self.block(number)).or_else(|| self.stale.get(hash).cloned())
    }

    /// Retracts the blocks after `last`, but never final ones.
    pub(crate) fn retract(&mut self, last: u32) -> Vec<Arc<Block>> {
        let retracted = self.blocks.split_off(last.max(self.finalized) as usize + 1);
        for block in &retracted {
            self.numbers.remove(&block.hash);
            // Real nodes answer queries by the hash of a retracted block until it is pruned.
            self.stale.insert(block.hash, Arc::clone(block));
        }
        retracted
    }

    pub(crate) fn push(&mut self, block: Block) {
        self.numbers.insert(block.hash, block.header.number);
        self.blocks.push(Arc::new(block));
    }

    pub(crate) fn finalize(&mut self, number: u32) {
        self.finalized = self.finalized.max(number);
    }

    /// Records a finalised block's justification; the newest one is always kept.
    pub(crate) fn justify(&mut self, number: u32, justification: Vec<u8>, keep: bool, ends_set: bool) {
        if ends_set {
            self.set_ends.push(number);
        }
        if keep || ends_set {
            self.justifications.insert(number, justification.clone());
        }
        self.best_justification = Some((number, justification));
        self.finalize(number);
    }

    /// Ends the current set at the newest justified block, because the next block forces a change of authorities.
    pub(crate) fn end_set(&mut self) {
        if let Some((number, justification)) = self.best_justification.clone() {
            self.set_ends.push(number);
            self.justifications.insert(number, justification);
        }
    }

    pub(crate) fn justification(&self, number: u32) -> Option<Vec<u8>> {
        self.justifications.get(&number).cloned()
    }

    pub(crate) fn best_justification(&self) -> Option<(u32, Vec<u8>)> {
        self.best_justification.clone()
    }

    /// Returns the last block of a block's set; `None` for the current set.
    pub(crate) fn set_end(&self, number: u32) -> Option<u32> {
        // A set's last block belongs to that set, hence `<`.
        let index = self.set_ends.partition_point(|end| *end < number);
        self.set_ends.get(index).copied()
    }
}
