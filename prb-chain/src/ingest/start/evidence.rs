//! What nodes of both chains say about the start of the parachain, and whether it fits together.
//!
//! A parachain node gives its first two blocks, and by proof its id and the relay block that block 1 was built on. In
//! the state of that relay block, whose root block 1 contains, a relay chain node proves two values: the parachain's
//! head, which is its genesis header, and the hash of the block before, after which workers start. A relay block soon
//! after it names block 1 as the next head. Neither node can make that up without the other.

use std::sync::Arc;

use codec::Decode;
use prb_core::{
    primitives::Hash,
    wire::{GenesisBlockInfo, Header},
};

use super::block_hash;
use crate::{
    ingest::{Error, absent, wrong},
    rpc::{Node, json},
    verify::{self, Checked, Start, state},
};

/// Relay blocks after its relay parent within which a parachain block is included, or never: backing and availability
/// take fewer.
const INCLUDED_WITHIN: u32 = 64;
/// Most blocks from the genesis to the first head that a relay block names.
const INCLUDED_AT_ONCE: u32 = 32;

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

/// A parachain's first blocks, and the relay chain that it names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) para_id: u32,
    /// Hash of block 0.
    pub(super) genesis: Hash,
    /// Header 0.
    pub(super) head: Checked,
    /// Hash of block 1.
    pub(super) identity: Hash,
    /// The relay block that block 1 was built on, and its state root.
    relay_parent: (u32, Hash),
}

/// The relay block that workers start after.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) start: Start,
    pub(super) info: GenesisBlockInfo,
}

/// Asks a parachain node. Everything follows from the hash of block 1.
pub(super) async fn outline(para: &Node) -> Result<Outline, Error> {
    let genesis = block_hash(para, 0).await?;
    let head = header(para, genesis, 0).await?;
    let id_key = state::value_key("ParachainInfo", "ParachainId");
    let proof = read_proof(para, &id_key, genesis).await?;
    let para_id = para_id(head.state_root, proof).map_err(wrong(para))?;
    let para_id = para_id.ok_or_else(|| Error::NoParachain { node: Arc::clone(para.name()) })?;
    let identity = block_hash(para, 1).await?;
    let first = header(para, identity, 1).await?;
    if first.encoded.get(..32) != Some(&genesis.0[..]) {
        return Err(wrong(para)(verify::Error::Parent { number: 1 }));
    }
    let key = state::value_key("ParachainSystem", "ValidationData");
    let proof = read_proof(para, &key, identity).await?;
    let data = value("the validation data", first.state_root, proof, key).map_err(wrong(para))?;
    let relay_parent = data.and_then(|data| validation_data(&data));
    let relay_parent =
        relay_parent.ok_or_else(|| absent(para, "ParachainSystem::ValidationData at block 1"))?;
    Ok(Outline { para_id, genesis, head, identity, relay_parent })
}

/// Asks a relay chain node for the block that workers of this parachain start after, and its authorities by proof.
pub(super) async fn prove(relay: &Node, para: &Node, outline: &Outline) -> Result<Proven, Error> {
    let (parent_number, root) = outline.relay_parent;
    let parent_hash = block_hash(relay, parent_number).await?;
    let parent = header(relay, parent_hash, parent_number).await?;
    let name = |node: &Node| Arc::clone(node.name());
    if parent.state_root != root {
        return Err(Error::OtherRelay { relay: name(relay), para: name(para), number: parent_number });
    }
    // The relay parent's state names the block before it, so the start is proven by the root that block 1
    // contains.
    let before_key = state::value_key("System", "ParentHash");
    // At the relay parent of block 1 the relay chain still names the genesis header.
    let keys = [state::para_head_key(outline.para_id), before_key.clone()];
    let proof = proof_of(relay, &keys, parent_hash).await?;
    let head = state::para_head(root, proof.clone(), outline.para_id).map_err(wrong(relay))?;
    if head.map(|head| head.hash) != Some(outline.genesis) {
        return Err(other_parachain(relay, para, outline, parent_number));
    }
    confirm_block_1(relay, para, outline).await?;
    let before = value("the block before", root, proof, before_key).map_err(wrong(relay))?;
    let number = parent_number.saturating_sub(1);
    let hash = block_hash(relay, number).await?;
    if before.as_deref() != Some(&hash.0[..]) {
        return Err(wrong(relay)(verify::Error::Parent { number: parent_number }));
    }
    let checked = header(relay, hash, number).await?;
    let proof = proof_of(relay, &state::authority_keys(), hash).await?;
    // All workers are initialised with it.
    let proof = state::minimal("the authorities", checked.state_root, proof, &state::authority_keys())
        .map_err(wrong(relay))?;
    let set = state::authority_set(checked.state_root, proof.clone()).map_err(wrong(relay))?;
    let block_header = Header::decode(&mut &*checked.encoded)
        .map_err(|_| wrong(relay)(verify::Error::HeaderEncoding { number }))?;
    let info = GenesisBlockInfo { block_header, authority_set: set.clone(), proof };
    Ok(Proven { start: Start { number, hash, set }, info })
}

fn other_parachain(relay: &Node, para: &Node, outline: &Outline, number: u32) -> Error {
    let name = |node: &Node| Arc::clone(node.name());
    Error::OtherParachain { relay: name(relay), para: name(para), para_id: outline.para_id, number }
}

/// Checks that the head which the relay chain names after the genesis header descends from block 1.
async fn confirm_block_1(relay: &Node, para: &Node, outline: &Outline) -> Result<(), Error> {
    let key = [state::para_head_key(outline.para_id)];
    let first = outline.relay_parent.0 + 1;
    for number in first..first.saturating_add(INCLUDED_WITHIN) {
        let hash = block_hash(relay, number).await?;
        let block = header(relay, hash, number).await?;
        let proof = proof_of(relay, &key, hash).await?;
        let named = state::para_head(block.state_root, proof, outline.para_id).map_err(wrong(relay))?;
        let Some(mut head) = named.filter(|head| head.hash != outline.genesis) else { continue };
        // One relay block may include several.
        while head.number > 1 && head.number <= INCLUDED_AT_ONCE {
            head = header(para, head.parent(), head.number - 1).await?;
        }
        return match head.hash == outline.identity {
            true => Ok(()),
            false => Err(other_parachain(relay, para, outline, number)),
        };
    }
    Err(other_parachain(relay, para, outline, first))
}

/// The parachain's id in its genesis state; `None` if the state is no parachain's.
fn para_id(state_root: Hash, proof: Vec<Vec<u8>>) -> Result<Option<u32>, verify::Error> {
    let key = state::value_key("ParachainInfo", "ParachainId");
    let id = value("the parachain's id", state_root, proof, key)?;
    Ok(id.and_then(|id| u32::decode(&mut &*id).ok()))
}

/// Reads one value from its proof.
fn value(
    what: &'static str,
    state_root: Hash,
    proof: Vec<Vec<u8>>,
    key: Vec<u8>,
) -> Result<Option<Vec<u8>>, verify::Error> {
    Ok(state::read(what, state_root, proof, &[key])?.into_iter().next().flatten())
}

async fn read_proof(node: &Node, key: &[u8], at: Hash) -> Result<Vec<Vec<u8>>, Error> {
    proof_of(node, &[key.to_vec()], at).await
}

async fn proof_of(node: &Node, keys: &[Vec<u8>], at: Hash) -> Result<Vec<Vec<u8>>, Error> {
    let keys: Vec<_> = keys.iter().cloned().map(json::HexBytes).collect();
    let proof: json::ReadProof = node.request("state_getReadProof", (keys, at)).await?;
    Ok(proof.into_nodes())
}

async fn header(node: &Node, hash: Hash, number: u32) -> Result<Checked, Error> {
    let header: Option<json::Header> = node.request("chain_getHeader", [hash]).await?;
    let header = header.ok_or_else(|| absent(node, format!("header of block {number}")))?;
    verify::header(hash, number, header.encode()).map_err(wrong(node))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_devnet::{Config, Devnet};

    use super::*;
    use crate::rpc::{self, NodePool};

    async fn devnet() -> Devnet {
        Devnet::start(Config { history: 12, para_id: 2100, ..Config::default() }).await.unwrap()
    }

    fn node(chain: &'static str, url: String) -> Arc<Node> {
        NodePool::new(chain, rpc::Config::new([url])).unwrap().pick()
    }

    fn root(node: &prb_devnet::Node, number: u32) -> Hash {
        Hash(node.header(number).unwrap().state_root.0)
    }

    #[tokio::test]
    async fn parachain_id_is_read_from_the_verified_genesis_state() {
        let devnet = devnet().await;
        let key = [state::value_key("ParachainInfo", "ParachainId")];
        let proof_by = |node: &prb_devnet::Node| node.read_proof(&key, node.block_hash(0).unwrap()).unwrap();
        let (para, relay) = (devnet.para(), devnet.relay());
        assert_eq!(para_id(root(para, 0), proof_by(para)), Ok(Some(2100)));
        assert_eq!(para_id(root(relay, 0), proof_by(relay)), Ok(None), "no parachain");
        assert!(para_id(root(para, 0), proof_by(relay)).is_err(), "a proof of another state");
        let mut forged = proof_by(para);
        let id = 2100u32.to_le_bytes();
        let at = |node: &Vec<u8>| node.windows(4).position(|bytes| bytes == id);
        let (node, at) =
            forged.iter_mut().find_map(|node| Some(at(node)).flatten().map(|at| (node, at))).unwrap();
        node[at] ^= 1;
        assert!(para_id(root(para, 0), forged).is_err());
    }

    #[tokio::test]
    async fn start_is_proven_only_where_both_chains_fit_together() {
        let devnet = devnet().await;
        let (relay, para) = (node("relay", devnet.relay().url()), node("para", devnet.para().url()));
        let outlined = async || outline(&para).await.unwrap();
        let proven = prove(&relay, &para, &outlined().await).await.unwrap();
        assert_eq!(proven.start.hash, Hash(devnet.relay().block_hash(proven.start.number).unwrap().0));

        // The relay chain knows another genesis, or no such parachain.
        let other = Outline { genesis: Hash([7; 32]), ..outlined().await };
        let error = prove(&relay, &para, &other).await.unwrap_err();
        assert!(matches!(error, Error::OtherParachain { para_id: 2100, .. }), "{error}");
        let other = Outline { para_id: 2035, ..outlined().await };
        let error = prove(&relay, &para, &other).await.unwrap_err();
        assert!(error.to_string().contains("head of parachain 2035 is no block"), "{error}");
        // A false block 1 on a true genesis.
        let other = Outline { identity: Hash([7; 32]), ..outlined().await };
        let error = prove(&relay, &para, &other).await.unwrap_err();
        assert!(
            matches!(error, Error::OtherParachain { number, .. } if number > proven.start.number + 1),
            "{error}"
        );
        let other = Outline { relay_parent: (3, outlined().await.relay_parent.1), ..outlined().await };
        let error = prove(&relay, &para, &other).await.unwrap_err();
        assert!(matches!(error, Error::OtherRelay { number: 3, .. }), "{error}");

        // A false start before the true relay parent.
        devnet.relay().faults().fork_at(Some(proven.start.number));
        let error = prove(&relay, &para, &outlined().await).await.unwrap_err();
        assert!(matches!(error, Error::Wrong { source: verify::Error::Parent { .. }, .. }), "{error}");
    }
}
