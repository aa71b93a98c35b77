//! One chain: its blocks, states, transaction pool and RPC server.

mod author;
mod chain_faults;
mod fault_text;
mod faults;
pub(crate) mod finality;
mod fork;
pub(crate) mod ledger;
pub(crate) mod pool;
pub(crate) mod runtime;
pub(crate) mod state;

use std::{fmt, sync::Arc};

use codec::{Decode, Encode};
use parking_lot::{Mutex, RwLock};
use prb_devnet_runtime::{Header, types::MessageOrigin};
use sp_core::H256;
use sp_runtime::{
    Storage,
    traits::{BlakeTwo256, Hash as _, Header as _},
    transaction_validity::{TransactionSource, TransactionValidity, ValidTransaction},
};
use sp_state_machine::Backend;
use tokio::sync::{mpsc, watch};

pub(crate) use self::chain_faults::ChainFaults;
pub use self::{
    author::ProofLimit,
    fault_text::Fault,
    faults::{Faults, ProofFault, TransactionFault},
    finality::FinalityProof,
    fork::Retracted,
    ledger::{StorageChanges, StorageCollection},
    pool::{Error as PoolError, Status},
    state::StoragePairs,
};
use self::{
    ledger::{Block, Ledger},
    pool::Pool,
    runtime::Runtime,
    state::{State, StateDb},
};
use crate::{Error, rpc};

/// Which chain a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// The relay chain.
    Relay,
    /// The parachain.
    Para,
}

/// One chain: its blocks, states, transaction pool and RPC server. The methods read the true chain; only the
/// RPC shows the faults.
pub struct Node {
    kind: ChainKind,
    versions: &'static [Runtime],
    state: StateDb,
    ledger: RwLock<Ledger>,
    pool: Mutex<Pool>,
    best: watch::Sender<u32>,
    finalized: watch::Sender<u32>,
    faults: Faults,
    chain_faults: Arc<ChainFaults>,
    proof_limit: Mutex<Option<ProofLimit>>,
    pub(crate) server: rpc::Server,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("kind", &self.kind)
            .field("best", &self.best_number())
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(
        kind: ChainKind,
        mut genesis: Storage,
        port: u16,
        pool_capacity: usize,
        chain_faults: Arc<ChainFaults>,
    ) -> Result<Arc<Self>, Error> {
        let versions = match kind {
            ChainKind::Relay => runtime::RELAY,
            ChainKind::Para => runtime::PARA,
        };
        let first = &versions[0];
        // No wasm: the value only names which native runtime executes the next block, and changes at an upgrade
        // as `:code` does.
        genesis.top.insert(runtime::CODE_KEY.to_vec(), first.code.to_vec());
        let state = StateDb::new();
        let block = genesis_block(&state, first, genesis);
        Ok(Arc::new(Self {
            kind,
            versions,
            state,
            ledger: RwLock::new(Ledger::new(block)),
            pool: Mutex::new(Pool::new(pool_capacity)),
            best: watch::Sender::new(0),
            finalized: watch::Sender::new(0),
            faults: Faults::default(),
            chain_faults,
            proof_limit: Mutex::default(),
            server: rpc::Server::new(port),
        }))
    }

    /// Returns which chain this is.
    #[must_use]
    pub fn kind(&self) -> ChainKind {
        self.kind
    }

    /// Returns the WebSocket URL; HTTP POST works on the same port.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.server.port())
    }

    /// Returns the faults of its RPC.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) fn chain_faults(&self) -> &ChainFaults {
        &self.chain_faults
    }

    /// Returns the number of the newest block.
    #[must_use]
    pub fn best_number(&self) -> u32 {
        self.ledger.read().best()
    }

    /// Returns the number of the newest final block.
    #[must_use]
    pub fn finalized_number(&self) -> u32 {
        self.ledger.read().finalized()
    }

    /// Returns a watch of the newest block's number.
    #[must_use]
    pub fn subscribe_best(&self) -> watch::Receiver<u32> {
        self.best.subscribe()
    }

    /// Returns a watch of the newest final block's number.
    #[must_use]
    pub fn subscribe_finalized(&self) -> watch::Receiver<u32> {
        self.finalized.subscribe()
    }

    /// Returns a block's hash.
    #[must_use]
    pub fn block_hash(&self, number: u32) -> Option<H256> {
        self.block(number).map(|block| block.hash)
    }

    /// Returns the number of a block.
    #[must_use]
    pub fn block_number(&self, hash: H256) -> Option<u32> {
        self.ledger.read().number(&hash)
    }

    /// Returns a block's header.
    #[must_use]
    pub fn header(&self, number: u32) -> Option<Header> {
        self.block(number).map(|block| block.header.clone())
    }

    /// Returns a block's header.
    #[must_use]
    pub fn header_by_hash(&self, hash: H256) -> Option<Header> {
        self.block_by_hash(hash).map(|block| block.header.clone())
    }

    /// Returns a block's extrinsics, each with its length prefix.
    #[must_use]
    pub fn extrinsics(&self, number: u32) -> Option<Vec<Vec<u8>>> {
        self.block(number).map(|block| block.body.clone())
    }

    /// Returns what a block changed in the state; for block 0 that is the whole state.
    #[must_use]
    pub fn storage_changes(&self, number: u32) -> Option<StorageChanges> {
        self.block(number).map(|block| block.changes.clone())
    }

    /// Returns the justification stored with a block.
    #[must_use]
    pub fn justification(&self, number: u32) -> Option<Vec<u8>> {
        self.ledger.read().justification(number)
    }

    /// Proves a relay block final, as `grandpa_proveFinality` does.
    ///
    /// # Errors
    /// [`Error::Finality`] if the block is not final.
    pub fn prove_finality(&self, number: u32) -> Result<Option<FinalityProof>, Error> {
        let ledger = self.ledger.read();
        finality::prove(&ledger, number, ledger.finalized())
    }

    /// Reads a value in a block's state.
    ///
    /// # Errors
    /// [`Error::UnknownBlock`], [`Error::State`].
    pub fn storage(&self, key: &[u8], at: H256) -> Result<Option<Vec<u8>>, Error> {
        state::read(&self.state_at(at)?, key)
    }

    /// Lists the pairs under a prefix in a block's state.
    ///
    /// # Errors
    /// [`Error::UnknownBlock`], [`Error::State`].
    pub fn storage_pairs(&self, prefix: &[u8], at: H256) -> Result<StoragePairs, Error> {
        state::pairs(&self.state_at(at)?, prefix, None, usize::MAX)
    }

    /// Proves keys in a block's state.
    ///
    /// # Errors
    /// [`Error::UnknownBlock`], [`Error::State`].
    pub fn read_proof(&self, keys: &[Vec<u8>], at: H256) -> Result<Vec<Vec<u8>>, Error> {
        state::prove(&self.state_at(at)?, keys)
    }

    /// Calls a runtime API method on a block's state.
    ///
    /// # Errors
    /// [`Error::UnknownBlock`], [`Error::Runtime`].
    pub fn call(&self, method: &str, arguments: &[u8], at: H256) -> Result<Vec<u8>, Error> {
        let state = self.state_at(at)?;
        runtime::of_state(self.versions, &state)?.query(&state, method, arguments)
    }

    pub(crate) fn block(&self, number: u32) -> Option<Arc<Block>> {
        self.ledger.read().block(number)
    }

    pub(crate) fn ledger(&self) -> &RwLock<Ledger> {
        &self.ledger
    }

    pub(crate) fn state_at(&self, hash: H256) -> Result<State, Error> {
        let header = self.header_by_hash(hash).ok_or_else(|| Error::UnknownBlock(format!("{hash:?}")))?;
        Ok(self.state.at(header.state_root))
    }

    fn best_block(&self) -> Arc<Block> {
        let ledger = self.ledger.read();
        // A ledger has its genesis block from the start and never loses its last block.
        #[allow(clippy::expect_used)]
        ledger.block(ledger.best()).expect("a ledger has a best block")
    }
}

/// Transactions.
impl Node {
    /// Submits an encoded extrinsic to the pool and returns its hash.
    ///
    /// # Errors
    /// [`Error::Pool`] if it is refused.
    pub fn submit(&self, extrinsic: Vec<u8>) -> Result<H256, Error> {
        self.submit_and_watch(extrinsic).map(|(hash, _)| hash)
    }

    /// Submits an encoded extrinsic to the pool and returns its future statuses.
    ///
    /// # Errors
    /// [`Error::Pool`] if it is refused.
    pub fn submit_and_watch(&self, extrinsic: Vec<u8>) -> Result<(H256, mpsc::Receiver<Status>), Error> {
        if let Some(refusal) = self.faults.refusal() {
            return Err(refusal.into());
        }
        let hash = BlakeTwo256::hash(&extrinsic);
        let best = self.best_block();
        self.pool.lock().check(hash, best.header.number)?;
        let state = self.state.at(best.header.state_root);
        let runtime = runtime::of_state(self.versions, &state)?;
        // Without the pool's lock, because executing the runtime takes long. `insert` compares with what has
        // entered the pool meanwhile.
        let valid = validate(runtime, &state, best.hash, &extrinsic)?;
        let messages = (runtime.offchain_messages)(&extrinsic);
        if self.faults.transaction_fault() == TransactionFault::Swallowed {
            let (sender, receiver) = mpsc::channel(2);
            let _ = sender.try_send(Status::Ready);
            // The stream must stay open and silent, as of a node that lost the transaction.
            self.server.keep_open(sender);
            return Ok((hash, receiver));
        }
        let receiver = self.pool.lock().insert(hash, extrinsic, valid, messages)?;
        Ok((hash, receiver))
    }

    /// Lists the encoded extrinsics in the pool.
    #[must_use]
    pub fn pending_extrinsics(&self) -> Vec<Vec<u8>> {
        self.pool.lock().pending().into_iter().map(|candidate| candidate.bytes).collect()
    }

    /// Returns an account's next nonce, including the pool.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn next_nonce(&self, account: &[u8; 32]) -> Result<u32, Error> {
        let at = self.best_block().hash;
        let answer = self.call("AccountNonceApi_account_nonce", account, at)?;
        let mut nonce = u32::decode(&mut &answer[..]).map_err(|error| Error::State(error.to_string()))?;
        let pool = self.pool.lock();
        // `CheckNonce` provides the tag (account, nonce). Real nodes count ready transactions of the pool in
        // the same way.
        while pool.provides(&(account, nonce).encode()) {
            nonce = nonce.saturating_add(1);
        }
        Ok(nonce)
    }

    /// Returns a sender's next message sequence, including the pool.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn next_sequence(&self, origin: &MessageOrigin) -> Result<u64, Error> {
        let encoded = origin.encode();
        let mut key = sp_io::hashing::twox_128(b"PhalaMq").to_vec();
        key.extend(sp_io::hashing::twox_128(b"OffchainIngress"));
        key.extend(sp_io::hashing::twox_64(&encoded));
        key.extend(encoded);
        let value = self.storage(&key, self.best_block().hash)?.unwrap_or_default();
        let mut sequence = u64::decode(&mut &value[..]).unwrap_or(0);
        let pool = self.pool.lock();
        while pool.carries(origin, sequence) {
            sequence = sequence.saturating_add(1);
        }
        Ok(sequence)
    }
}

fn validate(
    runtime: &Runtime,
    state: &State,
    at: H256,
    extrinsic: &[u8],
) -> Result<ValidTransaction, pool::Error> {
    let mut arguments = TransactionSource::External.encode();
    arguments.extend_from_slice(extrinsic);
    at.encode_to(&mut arguments);
    let output = runtime
        .query(state, "TaggedTransactionQueue_validate_transaction", &arguments)
        .map_err(|error| pool::Error::Runtime(error.to_string()))?;
    let validity = TransactionValidity::decode(&mut &output[..])
        .map_err(|error| pool::Error::Runtime(error.to_string()))?;
    Ok(validity?)
}

fn genesis_block(state: &StateDb, runtime: &Runtime, genesis: Storage) -> Block {
    let empty = state.at(state::empty_root());
    let delta = genesis.top.iter().map(|(key, value)| (&key[..], Some(&value[..])));
    let (state_root, transaction) = empty.storage_root(delta, runtime.state_version);
    state.insert(transaction);
    let header = Header::new(0, state::empty_root(), state_root, Default::default(), Default::default());
    let main = genesis.top.into_iter().map(|(key, value)| (key, Some(value))).collect();
    let changes = StorageChanges { main, child: Vec::new() };
    Block { hash: header.hash(), header, body: Vec::new(), changes }
}
