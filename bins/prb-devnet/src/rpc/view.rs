//! The chain as shown by the node's RPC, with its faults.

use std::sync::Arc;

use jsonrpsee::{Extensions, types::ErrorObjectOwned};
use prb_devnet_runtime::Header;
use sp_consensus_grandpa::GRANDPA_ENGINE_ID;
use sp_core::H256;

use super::{Answer, error};
use crate::{
    Error,
    node::{Node, ProofFault, StorageChanges, finality, ledger::Block, state::State},
};

const CLIENT_ERROR: i32 = 4001;
/// The code of real nodes' answers about a pruned state.
const STATE_ERROR: i32 = 4003;

/// The chain as shown by the node's RPC.
pub(super) struct View<'a> {
    pub(super) node: &'a Arc<Node>,
    /// Number of blocks by which the answering backend lags.
    behind: u32,
}

/// Number of blocks by which the backend of a request lags.
#[derive(Clone, Copy)]
pub(super) struct Behind(pub(super) u32);

impl<'a> View<'a> {
    pub(super) fn new(node: &'a Arc<Node>) -> Self {
        Self { node, behind: 0 }
    }

    /// The view of the backend that handles a request.
    pub(super) fn of(node: &'a Arc<Node>, extensions: &Extensions) -> Self {
        Self { node, behind: extensions.get::<Behind>().map_or(0, |behind| behind.0) }
    }

    fn cap(&self, number: u32) -> u32 {
        // Both faults may be set: the older view counts.
        let number = number.saturating_sub(self.behind);
        self.node.faults().frozen_at().map_or(number, |frozen| frozen.min(number))
    }

    pub(super) fn best(&self) -> u32 {
        self.cap(self.node.best_number())
    }

    pub(super) fn finalized(&self) -> u32 {
        self.cap(self.node.finalized_number())
    }

    pub(super) fn block(&self, number: u32) -> Option<Arc<Block>> {
        self.node.block(number).filter(|block| block.header.number <= self.best())
    }

    pub(super) fn block_by_hash(&self, hash: H256) -> Option<Arc<Block>> {
        self.node.block_by_hash(hash).filter(|block| block.header.number <= self.best())
    }

    /// Returns the requested block, or the best one.
    pub(super) fn block_or_best(&self, hash: Option<H256>) -> Answer<Arc<Block>> {
        let block = match hash {
            Some(hash) => self.block_by_hash(hash),
            None => self.block(self.best()),
        };
        block.ok_or_else(|| unknown(hash.unwrap_or_default()))
    }

    /// Returns the state of the requested block, or of the best one.
    pub(super) fn state(&self, hash: Option<H256>) -> Answer<State> {
        let block = self.block_or_best(hash)?;
        self.check_pruned(&block)?;
        self.node.state_at(block.hash).map_err(client)
    }

    /// Refuses a block whose state is pruned.
    pub(super) fn check_pruned(&self, block: &Block) -> Answer<()> {
        if self.node.faults().has_pruned(block.header.number, self.best()) {
            let text = format!(
                "Client error: Api called for an unknown Block: State already discarded for {:?}",
                block.hash
            );
            return Err(error(STATE_ERROR, text));
        }
        Ok(())
    }

    /// The header that a node with a false head announces as finalised.
    pub(super) fn false_head(&self) -> Option<Header> {
        let number = self.node.faults().false_head_number()?;
        // A real header with another number has a hash that no block has, while it still decodes and hashes
        // consistently.
        let mut header = self.block(self.best())?.header.clone();
        header.number = number;
        Some(header)
    }

    /// Calls the runtime at the requested block, or at the best one.
    pub(super) fn call(&self, name: &str, data: &[u8], hash: Option<H256>) -> Answer<Vec<u8>> {
        let block = self.block_or_best(hash)?;
        self.check_pruned(&block)?;
        self.node.call(name, data, block.hash).map_err(client)
    }

    /// The header of a branch that only this node treats as canonical.
    pub(super) fn forked(&self) -> Option<Header> {
        let mut header = self.block(self.node.faults().forked_number()?)?.header.clone();
        // Parent and number stay right, so only the hash shows that this is another branch.
        header.extrinsics_root.0[0] ^= 1;
        Some(header)
    }

    pub(super) fn header(&self, block: &Block) -> Header {
        let mut header = block.header.clone();
        if self.node.faults().has_corrupt_header(header.number) {
            header.state_root.0[0] ^= 1;
        }
        header
    }

    pub(super) fn justifications(&self, block: &Block) -> Option<Vec<([u8; 4], Vec<u8>)>> {
        let number = block.header.number;
        if number > self.finalized() {
            return None;
        }
        let justification = self.node.justification(number)?;
        Some(vec![(GRANDPA_ENGINE_ID, self.corrupt(number, justification))])
    }

    pub(super) fn prove_finality(&self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        let fault = self.node.faults().proof_fault();
        let proof = {
            let ledger = self.node.ledger().read();
            match fault {
                ProofFault::Uncovered => {
                    let text = format!("Block not covered by authority set changes: {number}");
                    return Err(Error::Finality(text));
                }
                ProofFault::Null => None,
                ProofFault::TipOnly if ledger.set_end(number).is_some_and(|end| end <= self.finalized()) => {
                    None
                }
                ProofFault::Old => finality::oldest(&ledger),
                _ => finality::prove(&ledger, number, self.finalized())?,
            }
        };
        Ok(proof.map(|mut proof| {
            if let ProofFault::Truncated(count) = fault {
                proof.unknown_headers.truncate(count);
            }
            let justified = self.node.block_number(proof.block).unwrap_or_default();
            proof.justification = self.corrupt(justified, proof.justification);
            for header in &mut proof.unknown_headers {
                if self.node.faults().has_corrupt_header(header.number) {
                    header.state_root.0[0] ^= 1;
                }
            }
            codec::Encode::encode(&proof)
        }))
    }

    // The last 32 bytes before the ancestry's length are an authority's id, preceded by its signature: a flipped
    // bit in the middle of the bytes always hits a precommit.
    fn corrupt(&self, number: u32, mut justification: Vec<u8>) -> Vec<u8> {
        if self.node.faults().has_corrupt_justification(number) {
            let middle = justification.len() / 2;
            if let Some(byte) = justification.get_mut(middle) {
                *byte ^= 1;
            }
        }
        justification
    }

    pub(super) fn storage_changes(&self, block: &Block) -> StorageChanges {
        let mut changes = block.changes.clone();
        if self.node.faults().has_corrupt_changes(block.header.number) {
            let mut values = changes.main.iter_mut().filter_map(|(_, value)| value.as_mut());
            if let Some(byte) = values.find_map(|value| value.first_mut()) {
                *byte ^= 1;
            }
        }
        changes
    }
}

/// The error for an unknown block.
pub(super) fn unknown(hash: H256) -> ErrorObjectOwned {
    error(CLIENT_ERROR, format!("UnknownBlock: Header was not found in the database: {hash:?}"))
}

/// The error for a failure of the node.
pub(super) fn client(cause: Error) -> ErrorObjectOwned {
    error(CLIENT_ERROR, format!("Client error: {cause}"))
}
