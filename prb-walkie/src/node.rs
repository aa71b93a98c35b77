//! A peer-to-peer node: connections, discovery, and calls in both directions.
//!
//! # On the wire
//! TCP, `/noise` with the RSA identity, then `/yamux/1.0.0` between our own nodes and `/mplex/6.7.0` with
//! originals, each stream negotiated by `/multistream/1.0.0`. Protocols: `/pb` (see [`crate::rpc`]), `/blob`
//! (the request is a key, the answer the blob, or empty if there is none), identify, ping, and
//! `/ipfs/lan/kad/1.0.0` as server. Peers are discovered by boot nodes, by kad from there, and by mDNS in the
//! originals' format.
//!
//! # Peers
//! Every discovered peer is dialled. The dialler sends `Hello`, and both sides record what they learn. A
//! connection is kept alive by pings and redialled with backoff when it breaks: boot nodes forever, others
//! until they have been away for [`Limits::forget_after`]. Peers of another chain or namespace stay in the
//! table as ignored. The table has each peer's [`Provenance`]: how it was found, or what it has proved. Users
//! of its data decide by that.
//!
//! ```text
//!  boot nodes ─┐                           ┌─▶ peers()     who is there, and whether to be used
//!  mDNS ───────┼─▶ dial ─▶ Hello ─▶ table ─┤
//!  kad ────────┘             ▲             └─▶ call(), blob(), client()
//!  others dial ──────────────┘
//! ```
//! Not for: the meaning of calls, or fetching many blobs fast, which the blob server's own protocol is for
//! ([`crate::blob`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prb_core::primitives::Hash;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

mod behaviour;
mod call_slots;
mod codec;
mod config;
mod driver;
mod log_quota;
mod loopback;
mod mdns;
mod metrics;
mod outbound;
mod outbound_limits;
mod peers;
mod routing;
mod shares;
mod start;
mod table;
mod transport;
mod trust;

pub use crate::provenance::{Provenance, share_of};
pub use config::{Config, ConfigError, Limits, parse_addresses};
pub use ipnet::IpNet;
pub use libp2p::{Multiaddr, PeerId};
#[cfg(feature = "fuzzing")]
pub(crate) use mdns::read_for_fuzzing as read_mdns;
pub use table::{Membership, Peer, PeerTable};
pub use trust::Trust;
pub(crate) use trust::is_in;

use crate::{
    proto::{AuthStatus, Response},
    rpc::{Client, Error, Method},
};

/// A request from a handle to the driver.
enum Command {
    /// A protocol's request, ready to be sent.
    Send {
        peer: PeerId,
        protocol: behaviour::Protocol,
        frame: codec::Frame,
        reply: oneshot::Sender<Result<codec::Frame, Error>>,
        permit: outbound::Permit,
    },
    /// The authorisation of this node at a peer.
    Auth { peer: PeerId, status: AuthStatus },
    /// Whether a peer knows the pre-shared key.
    KnowsKey { peer: PeerId, knows: bool },
    /// Closes all connections with a peer; the reply is sent when there is none.
    Disconnect { peer: PeerId, done: oneshot::Sender<()> },
    /// Connects to a peer on this machine. The reply says whether there is a connection now, or may be later; it
    /// is dropped if the peer is on another machine or unreachable.
    ConnectFromHere { peer: PeerId, done: oneshot::Sender<bool> },
    /// Sets the node's chain.
    ChainIdentity(Hash),
    /// Stops accepting calls; the reply is dropped when the last one is answered.
    Drain(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Shared {
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    listen: watch::Receiver<Vec<Multiaddr>>,
    peers: watch::Receiver<Arc<PeerTable>>,
    outbound: outbound::Outbound,
    own: Arc<driver::Own>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// A running node. Clones share it; it stops when the last one is dropped, so a handler must not hold one.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

impl Node {
    /// Starts a node; returns once it listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ConfigError`]. An IPv6 address is skipped with a warning if the system has no IPv6 and there is
    /// another address.
    pub async fn start(config: Config) -> Result<Self, ConfigError> {
        start::start(config).await
    }

    /// The node's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer_id
    }

    /// The addresses it listens on, with actual ports and interfaces, without `/p2p/…`.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.listen.borrow().clone()
    }

    /// Tells peers which chain this node is on: the hash of parachain block 1.
    pub async fn set_chain_identity(&self, identity: Hash) {
        // Fails only if the node has stopped, which needs no chain.
        let _ = self.shared.commands.send(Command::ChainIdentity(identity)).await;
    }

    /// Watches the table of peers. The channel closes when the node has ended, also after a failure.
    pub fn peers(&self) -> watch::Receiver<Arc<PeerTable>> {
        self.shared.peers.clone()
    }

    /// Returns a typed client of a peer's methods.
    pub fn client(&self, peer: PeerId) -> Client {
        Client::new(self.clone(), peer)
    }

    /// Calls a method with its encoded request and returns the encoded answer. See [`client`](Self::client) for
    /// typed calls.
    ///
    /// If a peer refuses a management method as `UNAUTHORIZED`, this node sends a proof of the shared key once
    /// and repeats the call, provided that it has a key and that the peer knows it too or is named in the
    /// configuration. A query whose connection breaks is repeated once.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// The peer may have carried out a call whose future was dropped.
    pub async fn call(&self, peer: PeerId, method: Method, data: Bytes) -> Result<Bytes, Error> {
        outbound::call(&self.shared, peer, method, data).await
    }

    /// As [`call`](Self::call), but returns the whole response with its time and nonces, for callers that pass
    /// answers on. An error answer is also returned as a response, with [`Response::has_error`].
    ///
    /// # Errors
    /// See [`Error`]; never [`Error::Refused`].
    ///
    /// # Cancel safety
    /// As [`call`](Self::call).
    pub async fn exchange(&self, peer: PeerId, method: Method, data: Bytes) -> Result<Response, Error> {
        outbound::exchange(&self.shared, peer, method, data).await
    }

    /// Fetches a blob over `/blob`; `None` if the peer has no blob of that key.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Only the answer is lost.
    pub async fn blob(&self, peer: PeerId, key: &str) -> Result<Option<Bytes>, Error> {
        outbound::blob(&self.shared, peer, key).await
    }

    /// Closes the connections with a peer, as originals do after each call, and returns when there is none. The
    /// next call dials it again, and the node itself does so soon if it wants to stay connected.
    pub async fn disconnect(&self, peer: PeerId) {
        let (done, closed) = oneshot::channel();
        if self.shared.commands.send(Command::Disconnect { peer, done }).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Stops the node within the deadline: refuses new calls, waits for calls being answered, then closes the
    /// connections. Returns whether every call was answered.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let (drained, wait) = oneshot::channel();
        let drain =
            async { self.shared.commands.send(Command::Drain(drained)).await.is_ok() && wait.await.is_ok() };
        let answered = tokio::time::timeout(deadline, drain).await.unwrap_or(false);
        self.shared.cancel.cancel();
        // The remaining tasks only have to drop what they hold.
        self.shared.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.shared.tasks.wait()).await;
        answered
    }
}

/// Formats addresses for the log.
fn listed(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
