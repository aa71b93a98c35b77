//! Retraction of blocks.

use std::sync::Arc;

use sp_core::H256;

use super::{Node, ledger::Block};

/// What happens to a transaction whose block is retracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retracted {
    /// It returns to the pool and is included in a later block, if it is still valid.
    Pooled,
    /// The pool drops it silently.
    Lost,
}

impl Node {
    /// Retracts the blocks after `last`; they are still known by their hashes.
    pub(crate) fn retract(&self, last: u32, outcome: Retracted) {
        let retracted = self.ledger.write().retract(last);
        let mut pool = self.pool.lock();
        // Newest first, as a node walks back to the fork.
        for block in retracted.iter().rev() {
            for silent in pool.retracted(block.hash, outcome) {
                self.server.keep_open(silent);
            }
        }
        // Subscribers see a lower best block until the replacements are authored, as on a real fork.
        self.best.send_replace(last);
    }

    /// Returns a block of the chain, or a retracted one.
    pub(crate) fn block_by_hash(&self, hash: H256) -> Option<Arc<Block>> {
        self.ledger.read().by_hash(&hash)
    }
}
