//! The parachain's true state, read without RPC, for tests and demonstrations.

use codec::{Decode, Encode};
use prb_devnet_runtime::{
    para::{self, Operation},
    types::{AccountId, SessionInfo, WorkerInfoV2, WorkerState},
};
use sp_core::H256;
use sp_io::hashing::{twox_64, twox_128};

use crate::{Error, Node, node::runtime};

/// A worker on chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerTruth {
    /// Whether it is registered.
    pub registered: bool,
    /// Its benchmark score.
    pub score: Option<u32>,
    /// The pool that it belongs to.
    pub pool: Option<u64>,
    /// Its session's state.
    pub session: Option<WorkerState>,
    /// The stake of its session.
    pub stake: Option<u128>,
}

/// Reads a worker at the parachain's newest finalised block.
///
/// # Errors
/// [`Error::State`] if the state cannot be read.
pub fn worker(para: &Node, pubkey: [u8; 32]) -> Result<WorkerTruth, Error> {
    worker_at(para, para.finalized_number(), pubkey)
}

/// Reads a worker after a block of the parachain.
///
/// # Errors
/// [`Error::State`] if the state cannot be read.
pub fn worker_at(para: &Node, block: u32, pubkey: [u8; 32]) -> Result<WorkerTruth, Error> {
    let at = para.block_hash(block).unwrap_or_default();
    let info: Option<WorkerInfoV2> = read(para, at, "PhalaRegistry", "Workers", &pubkey)?;
    let session: Option<AccountId> = read(para, at, "PhalaComputation", "WorkerBindings", &pubkey)?;
    let mut truth = WorkerTruth {
        registered: info.is_some(),
        score: info.and_then(|info| info.initial_score),
        pool: read(para, at, "PhalaStakePoolv2", "WorkerAssignments", &pubkey)?,
        ..WorkerTruth::default()
    };
    if let Some(session) = session {
        let info: Option<SessionInfo> = read(para, at, "PhalaComputation", "Sessions", &session)?;
        truth.session = info.map(|info| info.state);
        truth.stake = read(para, at, "PhalaComputation", "Stakes", &session)?;
    }
    Ok(truth)
}

/// Returns the operations on workers up to the parachain's newest finalised block, with the block's number.
///
/// # Errors
/// [`Error::State`] if a state cannot be read.
pub fn operations(para: &Node) -> Result<Vec<(u32, Operation)>, Error> {
    let key = [twox_128(b"System"), twox_128(b"Events")].concat();
    let mut found = Vec::new();
    let mut version = None;
    for number in 1..=para.finalized_number() {
        let at = para.block_hash(number).unwrap_or_default();
        // A block that sets a new version was still executed by the previous one.
        let code = para.storage(runtime::CODE_KEY, at)?;
        let executed_by = version.replace(code.clone()).unwrap_or(code);
        let newer = executed_by.is_some_and(|code| code == runtime::PARA[1].code);
        let decode = if newer { para::v2::operations } else { para::v1::operations };
        let events = para.storage(&key, at)?.unwrap_or_default();
        found.extend(decode(&events).into_iter().map(|operation| (number, operation)));
    }
    Ok(found)
}

fn read<T: Decode>(
    para: &Node,
    at: H256,
    pallet: &str,
    item: &str,
    key: &impl Encode,
) -> Result<Option<T>, Error> {
    let key = key.encode();
    let path = [&twox_128(pallet.as_bytes())[..], &twox_128(item.as_bytes()), &twox_64(&key), &key].concat();
    let value = para.storage(&path, at)?;
    value
        .map(|value| T::decode(&mut &value[..]).map_err(|e| Error::State(format!("{pallet}::{item}: {e}"))))
        .transpose()
}
