//! The one task that owns the swarm: everything that happens between this node and others goes through it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    request_response::{InboundRequestId, OutboundRequestId},
    swarm::ConnectionId,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{
    Command, Config, Limits, PeerTable, Shared,
    behaviour::{Behaviour, Protocol},
    call_slots::{CallSlots, Place},
    codec::{Frame, Memories, Memory},
    local::LocalAddresses,
    log_quota::LogQuota,
    mdns::Found,
    metrics,
    outbound::Permit,
    peers::{Membership, Peers},
    provenance::Trust,
};
use crate::{
    blob::Lookup,
    proto::{AuthStatus, SystemInfo},
    rpc::{
        Error, Handlers,
        auth::{Gate, Key},
        exchange::{Offer, Pace},
    },
};

mod boot;
mod events;
mod hello;
mod inbound;
mod same_machine;

use boot::Boot;
use inbound::Done;

/// How often it is looked whom to dial and greet.
const TICK: Duration = Duration::from_millis(250);
/// How long peers may take to hear that a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long after an answer a connection stays: its end, read together with the answer, would hide it.
const LINGER: Duration = Duration::from_millis(200);
/// How long a refused or broken `Hello` waits for its next try.
const GREET_AGAIN: Duration = Duration::from_secs(2);

/// The driver's ends of the channels.
pub(super) struct Channels {
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) listen: watch::Sender<Vec<Multiaddr>>,
    pub(super) peers: watch::Sender<Arc<PeerTable>>,
}

/// What waits for an answer.
enum Pending {
    /// A call of a handle; the permit is its place among the calls to that peer.
    Call { reply: oneshot::Sender<Result<Frame, Error>>, _permit: Permit },
    /// A `Hello` of the driver's own, with its half of the exchange where there is a key.
    Hello { nonce: String, offer: Option<Box<Offer>> },
}

/// Who this node is: what its handlers, its calls and the driver share.
#[derive(Debug)]
pub(super) struct Own {
    info: RwLock<SystemInfo>,
    gate: Mutex<Gate>,
    /// The pre-shared key.
    pub(super) key: Option<Key>,
    pace: Pace,
    /// Peers that the configuration names.
    pub(super) named: HashSet<PeerId>,
}

impl Own {
    pub(super) fn new(config: &Config, me: PeerId, key: Option<Key>) -> Self {
        Self {
            info: RwLock::new(hello::own_info(config, me)),
            gate: Mutex::new(Gate::new(config.auth.clone(), key.clone(), me)),
            key,
            pace: Pace::default(),
            named: config.named(),
        }
    }

    /// How a caller stands, as `Hello` tells it and management methods ask.
    fn standing(&self, peer: &PeerId, ip: Option<IpAddr>, comes_from_here: bool) -> AuthStatus {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).standing(peer, ip, comes_from_here)
    }

    pub(super) fn info(&self) -> SystemInfo {
        self.info.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) struct Driver {
    pub(super) swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    limits: Limits,
    own: Arc<Own>,
    peers: Peers,
    boot: Vec<Boot>,
    pending: HashMap<(Protocol, OutboundRequestId), Pending>,
    handlers: Arc<Handlers>,
    blobs: Option<Arc<dyn Lookup>>,
    memory: Memory,
    /// Calls that are being answered.
    work: JoinSet<Done>,
    places: CallSlots,
    local: LocalAddresses,
    /// What peers have said of themselves in a `Hello`.
    introductions: mpsc::Receiver<(PeerId, SystemInfo)>,
    lookups: JoinSet<boot::Resolved>,
    listeners: HashSet<ListenerId>,
    /// Who waits for a peer's connections to be closed.
    closing: HashMap<PeerId, Vec<oneshot::Sender<()>>>,
    /// Dials of peers of this machine, and who waits for them.
    connecting: HashMap<ConnectionId, oneshot::Sender<bool>>,
    /// Answers that are being written, with the places that they keep meanwhile.
    writing: HashMap<(Protocol, InboundRequestId), Option<Place>>,
    /// When the last answer was written.
    wrote: Option<Instant>,
    /// Tells that the last call is answered; no new one is taken then.
    drain: Option<oneshot::Sender<()>>,
    drained: bool,
    channels: Channels,
    /// Whom to dial or greet may have changed.
    wake: bool,
    /// Lines about peers that were met.
    met: LogQuota,
    next_discovery: Instant,
}

impl Driver {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        config: Config,
        shared: Arc<Shared>,
        memories: Memories,
        channels: Channels,
    ) -> Self {
        let (me, limits, memory) = (shared.peer_id, config.limits, memories.answers);
        let boot: Vec<_> =
            config.boot().into_iter().map(|(address, peer)| Boot::new(address, peer, &limits)).collect();
        let own = Arc::clone(&shared.own);
        let (handlers, introductions) = hello::handlers(&config, me, &own, &memory);
        let membership = Membership {
            chain_identity: config.chain_identity,
            bridge_identity: config.bridge_identity,
            ignore_bridge_identity: config.ignore_bridge_identity,
        };
        let trust = Trust { peers: own.named.clone(), networks: config.trust.networks };
        let mut peers = Peers::new(me, limits, membership, trust);
        for (peer, address) in boot.iter().filter_map(Boot::known) {
            peers.found(peer, address, true);
        }
        Self {
            swarm,
            shared,
            limits,
            own,
            peers,
            boot,
            pending: HashMap::new(),
            handlers: Arc::new(handlers),
            blobs: config.blobs,
            memory,
            work: JoinSet::new(),
            places: CallSlots::new(limits),
            local: LocalAddresses::default(),
            introductions,
            lookups: JoinSet::new(),
            listeners: HashSet::new(),
            closing: HashMap::new(),
            connecting: HashMap::new(),
            writing: HashMap::new(),
            wrote: None,
            drain: None,
            drained: false,
            channels,
            wake: true,
            met: LogQuota::new(),
            next_discovery: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let cancel = self.shared.cancel.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(command) = self.channels.inbox.recv() => self.on_command(command),
                Some(done) = self.work.join_next(), if !self.work.is_empty() => self.on_done(done),
                Some((peer, info)) = self.introductions.recv() => self.on_introduced(peer, &info),
                Some(found) = self.channels.found.recv() => self.on_found(found.peer, found.addresses),
                Some(resolved) = self.lookups.join_next(), if !self.lookups.is_empty() => {
                    if let Ok(resolved) = resolved { self.on_resolved(resolved); }
                }
                _ = tick.tick() => self.wake = true,
            }
            self.settle();
        }
        self.close().await;
    }

    /// Whether no new calls are taken.
    const fn is_draining(&self) -> bool {
        self.drain.is_some() || self.drained
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send { peer, protocol, frame, reply, permit } => {
                self.send(peer, protocol, frame, Pending::Call { reply, _permit: permit });
            }
            Command::Auth { peer, status } => self.peers.auth(&peer, status),
            Command::KnowsKey { peer, knows } => self.knows_key(peer, knows),
            Command::ChainIdentity(identity) if self.peers.membership.chain_identity == Some(identity) => {}
            Command::ChainIdentity(identity) => {
                self.peers.membership.chain_identity = Some(identity);
                self.own.info.write().unwrap_or_else(PoisonError::into_inner).chain_identity =
                    identity.to_string();
                self.peers.greet_all();
                self.wake = true;
            }
            Command::Disconnect { peer, done } => match self.swarm.disconnect_peer_id(peer) {
                Ok(()) => self.closing.entry(peer).or_default().push(done),
                Err(()) => {
                    let _ = done.send(());
                }
            },
            Command::ConnectFromHere { peer, done } => self.connect_from_here(peer, done),
            Command::Drain(done) => self.drain = Some(done),
        }
    }

    /// Sends a request over a connection that is there or is dialled.
    fn send(&mut self, peer: PeerId, protocol: Protocol, frame: Frame, pending: Pending) {
        let addresses = match self.peers.get(&peer) {
            _ if self.swarm.is_connected(&peer) => Vec::new(),
            Some(known) if !known.addresses().is_empty() => known.addresses().to_vec(),
            _ => return self.answered(peer, pending, Err(Error::UnknownPeer { peer })),
        };
        let behaviour = self.swarm.behaviour_mut();
        let calls = match protocol {
            Protocol::Pb => &mut behaviour.pb,
            Protocol::Blob => &mut behaviour.blob,
        };
        let id = calls.send_request_with_addresses(&peer, frame, addresses);
        self.pending.insert((protocol, id), pending);
    }

    /// A peer has shown that it knows the pre-shared key, or that it does not.
    fn knows_key(&mut self, peer: PeerId, knows: bool) {
        self.peers.knows_key(&peer, knows);
        self.swarm.behaviour_mut().shares.trust(peer, knows || self.own.named.contains(&peer));
    }

    /// Hands an answer, or why there is none, to whoever waits for it.
    fn answered(&mut self, peer: PeerId, pending: Pending, result: Result<Frame, Error>) {
        match pending {
            // Nobody may wait any more.
            Pending::Call { reply, .. } => drop(reply.send(result)),
            Pending::Hello { nonce, offer } => self.on_hello_answer(peer, &nonce, offer, result),
        }
    }

    /// Closes the connections, so that answers which are written also arrive, for as long as that may take.
    async fn close(mut self) {
        self.work.abort_all();
        self.drained = true;
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        if let Some(wrote) = self.wrote {
            let linger = async {
                loop {
                    let event = self.swarm.select_next_some().await;
                    self.on_swarm(event);
                }
            };
            let _ = tokio::time::timeout_at((wrote + LINGER).into(), linger).await;
        }
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().connection_counters().num_connections() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    }

    /// What is due after anything has happened.
    fn settle(&mut self) {
        if std::mem::take(&mut self.wake) && !self.is_draining() {
            let now = Instant::now();
            self.peers.prune(now);
            self.dial_boot(now);
            self.dial_known(now);
            self.greet(now);
            self.discover(now);
        }
        if std::mem::take(&mut self.peers.dirty) {
            let table = self.peers.table();
            let connected = table.iter().filter(|peer| peer.connected).count();
            metrics::peers(connected, table.len() - connected);
            self.channels.peers.send_replace(Arc::new(table));
        }
        if self.work.is_empty()
            && self.writing.is_empty()
            && let Some(done) = self.drain.take()
        {
            let _ = done.send(());
            self.drained = true;
        }
    }
}
