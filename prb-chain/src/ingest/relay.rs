//! Relay headers, justified, with the parachain head that the last one's state names.

use std::sync::Arc;

use codec::Decode;
use prb_core::{
    blob::Genesis,
    primitives::{Hash, RelayNumber},
    wire::{AuthoritySet, GRANDPA_ENGINE_ID, GenesisBlockInfo},
};
use tokio::sync::watch;

use super::{Chains, Config, Error, Pause, absent, write, wrong};
use crate::{
    rpc::{Node, json},
    store::{NewStop, ParaHead, RelayBatch},
    verify::{self, Checked, FinalityProof, grandpa, state},
};

/// This part's name in logs and metrics.
pub(super) const PART: &str = "relay";
/// Blocks that are asked for a justification before more headers are fetched, newest first.
const JUSTIFIED_CANDIDATES: usize = 16;
/// Nodes keep the justification of every block whose number this divides.
const JUSTIFICATION_PERIOD: u32 = 512;

/// Sets that are walked through before what is missing of all of them is fetched at once.
const SETS_PER_ROUND: usize = 16;
/// Header bytes after which no further set is added to a round.
const ROUND_BYTES: usize = 8 * 1024 * 1024;

/// Headers after the ones before, and the justification of the last of them.
struct Proven {
    headers: Vec<Checked>,
    justification: Vec<u8>,
}

/// An answer to `grandpa_proveFinality`: without the header of the block that was asked for.
struct Piece {
    /// Number of the first header that is wanted.
    number: u32,
    /// That header's hash, where the proof leaves it out.
    missing: Option<Hash>,
    proof: FinalityProof,
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
            // A head may be told a moment before its proof is there, and be the last one for a while.
            Ok(false) if target > chains.store.tips().borrow().relay.map(|(number, _)| number) => {
                let again = pause.next();
                tokio::select! {
                    _ = targets.changed() => pause.reset(),
                    () = tokio::time::sleep(again) => {}
                }
            }
            Ok(false) => {
                pause.reset();
                // The sender lives as long as this loop.
                let _ = targets.changed().await;
            }
            Err(e) => pause.after(chains, PART, e).await?,
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
    let stored = chains.store.tips().borrow().relay;
    let tip = match stored {
        Some((number, hash)) => Tip { number, hash },
        None => Tip { number: RelayNumber(start.number), hash: start.hash },
    };
    let Some(target) = target.filter(|target| *target > tip.number) else { return Ok(false) };
    let store = Arc::clone(&chains.store);
    let (set, ends_set) = write(&store, |store| Ok((store.current_set()?, store.tip_ends_set()?))).await?;
    let ends_set = ends_set || stored.is_none() && start_ends_set(genesis);
    let node = chains.relay.pick();
    let proven = if *proofs {
        match by_finality_proofs(&node, tip, ends_set).await {
            Err(Error::Rpc(e)) if e.is_refused_method() => {
                tracing::info!(node = %node.name(), "no finality proofs here: justifications come from blocks");
                *proofs = chains.relay.nodes().len() > 1;
                by_justification(&node, config, tip, target).await?.into_iter().collect()
            }
            other => other?,
        }
    } else {
        by_justification(&node, config, tip, target).await?.into_iter().collect()
    };
    if proven.is_empty() {
        return Ok(false);
    }
    let batch = batch(&node, genesis.para_id, tip, set, proven).await?;
    write(&chains.store, move |store| store.append_relay(&batch)).await?;
    Ok(true)
}

/// Whether the block that workers start after is the last of its set.
fn start_ends_set(genesis: &Genesis) -> bool {
    GenesisBlockInfo::decode(&mut &genesis.info[..])
        .is_ok_and(|info| info.block_header.scheduled_change().is_some())
}

/// One finality proof gives the headers up to the end of a set, or to the newest justified block: some
/// sets' proofs, and then the headers that they leave out, in one batch.
async fn by_finality_proofs(node: &Node, tip: Tip, ends_set: bool) -> Result<Vec<Proven>, Error> {
    let pieces = walk(node, tip, ends_set).await?;
    let missing: Vec<[Hash; 1]> = pieces.iter().filter_map(|piece| Some([piece.missing?])).collect();
    let first: Vec<Option<json::Header>> = node.request_many("chain_getHeader", &missing).await?;
    let mut first = first.into_iter();

    let mut parent = tip.hash;
    let mut proven = Vec::new();
    for Piece { number, missing, proof } in pieces {
        let mut headers = Vec::with_capacity(proof.headers.len() + 1);
        if let Some(hash) = missing {
            let header =
                first.next().flatten().ok_or_else(|| absent(node, format!("header of block {number}")))?;
            if header.number() != number {
                // The node's newest justification is older than the tip.
                break;
            }
            headers.push(verify::header(hash, number, header.encode()).map_err(wrong(node))?.encoded);
        }
        headers.extend(proof.headers);
        let headers = verify::chain(parent, number, headers).map_err(wrong(node))?;
        let Some(last) = headers.last() else { break };
        if last.hash != proof.block {
            let (number, expected, actual) = (last.number, proof.block, last.hash);
            return Err(wrong(node)(verify::Error::HeaderHash { number, expected, actual }));
        }
        parent = last.hash;
        proven.push(Proven { headers, justification: proof.justification });
    }
    Ok(proven)
}

/// Proofs from the tip on, each starting where the one before ends its set.
async fn walk(node: &Node, tip: Tip, ends_set: bool) -> Result<Vec<Piece>, Error> {
    let (mut tip, mut ends_set) = (tip, ends_set);
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while pieces.len() < SETS_PER_ROUND && bytes < ROUND_BYTES {
        let number = tip.number.next().0;
        // Asked for the last block of a set, a node answers with that block's own justification.
        let asked = if ends_set { number } else { tip.number.0 };
        let proof = match prove(node, asked).await {
            Ok(Some(proof)) => proof,
            Ok(None) => break,
            // What is proven already is worth having; the next round meets the failure again.
            Err(_) if !pieces.is_empty() => break,
            Err(e) => return Err(e),
        };
        let missing = match (ends_set, proof.headers.first()) {
            (false, None) => break,
            (false, Some(_)) => None,
            // A header starts with its parent's hash.
            (true, Some(header)) => header.get(..32).and_then(|hash| hash.try_into().ok()).map(Hash),
            (true, None) => Some(proof.block),
        };
        if missing == Some(tip.hash) {
            break;
        }
        bytes += proof.headers.iter().map(Vec::len).sum::<usize>();
        let last = asked + proof.headers.len() as u32;
        ends_set = match proof.headers.last() {
            Some(header) => Checked::new(last, header.clone()).map_err(wrong(node))?.change.is_some(),
            // Whether this block ends its set is in its header, which is yet to come.
            None => false,
        };
        tip = Tip { number: RelayNumber(last), hash: proof.block };
        pieces.push(Piece { number, missing, proof });
        if !ends_set {
            break;
        }
    }
    Ok(pieces)
}

async fn prove(node: &Node, number: u32) -> Result<Option<FinalityProof>, Error> {
    let proof: Option<json::HexBytes> = node.request_bulk("grandpa_proveFinality", [number]).await?;
    proof.map(|proof| FinalityProof::decode(&proof.0).map_err(wrong(node))).transpose()
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
    let headers: Vec<Option<json::Header>> = node.request_many("chain_getHeader", &known).await?;
    headers
        .into_iter()
        .zip(numbers)
        .map(|(header, number)| {
            header.map(|h| h.encode()).ok_or_else(|| absent(node, format!("header of block {number}")))
        })
        .collect()
}

/// Checks the justifications and reads, by proof, what the state at each justified block says.
async fn batch(
    node: &Node,
    para_id: u32,
    tip: Tip,
    set: AuthoritySet,
    proven: Vec<Proven>,
) -> Result<RelayBatch, Error> {
    let questions: Vec<_> = proven
        .iter()
        .filter_map(|piece| piece.headers.last())
        .map(|last| {
            let mut keys = vec![json::HexBytes(state::para_head_key(para_id))];
            if last.change.is_some() {
                keys.extend(state::authority_keys().map(json::HexBytes));
            }
            (keys, last.hash)
        })
        .collect();
    let proofs: Vec<json::ReadProof> = node.request_many("state_getReadProof", &questions).await?;
    let proofs = proofs.into_iter().map(json::ReadProof::into_nodes);
    let answers: Vec<_> = proven.into_iter().zip(proofs).collect();
    // Hundreds of signatures: other tasks of this thread should not wait for them.
    let checked = tokio::task::spawn_blocking(move || check(para_id, set, answers)).await?;
    let (headers, stops) = checked.map_err(wrong(node))?;
    let headers = headers.into_iter().map(|header| header.encoded).collect();
    Ok(RelayBatch { first: tip.number.next(), headers, stops })
}

fn check(
    para_id: u32,
    mut set: AuthoritySet,
    answers: Vec<(Proven, Vec<Vec<u8>>)>,
) -> Result<(Vec<Checked>, Vec<NewStop>), verify::Error> {
    let (mut all, mut stops) = (Vec::new(), Vec::new());
    for (Proven { headers, justification }, proof) in answers {
        let Some((last, before)) = headers.split_last() else { continue };
        if let Some(early) = before.iter().find(|header| header.change.is_some()) {
            let reason = "it is of a block after the end of its set";
            return Err(verify::Error::Justification { number: early.number, reason });
        }
        grandpa::check(&justification, &set, last.number, last.hash)?;
        let next_set = last.next_set(&set)?;
        let head = state::para_head(last.state_root, proof.clone(), para_id)?;
        if let Some(next) = &next_set
            && state::authority_set(last.state_root, proof.clone())? != *next
        {
            let reason = "it is another set than the block schedules".into();
            return Err(verify::Error::Proof { what: "the authorities", reason });
        }
        stops.push(NewStop {
            number: RelayNumber(last.number),
            justification,
            set_id: set.id,
            next_set: next_set.clone(),
            para_head: head.map(|head| ParaHead { number: head.number.into(), hash: head.hash }),
            proof,
        });
        set = next_set.unwrap_or(set);
        all.extend(headers);
    }
    Ok((all, stops))
}
