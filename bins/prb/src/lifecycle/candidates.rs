//! Selects data providers to fetch from among a node's peers.
//!
//! A peer that is a data provider of our chain and trusted by its [`Provenance`] is regularly asked for its
//! heights; with its first answer it becomes a candidate. It stays one while it is in use, whatever happens
//! to its peer-to-peer connection, because the blob server has connections of its own; otherwise it stays one
//! for a while.

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
    blob::remote::{Announced, Candidate, Providers},
    node::{Membership, Node, Peer, PeerId, PeerTable, Provenance},
    proto::{Role, data_provider::Info},
};
use tokio::{sync::watch, task::JoinSet};

/// Interval between two calls to a provider, and the maximum age of the heights of an original's provider.
const ASK_INTERVAL: Duration = Duration::from_secs(3);
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most calls in flight; further peers are asked after the next answer.
const MAX_CALLS: usize = 64;
/// How long a provider that neither answers nor is in use stays a candidate.
const KEEP: Duration = Duration::from_secs(60);
/// Interval between two log lines about missing or untrusted providers.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

type Answer = (PeerId, Option<Info>);

/// A provider's last answer.
#[derive(Debug)]
struct Known {
    candidate: Candidate,
    answered_at: Instant,
}

/// Whether a peer's data is used: being discovered is not sufficient, because anybody on the network can announce
/// itself as a data provider.
pub(crate) fn is_trusted(peer: &Peer) -> bool {
    peer.provenance > Provenance::Discovered
}

/// Keeps the candidates up to date until dropped. Those that are `used` stay.
pub(super) async fn follow(node: Node, found: watch::Sender<Vec<Candidate>>, used: Providers) {
    let mut peers = node.peers();
    let mut known = BTreeMap::<PeerId, Known>::new();
    let mut calls = Calls::default();
    let mut ticks = tokio::time::interval(ASK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut report = Report::default();
    loop {
        tokio::select! {
            // Only here do answered providers become due again, not with every change of the peers.
            _ = ticks.tick() => calls.answered.clear(),
            changed = peers.changed() => if changed.is_err() {
                return;
            },
            (peer, info) = calls.next() => if let Some(info) = info {
                record_info(&mut known, &peers.borrow(), peer, &info);
            },
        }
        let table = Arc::clone(&peers.borrow_and_update());
        calls.ask(providers(&table), |peer| query(node.clone(), peer));
        forget(&mut known, &table, |id| used.is_in_use(id));
        let candidates: Vec<_> = known.values().map(|known| known.candidate.clone()).collect();
        report.log(&candidates, &table);
        // A change wakes the source, which compares its connections with the candidates.
        found.send_if_modified(|old| {
            let changed = *old != candidates;
            if changed {
                *old = candidates;
            }
            changed
        });
    }
}

/// Calls in flight, at most one per peer.
#[derive(Debug, Default)]
struct Calls {
    tasks: JoinSet<Answer>,
    pending: BTreeSet<PeerId>,
    /// Peers that are not queried again before the next tick.
    answered: BTreeSet<PeerId>,
}

impl Calls {
    /// Calls those that are due, in the given order.
    fn ask<F>(&mut self, providers: impl IntoIterator<Item = PeerId>, call: impl Fn(PeerId) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        for peer in providers {
            let is_due = self.pending.len() < MAX_CALLS && !self.answered.contains(&peer);
            if is_due && self.pending.insert(peer) {
                self.tasks.spawn(call(peer));
            }
        }
    }

    /// Returns the next answer. Cancel safe; never completes without calls in flight.
    async fn next(&mut self) -> Answer {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((peer, info))) => {
                    self.pending.remove(&peer);
                    self.answered.insert(peer);
                    return (peer, info);
                }
                // A call's task panicked: its peer is unknown, so all may be queried again.
                Some(Err(_)) => self.pending.clear(),
                None => return std::future::pending().await,
            }
        }
    }
}

/// The data providers to ask. While the most calls are in flight, further peers wait: those with the best provenance
/// must not be among them.
fn providers(table: &PeerTable) -> Vec<PeerId> {
    let mut providers: Vec<_> =
        table.usable(Role::DataProviderInt).filter(|peer| is_trusted(peer)).cloned().collect();
    providers.sort_by_key(|peer| std::cmp::Reverse(peer.provenance));
    providers.into_iter().map(|peer| peer.peer_id).collect()
}

async fn query(node: Node, peer: PeerId) -> Answer {
    let client = node.client(peer);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.data_provider_info()).await;
    match answer {
        Ok(Ok(info)) => (peer, Some(info)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a data provider does not answer");
            (peer, None)
        }
        Err(_) => (peer, None),
    }
}

fn record_info(known: &mut BTreeMap<PeerId, Known>, table: &PeerTable, id: PeerId, info: &Info) {
    let peer = table.get(&id).filter(|peer| is_trusted(peer));
    let Some(candidate) = peer.and_then(|peer| candidate(peer, info)) else { return };
    let provenance = candidate.provenance;
    let new = known.insert(id, Known { candidate: candidate.clone(), answered_at: Instant::now() });
    if new.is_none_or(|old| old.candidate.address != candidate.address) {
        tracing::info!(peer = %id, address = %candidate.address, provenance = provenance.as_str(), "data provider found");
    }
}

fn candidate(peer: &Peer, info: &Info) -> Option<Candidate> {
    let port = u16::try_from(info.blob_server_port).ok().filter(|port| *port != 0)?;
    // On the wire, -1 stands for an unknown height.
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
        provenance: peer.provenance,
    })
}

/// Removes candidates that are of another chain or group by now, and those that are neither in use nor have
/// answered for long.
fn forget(known: &mut BTreeMap<PeerId, Known>, table: &PeerTable, is_in_use: impl Fn(&str) -> bool) {
    known.retain(|id, known| {
        let peer = table.get(id);
        // A peer that has left the table may still serve blobs.
        let ours = peer.is_none_or(|peer| peer.membership == Membership::Accepted);
        let keep = ours && (known.answered_at.elapsed() < KEEP || is_in_use(&known.candidate.id));
        if !keep {
            tracing::info!(peer = %id, "data provider gone");
        }
        keep
    });
}

/// Logs at intervals that there is no data provider, or only untrusted ones.
#[derive(Debug, Default)]
struct Report {
    none_found: Option<Instant>,
    untrusted: Option<Instant>,
}

impl Report {
    /// Logs what is due.
    fn log(&mut self, candidates: &[Candidate], table: &PeerTable) {
        let is_due = |logged: Option<Instant>| logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL);
        let untrusted: Vec<_> =
            table.usable(Role::DataProviderInt).filter(|peer| !is_trusted(peer)).cloned().collect();
        if let Some(peer) = untrusted.first()
            && is_due(self.untrusted)
        {
            self.untrusted = Some(Instant::now());
            tracing::warn!(
                peer = %peer.peer_id,
                ip = peer.ip.map(tracing::field::display),
                others = untrusted.len() - 1,
                "a discovered data provider is not used because it is not trusted: set the same PRB_WALKIE_PSK there \
                 and here, or name it in PHALA_WALKIE_BOOT_NODES or PRB_DATA_PROVIDERS here (a peer id, \
                 a network such as 10.0.0.0/8, or any)"
            );
        }
        if !candidates.is_empty() {
            self.none_found = None;
        } else if untrusted.is_empty() && is_due(self.none_found) {
            self.none_found = Some(Instant::now());
            tracing::warn!(
                "no data provider found, so workers wait: check that one is running with this PHALA_BRIDGE_IDENTITY (or \
                 PHALA_PTP_IGNORE_BRIDGE_IDENTITY here), on this network or in PHALA_WALKIE_BOOT_NODES"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many providers there are, and if none answers.
    #[tokio::test]
    async fn few_providers_are_asked_at_a_time() {
        let peers: Vec<_> = (0..200).map(|_| PeerId::random()).collect();
        let mut calls = Calls::default();
        // The first one answers, the others never do.
        let first = peers[0];
        let call = |peer| async move {
            if peer != first {
                std::future::pending::<()>().await;
            }
            (peer, None)
        };
        calls.ask(peers.clone(), call);
        calls.ask(peers.clone(), call);
        assert_eq!((calls.tasks.len(), calls.pending.len()), (64, 64));
        assert!(peers[..64].iter().all(|peer| calls.pending.contains(peer)), "in the given order");
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, calls.next()).await;
        assert_eq!(answer.map(|(peer, _)| peer), Ok(first));
        calls.ask(peers.clone(), call);
        assert_eq!((calls.tasks.len(), calls.pending.contains(&peers[64])), (64, true));
        assert!(!calls.pending.contains(&first), "not again before the next tick");
    }
}
