//! Handlers of swarm events.

use std::{io, time::Instant};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, upgrade::NegotiationError},
    identify, kad, ping,
    request_response::{self, OutboundFailure},
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use tracing::{debug, warn};

use super::{Driver, boot};
use crate::{
    node::{
        behaviour::{BehaviourEvent, KAD, Protocol},
        codec::{Frame, TooLarge},
        config::{is_dialable, split_peer_id},
        metrics,
        peers::Link,
    },
    rpc::Error,
};

impl Driver {
    pub(in crate::node) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                debug!(peer = %peer_id, cause = cause.map(|e| e.to_string()), "connection closed");
                self.peers.disconnected(&peer_id, connection_id);
                // A peer may have several connections: its disconnection is complete with the last one.
                if !self.swarm.is_connected(&peer_id) {
                    for done in self.closing.remove(&peer_id).into_iter().flatten() {
                        let _ = done.send(());
                    }
                }
                self.count_connections();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_error(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(from = %send_back_addr, %error, "an inbound connection failed");
            }
            SwarmEvent::NewListenAddr { listener_id, .. }
            | SwarmEvent::ExpiredListenAddr { listener_id, .. } => {
                self.listeners.insert(listener_id);
                let addresses: Vec<_> = self.swarm.listeners().cloned().collect();
                self.channels.listen.send_replace(addresses);
            }
            // Without free file descriptors, every inbound connection causes one.
            SwarmEvent::ListenerError { error, .. } => {
                if let Some(skipped) = self.listener_errors.take() {
                    warn!(error = %prb_core::text::describe(&error), skipped, "a listener reported an error");
                }
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                warn!(addresses = crate::node::listed(&addresses), error = %prb_core::text::describe(&error), "a listener has closed");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: ConnectedPoint) {
        let outbound = endpoint.is_dialer();
        let (address, _) = split_peer_id(endpoint.get_remote_address());
        if outbound {
            metrics::dial("connected");
            if let Some(boot) = self.boot.iter_mut().find(|boot| boot.is_dialled_by(id)) {
                let former = boot.reached(peer);
                self.peers.found(peer, address.clone(), true);
                self.is_no_boot_node(former);
            }
        }
        let local = self.local.has_both_ends(&endpoint);
        self.boot.iter_mut().filter(|boot| boot.is_of(peer)).for_each(boot::Boot::is_reached);
        self.peers.connected(peer, id, Link::new(address, outbound, local));
        self.connect_ended(id, true);
        self.count_connections();
        self.wake = true;
    }

    fn on_dial_error(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        // Before the early returns: whoever waits for this connection is told of its end in every case.
        self.connect_ended(id, false);
        // Not a failure: the peer is connected or being dialled already.
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        metrics::dial("failed");
        debug!(peer = peer.map(|p| p.to_string()), %error, "cannot connect");
        if let Some(boot) = self.boot.iter_mut().find(|boot| boot.is_dialled_by(id)) {
            boot.failed(error);
        }
        let Some(peer) = peer else { return };
        let cause = boot::dial_cause(error);
        for boot in self.boot.iter_mut().filter(|boot| boot.is_of(peer) && !boot.is_dialled_by(id)) {
            boot.is_unreachable(&cause);
        }
        self.peers.dial_failed(&peer, cause);
        if let DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } = error {
            self.peers.is_not_at(&peer, &split_peer_id(address).0);
            // Dial the bare address, which finds out who is there now.
            let lost = self.boot.iter_mut().filter_map(|boot| boot.lost(&peer)).next();
            self.is_no_boot_node(lost);
        }
    }

    fn count_connections(&self) {
        metrics::connections(self.swarm.network_info().connection_counters().num_established());
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Pb(event) => self.on_calls(Protocol::Pb, event),
            BehaviourEvent::Blob(event) => self.on_calls(Protocol::Blob, event),
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Kad(event) => self.on_kad(event),
            _ => {}
        }
    }

    fn on_calls(&mut self, protocol: Protocol, event: request_response::Event<Frame, Frame>) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, connection_id, message } => match message {
                Message::Request { request_id, request, channel } => {
                    let call = super::inbound::Inbound { protocol, peer, connection_id, request_id };
                    self.on_request(call, request, channel);
                }
                Message::Response { request_id, response } => {
                    if let Some(pending) = self.pending.remove(&(protocol, request_id)) {
                        self.answered(peer, pending, Ok(response));
                    }
                }
            },
            Event::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(pending) = self.pending.remove(&(protocol, request_id)) {
                    let error = self.failure(peer, protocol, error);
                    self.answered(peer, pending, Err(error));
                }
            }
            Event::InboundFailure { peer, request_id, error, .. } => {
                self.writing.remove(&(protocol, request_id));
                debug!(%peer, protocol = protocol.name(), %error, "a call could not be answered");
            }
            Event::ResponseSent { request_id, .. } => {
                self.writing.remove(&(protocol, request_id));
                self.wrote = Some(Instant::now());
            }
        }
    }

    fn failure(&self, peer: PeerId, protocol: Protocol, failure: OutboundFailure) -> Error {
        let unreachable = |reason: &str| Error::Unreachable { peer, reason: reason.to_owned() };
        let unsupported = Error::Unsupported { peer, protocol: protocol.name() };
        match failure {
            // The failed dial was reported before.
            OutboundFailure::DialFailure => match self.peers.dial_failure(&peer) {
                Some(cause) => unreachable(&format!("no connection could be made ({cause})")),
                None => unreachable("no connection could be made"),
            },
            OutboundFailure::Timeout => Error::TimedOut { peer, waited: self.limits.call_timeout },
            OutboundFailure::ConnectionClosed => unreachable("the connection closed"),
            OutboundFailure::UnsupportedProtocols => unsupported,
            OutboundFailure::Io(e) if is_unsupported(&e) => unsupported,
            OutboundFailure::Io(e) => match e.get_ref() {
                Some(inner) => match inner.downcast_ref() {
                    Some(TooLarge { limit_bytes }) => {
                        Error::TooLarge { what: "answer", limit_bytes: *limit_bytes }
                    }
                    None => unreachable(&format!("the stream broke: {e}")),
                },
                None => unreachable(&format!("the stream broke: {e}")),
            },
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(took) => self.peers.round_trip(&event.peer, event.connection, took),
            // The peer may be alive nevertheless: it need not support pings.
            Err(ping::Failure::Unsupported) => {}
            Err(ping::Failure::Other { error }) if error.downcast_ref().is_some_and(is_unsupported) => {}
            Err(error) => {
                debug!(peer = %event.peer, %error, "no answer to a ping, closing the connection");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let speaks_kad = info.protocols.contains(&KAD);
        for address in info.listen_addrs {
            let (address, _) = split_peer_id(&address);
            if is_dialable(&address) {
                self.peers.found(peer, address.clone(), false);
                // Kademlia would ask peers that do not speak its protocol, in vain.
                if speaks_kad {
                    self.route_to(&peer, address);
                }
            }
        }
    }

    /// Adds an address to the routing table, which itself keeps any number of them for a peer.
    fn route_to(&mut self, peer: &PeerId, address: Multiaddr) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        let Some(former) = known.routed.push(&address) else { return };
        let kad = &mut self.swarm.behaviour_mut().kad.0;
        kad.add_address(peer, address);
        if let Some(former) = former {
            kad.remove_address(peer, &former);
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { peer, addresses, is_new_peer: true, .. } => {
                self.on_found(peer, addresses.into_vec());
                // Ask the new peer for others soon.
                self.next_discovery = std::time::Instant::now();
                self.wake = true;
            }
            kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            } => {
                for peer in found.peers {
                    self.on_found(peer.peer_id, peer.addrs);
                }
            }
            _ => {}
        }
    }

    /// Records a peer that was announced, by itself or by others.
    pub(super) fn on_found(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        for address in addresses {
            let (address, _) = split_peer_id(&address);
            if is_dialable(&address) {
                self.peers.found(peer, address, false);
                self.wake = true;
            }
        }
    }

    pub(super) fn on_resolved(&mut self, resolved: boot::Resolved) {
        self.dial_resolved(resolved);
    }
}

/// Whether a stream failed because the other side does not support its protocol: with lazy negotiation the
/// refusal arrives only with the answer.
fn is_unsupported(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NegotiationError>())
}
