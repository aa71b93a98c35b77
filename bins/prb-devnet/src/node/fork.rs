//! Blocks that lose their place in the chain.

use std::sync::Arc;

use sp_core::H256;

use super::{Node, ledger::Block};

/// What becomes of a transaction whose block is retracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retracted {
    /// It goes back into the pool and into one of the next blocks, as far as it is still valid.
    Pooled,
    /// The pool has no room for it and never speaks of it again.
    Lost,
}

impl Node {
    /// Takes away the blocks after `last`; they are still known by their hashes.
    pub(crate) fn retract(&self, last: u32, fate: Retracted) {
        let retracted = self.ledger.write().retract(last);
        let mut pool = self.pool.lock();
        // The newest first, as a node walks back to the fork.
        for block in retracted.iter().rev() {
            for silent in pool.retracted(block.hash, fate) {
                self.server.keep_open(silent);
            }
        }
        self.best.send_replace(last);
    }

    /// Returns a block of the chain, or one that lost its place in it.
    pub(crate) fn block_by_hash(&self, hash: H256) -> Option<Arc<Block>> {
        self.ledger.read().by_hash(&hash)
    }
}
