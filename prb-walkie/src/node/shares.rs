//! Quotas of inbound connections: no address takes all handshakes, and strangers do not take all connections. If they
//! are in use, an address with fewer displaces one of an address with more.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};

use super::{Config, peers::ip_of, transport::Handshakes, trust::Trust};
use crate::provenance::{network_of, share_of};

/// Handshakes that a known address may have however many others hold: the programs of one machine, or of one network
/// behind a router, connect at the same time when they start.
const KNOWN_HANDSHAKES: usize = 4;
/// Most remembered peers that know the shared key.
const MAX_TRUSTED: usize = 4096;

/// Denies inbound connections that exceed a quota.
#[derive(Debug)]
pub(super) struct Shares {
    /// Most handshakes at a time.
    max_handshakes: usize,
    connections_per_address: usize,
    strangers: usize,
    /// Most displaced connections that are still being closed. They count among all, so the reserve would shrink.
    max_closing: usize,
    /// Peers without a quota, which have a reserve: configured ones, and those that know the shared key.
    trusted: HashSet<PeerId>,
    handshakes: Counts,
    /// The remote addresses of connections in handshake; the oldest first.
    pending: BTreeMap<ConnectionId, Multiaddr>,
    /// Displaced handshakes that have not ended yet.
    ending: HashSet<ConnectionId>,
    in_progress: Handshakes,
    /// Addresses whose handshakes are not displaced by others.
    known: KnownAddresses,
    connections: Counts,
    /// The peers of the strangers' connections; the oldest first.
    peers: BTreeMap<ConnectionId, PeerId>,
    /// Connections that are to be closed.
    displaced: VecDeque<(PeerId, ConnectionId)>,
    /// Displaced connections that are not closed yet.
    closing: HashSet<ConnectionId>,
}

/// Addresses of trusted networks, of boot nodes and of trusted peers that were connected.
#[derive(Debug)]
struct KnownAddresses {
    trust: Trust,
    addresses: HashSet<IpAddr>,
}

impl KnownAddresses {
    fn new(config: &Config) -> Self {
        let boot = config.boot().into_iter().filter_map(|(address, _)| ip_of(&address));
        Self { trust: config.trust.clone(), addresses: boot.map(network_of).collect() }
    }

    fn has(&self, remote: &Multiaddr) -> bool {
        let ip = ip_of(remote);
        ip.is_some_and(|ip| self.trust.has_network(ip) || self.addresses.contains(&network_of(ip)))
    }

    fn learn(&mut self, remote: &Multiaddr) {
        if self.addresses.len() < MAX_TRUSTED {
            self.addresses.extend(ip_of(remote).map(network_of));
        }
    }
}

/// Connections in use, by address.
#[derive(Debug, Default)]
struct Counts {
    by_address: HashMap<IpAddr, usize>,
    by_connection: HashMap<ConnectionId, Option<IpAddr>>,
}

impl Counts {
    fn of(&self, address: Option<IpAddr>) -> usize {
        address.and_then(|ip| self.by_address.get(&ip).copied()).unwrap_or(0)
    }

    fn take(&mut self, id: ConnectionId, address: Option<IpAddr>) {
        if let Some(ip) = address {
            *self.by_address.entry(ip).or_default() += 1;
        }
        self.by_connection.insert(id, address);
    }

    fn release(&mut self, id: ConnectionId) {
        let Some(Some(ip)) = self.by_connection.remove(&id) else { return };
        match self.by_address.get_mut(&ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_address.remove(&ip)),
        }
    }
}

/// Why a connection is denied.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0} already has {1} connections in handshake")]
    Handshakes(IpAddr, usize),
    #[error("known addresses already have {0} connections in handshake")]
    AllHandshakes(usize),
    #[error("{0} displaced handshakes have not ended yet")]
    Ending(usize),
    #[error("{0} already has {1} connections")]
    Address(IpAddr, usize),
    #[error("strangers already have {0} connections")]
    Strangers(usize),
}

impl Shares {
    pub(super) fn new(config: &Config, in_progress: Handshakes) -> Self {
        let limits = &config.limits;
        let incoming = (limits.connections - limits.connections / 8) as usize;
        let strangers = incoming - incoming / 4;
        Self {
            max_handshakes: limits.handshakes as usize,
            connections_per_address: limits.connections_per_ip as usize,
            strangers,
            max_closing: (strangers / 8).max(1),
            trusted: config.named(),
            handshakes: Counts::default(),
            pending: BTreeMap::new(),
            ending: HashSet::new(),
            in_progress,
            known: KnownAddresses::new(config),
            connections: Counts::default(),
            peers: BTreeMap::new(),
            displaced: VecDeque::new(),
            closing: HashSet::new(),
        }
    }

    /// Grants or revokes a peer's access to the reserve.
    pub(super) fn trust(&mut self, peer: PeerId, trusted: bool) {
        if !trusted {
            self.trusted.remove(&peer);
        } else if self.trusted.len() < MAX_TRUSTED {
            self.trusted.insert(peer);
        }
    }

    /// Takes a handshake, of which an address may have a third as many as are free: a quarter of all if it is
    /// alone, and fewer the more are in use. An address that has none always gets one, and a known one gets
    /// [`KNOWN_HANDSHAKES`]: if none is free, it ends the oldest one of the address with the most. Until that has ended, it
    /// is one more: of those, strangers may cause as many as there are handshakes, and known addresses twice as many.
    fn begin_handshake(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), Denied> {
        let address = ip_of(remote).map(share_of);
        let free = self.max_handshakes.saturating_sub(self.handshakes.by_connection.len());
        let own = self.handshakes.of(address);
        let is_known = self.known.has(remote);
        let least = if is_known { KNOWN_HANDSHAKES } else { 1 };
        if let Some(ip) = address
            && own >= (free / 3).max(least)
        {
            return Err(Denied::Handshakes(ip, own));
        }
        let most_ending = self.max_handshakes * if is_known { 2 } else { 1 };
        if free == 0 && self.ending.len() >= most_ending {
            return Err(Denied::Ending(self.ending.len()));
        }
        if free == 0 && !self.displace_handshake(remote, own) {
            return Err(Denied::AllHandshakes(self.max_handshakes));
        }
        self.handshakes.take(id, address);
        self.pending.insert(id, remote.clone());
        Ok(())
    }

    /// Ends a handshake for an address that has `own`. Known addresses come last, and only make room for each other. Of
    /// two that are known, or are not, one with more makes room.
    fn displace_handshake(&mut self, by: &Multiaddr, own: usize) -> bool {
        let rank = |remote| (!self.known.has(remote), self.handshakes.of(ip_of(remote).map(share_of)));
        // Of equal ones, the last: the oldest.
        let Some((id, remote)) = self.pending.iter().rev().max_by_key(|(_, remote)| rank(remote)) else {
            return false;
        };
        let (id, may) = (*id, rank(remote) > (!self.known.has(by), own));
        if may && let Some(remote) = self.end_handshake(id) {
            self.in_progress.end(&remote);
            self.ending.insert(id);
        }
        may
    }

    /// Frees the place of a handshake; returns its remote address.
    fn end_handshake(&mut self, id: ConnectionId) -> Option<Multiaddr> {
        self.handshakes.release(id);
        self.pending.remove(&id)
    }

    fn admit(&mut self, id: ConnectionId, peer: &PeerId, remote: &Multiaddr) -> Result<(), Denied> {
        // The handshake is over: from here on it counts as a connection.
        self.end_handshake(id);
        self.ending.remove(&id);
        // Not counted: the reserve is what remains after the strangers' connections.
        if self.trusted.contains(peer) {
            self.known.learn(remote);
            return Ok(());
        }
        let address = ip_of(remote).map(share_of);
        if let Some(ip) = address
            && self.connections.of(address) >= self.connections_per_address
        {
            return Err(Denied::Address(ip, self.connections_per_address));
        }
        if self.connections.by_connection.len() >= self.strangers
            && !self.displace(self.connections.of(address))
        {
            return Err(Denied::Strangers(self.strangers));
        }
        self.connections.take(id, address);
        self.peers.insert(id, *peer);
        Ok(())
    }

    /// Closes the oldest connection of the address with the most, if that has more than `own`. A client with many
    /// addresses can thus fill the share, but cannot keep others out.
    fn displace(&mut self, own: usize) -> bool {
        if self.closing.len() >= self.max_closing {
            return false;
        }
        let held = |id| self.connections.of(self.connections.by_connection.get(id).copied().flatten());
        let strangers = self.peers.iter().rev().filter(|(_, peer)| !self.trusted.contains(*peer));
        let ranked = strangers.map(|(id, peer)| (held(id), *id, *peer));
        let Some((held, id, peer)) = ranked.max_by_key(|(held, ..)| *held) else { return false };
        if held <= own {
            return false;
        }
        self.left(id);
        self.closing.insert(id);
        self.displaced.push_back((peer, id));
        true
    }

    fn left(&mut self, id: ConnectionId) {
        self.connections.release(id);
        self.peers.remove(&id);
        self.closing.remove(&id);
    }
}

impl NetworkBehaviour for Shares {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin_handshake(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, &peer, remote).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.trusted.contains(&peer) {
            self.known.learn(remote);
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            // Not every connection that was counted is established: denied and failed ones end here.
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.end_handshake(connection_id);
                self.ending.remove(&connection_id);
                self.left(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // The swarm polls its behaviours after each connection that they have admitted.
        match self.displaced.pop_front() {
            Some((peer_id, id)) => {
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
