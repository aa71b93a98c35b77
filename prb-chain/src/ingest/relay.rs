//! Relay headers, justified, with the parachain head that the last one's state names.

use prb_core::{
    primitives::{Hash, RelayNumber},
    wire::{AuthoritySet, GRANDPA_ENGINE_ID},
};
use tokio::sync::watch;

use super::{Chains, Config, Error, Pause, absent, write, wrong};
use crate::{
    rpc::{Node, json},
    store::{NewStop, ParaHead, RelayBatch},
    verify::{self, Checked, FinalityProof, grandpa, state},
};

/// Blocks that are asked for a justification before more headers are fetched, newest first.
const JUSTIFIED_CANDIDATES: usize = 16;
/// Nodes keep the justification of every block whose number this divides.
const JUSTIFICATION_PERIOD: u32 = 512;

/// Headers after the stored ones, and the justification of the last of them.
struct Proven {
    headers: Vec<Checked>,
    justification: Vec<u8>,
}

/// Where the stored blocks end.
#[derive(Clone, Copy)]
struct Tip {
    number: RelayNumber,
    hash: Hash,
}

/// Follows the relay chain.
pub(super) async fn run(
    chains: &Chains,
    config: &Config,
    mut targets: watch::Receiver<Option<RelayNumber>>,
) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut proofs = true;
    loop {
        let target = *targets.borrow_and_update();
        match advance(chains, config, target, &mut proofs).await {
            Ok(true) => pause.reset(),
            Ok(false) => {
                pause.reset();
                // The sender lives as long as this loop.
                let _ = targets.changed().await;
            }
            Err(e) => pause.after(chains, "relay", e).await?,
        }
    }
}

/// Stores the next batch; `false` when there is none yet.
async fn advance(
    chains: &Chains,
    config: &Config,
    target: Option<RelayNumber>,
    proofs: &mut bool,
) -> Result<bool, Error> {
    let Some((start, genesis)) = chains.store.genesis() else { return Ok(false) };
    let tip = match chains.store.tips().borrow().relay {
        Some((number, hash)) => Tip { number, hash },
        None => Tip { number: RelayNumber(start.number), hash: start.hash },
    };
    let Some(target) = target.filter(|target| *target > tip.number) else { return Ok(false) };
    let (set, ends_set) = (chains.store.current_set()?, chains.store.tip_ends_set()?);
    let node = chains.relay.pick();
    let proven = if *proofs {
        match by_finality_proof(&node, tip, ends_set).await {
            Err(Error::Rpc(e)) if e.is_refused_method() => {
                tracing::info!(node = %node.name(), "no finality proofs here: justifications come from blocks");
                *proofs = chains.relay.nodes().len() > 1;
                by_justification(&node, config, tip, target).await?
            }
            other => other?,
        }
    } else {
        by_justification(&node, config, tip, target).await?
    };
    let Some(proven) = proven else { return Ok(false) };
    let batch = batch(&node, genesis.para_id, tip, &set, proven).await?;
    write(&chains.store, move |store| store.append_relay(&batch)).await?;
    Ok(true)
}

/// One finality proof gives all headers up to the end of a set, or to the newest justified block.
async fn by_finality_proof(node: &Node, tip: Tip, ends_set: bool) -> Result<Option<Proven>, Error> {
    if !ends_set
        && let Some(proof) = prove(node, tip.number.0).await?
        && !proof.headers.is_empty()
    {
        let headers = verify::chain(tip.hash, tip.number.next().0, proof.headers).map_err(wrong(node))?;
        return checked(node, headers, proof.block, proof.justification);
    }
    // The tip is its set's last block, which the proof is of: the next set's proof starts one block later.
    let next = tip.number.next().0;
    let Some(proof) = prove(node, next).await? else { return Ok(None) };
    // A proof starts after the block that it was asked for: that one is fetched by its hash.
    let hash = match proof.headers.first() {
        Some(header) => header.get(..32).and_then(|hash| hash.try_into().ok()).map(Hash),
        None => Some(proof.block),
    };
    let Some(hash) = hash.filter(|hash| *hash != tip.hash) else { return Ok(None) };
    let first: Option<json::Header> = node.request("chain_getHeader", [hash]).await?;
    let Some(first) = first.filter(|first| first.number() == next) else {
        // The node's newest justification is older than the tip.
        return Ok(None);
    };
    let first = verify::header(hash, next, first.encode()).map_err(wrong(node))?;
    let headers = std::iter::once(first.encoded).chain(proof.headers);
    let headers = verify::chain(tip.hash, next, headers).map_err(wrong(node))?;
    checked(node, headers, proof.block, proof.justification)
}

async fn prove(node: &Node, number: u32) -> Result<Option<FinalityProof>, Error> {
    let proof: Option<json::HexBytes> = node.request("grandpa_proveFinality", [number]).await?;
    proof.map(|proof| FinalityProof::decode(&proof.0).map_err(wrong(node))).transpose()
}

/// The headers must end at the block that the proof names.
fn checked(
    node: &Node,
    headers: Vec<Checked>,
    block: Hash,
    justification: Vec<u8>,
) -> Result<Option<Proven>, Error> {
    let Some(last) = headers.last() else { return Ok(None) };
    if last.hash != block {
        let (number, actual) = (last.number, last.hash);
        return Err(wrong(node)(verify::Error::HeaderHash { number, expected: block, actual }));
    }
    Ok(Some(Proven { headers, justification }))
}

/// Headers in windows, until one schedules a change of authorities (nodes keep its justification), or a
/// justified one is found.
async fn by_justification(
    node: &Node,
    config: &Config,
    tip: Tip,
    target: RelayNumber,
) -> Result<Option<Proven>, Error> {
    let mut headers: Vec<Checked> = Vec::new();
    loop {
        let (first, parent) =
            headers.last().map_or((tip.number.next().0, tip.hash), |last| (last.number + 1, last.hash));
        let last = target.0.min(first.saturating_add(config.headers_per_batch - 1));
        let window = window(node, first, last).await?;
        let seen = headers.len();
        headers.extend(verify::chain(parent, first, window).map_err(wrong(node))?);
        if let Some(at) = headers[seen..].iter().position(|header| header.change.is_some()) {
            headers.truncate(seen + at + 1);
            let number = headers[seen + at].number;
            let justification = justification(node, headers[seen + at].hash).await?;
            let justification =
                justification.ok_or_else(|| absent(node, format!("justification of block {number}")))?;
            return Ok(Some(Proven { headers, justification }));
        }
        let full = headers.len() >= config.max_unproven_headers as usize;
        if last == target.0 || full {
            return newest_justified(node, headers).await;
        }
    }
}

/// The newest of the headers whose justification the node has.
async fn newest_justified(node: &Node, mut headers: Vec<Checked>) -> Result<Option<Proven>, Error> {
    let newest = headers.len().saturating_sub(JUSTIFIED_CANDIDATES);
    let candidates: Vec<usize> = (0..headers.len())
        .rev()
        .filter(|at| *at >= newest || headers[*at].number.is_multiple_of(JUSTIFICATION_PERIOD))
        .collect();
    for at in candidates {
        if let Some(justification) = justification(node, headers[at].hash).await? {
            headers.truncate(at + 1);
            return Ok(Some(Proven { headers, justification }));
        }
    }
    Ok(None)
}

async fn justification(node: &Node, hash: Hash) -> Result<Option<Vec<u8>>, Error> {
    let block: Option<json::SignedBlock> = node.request("chain_getBlock", [hash]).await?;
    let all = block.and_then(|block| block.justifications).unwrap_or_default();
    Ok(all.into_iter().find(|(engine, _)| *engine == GRANDPA_ENGINE_ID).map(|(_, bytes)| bytes.0))
}

/// Encoded headers of a span.
pub(super) async fn window(node: &Node, first: u32, last: u32) -> Result<Vec<Vec<u8>>, Error> {
    let numbers: Vec<u32> = (first..=last).collect();
    let hashes: Vec<Option<Hash>> = node.request("chain_getBlockHash", [&numbers]).await?;
    let known: Vec<[Hash; 1]> = hashes.into_iter().map_while(|hash| Some([hash?])).collect();
    if known.len() != numbers.len() {
        return Err(absent(node, format!("block {}", first as usize + known.len())));
    }
    let headers: Vec<Option<json::Header>> = node.batch("chain_getHeader", &known).await?;
    headers
        .into_iter()
        .zip(numbers)
        .map(|(header, number)| {
            header.map(|h| h.encode()).ok_or_else(|| absent(node, format!("header of block {number}")))
        })
        .collect()
}

/// Checks the justification and reads, by proof, what the last block's state says.
async fn batch(
    node: &Node,
    para_id: u32,
    tip: Tip,
    set: &AuthoritySet,
    proven: Proven,
) -> Result<RelayBatch, Error> {
    let Proven { headers, justification } = proven;
    let Some((last, before)) = headers.split_last() else { return Err(absent(node, "relay header")) };
    if let Some(early) = before.iter().find(|header| header.change.is_some()) {
        let reason = "it is of a block after the end of its set";
        return Err(wrong(node)(verify::Error::Justification { number: early.number, reason }));
    }
    grandpa::check(&justification, set, last.number, last.hash).map_err(wrong(node))?;
    let next_set = last.next_set(set).map_err(wrong(node))?;

    let mut keys = vec![json::HexBytes(state::para_head_key(para_id))];
    if next_set.is_some() {
        keys.extend(state::authority_keys().map(json::HexBytes));
    }
    let proof: json::ReadProof = node.request("state_getReadProof", (keys, last.hash)).await?;
    let proof = proof.into_nodes();
    let head = state::para_head(last.state_root, proof.clone(), para_id).map_err(wrong(node))?;
    if let Some(next) = &next_set {
        let proven = state::authority_set(last.state_root, proof.clone()).map_err(wrong(node))?;
        if proven != *next {
            let reason = "it is another set than the block schedules".into();
            return Err(wrong(node)(verify::Error::Proof { what: "the authorities", reason }));
        }
    }
    let stop = NewStop {
        number: RelayNumber(last.number),
        justification,
        set_id: set.id,
        next_set,
        para_head: head.map(|head| ParaHead { number: head.number.into(), hash: head.hash }),
        proof,
    };
    let first = tip.number.next();
    let headers = headers.into_iter().map(|header| header.encoded).collect();
    Ok(RelayBatch { first, headers, stops: vec![stop] })
}
