//! Authors and finalises blocks.

use codec::{Decode, Encode};
use prb_devnet_runtime::Header;
use sp_core::H256;
use sp_runtime::{
    ApplyExtrinsicResult,
    traits::{BlakeTwo256, Header as _},
    transaction_validity::{InvalidTransaction, TransactionValidityError},
};
use sp_state_machine::OverlayedChanges;

use super::{
    Node, StorageChanges, TransactionFault,
    ledger::Block,
    pool::Candidate,
    runtime::{self, Runtime},
    state::State,
    validate,
};
use crate::Error;

impl Node {
    /// Authors a block on top of the newest one.
    pub(crate) fn author(&self, inherents: sp_inherents::InherentData) -> Result<Header, Error> {
        self.author_with(inherents, true)
    }

    /// Authors a block without transactions on top of the newest one.
    pub(crate) fn author_empty(&self, inherents: sp_inherents::InherentData) -> Result<Header, Error> {
        self.author_with(inherents, false)
    }

    fn author_with(
        &self,
        inherents: sp_inherents::InherentData,
        transactions: bool,
    ) -> Result<Header, Error> {
        let parent = self.best_block();
        let state = self.state.at(parent.header.state_root);
        let runtime = runtime::of_state(self.versions, &state)?;
        let candidates = if transactions { self.candidates(runtime, &state, &parent) } else { Vec::new() };
        let limit = *self.proof_limit.lock();
        // The parent's state selects the runtime: a block that sets a new one is still executed by the old one.
        let mut built = Built::new(runtime, &state, &parent, inherents.clone(), candidates, limit)?;
        let number = built.header.number;
        built.refused.drain(..).for_each(|hash| self.pool.lock().refuse(hash, number));
        if limit.is_some_and(|limit| built.proof_bytes > limit.limit_bytes) {
            tracing::warn!(number, proof_bytes = built.proof_bytes, "block is too large to be backed");
            // The relay chain waits for another one; the transactions stay in the pool.
            built = Built::new(runtime, &state, &parent, inherents, Vec::new(), None)?;
        }
        let Built { header, body, included, changes, .. } = built;
        // The state first, then the block: a reader that finds the block can read its state.
        self.state.insert(changes.transaction);
        let changes =
            StorageChanges { main: changes.main_storage_changes, child: changes.child_storage_changes };
        let hash = header.hash();
        self.ledger.write().push(Block { hash, header: header.clone(), body, changes });
        let mut pool = self.pool.lock();
        pool.included(&included, number, hash);
        pool.time_out_watchers(number.saturating_sub(self.faults.finality_timeout_blocks()));
        drop(pool);
        // Last: a subscriber that wakes must find the block, and the pool without its transactions.
        self.best.send_replace(number);
        Ok(header)
    }

    /// Limits the proof size of blocks. `None`, the default, backs blocks of any size.
    pub fn set_proof_limit(&self, limit: Option<ProofLimit>) {
        *self.proof_limit.lock() = limit;
    }

    fn candidates(&self, runtime: &Runtime, state: &State, parent: &Block) -> Vec<Candidate> {
        if self.faults.transaction_fault() == TransactionFault::Dropped {
            self.pool.lock().drop_all();
        }
        // The lock is not held while the runtime validates, so submissions continue; `revalidated` ignores what
        // has left the pool meanwhile.
        let pending = self.pool.lock().pending();
        let results = pending
            .into_iter()
            .map(|candidate| (candidate.hash, validate(runtime, state, parent.hash, &candidate.bytes)))
            .collect();
        let mut pool = self.pool.lock();
        pool.revalidated(results, parent.header.number);
        pool.candidates()
    }

    /// Finalises blocks up to a number.
    pub(crate) fn finalize(&self, number: u32) {
        self.ledger.write().finalize(number);
        self.announce_finalized(number);
    }

    /// Finalises a block with its justification.
    pub(crate) fn justify(&self, number: u32, justification: Vec<u8>, keep: bool, ends_set: bool) {
        self.ledger.write().justify(number, justification, keep, ends_set);
        self.announce_finalized(number);
    }

    /// Ends the current authority set at the newest justified block.
    pub(crate) fn end_set(&self) {
        self.ledger.write().end_set();
    }

    fn announce_finalized(&self, number: u32) {
        // Reads the ledger while the pool is locked: nothing may lock the two in the other order.
        self.pool.lock().finalized(number, |number| self.block_hash(number));
        self.finalized.send_replace(number);
    }
}

/// The limit of a block's proof size, and the estimated proof size of its calls.
///
/// A devnet's tries are small, so real sizes are not measured: each call of a transaction, including those in
/// batches and proxy calls, counts the same. As on real chains the calls declare no proof size, and the
/// author adds transactions while the block is below the limit: the last one may exceed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofLimit {
    /// Maximum proof size of a block, in bytes.
    pub limit_bytes: u64,
    /// Proof size of a call, in bytes.
    pub call_bytes: u64,
}

impl ProofLimit {
    /// Khala's limit, and roughly the proof size there of a call that starts a worker.
    pub const KHALA: Self = Self { limit_bytes: 3_932_160, call_bytes: 32 * 1024 };
}

/// A block that was built and is not part of the chain yet.
struct Built {
    header: Header,
    body: Vec<Vec<u8>>,
    included: Vec<H256>,
    refused: Vec<H256>,
    proof_bytes: u64,
    changes: sp_state_machine::StorageChanges<BlakeTwo256>,
}

impl Built {
    fn new(
        runtime: &Runtime,
        state: &State,
        parent: &Block,
        inherents: sp_inherents::InherentData,
        candidates: Vec<Candidate>,
        limit: Option<ProofLimit>,
    ) -> Result<Self, Error> {
        let mut overlay = OverlayedChanges::default();
        let mut build = Build { runtime, overlay: &mut overlay, state };
        let number = parent.header.number + 1;
        let header =
            Header::new(number, Default::default(), Default::default(), parent.hash, Default::default());
        // Its result is the extrinsic inclusion mode, which is `AllExtrinsics` here.
        let _: Vec<u8> = runtime.call(build.overlay, state, "Core_initialize_block", &header.encode())?;
        let mut body = build.inherents(inherents)?;
        let (mut included, mut refused, mut proof_bytes) = (Vec::new(), Vec::new(), 0);
        for Candidate { hash, bytes } in candidates {
            if limit.is_some_and(|limit| proof_bytes >= limit.limit_bytes) {
                break;
            }
            // A refused transaction is removed from the pool after the block is built.
            match build.transaction(&bytes)? {
                Applied::Included => {
                    let calls = u64::from((runtime.calls)(&bytes));
                    let needed = limit.map_or(0, |limit| limit.call_bytes.saturating_mul(calls));
                    proof_bytes = needed.saturating_add(proof_bytes);
                    included.push(hash);
                    body.push(bytes);
                }
                Applied::Waits => {}
                Applied::Refused => refused.push(hash),
            }
        }
        let header: Header = runtime.call_decoded(&mut overlay, state, "BlockBuilder_finalize_block", &())?;
        let changes = overlay
            .drain_storage_changes(state, runtime.state_version)
            .map_err(|error| Error::State(error.to_string()))?;
        // The runtime computes the root in its own call; a difference means the declared state version is
        // wrong.
        if changes.transaction_storage_root != header.state_root {
            return Err(Error::State(format!("state root of block {number} differs")));
        }
        Ok(Self { header, body, included, refused, proof_bytes, changes })
    }
}

/// The result of applying a transaction.
enum Applied {
    Included,
    /// It may be included in the next block.
    Waits,
    Refused,
}

/// A block under construction.
struct Build<'a> {
    runtime: &'a Runtime,
    overlay: &'a mut OverlayedChanges<BlakeTwo256>,
    state: &'a State,
}

impl Build<'_> {
    fn apply(&mut self, extrinsic: &[u8]) -> Result<ApplyExtrinsicResult, Error> {
        const METHOD: &str = "BlockBuilder_apply_extrinsic";
        let output = self.runtime.call(self.overlay, self.state, METHOD, extrinsic)?;
        ApplyExtrinsicResult::decode(&mut &output[..])
            .map_err(|error| Error::Runtime { method: METHOD.into(), reason: error.to_string() })
    }

    fn inherents(&mut self, data: sp_inherents::InherentData) -> Result<Vec<Vec<u8>>, Error> {
        const METHOD: &str = "BlockBuilder_inherent_extrinsics";
        let extrinsics: Vec<sp_runtime::OpaqueExtrinsic> =
            self.runtime.call_decoded(self.overlay, self.state, METHOD, &data)?;
        let body: Vec<Vec<u8>> = extrinsics.iter().map(Encode::encode).collect();
        for extrinsic in &body {
            match self.apply(extrinsic)? {
                Ok(Ok(())) => {}
                refused => {
                    let reason = format!("inherent refused: {refused:?}");
                    return Err(Error::Runtime { method: METHOD.into(), reason });
                }
            }
        }
        Ok(body)
    }

    fn transaction(&mut self, bytes: &[u8]) -> Result<Applied, Error> {
        // A transaction that is not included must leave no changes.
        self.overlay.start_transaction();
        let result = self.apply(bytes);
        let storage = |_| Error::State("storage transaction not open".into());
        if matches!(result, Ok(Ok(_))) {
            self.overlay.commit_transaction().map_err(storage)?;
            return Ok(Applied::Included);
        }
        self.overlay.rollback_transaction().map_err(storage)?;
        let full = TransactionValidityError::Invalid(InvalidTransaction::ExhaustsResources);
        // A transaction that depends on a refused one, or finds the block full, may be included in the next one.
        let waits = matches!(
            &result,
            Ok(Err(error)) if *error == full
                || *error == TransactionValidityError::Invalid(InvalidTransaction::Future)
        );
        if waits {
            return Ok(Applied::Waits);
        }
        tracing::debug!(?result, "transaction refused");
        Ok(Applied::Refused)
    }
}
