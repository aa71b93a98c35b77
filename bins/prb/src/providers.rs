//! [`ProviderTable`]: the data providers of a lifecycle manager with their provenance, state and record, for pages,
//! the API and peers.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use prb_walkie::{
    blob::remote::{ProviderState, ProviderStatus, Providers},
    node::{Membership, Peer, PeerTable},
    proto::{Role, provider_detail::Provider},
};
use tokio::sync::watch;

use crate::lifecycle::is_trusted;

/// The data providers of a manager. Clones share one.
#[derive(Clone, Debug)]
pub(crate) struct ProviderTable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The providers in use; `None` if no workers run.
    used: Option<Providers>,
    /// All known peers. Set once the node has started, because the node's handlers need the table.
    peers: OnceLock<watch::Receiver<Arc<PeerTable>>>,
}

impl ProviderTable {
    pub(crate) fn new(used: Option<Providers>) -> Self {
        Self(Arc::new(Inner { used, peers: OnceLock::new() }))
    }

    /// Sets the peers; only the first call has an effect.
    pub(crate) fn set_peers(&self, peers: watch::Receiver<Arc<PeerTable>>) {
        let _ = self.0.peers.set(peers);
    }

    /// Returns the providers in use, then the others with the reasons why they are not used.
    pub(crate) fn rows(&self) -> Vec<Provider> {
        let peers = self.0.peers.get().map(|peers| Arc::clone(&peers.borrow())).unwrap_or_default();
        let used = self.0.used.as_ref().map(Providers::all);
        rows(&peers, used.as_deref())
    }
}

fn rows(peers: &PeerTable, used: Option<&[ProviderStatus]>) -> Vec<Provider> {
    let is_provider = |peer: &&Arc<Peer>| matches!(peer.role, Role::DataProviderInt | Role::DataProviderExt);
    let mut known: BTreeMap<String, &Arc<Peer>> =
        peers.iter().filter(is_provider).map(|peer| (peer.peer_id.to_string(), peer)).collect();
    let mut rows: Vec<Provider> = Vec::new();
    for status in used.unwrap_or_default() {
        let host = known.remove(&status.id).map(|peer| peer.hostname.clone()).unwrap_or_default();
        rows.push(of_used(status, host));
    }
    rows.extend(known.values().map(|peer| of_unused(peer, used.is_some())));
    rows
}

fn of_used(status: &ProviderStatus, host: String) -> Provider {
    let (state, reason, for_ms) = match &status.state {
        ProviderState::Connecting => ("connecting", String::new(), None),
        ProviderState::Ready => ("ready", String::new(), None),
        ProviderState::Down { reason } => ("down", reason.clone(), None),
        // This name is in the API and in messages between versions, so it does not follow the type's.
        ProviderState::Suspended { reason, for_ms } => ("aside", reason.clone(), Some(*for_ms)),
    };
    Provider {
        peer_id: status.id.clone(),
        host,
        address: status.address.clone(),
        state: state.to_owned(),
        reason,
        for_ms,
        original: status.original,
        relay: status.relay,
        para: status.para,
        latency_ms: status.latency_ms,
        answered: status.answered,
        failed: status.failed,
        refused: status.refused,
        provenance: status.provenance.as_str().to_owned(),
    }
}

fn of_unused(peer: &Peer, any_used: bool) -> Provider {
    Provider {
        peer_id: peer.peer_id.to_string(),
        host: peer.hostname.clone(),
        address: peer.address.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: "unused".to_owned(),
        reason: why_unused(peer, any_used).to_owned(),
        provenance: peer.provenance.as_str().to_owned(),
        ..Provider::default()
    }
}

fn why_unused(peer: &Peer, any_used: bool) -> &'static str {
    match peer.membership {
        Membership::OtherChain => "it serves another chain",
        Membership::OtherBridge => "it has another bridge identity (PHALA_BRIDGE_IDENTITY)",
        _ if !peer.connected => "it is not connected",
        _ if !is_trusted(peer) => {
            "it is not trusted: set the same PRB_WALKIE_PSK there and here, or name it in \
             PHALA_WALKIE_BOOT_NODES or PRB_DATA_PROVIDERS"
        }
        Membership::ChainUnknown => "it does not know its chain yet",
        Membership::OwnChainUnknown => "this manager does not know its own chain yet",
        _ if !any_used => "no worker runs on this manager",
        _ => "it has not reported its heights yet",
    }
}
