//! The identity of a parachain, as a node reports it, and whether a genesis belongs to that chain.
//!
//! A data provider is a stranger: what it serves may be of another chain. A lifecycle manager that has a node of
//! its own compares every provider's genesis with it before workers are initialised from it.

use codec::Decode;
use prb_core::{
    blob::Genesis,
    primitives::{Hash, RelayNumber},
    text::describe,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    rpc::{self, NodePool, json},
    verify::{self, state},
};

/// Why a genesis was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node did not answer, or not with what is needed: ask again later.
    #[error("{0}")]
    Unavailable(String),
    /// The genesis is of another chain, or its state does not hash to the chain's.
    #[error("{0}")]
    Wrong(String),
}

/// The first fields of `ParachainSystem::ValidationData`, as the relay chain hands it to the parachain's block.
#[derive(Decode)]
struct ValidationData {
    _parent_head: Vec<u8>,
    relay_parent_number: u32,
}

/// For the pool of a parachain.
impl NodePool {
    /// Returns the chain's identity: the hash of parachain block 1.
    ///
    /// Peers of the original bridge identify a chain by the same hash.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node has that block yet, or none answers.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn chain_identity(&self) -> Result<Hash, Error> {
        block_hash(self, 1).await
    }

    /// Returns the relay parent of the parachain block with this hash; `None` if its state has none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node answers.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn relay_parent(&self, at: Hash) -> Result<Option<RelayNumber>, Error> {
        let data = value::<ValidationData>(self, "ParachainSystem", "ValidationData", at).await?;
        Ok(data.map(|data| RelayNumber(data.relay_parent_number)))
    }

    /// Compares a genesis with the chain of these nodes: the identity, the relay block that workers start from, and the
    /// parachain's genesis state under the state root of its block 0.
    ///
    /// The authorities are verified by their proof under the relay block's state, as by a worker; the chain's registry
    /// has the relay blocks that workers may start from.
    ///
    /// # Errors
    /// [`Error::Wrong`] names the difference; [`Error::Unavailable`] if it cannot be compared yet.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn check_genesis(&self, genesis: &Genesis) -> Result<(), Error> {
        let identity = self.chain_identity().await?;
        if genesis.chain_identity != identity {
            let theirs = genesis.chain_identity;
            return Err(Error::Wrong(format!("its genesis is of the chain {theirs}, not of {identity}")));
        }
        verify::genesis(genesis)
            .map_err(|error| Error::Wrong(format!("its genesis does not verify: {}", describe(&error))))?;
        check_relay_start(self, genesis, identity).await?;
        let root = state_root(self).await?;
        let state = genesis.state.clone();
        // Rebuilds the trie of the whole genesis state.
        let checked = tokio::task::spawn_blocking(move || check_state(root, &state)).await;
        checked.unwrap_or_else(|error| Err(Error::Unavailable(describe(&error))))
    }
}

/// Workers start after the relay block before block 1's relay parent, and the chain's registry may restrict from
/// which relay blocks they start.
async fn check_relay_start(para: &NodePool, genesis: &Genesis, first: Hash) -> Result<(), Error> {
    let (pallet, list) = ("PhalaRegistry", "RelaychainGenesisBlockHashAllowList");
    let start = para.relay_parent(first).await?.map(|parent| parent.0.saturating_sub(1));
    if let Some(start) = start.filter(|start| *start != genesis.relay_number.0) {
        let theirs = genesis.relay_number;
        return Err(Error::Wrong(format!(
            "its genesis starts at relay block {theirs}, the parachain at {start}"
        )));
    }
    let newest: Option<Hash> = request(para, "chain_getFinalizedHead", rpc::NO_PARAMS).await?;
    let Some(newest) = newest else { return Ok(()) };
    let verified = value::<bool>(para, pallet, "VerifyRelaychainGenesisBlockHash", newest).await?;
    let allowed = value::<Vec<[u8; 32]>>(para, pallet, list, newest).await?.unwrap_or_default();
    // A chain without a list (or whose list cannot be read) restricts nothing.
    let is_allowed = allowed.is_empty() || allowed.contains(&genesis.relay_hash.0);
    if verified != Some(false) && !is_allowed {
        let theirs = genesis.relay_hash;
        return Err(Error::Wrong(format!(
            "the parachain does not let workers start from relay block {theirs}"
        )));
    }
    Ok(())
}

async fn state_root(para: &NodePool) -> Result<Hash, Error> {
    let hash = block_hash(para, 0).await?;
    let header: Option<json::Header> = request(para, "chain_getHeader", [hash]).await?;
    let header = header.ok_or_else(|| Error::Unavailable("the node has no header of block 0".into()))?;
    let checked = verify::header(hash, 0, header.encode()).map_err(|e| Error::Unavailable(describe(&e)))?;
    Ok(checked.state_root)
}

fn check_state(root: Hash, mut state: &[u8]) -> Result<(), Error> {
    let pairs = Vec::<(Vec<u8>, Vec<u8>)>::decode(&mut state)
        .map_err(|e| Error::Wrong(format!("its genesis state cannot be decoded: {e}")))?;
    state::whole_state(root, &pairs).map_err(|e| Error::Wrong(describe(&e)))
}

async fn block_hash(para: &NodePool, number: u32) -> Result<Hash, Error> {
    let hash: Option<Hash> = request(para, "chain_getBlockHash", [number]).await?;
    hash.ok_or_else(|| Error::Unavailable(format!("the node has no block {number}")))
}

/// Reads a value of the chain's state: `None` if it is absent or of another type.
async fn value<T: Decode>(para: &NodePool, pallet: &str, item: &str, at: Hash) -> Result<Option<T>, Error> {
    let key = json::HexBytes(state::value_key(pallet, item));
    let found: Option<json::HexBytes> = request(para, "state_getStorage", (key, at)).await?;
    Ok(found.and_then(|bytes| T::decode(&mut &*bytes.0).ok()))
}

async fn request<T: DeserializeOwned>(
    para: &NodePool,
    method: &'static str,
    params: impl Serialize + Send,
) -> Result<T, Error> {
    para.request(method, params).await.map_err(|e: rpc::Error| Error::Unavailable(describe(&e)))
}
