//! Boot nodes, dials and discovery.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use prb_core::{sync::Backoff, text::describe};
use tracing::{debug, info, warn};

use super::Driver;
use crate::node::{Limits, config::split_peer_id};

/// A boot node. It is dialled by its address while no peer is known there, or if its name must be resolved;
/// otherwise like any other known peer.
#[derive(Debug)]
pub(super) struct Boot {
    address: Multiaddr,
    /// The peer that must be there, or was found there.
    peer: Option<PeerId>,
    is_given: bool,
    is_self: bool,
    dialling: Option<ConnectionId>,
    looking_up: bool,
    dial_at: Instant,
    backoff: Backoff,
    /// Failures since it was reached last, for the log.
    failures: u32,
}

/// The addresses of a name.
#[derive(Debug)]
pub(super) struct Resolved {
    boot: usize,
    addresses: Result<Vec<Multiaddr>, String>,
}

impl Boot {
    pub(super) fn new(address: Multiaddr, peer: Option<PeerId>, limits: &Limits) -> Self {
        Self {
            address,
            peer,
            is_given: peer.is_some(),
            is_self: false,
            dialling: None,
            looking_up: false,
            dial_at: Instant::now(),
            backoff: Backoff::new(limits.redial),
            failures: 0,
        }
    }

    /// Whether this peer must be there, or was found there.
    pub(super) fn is_of(&self, peer: PeerId) -> bool {
        self.peer == Some(peer)
    }

    pub(super) fn is_dialled_by(&self, id: ConnectionId) -> bool {
        self.dialling == Some(id)
    }

    /// Records the peer at this address; returns the previous one if it was another.
    pub(super) fn reached(&mut self, peer: PeerId) -> Option<PeerId> {
        self.dialling = None;
        self.backoff.reset();
        self.peer.replace(peer).filter(|former| *former != peer)
    }

    pub(super) fn failed(&mut self, error: &DialError) {
        self.dialling = None;
        if matches!(error, DialError::LocalPeerId { .. }) {
            info!(address = %self.address, "a boot node's address is this node itself");
            self.is_self = true;
        } else {
            self.is_unreachable(&dial_cause(error));
        }
        self.dial_at = Instant::now() + self.backoff.fail();
    }

    /// Logs a failure: an address in the configuration may be wrong. Less and less often while it lasts.
    pub(super) fn is_unreachable(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() {
            warn!(address = %self.address, error, failures = self.failures, "a boot node cannot be reached");
        }
    }

    pub(super) fn is_reached(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            info!(address = %self.address, "a boot node can be reached");
        }
    }

    /// Records that the peer is no longer there; returns it if it was.
    pub(super) fn lost(&mut self, peer: &PeerId) -> Option<PeerId> {
        self.peer.take_if(|there| !self.is_given && *there == *peer)
    }

    /// The peer and its address, if both are configured.
    pub(super) fn known(&self) -> Option<(PeerId, Multiaddr)> {
        (!self.is_name()).then(|| Some((self.peer?, self.address.clone())))?
    }

    fn is_name(&self) -> bool {
        matches!(self.address.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
    }

    fn is_idle(&self, now: Instant) -> bool {
        !self.is_self && self.dialling.is_none() && !self.looking_up && self.dial_at <= now
    }
}

impl Driver {
    /// Removes a peer's boot node status, unless it is at another boot node's address.
    pub(super) fn is_no_boot_node(&mut self, peer: Option<PeerId>) {
        if let Some(peer) = peer.filter(|peer| self.boot.iter().all(|boot| boot.peer != Some(*peer))) {
            self.peers.is_no_boot_node(&peer);
        }
    }

    pub(super) fn dial_boot(&mut self, now: Instant) {
        for at in 0..self.boot.len() {
            let boot = &mut self.boot[at];
            let is_name = boot.is_name();
            if !boot.is_idle(now) || boot.peer.is_some_and(|peer| self.swarm.is_connected(&peer)) {
                continue;
            }
            if is_name {
                boot.looking_up = true;
                let address = boot.address.clone();
                self.lookups.spawn(async move { Resolved { boot: at, addresses: resolve(&address).await } });
            } else if let Some(peer) = boot.peer {
                // From here on it is dialled as a known peer.
                self.peers.found(peer, boot.address.clone(), true);
                boot.dial_at = now + boot.backoff.fail();
            } else {
                let address = boot.address.clone();
                self.dial_address(at, address);
            }
        }
    }

    fn dial_address(&mut self, at: usize, address: Multiaddr) {
        let dial = DialOpts::unknown_peer_id().address(address).build();
        let boot = &mut self.boot[at];
        boot.dialling = Some(dial.connection_id());
        if let Err(error) = self.swarm.dial(dial) {
            self.boot[at].failed(&error);
        }
    }

    pub(super) fn dial_resolved(&mut self, resolved: Resolved) {
        let Resolved { boot: at, addresses } = resolved;
        let boot = &mut self.boot[at];
        boot.looking_up = false;
        boot.dial_at = Instant::now() + boot.backoff.fail();
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => return boot.is_unreachable(&error),
        };
        let Some(first) = addresses.first().cloned() else {
            return boot.is_unreachable("its name has no address of the kind that it asks for");
        };
        match boot.peer {
            Some(peer) => {
                addresses.into_iter().for_each(|address| self.peers.found(peer, address, true));
                self.wake = true;
            }
            None => self.dial_address(at, first),
        }
    }

    pub(super) fn dial_known(&mut self, now: Instant) {
        for peer in self.peers.due_dials(now) {
            let Some(known) = self.peers.get_mut(&peer) else { continue };
            let dial = DialOpts::peer_id(peer)
                .addresses(known.addresses().to_vec())
                // Connected peers are dialled as well: see `Known::wants_dial`.
                .condition(PeerCondition::NotDialing)
                .build();
            known.dialling = true;
            match self.swarm.dial(dial) {
                Ok(()) => {}
                // A call or kad is dialling it, or has just done so.
                Err(DialError::DialPeerConditionFalse(_)) => {
                    if let Some(known) = self.peers.get_mut(&peer) {
                        known.dialling = false;
                    }
                }
                Err(error) => {
                    debug!(%peer, %error, "cannot dial");
                    self.peers.dial_failed(&peer, dial_cause(&error));
                }
            }
        }
    }

    /// Asks connected peers for others.
    pub(super) fn discover(&mut self, now: Instant) {
        if now < self.next_discovery {
            return;
        }
        self.next_discovery = now + self.limits.discovery_interval;
        let me = self.shared.peer_id;
        let kad = &mut self.swarm.behaviour_mut().kad.0;
        // One query at a time suffices.
        if kad.iter_queries().next().is_none() {
            kad.get_closest_peers(me);
        }
    }
}

/// Why a dial failed, in a few words: of several addresses, the last one.
pub(super) fn dial_cause(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => match tried.last() {
            Some((address, error)) => {
                // The transport that resolves names adds an empty part.
                let error = describe(error);
                format!("{}: {}", split_peer_id(address).0, error.trim_start_matches(": "))
            }
            None => "it has no address".to_owned(),
        },
        DialError::WrongPeerId { obtained, address } => {
            format!("peer {obtained} is at {}", split_peer_id(address).0)
        }
        DialError::NoAddresses => "no address of it is known".to_owned(),
        error => describe(error),
    }
}

/// Resolves a name.
async fn resolve(address: &Multiaddr) -> Result<Vec<Multiaddr>, String> {
    let mut parts = address.iter();
    let (Some(name), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return Ok(Vec::new()) };
    let (name, v4, v6) = match name {
        Protocol::Dns(name) => (name, true, true),
        Protocol::Dns4(name) => (name, true, false),
        Protocol::Dns6(name) => (name, false, true),
        _ => return Ok(Vec::new()),
    };
    let found = tokio::net::lookup_host((name.as_ref(), port)).await.map_err(|error| describe(&error))?;
    Ok(found
        .filter(|socket| if socket.is_ipv4() { v4 } else { v6 })
        .map(|socket| Multiaddr::from(socket.ip()).with(Protocol::Tcp(port)))
        .collect())
}
