//! The public table of peers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::{Multiaddr, PeerId};

use super::Provenance;
use crate::proto::{AuthStatus, Role};

/// A peer that has introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its peer id.
    pub peer_id: PeerId,
    /// Its role.
    pub role: Role,
    /// The name of its machine, as it claims.
    pub hostname: String,
    /// Hash of parachain block 1, `0x…`; empty while the peer does not know it.
    pub chain_identity: String,
    /// Its operator's namespace.
    pub bridge_identity: String,
    /// Its current or last address; with the port it listens on, if that is known.
    pub address: Option<Multiaddr>,
    /// The IP in that address, which is also its blob server's.
    pub ip: Option<IpAddr>,
    /// The authorisation of this node at the peer.
    pub auth: AuthStatus,
    /// Whether the peer is used.
    pub membership: Membership,
    /// How it was found, or what it has proved. For a disconnected peer, what remains of that.
    pub provenance: Provenance,
    /// Whether it is connected.
    pub connected: bool,
    /// When it was first met.
    pub since: SystemTime,
    /// When data was last received from it.
    pub last_seen: SystemTime,
    /// The last ping's round trip.
    pub round_trip: Option<Duration>,
}

impl Peer {
    /// Whether it is of our chain and namespace, and connected.
    pub fn is_usable(&self) -> bool {
        self.connected && self.membership == Membership::Accepted
    }
}

/// Whether a peer is used, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Membership {
    /// It is of our chain and namespace.
    Accepted,
    /// The own chain identity is not known yet.
    OwnChainUnknown,
    /// The peer does not know its chain identity yet.
    ChainUnknown,
    /// Ignored: it is of another chain.
    OtherChain,
    /// Ignored: it is of another namespace.
    OtherBridge,
}

impl Membership {
    /// A description for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::OwnChainUnknown => "waiting: our own chain is not known yet",
            Self::ChainUnknown => "waiting: the peer does not know its chain yet",
            Self::OtherChain => "ignored: the peer is of another chain",
            Self::OtherBridge => "ignored: the peer is of another bridge identity",
        }
    }
}

/// A snapshot of all peers.
#[derive(Clone, Debug, Default)]
pub struct PeerTable {
    pub(super) peers: BTreeMap<PeerId, Arc<Peer>>,
}

impl PeerTable {
    /// All peers, by peer id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    /// Returns a peer.
    pub fn get(&self, peer: &PeerId) -> Option<&Arc<Peer>> {
        self.peers.get(peer)
    }

    /// The usable peers of a role.
    pub fn usable(&self, role: Role) -> impl Iterator<Item = &Arc<Peer>> {
        self.iter().filter(move |peer| peer.role == role && peer.is_usable())
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}
