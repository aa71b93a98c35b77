//! Fetches justified relay headers, with the parachain head named in the last one's state.
//!
//! Finality proofs are tried first (`relay/walk.rs`); far from the target they are fetched from all fit nodes in
//! parallel (`relay/spread.rs`). A node whose proofs do not help, for whatever reason, is recorded to lack them, and the
//! justifications that it stores with blocks are used instead (`relay/justified.rs`). If it has none of these either,
//! another node is asked.

use prb_core::text::describe;
use std::sync::Arc;

use codec::Decode;
use prb_core::{
    blob::Genesis,
    primitives::{Hash, RelayNumber},
    wire::{AuthoritySet, GenesisBlockInfo},
};
use tokio::sync::watch;

use self::walk::Found;
use super::{Chains, Config, Error, Pause, absent, pace::Pace, write, wrong};
use crate::{
    history::Piece,
    rpc::{self, ASK_AGAIN, Capability, Node, Refusal, json},
    store::{self, NewJustifiedBlock, ParaHead, RelayBatch, Store},
    verify::{self, Checked, grandpa, state},
};

mod justified;
mod segment;
mod spread;
mod walk;

/// This loop's name in logs and metrics.
pub(super) const PART: &str = "relay";
/// Number of blocks beyond the stored ones that need not be provable yet: a head is announced before its
/// proof exists.
const NEAR: u32 = 32;
/// Threads that check signatures.
const MAX_THREADS: usize = 8;
/// Number of signatures below which they are checked on one thread.
const FEW_SIGNATURES: usize = 64;
/// Attempts without anything new, after which blocks near the target are fetched like those far from it.
const NEAR_ATTEMPTS: u32 = 6;

/// Consecutive headers, and the justification of the last one.
struct Proven {
    headers: Vec<Checked>,
    justification: Vec<u8>,
}

/// The last stored block.
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
    let mut pace = Pace::new(spread::FIRST, spread::MOST, config.answer_time);
    let mut attempts = 0;
    loop {
        let target = *targets.borrow_and_update();
        let turn = chains.turn.read().await;
        let advanced = advance(chains, config, &mut pace, target, attempts >= NEAR_ATTEMPTS).await;
        drop(turn);
        // The lock is released first: history sources may append while this loop waits.
        match advanced {
            Ok(true) => {
                attempts = 0;
                pause.reset();
            }
            // A head may be announced slightly before its proof exists, and stay the newest for a while.
            Ok(false) if target > chains.store.tips().borrow().relay.map(|(number, _)| number) => {
                attempts += 1;
                let again = pause.next();
                tokio::select! {
                    _ = targets.changed() => pause.reset(),
                    () = tokio::time::sleep(again) => {}
                }
            }
            Ok(false) => {
                pause.reset();
                // Cannot fail: the sender lives as long as this loop.
                let _ = targets.changed().await;
            }
            Err(e) => pause.after(chains, PART, e).await?,
        }
    }
}

/// Stores the next batch; `false` if there is none yet.
async fn advance(
    chains: &Chains,
    config: &Config,
    pace: &mut Pace,
    target: Option<RelayNumber>,
    overdue: bool,
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
    if chains.store.tips().borrow().relay != stored {
        // The database had failed and was opened again: a write that was reported to have failed is in it. With the
        // authorities of after it, the blocks of before would look forged.
        return Ok(true);
    }
    let ends_set = ends_set || stored.is_none() && start_ends_set(genesis);
    let is_far = overdue || target.0 - tip.number.0 > NEAR;
    let para_id = genesis.para_id;
    // Near the target one request is enough, and several nodes would only repeat it.
    if is_far
        && let Some(round) = spread::Round::new(chains, pace, para_id, (tip, ends_set, set.clone()), target.0)
        && round.run().await?
    {
        return Ok(true);
    }
    next_batch(chains, config, tip, (set, ends_set), (target, is_far)).await
}

/// Fetches and stores a batch from one node.
async fn next_batch(
    chains: &Chains,
    config: &Config,
    tip: Tip,
    (set, ends_set): (AuthoritySet, bool),
    (target, is_far): (RelayNumber, bool),
) -> Result<bool, Error> {
    let Some((_, genesis)) = chains.store.genesis() else { return Ok(false) };
    let para_id = genesis.para_id;
    let node = match is_far {
        true => chains.relay.pick_for(&spread::NEEDED),
        false => chains.relay.pick_for(&[Capability::FinalityProofs]),
    };
    let mut proven = Vec::new();
    if is_far {
        prove_state(&node, tip.hash, para_id).await?;
    } else if node.offers(Capability::FinalityProofs) {
        proven = proofs(&node, tip, ends_set).await?;
    }
    // Decides whom a wrong answer is attributed to: the proofs or the stored justifications.
    let by_proof = !proven.is_empty();
    if !node.offers(Capability::FinalityProofs) {
        proven.extend(justified::find(&node, config, tip, target, &set).await?);
        if proven.is_empty() && is_far {
            return Err(absent(
                &node,
                format!("justification of a block from {} to {}", tip.number.next(), target),
            ));
        }
    }
    if proven.is_empty() {
        return Ok(false);
    }
    let batch = match batch(&node, para_id, tip, set, proven).await {
        Err(e @ Error::Wrong { .. }) if by_proof => {
            // If no other node is left, the justifications of its blocks may still be valid.
            node.lacks(Capability::FinalityProofs, &format!("a finality proof was wrong: {}", describe(&e)));
            return Err(e);
        }
        other => other?,
    };
    node.has_offered(Capability::States);
    let headless_from = write(&chains.store, move |store| append(store, &batch)).await?;
    notice_missing_head(&chains.store, para_id, headless_from);
    Ok(true)
}

/// Stores verified blocks. Returns the first block whose state no longer names a head of the parachain, if
/// any.
pub(crate) fn append(store: &Store, batch: &RelayBatch) -> Result<Option<RelayNumber>, store::Error> {
    // Read before the blocks are appended, or every batch would report the same missing head.
    let named_head = store.tip_names_head()?;
    store.append_relay(batch)?;
    let headless_from = batch.justified.iter().find(|stop| stop.para_head.is_none()).map(|stop| stop.number);
    Ok(headless_from.filter(|_| named_head))
}

/// Verifies pieces from history sources: they follow `parent`, and `set` justifies the first one.
pub(crate) fn check_pieces(
    para_id: u32,
    set: AuthoritySet,
    parent: Hash,
    first: RelayNumber,
    pieces: Vec<Piece>,
) -> Result<RelayBatch, verify::Error> {
    let (mut parent, mut next, mut answers) = (parent, first.0, Vec::new());
    for Piece { headers, justification, proof } in pieces {
        let headers = verify::chain(parent, next, headers)?;
        let Some(last) = headers.last() else { continue };
        (parent, next) = (last.hash, last.number + 1);
        answers.push((Proven { headers, justification }, proof));
    }
    let (Verified { headers, justified }, _) = check(para_id, set, answers)?;
    Ok(RelayBatch { first, headers, justified })
}

/// Reports that the relay chain no longer names a head of the parachain, which was offboarded.
pub(crate) fn notice_missing_head(store: &Store, para_id: u32, headless_from: Option<RelayNumber>) {
    let last = store.tips().borrow().proven.map(|(number, _)| number.0);
    if let (Some(relay), Some(last)) = (headless_from, last) {
        tracing::warn!(
            relay = relay.0,
            para_id,
            last,
            "the relay chain names no head of the parachain any more; its last block stays the newest"
        );
    }
}

/// Checks that the node has old states before hundreds of headers are fetched, which would be useless without
/// them.
async fn prove_state(node: &Node, at: Hash, para_id: u32) -> Result<(), Error> {
    let keys = [json::HexBytes(state::para_head_key(para_id))];
    let proof: Result<json::ReadProof, rpc::Error> = node.request("state_getReadProof", (keys, at)).await;
    proof.map(drop).map_err(|e| unreadable(node, e))
}

/// Records that a node has pruned the required state.
fn unreadable(node: &Node, error: rpc::Error) -> Error {
    if error.refusal() == Some(Refusal::StatePruned) {
        node.lacks(Capability::States, &describe(&error));
    }
    error.into()
}

/// Fetches what is proven near the target, where there may be no proof yet.
async fn proofs(node: &Node, tip: Tip, ends_set: bool) -> Result<Vec<Proven>, Error> {
    match walk::by_finality_proofs(node, tip, ends_set).await {
        Ok(Found::Proven(proven)) => Ok(proven),
        Ok(Found::Nothing(reason)) => {
            tracing::debug!(node = %node.name(), reason, "no finality proof yet");
            Ok(Vec::new())
        }
        Err(e) => {
            if let Error::Rpc(rpc::Error::Timeout { .. }) = &e {
                node.lacks(Capability::FinalityProofs, &describe(&e));
            }
            Err(e)
        }
    }
}

/// Whether the block that workers start after is the last of its authority set.
fn start_ends_set(genesis: &Genesis) -> bool {
    GenesisBlockInfo::decode(&mut &genesis.info[..])
        .is_ok_and(|info| info.block_header.scheduled_change().is_some())
}

/// Fetches encoded headers of a span.
pub(super) async fn window(node: &Node, first: u32, last: u32) -> Result<Vec<Vec<u8>>, Error> {
    let numbers: Vec<u32> = (first..=last).collect();
    let known = hashes(node, &numbers).await?;
    if known.len() != numbers.len() {
        return Err(absent(node, format!("block {}", first as usize + known.len())));
    }
    let headers: Vec<Option<json::Header>> = node.request_some("chain_getHeader", &known).await?;
    let asked = numbers.into_iter().zip(known);
    asked
        .zip(headers)
        .map(|((number, [hash]), header)| {
            let header = header.ok_or_else(|| absent(node, format!("header of block {number}")))?;
            Ok(verify::header(hash, number, header.encode()).map_err(wrong(node))?.encoded)
        })
        .collect()
}

/// Fetches block hashes, up to the first block that the node does not have; retries partial answers as
/// [`Node::request_some`] does.
async fn hashes(node: &Node, numbers: &[u32]) -> Result<Vec<[Hash; 1]>, Error> {
    let mut known: Vec<[Hash; 1]> = Vec::new();
    for _ in 0..=ASK_AGAIN {
        let hashes: Vec<Option<Hash>> = node.request("chain_getBlockHash", [numbers]).await?;
        known = hashes.into_iter().map_while(|hash| Some([hash?])).collect();
        if known.len() == numbers.len() {
            break;
        }
    }
    Ok(known)
}

/// Checks the justifications, and reads by proof what the state at each justified block says.
async fn batch(
    node: &Node,
    para_id: u32,
    tip: Tip,
    set: AuthoritySet,
    proven: Vec<Proven>,
) -> Result<RelayBatch, Error> {
    let proofs = proofs_of(node, para_id, &proven).await?;
    let answers: Vec<_> = proven.into_iter().zip(proofs).collect();
    // Hundreds of signatures: other tasks of this thread should not wait for them.
    let checked = tokio::task::spawn_blocking(move || check(para_id, set, answers)).await?;
    let (Verified { headers, justified }, _) = checked.map_err(wrong(node))?;
    Ok(RelayBatch { first: tip.number.next(), headers, justified })
}

/// Fetches the read proofs of the required values in the states at the justified blocks.
async fn proofs_of(node: &Node, para_id: u32, proven: &[Proven]) -> Result<Vec<Vec<Vec<u8>>>, Error> {
    let questions: Vec<_> = proven
        .iter()
        .filter_map(|piece| piece.headers.last())
        .map(|last| {
            let mut keys = vec![json::HexBytes(state::para_head_key(para_id))];
            // Old workers need the next authority set by proof; new ones take it from the header.
            if last.change.is_some() {
                keys.extend(state::authority_keys().map(json::HexBytes));
            }
            (keys, last.hash)
        })
        .collect();
    let proofs: Result<Vec<json::ReadProof>, _> = node.request_many("state_getReadProof", &questions).await;
    let proofs = proofs.map_err(|e| unreadable(node, e))?;
    Ok(proofs.into_iter().map(json::ReadProof::into_nodes).collect())
}

/// Blocks that passed the checks.
#[derive(Default)]
struct Verified {
    headers: Vec<Vec<u8>>,
    justified: Vec<NewJustifiedBlock>,
}

/// Headers up to a justified one, its justification, and the proof of what its state says.
type Unchecked = (Proven, Vec<Vec<u8>>);

/// A piece, with the set that justifies it and the one that follows.
struct Signed {
    piece: Proven,
    proof: Vec<Vec<u8>>,
    set: AuthoritySet,
    next_set: Option<AuthoritySet>,
}

/// Checks consecutive pieces, the first of which `set` justifies. Returns the set of the blocks after them.
///
/// The headers before a piece announce the set that justifies it, so all signatures can be checked at once.
fn check(
    para_id: u32,
    mut set: AuthoritySet,
    pieces: Vec<Unchecked>,
) -> Result<(Verified, AuthoritySet), verify::Error> {
    let (mut signed, mut failure) = (Vec::with_capacity(pieces.len()), None);
    for (piece, proof) in pieces {
        let Some(last) = piece.headers.last() else { continue };
        let next_set = last.next_set(&set).unwrap_or_else(|e| {
            failure = Some(e);
            None
        });
        let next = next_set.clone().unwrap_or_else(|| set.clone());
        signed.push(Signed { piece, proof, set: std::mem::replace(&mut set, next), next_set });
        if failure.is_some() {
            break;
        }
    }
    let mut verified = Verified::default();
    let proofs = check_signed(para_id, &signed);
    for (Signed { piece, set, next_set, .. }, checked) in signed.into_iter().zip(proofs) {
        let Proven { headers, justification } = piece;
        let number = RelayNumber(headers.last().map_or(0, |last| last.number));
        let Proof { para_head, nodes: proof } = checked?;
        let (set_id, next_set) = (set.id, next_set);
        verified.justified.push(NewJustifiedBlock {
            number,
            justification,
            set_id,
            next_set,
            para_head,
            proof,
        });
        verified.headers.extend(headers.into_iter().map(|header| header.encoded));
    }
    // An invalid justification is the node's fault; a change that workers do not support is the chain's.
    failure.map_or(Ok((verified, set)), Err)
}

/// What a justified block's state says of the parachain, and the nodes that prove it.
#[derive(Default)]
struct Proof {
    para_head: Option<ParaHead>,
    nodes: Vec<Vec<u8>>,
}

/// Checks each piece, on several threads if there are many signatures.
fn check_signed(para_id: u32, signed: &[Signed]) -> Vec<Result<Proof, verify::Error>> {
    let signatures: usize = signed.iter().map(|signed| signed.set.list.len()).sum();
    if signatures < FEW_SIGNATURES {
        return signed.iter().map(|signed| check_piece(para_id, signed)).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let of_share =
        |share: &[Signed]| share.iter().map(|signed| check_piece(para_id, signed)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let shares = signed.chunks(signed.len().div_ceil(threads).max(1));
        let shares: Vec<_> = shares.map(|share| scope.spawn(move || of_share(share))).collect();
        // A check that panicked has checked nothing.
        let checked =
            shares.into_iter().map(|share| share.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        checked.flatten().collect()
    })
}

/// Checks a piece that a set justifies; returns the proof of what the state after it says.
fn check_piece(para_id: u32, signed: &Signed) -> Result<Proof, verify::Error> {
    let Signed { piece: Proven { headers, justification }, proof, set, next_set } = signed;
    let Some((last, before)) = headers.split_last() else { return Ok(Proof::default()) };
    if let Some(early) = before.iter().find(|header| header.change.is_some()) {
        let reason = "it is of a block after the end of its set";
        return Err(verify::Error::Justification { number: early.number, reason });
    }
    // The expensive check comes after those that cost nothing.
    let justified = grandpa::check(justification, set, last.number, last.hash);
    if let (Err(_), Some(forced)) = (&justified, headers.iter().find(|header| header.forces_change)) {
        // Signed by a set that no header before it announces.
        return Err(verify::Error::ForcedChange { number: forced.number });
    }
    justified?;
    let mut keys = vec![state::para_head_key(para_id)];
    if next_set.is_some() {
        keys.extend(state::authority_keys());
    }
    let nodes = state::minimal("the parachain's head", last.state_root, proof.clone(), &keys)?;
    let head = state::para_head(last.state_root, nodes.clone(), para_id)?;
    if let Some(next) = next_set
        && state::authority_set(last.state_root, nodes.clone())? != *next
    {
        let reason = "it is another set than the block schedules".into();
        return Err(verify::Error::Proof { what: "the authorities", reason });
    }
    let para_head = head.map(|head| ParaHead { number: head.number.into(), hash: head.hash });
    Ok(Proof { para_head, nodes })
}
