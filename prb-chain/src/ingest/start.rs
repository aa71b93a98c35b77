//! The start of the chains: the data for `InitRuntime`, and the first authority set.

use std::sync::Arc;

use codec::{Decode, Encode};
use prb_core::{
    blob::Genesis,
    primitives::{Hash, RelayNumber},
    wire::{GenesisBlockInfo, Header},
};

use super::{Chains, Error, absent, write, wrong};
use crate::{
    rpc::{self, Capability, Node, NodePool, json},
    store,
    verify::{self, Checked, Start, state},
};

/// Keys in one page, if the whole state is not available in one answer.
const PAGE: u32 = 1000;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The first fields of `ParachainSystem::ValidationData`.
#[derive(Decode)]
struct ValidationData {
    _parent_head: Vec<u8>,
    relay_parent_number: u32,
    relay_parent_storage_root: Hash,
}

/// Decodes the relay parent's number and state root from a value of `ParachainSystem::ValidationData`.
pub(crate) fn validation_data(mut value: &[u8]) -> Option<(u32, Hash)> {
    let data = ValidationData::decode(&mut value).ok()?;
    Some((data.relay_parent_number, data.relay_parent_storage_root))
}

/// Whether the nodes, as far as they answer, are of the chains whose start a history source names.
pub(super) async fn agrees(chains: &Chains, start: &Start, genesis: &Genesis) -> bool {
    let relay = block_hash(&chains.relay.pick(), start.number).await;
    let para = block_hash(&chains.para.pick(), 1).await;
    relay.is_ok_and(|hash| hash == start.hash) && para.is_ok_and(|hash| hash == genesis.chain_identity)
}

/// Makes the pools refuse nodes of chains other than the stored ones.
pub(super) fn pin(chains: &Chains) {
    if let Some((start, genesis)) = chains.store.genesis() {
        chains.relay.pin(start.number, start.hash);
        chains.para.pin(1, genesis.chain_identity);
    }
}

/// Finds and stores the start, or checks that the nodes serve the store's chains.
pub(super) async fn settle(chains: &Chains) -> Result<(), Error> {
    let settled = try_settle(chains).await;
    match settled {
        Ok(()) => pin(chains),
        Err(Error::Rpc(rpc::Error::OtherChain { found, expected, .. })) if all_of_other_chain(chains) => {
            let path = chains.store.path().to_owned();
            return Err(store::Error::OtherChain { path, stored: expected, asked: found }.into());
        }
        Err(_) => {}
    }
    settled
}

/// Whether one of the pools has only nodes of chains other than the stored one.
fn all_of_other_chain(chains: &Chains) -> bool {
    let all = |pool: &NodePool| pool.nodes().iter().all(|node| node.health().other_chain);
    chains.store.genesis().is_some() && (all(&chains.relay) || all(&chains.para))
}

async fn try_settle(chains: &Chains) -> Result<(), Error> {
    let para = chains.para.pick();
    let identity = block_hash(&para, 1).await?;
    let known = chains.store.genesis().map(|(start, genesis)| (start.clone(), genesis.clone()));
    let (start, genesis) = match known {
        Some((start, genesis)) => {
            let hash = block_hash(&chains.relay.pick(), start.number).await?;
            (Start { hash, ..start }, Genesis { chain_identity: identity, ..genesis })
        }
        None => discover(chains, &para, identity).await?,
    };
    let shown = (genesis.para_id, start.number);
    write(&chains.store, move |store| store.set_genesis(&start, &genesis)).await?;
    tracing::info!(chain_identity = %identity, para_id = shown.0, relay_start = shown.1, "chain known");
    Ok(())
}

async fn discover(chains: &Chains, para: &Node, identity: Hash) -> Result<(Start, Genesis), Error> {
    let genesis_hash = block_hash(para, 0).await?;
    let head = header(para, genesis_hash, 0).await?;
    let id_key = json::HexBytes(state::value_key("ParachainInfo", "ParachainId"));
    let no_parachain = || Error::NoParachain { node: Arc::clone(para.name()) };
    // Asked first: a relay chain's whole state would be fetched in vain.
    let id: Option<json::HexBytes> = para.request("state_getStorage", (&id_key, genesis_hash)).await?;
    id.ok_or_else(no_parachain)?;
    let data_key = json::HexBytes(state::value_key("ParachainSystem", "ValidationData"));
    let data: Option<json::HexBytes> = para.request("state_getStorage", (data_key, identity)).await?;
    let data = data.and_then(|data| ValidationData::decode(&mut &*data.0).ok());
    let parent = data.ok_or_else(|| absent(para, "ParachainSystem::ValidationData at block 1"))?;
    let number = parent.relay_parent_number.saturating_sub(1);

    let state = genesis_state(para, genesis_hash).await?;
    state::whole_state(head.state_root, &state).map_err(wrong(para))?;
    let id =
        state.iter().find(|(key, _)| *key == id_key.0).and_then(|(_, id)| u32::decode(&mut &id[..]).ok());
    let para_id = id.ok_or_else(no_parachain)?;
    let (start, info) =
        relay_start(&chains.relay.pick_for(&[Capability::States]), number, para, &parent).await?;
    let genesis = Genesis {
        para_id,
        relay_number: RelayNumber(number),
        relay_hash: start.hash,
        chain_identity: identity,
        info: info.encode().into(),
        state: state.encode().into(),
    };
    Ok((start, genesis))
}

/// Returns the relay block that workers start after, and its authorities by proof.
///
/// Parachain block 1 contains the state root of its relay parent, the block after the start: a relay node
/// whose block has another one serves another chain, however plausible its start looks.
async fn relay_start(
    relay: &Node,
    number: u32,
    para: &Node,
    parent: &ValidationData,
) -> Result<(Start, GenesisBlockInfo), Error> {
    let parent_hash = block_hash(relay, parent.relay_parent_number).await?;
    let checked = header(relay, parent_hash, parent.relay_parent_number).await?;
    if checked.state_root != parent.relay_parent_storage_root {
        return Err(Error::OtherRelay {
            relay: Arc::clone(relay.name()),
            para: Arc::clone(para.name()),
            number: parent.relay_parent_number,
        });
    }
    let hash = block_hash(relay, number).await?;
    if number < parent.relay_parent_number && checked.encoded.get(..32) != Some(&hash.0[..]) {
        return Err(wrong(relay)(verify::Error::Parent { number: parent.relay_parent_number }));
    }
    let checked = header(relay, hash, number).await?;
    let keys: Vec<_> = state::authority_keys().map(json::HexBytes).into();
    let proof: json::ReadProof = relay.request("state_getReadProof", (keys, hash)).await?;
    let proof = proof.into_nodes();
    let set = state::authority_set(checked.state_root, proof.clone()).map_err(wrong(relay))?;
    let block_header = Header::decode(&mut &*checked.encoded)
        .map_err(|_| wrong(relay)(verify::Error::HeaderEncoding { number }))?;
    let info = GenesisBlockInfo { block_header, authority_set: set.clone(), proof };
    Ok((Start { number, hash, set }, info))
}

async fn block_hash(node: &Node, number: u32) -> Result<Hash, Error> {
    let hash: Option<Hash> = node.request("chain_getBlockHash", [number]).await?;
    hash.ok_or_else(|| absent(node, format!("block {number}")))
}

async fn header(node: &Node, hash: Hash, number: u32) -> Result<Checked, Error> {
    let header: Option<json::Header> = node.request("chain_getHeader", [hash]).await?;
    let header = header.ok_or_else(|| absent(node, format!("header of block {number}")))?;
    verify::header(hash, number, header.encode()).map_err(wrong(node))
}

/// Fetches the complete genesis state by the method that the node supports.
async fn genesis_state(node: &Node, hash: Hash) -> Result<Pairs, Error> {
    match node.request_bulk::<Vec<json::StorageChanges>>("pha_getStorageChanges", (hash, hash)).await {
        Ok(changes) => {
            let main = changes.into_iter().flat_map(json::StorageChanges::into_main);
            let pairs: Pairs = main.filter_map(|(key, value)| Some((key, value?))).collect();
            if !pairs.is_empty() {
                return Ok(pairs);
            }
        }
        Err(e) if e.is_retryable() => return Err(e.into()),
        Err(_) => {}
    }
    match node.request_bulk::<Vec<(json::HexBytes, json::HexBytes)>>("state_getPairs", ("0x", hash)).await {
        Ok(pairs) => Ok(pairs.into_iter().map(|(key, value)| (key.0, value.0)).collect()),
        Err(e) if e.is_retryable() => Err(e.into()),
        Err(_) => paged_state(node, hash).await,
    }
}

async fn paged_state(node: &Node, hash: Hash) -> Result<Pairs, Error> {
    #[derive(serde::Deserialize)]
    struct ChangeSet {
        changes: Vec<(json::HexBytes, Option<json::HexBytes>)>,
    }
    let mut pairs = Pairs::new();
    let mut after: Option<json::HexBytes> = None;
    loop {
        let keys: Vec<json::HexBytes> =
            node.request("state_getKeysPaged", ("0x", PAGE, after.as_ref(), hash)).await?;
        let Some(last) = keys.last() else { return Ok(pairs) };
        after = Some(last.clone());
        let sets: Vec<ChangeSet> = node.request_bulk("state_queryStorageAt", (&keys, hash)).await?;
        let changes = sets.into_iter().flat_map(|set| set.changes);
        pairs.extend(changes.filter_map(|(key, value)| Some((key.0, value?.0))));
    }
}
