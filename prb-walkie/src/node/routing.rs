//! Kademlia's routing with a bound on the addresses at which it looks for a peer.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad::{Behaviour, store::MemoryStore},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::{config::is_dialable, peers::MAX_ADDRESSES};

type Kad = Behaviour<MemoryStore>;

/// Kademlia, which by itself dials every address that others say a peer has: a stranger could have this node scan the
/// ports of a third machine.
pub(super) struct Routing(pub(super) Kad);

impl NetworkBehaviour for Routing {
    type ConnectionHandler = <Kad as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = <Kad as NetworkBehaviour>::ToSwarm;

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.0.handle_pending_outbound_connection(id, peer, addresses, role)?;
        known.retain(is_dialable);
        known.truncate(MAX_ADDRESSES);
        Ok(known)
    }

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.0.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::config::split_peer_id;

    #[test]
    fn few_addresses_and_no_names_are_dialled() {
        let (me, peer) = (PeerId::random(), PeerId::random());
        let mut routing = Routing(Behaviour::new(me, MemoryStore::new(me)));
        let fine: Vec<Multiaddr> =
            (1..=20).map(|host| format!("/ip4/192.0.2.{host}/tcp/1").parse().unwrap()).collect();
        // As others announce them: a name of theirs, and an address that lacks its interface.
        for address in ["/dns4/somewhere.example/tcp/1", "/ip6/fe80::1/tcp/1"] {
            routing.0.add_address(&peer, address.parse().unwrap());
        }
        for address in &fine {
            routing.0.add_address(&peer, address.clone());
        }
        let id = ConnectionId::new_unchecked(1);
        let dialled =
            routing.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap();
        let places: Vec<_> = dialled.iter().map(|address| split_peer_id(address).0).collect();
        assert_eq!(places, fine[..MAX_ADDRESSES]);
    }
}
