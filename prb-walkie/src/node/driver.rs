//! The driver: the single task that owns the swarm and handles all its events.

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
    call_slots::{CallSlot, CallSlots},
    codec::{Frame, Memories, Memory},
    log_quota::LogQuota,
    loopback::LocalAddresses,
    mdns::Found,
    metrics,
    outbound::Permit,
    peers::{MembershipRules, Peers},
    trust::Trust,
};
use crate::{
    blob::Lookup,
    proto::{AuthStatus, SystemInfo},
    rpc::{
        Error, Handlers,
        auth::{AccessControl, Key},
        key_proof::{Offer, RateLimit},
    },
};

mod boot;
mod events;
mod hello;
mod inbound;
mod same_machine;

use boot::Boot;
use inbound::Done;

/// Interval at which due dials and greetings are checked.
const TICK: Duration = Duration::from_millis(250);
/// Least interval between two versions of the peer table. Each lists all peers, and strangers can cause any number of
/// changes.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// Time for peers to receive the closing of connections.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection stays open after an answer was written: a peer that reads the connection's end
/// together with the answer would miss the answer.
const LINGER: Duration = Duration::from_millis(200);
/// Pause before a refused or failed `Hello` is repeated.
const GREET_AGAIN: Duration = Duration::from_secs(2);

/// The driver's channel ends.
pub(super) struct Channels {
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) listen: watch::Sender<Vec<Multiaddr>>,
    pub(super) peers: watch::Sender<Arc<PeerTable>>,
}

/// An outgoing request that waits for its answer.
enum Pending {
    /// A call from a handle; the permit is its slot among the calls to that peer.
    Call { reply: oneshot::Sender<Result<Frame, Error>>, _permit: Permit },
    /// A `Hello` of the driver, with its half of the key exchange if there is a key.
    Hello { nonce: String, offer: Option<Box<Offer>> },
}

/// This node's identity and settings, shared by handlers, calls and the driver.
#[derive(Debug)]
pub(super) struct Own {
    info: RwLock<SystemInfo>,
    access: Mutex<AccessControl>,
    /// The pre-shared key.
    pub(super) key: Option<Key>,
    exchange_limit: RateLimit,
    /// Peers named in the configuration.
    pub(super) named: HashSet<PeerId>,
}

impl Own {
    pub(super) fn new(config: &Config, me: PeerId, key: Option<Key>) -> Self {
        Self {
            info: RwLock::new(hello::own_info(config, me)),
            access: Mutex::new(AccessControl::new(config.auth.clone(), key.clone(), me)),
            key,
            exchange_limit: RateLimit::default(),
            named: config.named(),
        }
    }

    /// The authorisation of a caller, as told in `Hello` and required by management methods.
    fn auth_status(&self, peer: &PeerId, ip: Option<IpAddr>, comes_from_here: bool) -> AuthStatus {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).auth_status(peer, ip, comes_from_here)
    }

    /// Whether callers need nothing but to be on this machine.
    fn grants_same_machine(&self) -> bool {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).grants_same_machine()
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
    /// Inbound calls being answered.
    work: JoinSet<Done>,
    call_slots: CallSlots,
    local: LocalAddresses,
    /// What peers have sent about themselves in `Hello`.
    introductions: mpsc::Receiver<(PeerId, SystemInfo)>,
    lookups: JoinSet<boot::Resolved>,
    listeners: HashSet<ListenerId>,
    /// Waiters for a peer's connections to be closed.
    closing: HashMap<PeerId, Vec<oneshot::Sender<()>>>,
    /// Dials to peers on this machine, and their waiters.
    connecting: HashMap<ConnectionId, oneshot::Sender<bool>>,
    /// Answers being written, with the call slots that they keep meanwhile.
    writing: HashMap<(Protocol, InboundRequestId), Option<CallSlot>>,
    /// When the last answer was written.
    wrote: Option<Instant>,
    /// Dropped when the last call is answered; new calls are refused while it is set.
    drain: Option<oneshot::Sender<()>>,
    drained: bool,
    channels: Channels,
    /// Whether due dials or greetings may have changed.
    wake: bool,
    /// Rate limit of log lines about new peers.
    met: LogQuota,
    listener_errors: LogQuota,
    next_discovery: Instant,
    next_table: Instant,
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
        let rules = MembershipRules {
            chain_identity: config.chain_identity,
            bridge_identity: config.bridge_identity,
            ignore_bridge_identity: config.ignore_bridge_identity,
        };
        let trust = Trust { peers: own.named.clone(), networks: config.trust.networks };
        let mut peers = Peers::new(me, limits, rules, trust);
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
            call_slots: CallSlots::new(limits),
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
            listener_errors: LogQuota::new(),
            next_discovery: Instant::now(),
            next_table: Instant::now(),
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
                () = tokio::time::sleep_until(self.next_table.into()), if self.peers.dirty => {}
            }
            // After each event, so that the table is published at most once however many peers changed.
            self.run_due();
        }
        self.close().await;
    }

    /// Whether new calls are refused.
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
            // Peers are greeted again only if it changed.
            Command::ChainIdentity(identity) if self.peers.rules.chain_identity == Some(identity) => {}
            Command::ChainIdentity(identity) => {
                self.peers.rules.chain_identity = Some(identity);
                self.own.info.write().unwrap_or_else(PoisonError::into_inner).chain_identity =
                    identity.to_string();
                // Peers do not use this node before they know its chain.
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

    /// Sends a request, dialling the peer if necessary.
    fn send(&mut self, peer: PeerId, protocol: Protocol, frame: Frame, pending: Pending) {
        // The request brings the addresses to dial.
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

    /// Records whether a peer has proved that it knows the shared key.
    fn knows_key(&mut self, peer: PeerId, knows: bool) {
        self.peers.knows_key(&peer, knows);
        self.swarm.behaviour_mut().shares.trust(peer, knows || self.own.named.contains(&peer));
    }

    /// Passes an answer or error to its waiter.
    fn answered(&mut self, peer: PeerId, pending: Pending, result: Result<Frame, Error>) {
        match pending {
            // The waiter may have left.
            Pending::Call { reply, .. } => drop(reply.send(result)),
            Pending::Hello { nonce, offer } => self.on_hello_answer(peer, &nonce, offer, result),
        }
    }

    /// Closes the connections after a short time in which written answers can arrive.
    async fn close(mut self) {
        self.work.abort_all();
        self.drained = true;
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        if let Some(wrote) = self.wrote {
            // Answers are written only while the swarm is polled.
            let linger = async {
                loop {
                    let event = self.swarm.select_next_some().await;
                    self.on_swarm(event);
                }
            };
            let _ = tokio::time::timeout_at((wrote + LINGER).into(), linger).await;
        }
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        // Peers see a closed connection at once, instead of missing pings later.
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

    /// Runs the periodic work that is due and publishes changed tables. Called after every event.
    fn run_due(&mut self) {
        if std::mem::take(&mut self.wake) && !self.is_draining() {
            let now = Instant::now();
            self.peers.prune(now);
            self.dial_boot(now);
            self.dial_known(now);
            self.greet(now);
            self.discover(now);
        }
        let now = Instant::now();
        if self.peers.dirty && now >= self.next_table {
            self.peers.dirty = false;
            self.next_table = now + PUBLISH_INTERVAL;
            let table = self.peers.table();
            let connected = table.iter().filter(|peer| peer.connected).count();
            metrics::peers(connected, table.len() - connected);
            self.channels.peers.send_replace(Arc::new(table));
        }
        // Drained: no call is being answered, and no answer is being written.
        if self.work.is_empty()
            && self.writing.is_empty()
            && let Some(done) = self.drain.take()
        {
            let _ = done.send(());
            self.drained = true;
        }
    }
}
