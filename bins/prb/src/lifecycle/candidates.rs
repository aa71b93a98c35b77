//! Data providers to fetch from, out of a node's peers.
//!
//! A peer that is a data provider of our chain is asked now and then how far it is; with its first answer it
//! becomes a candidate. It stays one for a while after its connection is lost: the blob server has connections
//! of its own, and notices by itself when nobody is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use prb_core::{
    blob::Heights,
    primitives::{ParaNumber, RelayNumber},
};
use prb_walkie::{
    blob::remote::{Announced, Candidate},
    node::{Node, Peer, PeerId, PeerTable, Standing},
    proto::{Role, data_provider::Info},
};
use tokio::{sync::watch, task::JoinSet};

/// Time between two questions; how old the heights of an original's provider may be.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long a provider may take over an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a provider that is not connected stays a candidate.
const KEEP: Duration = Duration::from_secs(60);
/// Time between two words about there being nobody.
const SAY_EVERY: Duration = Duration::from_secs(60);

type Answer = (PeerId, Option<Info>);

/// A provider that has answered.
#[derive(Debug)]
struct Known {
    candidate: Candidate,
    heard: Instant,
}

/// Keeps the candidates up to date, until dropped.
pub(super) async fn follow(node: Node, found: watch::Sender<Vec<Candidate>>) {
    let mut peers = node.peers();
    let mut known = BTreeMap::<PeerId, Known>::new();
    let mut questions = Questions::default();
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alone = Alone::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => questions.answered.clear(),
            changed = peers.changed() => if changed.is_err() {
                return;
            },
            (peer, info) = questions.next() => if let Some(info) = info {
                learn(&mut known, &peers.borrow(), peer, &info);
            },
        }
        let table = Arc::clone(&peers.borrow_and_update());
        questions.ask(&node, &table);
        forget(&mut known, &table);
        let candidates: Vec<_> = known.values().map(|known| known.candidate.clone()).collect();
        alone.say(&candidates);
        found.send_if_modified(|old| {
            let changed = *old != candidates;
            if changed {
                *old = candidates;
            }
            changed
        });
    }
}

/// Questions under way, one a peer.
#[derive(Debug, Default)]
struct Questions {
    tasks: JoinSet<Answer>,
    pending: BTreeSet<PeerId>,
    /// Peers that are not asked again before the next tick.
    answered: BTreeSet<PeerId>,
}

impl Questions {
    fn ask(&mut self, node: &Node, table: &PeerTable) {
        for peer in table.usable(Role::DataProviderInt) {
            let id = peer.peer_id;
            if !self.answered.contains(&id) && self.pending.insert(id) {
                self.tasks.spawn(ask(node.clone(), id));
            }
        }
    }

    /// The next answer. Cancel safe; waits for ever where nobody is asked.
    async fn next(&mut self) -> Answer {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((peer, info))) => {
                    self.pending.remove(&peer);
                    self.answered.insert(peer);
                    return (peer, info);
                }
                // A question broke: whose it was is not known, so everybody may be asked again.
                Some(Err(_)) => self.pending.clear(),
                None => return std::future::pending().await,
            }
        }
    }
}

async fn ask(node: Node, peer: PeerId) -> Answer {
    let client = node.client(peer);
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.data_provider_info()).await;
    match answer {
        Ok(Ok(info)) => (peer, Some(info)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a data provider does not say how far it is");
            (peer, None)
        }
        Err(_) => (peer, None),
    }
}

fn learn(known: &mut BTreeMap<PeerId, Known>, table: &PeerTable, id: PeerId, info: &Info) {
    let candidate = table.get(&id).and_then(|peer| candidate(peer, info));
    let Some(candidate) = candidate else { return };
    let new = known.insert(id, Known { candidate: candidate.clone(), heard: Instant::now() });
    if new.is_none_or(|old| old.candidate.address != candidate.address) {
        tracing::info!(peer = %id, address = %candidate.address, "data provider found");
    }
}

fn candidate(peer: &Peer, info: &Info) -> Option<Candidate> {
    let port = u16::try_from(info.blob_server_port).ok().filter(|port| *port != 0)?;
    let height = |number: i32| u32::try_from(number).ok();
    let heights = Heights {
        relay: height(info.parent_processed_height).map(RelayNumber),
        para: height(info.para_processed_height).map(ParaNumber),
        relay_target: height(info.parent_target).map(RelayNumber),
        para_target: height(info.para_target).map(ParaNumber),
    };
    let announced = u32::try_from(info.para_id).ok().map(|para_id| Announced { para_id, heights });
    Some(Candidate {
        id: peer.peer_id.to_string(),
        address: SocketAddr::new(peer.ip?, port),
        chain_identity: peer.chain_identity.parse().ok(),
        announced,
    })
}

/// Takes away those that are of another chain or group by now, and those that have been away for long.
fn forget(known: &mut BTreeMap<PeerId, Known>, table: &PeerTable) {
    known.retain(|id, known| {
        let peer = table.get(id);
        let ours = peer.is_none_or(|peer| peer.standing == Standing::Accepted);
        let keep = ours && known.heard.elapsed() < KEEP;
        if !keep {
            tracing::info!(peer = %id, "data provider gone");
        }
        keep
    });
}

/// Says now and then that there is nobody.
#[derive(Debug, Default)]
struct Alone {
    said: Option<Instant>,
}

impl Alone {
    fn say(&mut self, candidates: &[Candidate]) {
        if !candidates.is_empty() {
            self.said = None;
        } else if self.said.is_none_or(|at| at.elapsed() > SAY_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(
                "no data provider yet: workers wait. Is one running, with this PHALA_BRIDGE_IDENTITY (or \
                 PHALA_PTP_IGNORE_BRIDGE_IDENTITY here), on this network or among PHALA_WALKIE_BOOT_NODES?"
            );
        }
    }
}
