//! A peer: its connections, who else is there, and calls both ways.
//!
//! # On the wire
//!
//! TCP, `/noise` with the RSA identity, then `/yamux/1.0.0` among our own nodes and `/mplex/6.7.0` with
//! originals, each stream negotiated by `/multistream/1.0.0`. Protocols: `/pb` (see [`crate::rpc`]), `/blob`
//! (the request is a key, the answer the blob, nothing where there is none), identify, ping, and
//! `/ipfs/lan/kad/1.0.0` as server. Peers are found by boot nodes, by kad from there, and by mDNS in the form that
//! the originals speak (see `node/mdns.rs`).
//!
//! # Who is there
//!
//! Whoever is found is dialled; who dials says `Hello`, and both keep what they learn. A connection is kept and
//! pinged, and dialled again with a growing wait when it breaks: boot nodes for ever, others until they have
//! been away for [`Limits::forget_after`]. Peers of another chain or namespace stay in the table as ignored.
//! Of each, the table has its [`Provenance`]: where it was heard of, or what it has proved. Whoever uses its data
//! decides by that.
//!
//! ```text
//!  boot nodes ─┐                           ┌─▶ peers()     who is there, and whether to be used
//!  mDNS ───────┼─▶ dial ─▶ Hello ─▶ table ─┤
//!  kad ────────┘             ▲             └─▶ call(), blob(), client()
//!  others dial ──────────────┘
//! ```
//!
//! Not for: what calls mean; or fetching many blobs fast, which the blob server's own wire is for
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
mod local;
mod log_quota;
mod mdns;
mod metrics;
mod outbound;
mod peer_limits;
mod peers;
mod provenance;
mod shares;
mod start;
mod table;
mod transport;

pub use crate::provenance::Provenance;
pub use config::{Config, ConfigError, Limits, parse_addresses};
pub use libp2p::{Multiaddr, PeerId};
#[cfg(feature = "fuzzing")]
pub(crate) use mdns::read_for_fuzzing as read_mdns;
pub use provenance::Trust;
pub(crate) use provenance::is_in;
pub use table::{Peer, PeerTable, Standing};

use crate::{
    proto::{AuthStatus, Response},
    rpc::{Client, Error, Method},
};

/// What a handle asks of the driver.
enum Command {
    /// A request of a protocol, ready for the wire.
    Send {
        peer: PeerId,
        protocol: behaviour::Protocol,
        frame: codec::Frame,
        reply: oneshot::Sender<Result<codec::Frame, Error>>,
        permit: outbound::Permit,
    },
    /// How this node stands with a peer now.
    Auth { peer: PeerId, status: AuthStatus },
    /// Whether a peer knows the pre-shared key.
    KnowsKey { peer: PeerId, knows: bool },
    /// No connection with a peer, for now; the reply comes when there is none.
    Disconnect { peer: PeerId, done: oneshot::Sender<()> },
    /// A connection of our own to a peer of this machine. The reply says whether there is one now, or may be later; it
    /// is dropped if the peer is elsewhere, or cannot be reached.
    ConnectFromHere { peer: PeerId, done: oneshot::Sender<bool> },
    /// Our chain.
    ChainIdentity(Hash),
    /// No more calls; the reply is dropped when the last is answered.
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

/// A running node. Clones share it; it stops when the last one is dropped. A handler must not hold one.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

impl Node {
    /// Starts a node; returns once it listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ConfigError`]. An IPv6 address is left out, with a warning, where the system has no IPv6 and
    /// there is another address.
    pub async fn start(config: Config) -> Result<Self, ConfigError> {
        start::start(config).await
    }

    /// Its peer id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer_id
    }

    /// Where it listens now, port and interfaces filled in, without `/p2p/…`.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.listen.borrow().clone()
    }

    /// Tells peers which chain this node is on: the hash of parachain block 1.
    pub async fn set_chain_identity(&self, identity: Hash) {
        // A node that has stopped needs no chain.
        let _ = self.shared.commands.send(Command::ChainIdentity(identity)).await;
    }

    /// Who is there, now and whenever it changes. It closes when the node has ended, also where it failed.
    pub fn peers(&self) -> watch::Receiver<Arc<PeerTable>> {
        self.shared.peers.clone()
    }

    /// A peer's methods as functions.
    pub fn client(&self, peer: PeerId) -> Client {
        Client::new(self.clone(), peer)
    }

    /// Calls a method with its encoded message; gives the encoded answer. See [`client`](Self::client) for
    /// calls with types.
    ///
    /// A peer that refuses a management method as `UNAUTHORIZED` is given the key's proof once, where there is a key
    /// and the peer knows it too or is named in the configuration, and asked again; a question whose connection
    /// breaks is asked once more.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// The peer may have carried out a call that was dropped.
    pub async fn call(&self, peer: PeerId, method: Method, data: Bytes) -> Result<Bytes, Error> {
        outbound::call(&self.shared, peer, method, data).await
    }

    /// The same, with what is around the answer: its time and its nonces, for those who pass answers on. An
    /// answer that is an error is one of these too, with [`Response::has_error`].
    ///
    /// # Errors
    /// See [`Error`]; never [`Error::Refused`].
    ///
    /// # Cancel safety
    /// As [`call`](Self::call).
    pub async fn exchange(&self, peer: PeerId, method: Method, data: Bytes) -> Result<Response, Error> {
        outbound::exchange(&self.shared, peer, method, data).await
    }

    /// Fetches a blob over `/blob`; `None` where the peer has none of that key.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    pub async fn blob(&self, peer: PeerId, key: &str) -> Result<Option<Bytes>, Error> {
        outbound::blob(&self.shared, peer, key).await
    }

    /// Closes the connections with a peer, as originals do after each call; returns when there is none. The next
    /// call dials it again, and so does the node before long where it wants to keep the peer.
    pub async fn disconnect(&self, peer: PeerId) {
        let (done, closed) = oneshot::channel();
        if self.shared.commands.send(Command::Disconnect { peer, done }).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Stops: refuses new calls, lets those that it answers end, then closes its connections, all within the
    /// deadline. Returns whether every call was answered.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let (drained, wait) = oneshot::channel();
        let drain =
            async { self.shared.commands.send(Command::Drain(drained)).await.is_ok() && wait.await.is_ok() };
        let answered = tokio::time::timeout(deadline, drain).await.unwrap_or(false);
        self.shared.cancel.cancel();
        // The tasks only have to drop what they hold.
        self.shared.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.shared.tasks.wait()).await;
        answered
    }
}

/// Addresses for the log.
fn listed(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
