//! The chain as the manager's own node sees it: what data providers are held to, and what peers are told.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use codec::Decode;
use prb_chain::{
    rpc::{self, FinalizedHead, NodePool, json},
    verify::{self, state},
};
use prb_core::{
    blob::Genesis,
    primitives::{Hash, ParaNumber, RelayNumber},
};
use prb_walkie::{
    blob::remote::{Finalized, GenesisCheck, GenesisError, OwnChain},
    node::Node,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::daemon::Background;

/// Pause before the chain is asked again who it is.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Time between two words about that.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// `ParachainSystem::ValidationData`, up to the field that is wanted.
#[derive(Decode)]
struct ValidationData {
    _parent_head: Vec<u8>,
    relay_parent_number: u32,
}

/// The own chain's identity, for the node among its peers.
pub(super) struct Identity(watch::Receiver<Option<Hash>>);

/// Follows the own chain in the background.
pub(super) fn follow(para: &NodePool, background: &mut Background) -> (OwnChain, Identity) {
    let (identity, known) = watch::channel(None);
    let (head, finalized) = watch::channel(None);
    let asked = para.clone();
    background.spawn(|stop| async move {
        stop.run_until_cancelled(ask_identity(&asked, &identity)).await;
        stop.cancelled().await;
        anyhow::anyhow!("stopped")
    });
    let heads = para.clone();
    background.spawn(|stop| async move {
        stop.run_until_cancelled(follow_heads(heads, head)).await;
        anyhow::anyhow!("following the parachain's finalised blocks has ended")
    });
    let genesis = std::sync::Arc::new(OwnGenesis { para: para.clone() });
    (OwnChain { finalized, genesis, identity: known.clone() }, Identity(known))
}

impl Identity {
    /// Tells peers of the chain as soon as it is known.
    pub(super) async fn tell(mut self, node: Node) {
        let known = self.0.wait_for(Option::is_some).await.ok().and_then(|known| *known);
        if let Some(identity) = known {
            node.set_chain_identity(identity).await;
        }
    }
}

/// Asks until a node says which chain it is: by the hash of block 1.
async fn ask_identity(para: &NodePool, identity: &watch::Sender<Option<Hash>>) {
    let mut said = None::<Instant>;
    loop {
        let trouble = match block_hash(para, 1).await {
            Ok(known) => {
                tracing::info!(chain_identity = %known, "the chain is known");
                identity.send_replace(Some(known));
                return;
            }
            Err(trouble) => trouble,
        };
        if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            said = Some(Instant::now());
            tracing::warn!("peers wait: the parachain's node does not say which chain it is: {trouble}");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn follow_heads(para: NodePool, told: watch::Sender<Option<Finalized>>) {
    let mut heads = para.finalized_heads();
    loop {
        let FinalizedHead { number, hash, .. } = heads.next().await;
        let relay = match value::<ValidationData>(&para, "ParachainSystem", "ValidationData", hash).await {
            Ok(data) => data.map(|data| RelayNumber(data.relay_parent_number)),
            Err(error) => {
                tracing::debug!(%error, block = number, "the relay parent cannot be read");
                None
            }
        };
        told.send_modify(|finalized| {
            let before = finalized.and_then(|finalized| finalized.relay);
            let at = tokio::time::Instant::now();
            *finalized = Some(Finalized { para: ParaNumber(number), relay: relay.or(before), at });
        });
    }
}

/// Holds a genesis to the own node's; the authorities by their proof under the relay block's state, as workers do.
#[derive(Debug)]
struct OwnGenesis {
    para: NodePool,
}

#[async_trait]
impl GenesisCheck for OwnGenesis {
    async fn check(&self, genesis: &Genesis) -> Result<(), GenesisError> {
        let unchecked = GenesisError::Unchecked;
        let identity = block_hash(&self.para, 1).await.map_err(unchecked)?;
        if genesis.chain_identity != identity {
            let theirs = genesis.chain_identity;
            return Err(GenesisError::Wrong(format!(
                "its genesis is of the chain {theirs}, not of {identity}"
            )));
        }
        verify::genesis(genesis)
            .map_err(|e| GenesisError::Wrong(format!("its genesis does not hold: {e}")))?;
        self.check_relay(genesis, identity).await?;
        let root = self.state_root().await.map_err(unchecked)?;
        let state = genesis.state.clone();
        let checked = tokio::task::spawn_blocking(move || check_state(root, &state)).await;
        checked.unwrap_or_else(|error| Err(GenesisError::Unchecked(error.to_string())))
    }
}

impl OwnGenesis {
    /// Workers start after the relay block before block 1's relay parent, and the chain says from which ones they may.
    async fn check_relay(&self, genesis: &Genesis, first: Hash) -> Result<(), GenesisError> {
        let (pallet, list) = ("PhalaRegistry", "RelaychainGenesisBlockHashAllowList");
        let data = self.value::<ValidationData>("ParachainSystem", "ValidationData", first).await?;
        let start = data.map(|data| data.relay_parent_number.saturating_sub(1));
        if let Some(start) = start.filter(|start| *start != genesis.relay_number.0) {
            let theirs = genesis.relay_number;
            let reason = format!("its genesis starts at relay block {theirs}, the parachain at {start}");
            return Err(GenesisError::Wrong(reason));
        }
        let newest: Option<Hash> = request(&self.para, "chain_getFinalizedHead", [(); 0]).await?;
        let Some(newest) = newest else { return Ok(()) };
        let verified = self.value::<bool>(pallet, "VerifyRelaychainGenesisBlockHash", newest).await?;
        let allowed = self.value::<Vec<[u8; 32]>>(pallet, list, newest).await?.unwrap_or_default();
        let is_allowed = allowed.is_empty() || allowed.contains(&genesis.relay_hash.0);
        if verified != Some(false) && !is_allowed {
            let theirs = genesis.relay_hash;
            let reason = format!("the parachain does not let workers start from relay block {theirs}");
            return Err(GenesisError::Wrong(reason));
        }
        Ok(())
    }

    async fn value<T: Decode>(&self, pallet: &str, item: &str, at: Hash) -> Result<Option<T>, GenesisError> {
        value(&self.para, pallet, item, at).await.map_err(GenesisError::Unchecked)
    }

    async fn state_root(&self) -> Result<Hash, String> {
        let hash = block_hash(&self.para, 0).await?;
        let header: Option<json::Header> =
            self.para.request("chain_getHeader", [hash]).await.map_err(|e| e.to_string())?;
        let header = header.ok_or("it has no header of block 0")?;
        let checked = verify::header(hash, 0, header.encode()).map_err(|e| e.to_string())?;
        Ok(checked.state_root)
    }
}

fn check_state(root: Hash, mut state: &[u8]) -> Result<(), GenesisError> {
    let pairs = Vec::<(Vec<u8>, Vec<u8>)>::decode(&mut state)
        .map_err(|e| GenesisError::Wrong(format!("its genesis state is none: {e}")))?;
    state::whole_state(root, &pairs).map_err(|e| GenesisError::Wrong(e.to_string()))
}

async fn block_hash(para: &NodePool, number: u32) -> Result<Hash, String> {
    let hash: Result<Option<Hash>, rpc::Error> = para.request("chain_getBlockHash", [number]).await;
    hash.map_err(|e| e.to_string())?.ok_or_else(|| format!("it has no block {number}"))
}

/// A value of the chain's state; `None` where there is none, or it is another type's.
async fn value<T: Decode>(para: &NodePool, pallet: &str, item: &str, at: Hash) -> Result<Option<T>, String> {
    let key = json::HexBytes(state::value_key(pallet, item));
    let found: Result<Option<json::HexBytes>, _> = para.request("state_getStorage", (key, at)).await;
    let found = found.map_err(|e: rpc::Error| e.to_string())?;
    Ok(found.and_then(|bytes| T::decode(&mut &*bytes.0).ok()))
}

async fn request<T: DeserializeOwned>(
    para: &NodePool,
    method: &'static str,
    params: impl Serialize + Send,
) -> Result<T, GenesisError> {
    para.request(method, params).await.map_err(|e: rpc::Error| GenesisError::Unchecked(e.to_string()))
}
