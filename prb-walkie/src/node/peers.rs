//! The driver's record of each peer: addresses, connections, introduction, and when to dial.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::ConnectionId};
use prb_core::{
    primitives::Hash,
    sync::Backoff,
    text::{is_invisible, shorten},
};

use super::{Limits, Membership, Peer, PeerTable, Provenance, Trust};
use crate::proto::{AuthStatus, Role, SystemInfo};

/// Most addresses kept for each peer.
pub(super) const MAX_ADDRESSES: usize = 8;
/// Consecutive failed dials after which only addresses that have worked before are kept.
const MAX_FAILURES: u32 = 5;
/// Longest cause of a failed dial that is kept.
const MAX_CAUSE_BYTES: usize = 256;
/// Longest name or identity kept from a peer's introduction.
const MAX_TEXT_CHARS: usize = 128;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Multiaddr,
    pub(super) outbound: bool,
    /// Whether it stays on this machine.
    local: bool,
    since: Instant,
    round_trip: Option<Duration>,
}

impl Link {
    pub(super) fn new(address: Multiaddr, outbound: bool, local: bool) -> Self {
        Self { address, outbound, local, since: Instant::now(), round_trip: None }
    }

    /// Whether a program on this machine has made it. A connection made by this node proves nothing: a local
    /// listener may forward it anywhere.
    pub(super) const fn comes_from_here(&self) -> bool {
        self.local && !self.outbound
    }

    /// Whether it stays on this machine.
    pub(super) const fn is_local(&self) -> bool {
        self.local
    }

    /// Whether this node has made it, to a peer on this machine.
    pub(super) const fn is_made_here(&self) -> bool {
        self.local && self.outbound
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        ip_of(&self.address)
    }
}

/// What a peer has said about itself in `Hello`.
#[derive(Debug)]
struct Introduction {
    role: Role,
    hostname: String,
    chain_identity: String,
    bridge_identity: String,
}

/// The latest addresses that a peer has announced of itself, at most [`MAX_ADDRESSES`].
#[derive(Debug, Default)]
pub(super) struct Routed(VecDeque<Multiaddr>);

impl Routed {
    /// Adds an address. Returns the one that it replaces, if any; `None` if it is there already.
    pub(super) fn push(&mut self, address: &Multiaddr) -> Option<Option<Multiaddr>> {
        if self.0.contains(address) {
            return None;
        }
        self.0.push_back(address.clone());
        Some(if self.0.len() > MAX_ADDRESSES { self.0.pop_front() } else { None })
    }
}

/// A peer, introduced or not.
#[derive(Debug)]
pub(super) struct Known {
    /// Addresses to dial, best first, without `/p2p/…`.
    addresses: Vec<Multiaddr>,
    /// How many of them, counted from the first, have worked or are configured.
    tried: usize,
    /// Addresses in Kademlia's routing table.
    pub(super) routed: Routed,
    pub(super) links: HashMap<ConnectionId, Link>,
    introduction: Option<Introduction>,
    auth: AuthStatus,
    /// Whether a `Hello` is in flight.
    pub(super) greeting: bool,
    /// When the next `Hello` is due, while connected.
    pub(super) greet_at: Instant,
    pub(super) dialling: bool,
    pub(super) dial_at: Instant,
    /// Consecutive failed dials, and why the last one failed.
    failures: u32,
    dial_failure: Option<String>,
    backoff: Backoff,
    is_boot: bool,
    is_named: bool,
    has_key: bool,
    since: SystemTime,
    last_seen: SystemTime,
    last_activity: Instant,
}

impl Known {
    fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            tried: 0,
            routed: Routed::default(),
            links: HashMap::new(),
            introduction: None,
            auth: AuthStatus::None,
            greeting: false,
            greet_at: now,
            dialling: false,
            dial_at: now,
            failures: 0,
            dial_failure: None,
            backoff: Backoff::new(limits.redial),
            is_boot: false,
            is_named: false,
            has_key: false,
            since: SystemTime::now(),
            last_seen: SystemTime::now(),
            last_activity: now,
        }
    }

    pub(super) fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    pub(super) fn is_client(&self) -> bool {
        self.introduction.as_ref().is_some_and(|i| i.role == Role::Client)
    }

    /// Whether it should be dialled.
    fn wants_dial(&self) -> bool {
        // A peer on this machine that has dialled us authorises us only after we have dialled it, too.
        let is_asked_to = self.auth == AuthStatus::NeedAuth && self.links.values().all(Link::comes_from_here);
        (self.links.is_empty() || is_asked_to)
            && !self.dialling
            && !self.addresses.is_empty()
            // A pure client connects by itself when it needs something.
            && (self.is_boot || !self.is_client())
    }

    pub(super) fn note_activity(&mut self) {
        self.last_seen = SystemTime::now();
        self.last_activity = Instant::now();
    }

    /// Adds an address: at the front if it worked, otherwise at the end.
    fn learn(&mut self, address: Multiaddr, worked: bool) {
        if let Some(at) = self.addresses.iter().position(|known| *known == address) {
            if !worked {
                return;
            }
            self.remove(at);
        }
        if worked {
            self.addresses.insert(0, address);
            self.addresses.truncate(MAX_ADDRESSES);
            self.tried = (self.tried + 1).min(MAX_ADDRESSES);
        } else if self.addresses.len() < MAX_ADDRESSES {
            self.addresses.push(address);
        }
    }

    fn remove(&mut self, at: usize) {
        self.addresses.remove(at);
        self.tried -= usize::from(at < self.tried);
    }

    /// How it was found, or what it has proved.
    fn provenance(&self, trust: &Trust) -> Provenance {
        let of_link = |link: &Link| match link.ip() {
            _ if link.local => Provenance::SameMachine,
            Some(ip) if trust.has_network(ip) => Provenance::TrustedNetwork,
            _ => Provenance::Discovered,
        };
        if self.has_key {
            return Provenance::SharedKey;
        }
        if self.is_named {
            return Provenance::Named;
        }
        if self.is_boot {
            return Provenance::BootNode;
        }
        self.links.values().map(of_link).max().unwrap_or_default()
    }

    /// Whether it is more than a discovered stranger, even while it is away.
    const fn is_ours(&self) -> bool {
        self.has_key || self.is_named || self.is_boot
    }
}

/// Decides which peers belong to us.
#[derive(Clone, Debug)]
pub(super) struct MembershipRules {
    pub(super) chain_identity: Option<Hash>,
    pub(super) bridge_identity: String,
    pub(super) ignore_bridge_identity: bool,
}

impl MembershipRules {
    fn classify(&self, peer: &Introduction) -> Membership {
        if !self.ignore_bridge_identity && peer.bridge_identity != self.bridge_identity {
            return Membership::OtherBridge;
        }
        let Some(own) = self.chain_identity else { return Membership::OwnChainUnknown };
        match peer.chain_identity.parse::<Hash>() {
            Ok(theirs) if theirs == own => Membership::Accepted,
            Err(_) if peer.chain_identity.is_empty() => Membership::ChainUnknown,
            _ => Membership::OtherChain,
        }
    }
}

/// The bounded table of known peers.
#[derive(Debug)]
pub(super) struct Peers {
    me: PeerId,
    limits: Limits,
    pub(super) rules: MembershipRules,
    trust: Trust,
    known: HashMap<PeerId, Known>,
    /// Whether something that the public table shows has changed.
    pub(super) dirty: bool,
}

impl Peers {
    /// Creates an empty table. Peers trusted by name are also those on the whitelist or in a boot node's address.
    pub(super) fn new(me: PeerId, limits: Limits, rules: MembershipRules, trust: Trust) -> Self {
        Self { me, limits, rules, trust, known: HashMap::new(), dirty: true }
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.known.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Known> {
        self.known.get_mut(peer)
    }

    /// Returns the peer's entry, evicting another for a new one. `None` if the table is full, or for this node
    /// itself.
    fn entry(&mut self, peer: PeerId) -> Option<&mut Known> {
        if peer == self.me {
            return None;
        }
        if !self.known.contains_key(&peer) && self.known.len() >= self.limits.peers {
            // Disconnected peers are evicted: first those that were only announced, then those away longest. Connected
            // peers are never evicted.
            let away = self.known.iter().filter(|(_, k)| k.links.is_empty() && !k.is_boot);
            let rank = |known: &Known| (known.is_ours(), known.introduction.is_some(), known.last_activity);
            let oldest = *away.min_by_key(|(_, known)| rank(known))?.0;
            self.known.remove(&oldest);
            self.dirty = true;
        }
        let (limits, now) = (&self.limits, Instant::now());
        let is_named = self.trust.peers.contains(&peer);
        Some(self.known.entry(peer).or_insert_with(|| Known { is_named, ..Known::new(limits, now) }))
    }

    /// Records an address that a peer is said to have. Returns whether it was new.
    pub(super) fn found(&mut self, peer: PeerId, address: Multiaddr, is_boot: bool) {
        if let Some(known) = self.entry(peer) {
            known.is_boot |= is_boot;
            known.learn(address, is_boot);
        }
    }

    pub(super) fn connected(&mut self, peer: PeerId, id: ConnectionId, link: Link) {
        let Some(known) = self.entry(peer) else { return };
        (known.failures, known.dial_failure) = (0, None);
        if link.outbound {
            known.learn(link.address.clone(), true);
            known.dialling = false;
            known.greet_at = Instant::now();
        }
        known.links.insert(id, link);
        known.note_activity();
        self.dirty = true;
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId, id: ConnectionId) {
        let Some(known) = self.known.get_mut(peer) else { return };
        let link = known.links.remove(&id);
        if known.links.is_empty() {
            known.greeting = false;
            // An original closes the connection after each call, ours too: do not redial it at once each time.
            if link.is_some_and(|link| link.since.elapsed() >= self.limits.redial.max) {
                known.backoff.reset();
            }
            known.dial_at = Instant::now() + known.backoff.fail();
        }
        self.dirty = true;
    }

    pub(super) fn dial_failed(&mut self, peer: &PeerId, cause: String) {
        if let Some(known) = self.known.get_mut(peer) {
            known.dialling = false;
            known.dial_failure = Some(shorten(&cause, MAX_CAUSE_BYTES));
            known.dial_at = Instant::now() + known.backoff.fail();
            known.failures += 1;
            // An announced address that never answers is not dialled forever: that would let strangers use this node
            // for port scans.
            let most = if known.introduction.is_some() { MAX_FAILURES } else { 1 };
            if known.failures >= most {
                known.addresses.truncate(known.tried);
            }
        }
    }

    /// Why the last dial failed.
    pub(super) fn dial_failure(&self, peer: &PeerId) -> Option<&str> {
        self.known.get(peer)?.dial_failure.as_deref()
    }

    /// Records that this peer is no longer at a boot node's address.
    pub(super) fn is_no_boot_node(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.is_boot = false;
            self.dirty = true;
        }
    }

    /// Records whether a peer has proved that it knows the shared key.
    pub(super) fn knows_key(&mut self, peer: &PeerId, knows: bool) {
        if let Some(known) = self.known.get_mut(peer) {
            self.dirty |= known.has_key != knows;
            known.has_key = knows;
        }
    }

    /// Records a peer's introduction. Returns whether it is the first.
    pub(super) fn introduced(&mut self, peer: PeerId, info: &SystemInfo) -> bool {
        let Some(known) = self.entry(peer) else { return false };
        // Shown in logs and pages, where such characters could forge lines, or make a name look like another.
        let sanitised =
            |text: &str| text.chars().filter(|c| !is_invisible(*c)).take(MAX_TEXT_CHARS).collect();
        let new = Some(Introduction {
            role: info.role(),
            hostname: sanitised(&info.hostname),
            chain_identity: sanitised(&info.chain_identity),
            bridge_identity: sanitised(&info.bridge_identity),
        });
        known.note_activity();
        let is_first = known.introduction.is_none();
        known.introduction = new;
        self.dirty = true;
        is_first
    }

    pub(super) fn provenance(&self, peer: &PeerId) -> Provenance {
        self.known.get(peer).map(|known| known.provenance(&self.trust)).unwrap_or_default()
    }

    pub(super) fn membership(&self, peer: &PeerId) -> Option<Membership> {
        Some(self.rules.classify(self.known.get(peer)?.introduction.as_ref()?))
    }

    /// Records that another peer answers at an address.
    pub(super) fn is_not_at(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(known) = self.known.get_mut(peer) {
            while let Some(at) = known.addresses.iter().position(|a| a == address) {
                known.remove(at);
            }
        }
    }

    pub(super) fn auth(&mut self, peer: &PeerId, status: AuthStatus) {
        if let Some(known) = self.known.get_mut(peer) {
            known.auth = status;
            self.dirty = true;
        }
    }

    pub(super) fn round_trip(&mut self, peer: &PeerId, id: ConnectionId, took: Duration) {
        let Some(known) = self.known.get_mut(peer) else { return };
        known.note_activity();
        if let Some(link) = known.links.get_mut(&id) {
            link.round_trip = Some(took);
            self.dirty = true;
        }
    }

    /// Schedules a `Hello` to every peer, because this node's introduction has changed.
    pub(super) fn greet_all(&mut self) {
        let now = Instant::now();
        self.known.values_mut().for_each(|known| known.greet_at = now);
        self.dirty = true;
    }

    /// Returns the peers to dial now. All but configured peers and those that know the shared key share a quarter
    /// of the concurrent dials: announcements may be false.
    pub(super) fn due_dials(&self, now: Instant) -> Vec<PeerId> {
        let (ours, mut others): (Vec<_>, Vec<_>) = self
            .known
            .iter()
            .filter(|(_, k)| k.wants_dial() && k.dial_at <= now)
            .partition(|(_, k)| k.is_ours());
        others.sort_by_key(|(_, k)| (k.introduction.is_none(), k.dial_at));
        let busy = self.known.values().filter(|k| k.dialling && !k.is_ours()).count();
        let room = (self.limits.handshakes as usize / 4).max(1).saturating_sub(busy);
        ours.into_iter().chain(others.into_iter().take(room)).map(|(peer, _)| *peer).collect()
    }

    /// Returns the peers to send `Hello` to now: those we dialled, and those that have introduced themselves.
    pub(super) fn due_greetings(&self, now: Instant) -> Vec<PeerId> {
        let due = self.known.iter().filter(|(_, k)| {
            let dialled = k.links.values().any(|link| link.outbound);
            // A pure client is not asked again once it is known.
            let wanted = if k.introduction.is_some() { k.is_boot || !k.is_client() } else { dialled };
            wanted && !k.links.is_empty() && !k.greeting && k.greet_at <= now
        });
        due.map(|(peer, _)| *peer).collect()
    }

    /// Removes peers that have been away for long.
    pub(super) fn prune(&mut self, now: Instant) {
        let (limits, before) = (self.limits, self.known.len());
        self.known.retain(|_, known| {
            let timeout = match &known.introduction {
                Some(who) if who.role != Role::Client => limits.forget_after,
                _ => limits.idle_timeout.min(limits.forget_after),
            };
            known.is_boot || !known.links.is_empty() || now.duration_since(known.last_activity) < timeout
        });
        self.dirty |= self.known.len() != before;
    }

    pub(super) fn table(&self) -> PeerTable {
        let show = |(peer, known): (&PeerId, &Known)| Some((*peer, Arc::new(self.show(*peer, known)?)));
        PeerTable { peers: self.known.iter().filter_map(show).collect::<BTreeMap<_, _>>() }
    }

    fn show(&self, peer_id: PeerId, known: &Known) -> Option<Peer> {
        let who = known.introduction.as_ref()?;
        // An outbound connection shows the peer's listen address; an inbound one only its IP.
        let outbound = known.links.values().find(|link| link.outbound);
        let inbound = known.links.values().next();
        let live_ip = outbound.or(inbound).and_then(Link::ip);
        let listens = known.addresses.iter().find(|a| live_ip.is_none() || ip_of(a) == live_ip);
        let address = (outbound.map(|link| &link.address)).or(listens).or(inbound.map(|link| &link.address));
        Some(Peer {
            peer_id,
            role: who.role,
            hostname: who.hostname.clone(),
            chain_identity: who.chain_identity.clone(),
            bridge_identity: who.bridge_identity.clone(),
            address: address.map(|a| a.clone().with(Protocol::P2p(peer_id))),
            ip: live_ip.or_else(|| address.and_then(ip_of)),
            auth: known.auth,
            membership: self.rules.classify(who),
            provenance: known.provenance(&self.trust),
            connected: !known.links.is_empty(),
            since: known.since,
            last_seen: known.last_seen,
            round_trip: known.links.values().filter_map(|link| link.round_trip).min(),
        })
    }
}

/// The IP at the start of an address.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
