//! Starts a node from its configuration.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, TransportError,
    core::{transport::ListenerId, upgrade::Version},
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{self, SwarmEvent},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Config, ConfigError, Node, PeerId, PeerTable, Shared,
    behaviour::Behaviour,
    codec::Memories,
    driver, listed,
    mdns::{self, Responder},
    metrics,
    outbound::Outbound,
    transport,
};
use crate::rpc::auth::Key;

/// Capacity of the driver's command channel.
const COMMANDS: usize = 256;
/// How long a start waits for the addresses of its listeners. One at `0.0.0.0` or `::` has none as long as no interface
/// has an address of that family, as in containers with IPv6 disabled.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn start(config: Config) -> Result<Node, ConfigError> {
    config.check()?;
    metrics::describe();
    let key = keypair(&config)?;
    let me = key.public().to_peer_id();
    let memories = Memories::new(config.limits.in_flight_bytes);
    let mut swarm = swarm(&key, &config, &memories)?;
    let mut listeners = listen(&mut swarm, &config.listen)?;

    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (found_sender, found) = mdns::channel();
    let (listen_sender, listen) = watch::channel(Vec::new());
    let (peers_sender, peers) = watch::channel(Arc::new(PeerTable::default()));
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let shared = Arc::new(Shared {
        peer_id: me,
        commands,
        listen: listen.clone(),
        peers,
        outbound: Outbound::new(config.limits),
        own: Arc::new(driver::Own::new(&config, me, stretched(&config).await?)),
        cancel: cancel.clone(),
        tasks: tasks.clone(),
    });
    let responder = config.mdns.then(|| Responder {
        me,
        hostname: config.hostname.clone(),
        interval: config.limits.discovery_interval,
        listen,
        found: found_sender.clone(),
    });
    let channels = driver::Channels { inbox, found, listen: listen_sender, peers: peers_sender };
    let mut driver = driver::Driver::new(swarm, config, Arc::clone(&shared), memories, channels);
    let listening = until_listening(&mut driver, &mut listeners);
    if tokio::time::timeout(LISTEN_TIMEOUT, listening).await.is_err() {
        let waiting: Vec<_> = listeners.into_values().collect();
        warn!(
            addresses = listed(&waiting),
            "no interface has an address for these yet: peers reach them once one has"
        );
    }
    info!(peer_id = %me, addresses = listed(&shared.listen.borrow()), "listening for peers");
    let stop = cancel.clone();
    // One task for both: if either fails, the driver's channels close, which is how a daemon notices.
    tasks.spawn(async move {
        // Keeps the driver's mDNS channel open without mDNS.
        let _found = found_sender;
        let discovery = async {
            if let Some(responder) = responder {
                responder.run(stop).await;
            }
        };
        tokio::join!(Box::pin(driver.run()), discovery);
    });
    tasks.close();
    Ok(Node { shared, _stop: Arc::new(cancel.drop_guard()) })
}

fn keypair(config: &Config) -> Result<Keypair, ConfigError> {
    let identity = |reason: String| ConfigError::Identity { reason };
    let private = config.identity.private_protobuf().map_err(|e| identity(e.to_string()))?;
    let key = Keypair::from_protobuf_encoding(&private).map_err(|e| identity(e.to_string()))?;
    let ours = PeerId::from_bytes(config.identity.peer_id().as_bytes()).ok();
    if ours != Some(key.public().to_peer_id()) {
        return Err(identity("its peer id is not libp2p's".to_owned()));
    }
    Ok(key)
}

/// Stretches the pre-shared key on a blocking thread.
async fn stretched(config: &Config) -> Result<Option<Key>, ConfigError> {
    let Some(key) = config.auth.psk.clone() else { return Ok(None) };
    let stretched = tokio::task::spawn_blocking(move || Key::stretch(&key)).await;
    let failed = |e: tokio::task::JoinError| ConfigError::Auth {
        reason: format!("the pre-shared key cannot be stretched: {e}"),
    };
    stretched.map(Some).map_err(failed)
}

fn swarm(key: &Keypair, config: &Config, memory: &Memories) -> Result<Swarm<Behaviour>, ConfigError> {
    let handshakes = transport::Handshakes::default();
    let transport = transport::build(key, handshakes.clone())
        .map_err(|e| ConfigError::Identity { reason: e.to_string() })?;
    let behaviour = Behaviour::new(key, config, memory, handshakes);
    let swarm = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(config.limits.idle_timeout)
        // Saves a round trip per call; originals accept it.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Ok(Swarm::new(transport, behaviour, key.public().to_peer_id(), swarm))
}

fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
) -> Result<HashMap<ListenerId, Multiaddr>, ConfigError> {
    let mut listeners = HashMap::new();
    let mut left_out = None;
    for address in addresses {
        let source = match swarm.listen_on(address.clone()) {
            Ok(id) => {
                listeners.insert(id, address.clone());
                continue;
            }
            Err(TransportError::MultiaddrNotSupported(_)) => {
                io::Error::new(ErrorKind::InvalidInput, "it is not a TCP address")
            }
            Err(TransportError::Other(e)) => system_error(e),
        };
        let is_left_out = lacks_ipv6(address, &source);
        let refused = ConfigError::Listen { address: address.clone(), source };
        if !is_left_out {
            return Err(refused);
        }
        warn!(%address, "skipping this address: the system has no IPv6");
        left_out = Some(refused);
    }
    match left_out {
        Some(refused) if listeners.is_empty() => Err(refused),
        _ => Ok(listeners),
    }
}

/// Returns the system's error inside of an error of libp2p, with its kind. The transports wrap it in types that give
/// neither its code nor itself as their source, so the code is read from the text.
fn system_error(error: io::Error) -> io::Error {
    let text = error.to_string();
    let code = text.rsplit_once("(os error ").and_then(|(_, code)| code.trim_end_matches(')').parse().ok());
    code.map_or(error, io::Error::from_raw_os_error)
}

/// Whether listening failed because the system has no IPv6.
fn lacks_ipv6(address: &Multiaddr, error: &io::Error) -> bool {
    let is_v6 = matches!(address.iter().next(), Some(Protocol::Ip6(_)));
    // EAFNOSUPPORT has no `ErrorKind`.
    let text = error.to_string();
    is_v6
        && (matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
            || text.contains("not supported by protocol"))
}

/// Runs the driver until every listener has an address. Cancel safe.
async fn until_listening(driver: &mut driver::Driver, waiting: &mut HashMap<ListenerId, Multiaddr>) {
    while !waiting.is_empty() {
        let event = driver.swarm.select_next_some().await;
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. }
            | SwarmEvent::ListenerClosed { listener_id, .. } => {
                waiting.remove(listener_id);
            }
            _ => {}
        }
        driver.on_swarm(event);
    }
}
