//! The start of the chains: the data for `InitRuntime`, and the first authority set.
//!
//! With an empty store, no single node decides: all nodes of both chains are queried, and their answers must fit
//! together (`ingest/start/evidence.rs`). If several starts do, the one that most nodes of both chains agree on is
//! used, and otherwise none.

use std::{sync::Arc, time::Duration};

use codec::Encode;
use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{
    blob::Genesis,
    primitives::{Hash, ParaNumber, RelayNumber},
};
use tokio::time::timeout;

use super::{Chains, Error, absent, write, wrong};
use crate::{
    rpc::{self, Node, NodePool},
    verify::{Start, state},
};

mod evidence;
mod genesis_state;

pub(crate) use evidence::validation_data;
use evidence::{Outline, Proven};

/// Whether nodes of both chains have the blocks of the start that a history source names. One node that denies
/// them does not count, if another has them: the start is verified apart from this.
pub(super) async fn agrees(chains: &Chains, start: &Start, genesis: &Genesis) -> bool {
    one_has(&chains.relay, start.number, start.hash).await
        && one_has(&chains.para, 1, genesis.chain_identity).await
}

/// Whether a node of the pool has this block.
async fn one_has(pool: &NodePool, number: u32, hash: Hash) -> bool {
    let hashes = gather(pool, |node| async move { block_hash(&node, number).await }).await;
    hashes.answers.iter().any(|(_, found)| *found == hash)
}

/// Makes the pools refuse nodes of chains other than the stored ones.
pub(super) fn pin(chains: &Chains) {
    let Some((start, genesis)) = chains.store.genesis() else { return };
    chains.relay.pin(start.number, start.hash);
    chains.para.pin(1, genesis.chain_identity);
    // Transactions are signed for block 0, which block 1 names as its parent.
    let parent = chains.store.view().ok().and_then(|view| {
        let first = view.para_header(ParaNumber(1)).ok()??;
        first.first_chunk::<32>().copied()
    });
    if let Some(parent) = parent {
        chains.para.pin(0, Hash(parent));
    }
}

/// Finds and stores the start, or checks that the nodes serve the store's chains.
pub(super) async fn store_or_confirm(chains: &Chains) -> Result<(), Error> {
    let result = match chains.store.genesis() {
        Some((start, genesis)) => confirm(chains, start, genesis).await,
        None => begin(chains).await,
    };
    // Nodes of another chain are no reason to end: nodes of two chains may answer at one address, and a name may be corrected.
    if result.is_ok() {
        pin(chains);
    }
    result
}

/// Checks that a node of each chain has the stored start.
async fn confirm(chains: &Chains, start: &Start, genesis: &Genesis) -> Result<(), Error> {
    for (pool, number, expected) in
        [(&chains.para, 1, genesis.chain_identity), (&chains.relay, start.number, start.hash)]
    {
        let node = pool.pick();
        let found = block_hash(&node, number).await?;
        if found != expected {
            let (node, witness) = (Arc::clone(node.name()), "in this store".to_owned());
            // Its connection has passed the same check: several nodes may answer at one address.
            return Err(rpc::Error::OtherChain { node, number, found, expected, witness }.into());
        }
    }
    show(genesis, start);
    Ok(())
}

fn show(genesis: &Genesis, start: &Start) {
    let (chain_identity, para_id, relay_start) = (genesis.chain_identity, genesis.para_id, start.number);
    tracing::info!(%chain_identity, para_id, relay_start, "chain known");
}

/// Finds the start, stores it, and pins the chains' first blocks.
async fn begin(chains: &Chains) -> Result<(), Error> {
    let outlines = gather(&chains.para, |node| async move { evidence::outline(&node).await }).await;
    chains.demote_proven_liars(&outlines.failures);
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut failures = Vec::new();
    for outline in distinct(&outlines.answers) {
        let paras: Vec<_> = outlines
            .answers
            .iter()
            .filter(|(_, other)| other == outline)
            .map(|(node, _)| Arc::clone(node))
            .collect();
        let Some(first) = paras.first() else { continue };
        let found =
            gather(&chains.relay, |relay| async move { evidence::prove(&relay, first, outline).await });
        let found = found.await;
        chains.demote_proven_liars(&found.failures);
        failures.extend(found.failures);
        for (relay, proven) in found.answers {
            let same = candidates.iter_mut().find(|one| one.outline == outline && one.proven == proven);
            match same {
                Some(one) => one.relays.push(relay),
                None => {
                    candidates.push(Candidate { outline, proven, relays: vec![relay], paras: paras.clone() })
                }
            }
        }
    }
    // What does not fit together says more than what one node did not answer.
    failures.extend(outlines.failures);
    let none = || failures.into_iter().next().unwrap_or_else(|| absent(&chains.para.pick(), "block 1"));
    let chosen =
        choose(&candidates, chains.relay.nodes().len(), chains.para.nodes().len())?.ok_or_else(none)?;
    let genesis = chosen.genesis(chains).await?;
    let (start, block_0) = (chosen.proven.start.clone(), chosen.outline.genesis);
    show(&genesis, &start);
    write(&chains.store, move |store| store.set_genesis(&start, &genesis)).await?;
    chains.para.pin(0, block_0);
    Ok(())
}

/// A start of both chains, and the nodes that give it.
struct Candidate<'a> {
    outline: &'a Outline,
    proven: Proven,
    relays: Vec<Arc<Node>>,
    paras: Vec<Arc<Node>>,
}

impl Candidate<'_> {
    /// Whether more than half of all nodes of both chains give it.
    fn has_most(&self, relays: usize, paras: usize) -> bool {
        // Of all configured nodes, not of those that answered: a minority must not decide while the others are
        // down.
        self.relays.len() * 2 > relays && self.paras.len() * 2 > paras
    }

    fn describe(&self) -> String {
        let names = |nodes: &[Arc<Node>]| {
            nodes.iter().map(|node| node.name().to_string()).collect::<Vec<_>>().join(", ")
        };
        let Outline { para_id, genesis, identity, .. } = self.outline;
        let Start { number, hash, .. } = &self.proven.start;
        format!(
            "parachain {para_id} with genesis {genesis} and block 1 {identity} at {}, on a relay chain with block \
             {number} {hash} at {}",
            names(&self.paras),
            names(&self.relays)
        )
    }

    /// Fetches the genesis state from a node that has this chain.
    async fn genesis(&self, chains: &Chains) -> Result<Genesis, Error> {
        let outline = self.outline;
        let mut last = None;
        for node in &self.paras {
            let state = genesis_state::fetch(node, outline.genesis).await;
            let checked = state.and_then(|state| {
                state::whole_state(outline.head.state_root, &state).map_err(wrong(node))?;
                Ok(state)
            });
            match checked {
                Ok(state) => {
                    return Ok(Genesis {
                        para_id: outline.para_id,
                        relay_number: RelayNumber(self.proven.start.number),
                        relay_hash: self.proven.start.hash,
                        chain_identity: outline.identity,
                        info: self.proven.info.encode().into(),
                        state: state.encode().into(),
                    });
                }
                Err(e) => {
                    chains.demote_proven_liars(std::slice::from_ref(&e));
                    last = Some(e);
                }
            }
        }
        // There is a node for each outline.
        Err(last.unwrap_or(Error::StartDisputed { starts: self.describe() }))
    }
}

fn distinct(outlines: &[(Arc<Node>, Outline)]) -> Vec<&Outline> {
    let mut distinct: Vec<&Outline> = Vec::new();
    for (_, outline) in outlines {
        if !distinct.contains(&outline) {
            distinct.push(outline);
        }
    }
    distinct
}

/// The only start, or the one that most nodes of both chains give.
fn choose<'a, 'o>(
    candidates: &'a [Candidate<'o>],
    relays: usize,
    paras: usize,
) -> Result<Option<&'a Candidate<'o>>, Error> {
    let most = candidates.iter().find(|candidate| candidate.has_most(relays, paras));
    match (candidates, most) {
        ([], _) => Ok(None),
        ([one], _) | (_, Some(one)) => Ok(Some(one)),
        (several, None) => {
            let starts = several.iter().map(Candidate::describe).collect::<Vec<_>>().join("; ");
            Err(Error::StartDisputed { starts })
        }
    }
}

/// What the nodes of a pool answered.
struct Gathered<T> {
    answers: Vec<(Arc<Node>, T)>,
    failures: Vec<Error>,
}

/// Asks all nodes. Once one has answered, the others are waited for no longer than a connection may take.
async fn gather<T, F>(pool: &NodePool, ask: impl Fn(Arc<Node>) -> F) -> Gathered<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let asked = pool.candidates().into_iter().enumerate();
    let mut asked: FuturesUnordered<_> = asked
        .map(|(place, node)| {
            let answer = ask(Arc::clone(&node));
            async move { (place, answer.await, node) }
        })
        .collect();
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    let mut patience = Duration::MAX;
    while let Ok(Some((place, answer, node))) = timeout(patience, asked.next()).await {
        match answer {
            Ok(answer) => {
                patience = pool.config().connect_timeout;
                answers.push((place, node, answer));
            }
            Err(e) => failures.push((place, e)),
        }
    }
    drop(asked);
    // In the order of the nodes, not of the answers.
    answers.sort_by_key(|(place, ..)| *place);
    failures.sort_by_key(|(place, _)| *place);
    Gathered {
        answers: answers.into_iter().map(|(_, node, answer)| (node, answer)).collect(),
        failures: failures.into_iter().map(|(_, e)| e).collect(),
    }
}

async fn block_hash(node: &Node, number: u32) -> Result<Hash, Error> {
    let hash: Option<Hash> = node.request("chain_getBlockHash", [number]).await?;
    hash.ok_or_else(|| absent(node, format!("block {number}")))
}
