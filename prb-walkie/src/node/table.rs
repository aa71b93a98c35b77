//! What a node shows of its peers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::{Multiaddr, PeerId};

use super::Provenance;
use crate::proto::{AuthStatus, Role};

/// A peer that has said who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its peer id.
    pub peer_id: PeerId,
    /// What it does.
    pub role: Role,
    /// Its machine's name, as it says.
    pub hostname: String,
    /// Hash of parachain block 1, `0x…`; empty while it does not know.
    pub chain_identity: String,
    /// Its operator's namespace.
    pub bridge_identity: String,
    /// Where it is connected, or was last; a port that it listens on, where one is known.
    pub address: Option<Multiaddr>,
    /// The IP in that address: its blob server is there too.
    pub ip: Option<IpAddr>,
    /// How this node stands with it.
    pub auth: AuthStatus,
    /// Whether it is to be used.
    pub standing: Standing,
    /// Where it was heard of, or what it has proved. Of one that is away: what is left of that.
    pub provenance: Provenance,
    /// Whether there is a connection now.
    pub connected: bool,
    /// When it was first met.
    pub since: SystemTime,
    /// When it was last heard.
    pub last_seen: SystemTime,
    /// The last ping's round trip.
    pub round_trip: Option<Duration>,
}

impl Peer {
    /// Whether it is of our chain and namespace, and connected.
    pub fn is_usable(&self) -> bool {
        self.connected && self.standing == Standing::Accepted
    }
}

/// Whether a peer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It is of our chain and namespace.
    Accepted,
    /// Our own chain identity is not known yet.
    OwnChainUnknown,
    /// It does not know its chain identity yet.
    ChainUnknown,
    /// Ignored: it is of another chain.
    OtherChain,
    /// Ignored: it is of another namespace.
    OtherBridge,
}

impl Standing {
    /// What it means, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::OwnChainUnknown => "waits: our own chain is not known yet",
            Self::ChainUnknown => "waits: it does not know its chain yet",
            Self::OtherChain => "ignored: it is of another chain",
            Self::OtherBridge => "ignored: it is of another bridge identity",
        }
    }
}

/// All peers at one moment.
#[derive(Clone, Debug, Default)]
pub struct PeerTable {
    pub(super) peers: BTreeMap<PeerId, Arc<Peer>>,
}

impl PeerTable {
    /// All peers, by peer id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    /// One peer.
    pub fn get(&self, peer: &PeerId) -> Option<&Arc<Peer>> {
        self.peers.get(peer)
    }

    /// The peers of a role that are to be used and connected.
    pub fn usable(&self, role: Role) -> impl Iterator<Item = &Arc<Peer>> {
        self.iter().filter(move |peer| peer.role == role && peer.is_usable())
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}
