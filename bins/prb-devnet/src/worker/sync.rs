//! The synchronizer: verified relay headers, parachain headers and blocks, with pRuntime's rules and their
//! order.

use std::{collections::VecDeque, sync::Arc};

use prb_core::wire::{BlockHeaderWithChanges, GenesisBlockInfo, Header, HeaderToSync};
use sp_core::H256;

use super::{
    Refusal,
    justification::Verdicts,
    keys,
    light_client::{LightClient, as_para_head, chained},
    proof::Proof,
    trie::State,
};

/// The next expected numbers of both chains, and what has been verified so far.
#[derive(Clone, Debug)]
pub(crate) struct Synchronizer {
    light: LightClient,
    next_relay: u32,
    next_para: u32,
    next_block: u32,
    /// State root of the last relay header, until parachain headers have used it.
    relay_root: Option<H256>,
    /// Roots of verified parachain headers whose blocks have not arrived yet.
    roots: VecDeque<H256>,
    start_validated: bool,
    para_head_key: Vec<u8>,
}

impl Synchronizer {
    /// Starts after the relay block of `genesis`.
    ///
    /// # Errors
    /// See [`LightClient::new`].
    pub(crate) fn new(genesis: GenesisBlockInfo, para_id: u32) -> Result<Self, String> {
        Ok(Self {
            next_relay: genesis.block_header.number.wrapping_add(1),
            light: LightClient::new(genesis)?,
            // The genesis header, too, comes as a header: the first dispatch checks the genesis state against
            // its root.
            next_para: 0,
            next_block: 1,
            relay_root: None,
            roots: VecDeque::new(),
            start_validated: false,
            para_head_key: keys::para_head(para_id),
        })
    }

    pub(crate) fn next_relay(&self) -> u32 {
        self.next_relay
    }

    pub(crate) fn next_para(&self) -> u32 {
        self.next_para
    }

    pub(crate) fn next_block(&self) -> u32 {
        self.next_block
    }

    pub(crate) fn waiting_for_para_headers(&self) -> bool {
        self.relay_root.is_some()
    }

    /// Whether the initial state has been checked against its header.
    pub(crate) fn start_validated(&self) -> bool {
        self.start_validated
    }

    /// `SyncHeader`: returns the last relay header afterwards.
    pub(crate) fn sync_relay(
        &mut self,
        mut headers: Vec<HeaderToSync>,
        verdicts: &Verdicts,
    ) -> Result<u32, Refusal> {
        // Like pRuntime: headers that are known already are skipped, not refused.
        headers.retain(|item| item.header.number >= self.next_relay);
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
            return Ok(self.next_relay.wrapping_sub(1));
        };
        if first.header.number != self.next_relay {
            return Err(Refusal::BlockNumberMismatch);
        }
        let justification = last.justification.as_ref().ok_or(Refusal::MissingJustification)?;
        if !chained(headers.iter().map(|item| &item.header)) {
            return Err(Refusal::HeaderHashMismatch);
        }
        self.light.advance(&headers, justification, verdicts)?;
        // Only the last one: earlier headers of the batch have no justification of their own, and pRuntime
        // keeps one root.
        self.relay_root = Some(H256(last.header.state_root.0));
        self.next_relay = last.header.number.wrapping_add(1);
        Ok(last.header.number)
    }

    /// `SyncParaHeader`: returns the last parachain header afterwards.
    pub(crate) fn sync_para(&mut self, mut headers: Vec<Header>, proof: &[Vec<u8>]) -> Result<u32, Refusal> {
        headers.retain(|header| header.number >= self.next_para);
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
            // Wraps to 4294967295 before the first header, as pRuntime's answer does.
            return Ok(self.next_para.wrapping_sub(1));
        };
        if first.number != self.next_para {
            return Err(Refusal::BlockNumberMismatch);
        }
        let relay_root = self.relay_root.ok_or(Refusal::RelaychainHeaderNotSynced)?;
        // The order of these checks is pRuntime's: it decides the reason if several fail.
        let proven = Proof::new(relay_root, proof)
            .read(&self.para_head_key)
            .and_then(|value| value.ok_or_else(|| "storage value unavailable".into()))
            .map_err(Refusal::StorageProofFailed)?;
        if proven != as_para_head(last) {
            return Err(Refusal::StorageProofFailed("storage value mismatch".into()));
        }
        if !chained(&headers) {
            return Err(Refusal::HeaderHashMismatch);
        }
        // Used once, so parachain headers are accepted only after a new relay header. After a failure it stays,
        // for a retry.
        self.relay_root = None;
        self.next_para = last.number.wrapping_add(1);
        self.roots.extend(headers.iter().map(|header| H256(header.state_root.0)));
        Ok(self.next_para.wrapping_sub(1))
    }

    /// Verifies one block and returns the state after it.
    pub(crate) fn apply_block(
        &mut self,
        block: &BlockHeaderWithChanges,
        state: &Arc<State>,
    ) -> Result<Arc<State>, Refusal> {
        let number = block.block_header.number;
        if number != self.next_block {
            return Err(Refusal::BlockNumberMismatch);
        }
        if !self.start_validated {
            let expected = *self.roots.front().ok_or(Refusal::NoStateRoot)?;
            if state.root() != expected {
                let (block, actual) = (number.wrapping_sub(1), state.root());
                return Err(Refusal::StateRootMismatch { block, expected, actual });
            }
            self.roots.pop_front();
            self.start_validated = true;
        }
        let expected = *self.roots.front().ok_or(Refusal::NoStateRoot)?;
        let state = state
            .apply(&block.storage_changes, expected)
            .map_err(|actual| Refusal::StateRootMismatch { block: number, expected, actual })?;
        self.roots.pop_front();
        self.next_block = number.wrapping_add(1);
        Ok(state)
    }

    /// `LoadChainState`: continues from the state of block `number`.
    pub(crate) fn continue_from(&mut self, number: u32) -> Result<(), Refusal> {
        if self.next_block > 1 || self.next_para > 0 {
            return Err(Refusal::App("Failed to set synchronizer state".into()));
        }
        self.next_block = number.wrapping_add(1);
        // Header `number` is wanted again, because its root must confirm the loaded state.
        self.next_para = number;
        self.start_validated = false;
        Ok(())
    }
}
