//! The chain as the node's RPC shows it: with its faults.

use std::sync::Arc;

use jsonrpsee::types::ErrorObjectOwned;
use prb_devnet_runtime::Header;
use sp_consensus_grandpa::GRANDPA_ENGINE_ID;
use sp_core::H256;

use super::{Answer, error};
use crate::{
    Error,
    node::{Node, StorageChanges, finality, ledger::Block, state::State},
};

const CLIENT_ERROR: i32 = 4001;

/// The chain as the node's RPC shows it.
pub(super) struct View<'a> {
    pub(super) node: &'a Arc<Node>,
}

impl<'a> View<'a> {
    pub(super) fn new(node: &'a Arc<Node>) -> Self {
        Self { node }
    }

    fn cap(&self, number: u32) -> u32 {
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

    /// Returns the block asked for, or the best one.
    pub(super) fn block_or_best(&self, hash: Option<H256>) -> Answer<Arc<Block>> {
        let block = match hash {
            Some(hash) => self.block_by_hash(hash),
            None => self.block(self.best()),
        };
        block.ok_or_else(|| unknown(hash.unwrap_or_default()))
    }

    /// Returns the state of the block asked for, or of the best one.
    pub(super) fn state(&self, hash: Option<H256>) -> Answer<State> {
        let block = self.block_or_best(hash)?;
        self.node.state_at(block.hash).map_err(client)
    }

    /// Calls the runtime at the block asked for, or at the best one.
    pub(super) fn call(&self, name: &str, data: &[u8], hash: Option<H256>) -> Answer<Vec<u8>> {
        let block = self.block_or_best(hash)?;
        self.node.call(name, data, block.hash).map_err(client)
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
        Some(vec![(GRANDPA_ENGINE_ID, self.spoil(number, justification))])
    }

    pub(super) fn prove_finality(&self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        let proof = finality::prove(&self.node.ledger().read(), number, self.finalized())?;
        Ok(proof.map(|mut proof| {
            let justified = self.node.block_number(proof.block).unwrap_or_default();
            proof.justification = self.spoil(justified, proof.justification);
            for header in &mut proof.unknown_headers {
                if self.node.faults().has_corrupt_header(header.number) {
                    header.state_root.0[0] ^= 1;
                }
            }
            codec::Encode::encode(&proof)
        }))
    }

    // The last 32 bytes before the ancestry's length are an authority's id, those before them its
    // signature: a flipped bit in the middle of the bytes hits a precommit in any case.
    fn spoil(&self, number: u32, mut justification: Vec<u8>) -> Vec<u8> {
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

/// Says that a block is not known.
pub(super) fn unknown(hash: H256) -> ErrorObjectOwned {
    error(CLIENT_ERROR, format!("UnknownBlock: Header was not found in the database: {hash:?}"))
}

/// Says what went wrong in the node.
pub(super) fn client(cause: Error) -> ErrorObjectOwned {
    error(CLIENT_ERROR, format!("Client error: {cause}"))
}
