//! Outbound connections to peers on the same machine, which show them that this node is local.

use libp2p::{
    PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::sync::oneshot;
use tracing::debug;

use super::Driver;
use crate::node::peers::{Link, ip_of};

/// Most concurrent dials.
const MAX_DIALS: usize = 64;

impl Driver {
    /// Connects to a peer on this machine that has made all existing connections itself. Management calls are
    /// granted to programs on the same machine, but a connection only proves to the accepting end that the other
    /// end is local. Without a connection of our own, it would depend on which peer discovered the other first.
    ///
    /// Tells `done` whether there is a connection; `false` while no address of the peer is known. Drops it if the
    /// peer is on another machine or unreachable.
    pub(super) fn connect_from_here(&mut self, peer: PeerId, done: oneshot::Sender<bool>) {
        let Some(known) = self.peers.get(&peer) else { return };
        let has = |wanted: fn(&Link) -> bool| known.links.values().any(wanted);
        if self.connecting.len() >= MAX_DIALS || !has(Link::is_local) {
            return;
        }
        if has(Link::is_made_here) {
            let _ = done.send(true);
            return;
        }
        let mut addresses = known.addresses().to_vec();
        addresses.retain(|address| ip_of(address).is_some_and(|ip| self.local.contains(ip)));
        if addresses.is_empty() {
            let _ = done.send(false);
            return;
        }
        let dial = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always).build();
        let id = dial.connection_id();
        match self.swarm.dial(dial) {
            Ok(()) => drop(self.connecting.insert(id, done)),
            Err(error) => debug!(%peer, %error, "cannot connect to a peer on this machine"),
        }
    }

    /// Handles the end of a dial.
    pub(super) fn connect_ended(&mut self, id: ConnectionId, is_connected: bool) {
        if let Some(done) = self.connecting.remove(&id)
            && is_connected
        {
            let _ = done.send(true);
        }
    }
}
