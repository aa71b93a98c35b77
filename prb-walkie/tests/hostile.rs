//! Tests of hostile peers below the calls: floods of announcements, of frames and of handshakes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, Transport,
    connection_limits::{self, ConnectionLimits},
    core::{
        Endpoint,
        muxing::{StreamMuxer, StreamMuxerEvent},
        transport::{DialOpts, PortUse},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version},
    },
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    noise,
    swarm::{DialError, NetworkBehaviour, SwarmEvent, dial_opts},
    tcp,
};
use prb_walkie::{
    node::{Config, Node, PeerId},
    proto::{Role, data_provider as dp},
    rpc::{Handlers, calls},
};
use rig::{LONG, address, config, start, start_knowing, until_friends};
use tokio::time::{Instant, timeout};

fn answering(n: usize) -> Config {
    let mut config = config(n, Role::DataProviderInt);
    config.handlers =
        Handlers::new().on(calls::GetDataProviderInfo, |_, _| async { Ok(dp::Info::default()) });
    config
}

/// Calls the node until `attack` ends, and at least once; returns the longest time that an answer took.
async fn calls_beside<T>(caller: &Node, node: &Node, attack: impl Future<Output = T>) -> (T, Duration) {
    let client = caller.client(node.peer_id());
    let mut longest = Duration::ZERO;
    tokio::pin!(attack);
    loop {
        let began = Instant::now();
        let call = timeout(LONG, client.data_provider_info());
        let ended = tokio::select! {
            answer = call => {
                answer.expect("an answer").unwrap();
                longest = longest.max(began.elapsed());
                continue;
            }
            ended = &mut attack => ended,
        };
        timeout(LONG, client.data_provider_info()).await.expect("an answer").unwrap();
        return (ended, longest.max(began.elapsed()));
    }
}

/// A peer that announces whatever it likes.
#[derive(NetworkBehaviour)]
struct Announcer {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

fn announcer() -> Swarm<Announcer> {
    let key = Keypair::generate_ed25519();
    let id = key.public().to_peer_id();
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(libp2p_mplex::Config::new())
        .boxed();
    let mut kad_config = kad::Config::new(StreamProtocol::new("/ipfs/lan/kad/1.0.0"));
    kad_config.set_periodic_bootstrap_interval(None);
    let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), kad_config);
    kad.set_mode(Some(kad::Mode::Server));
    let limits = connection_limits::Behaviour::new(ConnectionLimits::default());
    let identify = identify::Behaviour::new(
        identify::Config::new("ipfs/0.1.0".to_owned(), key.public())
            .with_agent_version("\u{1b}[2J\n".repeat(50)),
    );
    let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(LONG);
    Swarm::new(transport, Announcer { limits, identify, kad }, id, config)
}

/// Waits for an event of the swarm.
async fn until(swarm: &mut Swarm<Announcer>, is: impl Fn(&SwarmEvent<AnnouncerEvent>) -> bool) {
    let event = async { while !is(&swarm.select_next_some().await) {} };
    timeout(LONG, event).await.expect("an event");
}

/// Connects, and waits until it is identified.
async fn announcing_to(node: &Node) -> Swarm<Announcer> {
    let mut swarm = announcer();
    swarm.dial(address(node)).unwrap();
    until(&mut swarm, |event| {
        matches!(event, SwarmEvent::Behaviour(AnnouncerEvent::Identify(identify::Event::Sent { .. })))
    })
    .await;
    swarm
}

/// What the node tells others of a peer's addresses: those at which they try to reach it, in vain.
async fn told_of(node: &Node, peer: PeerId) -> Vec<Multiaddr> {
    let mut asker = announcing_to(node).await;
    asker.behaviour_mut().kad.add_address(&node.peer_id(), node.listen_addresses()[0].clone());
    asker.behaviour_mut().kad.get_closest_peers(peer);
    let dialled = async {
        loop {
            if let SwarmEvent::OutgoingConnectionError {
                peer_id: Some(id),
                error: DialError::Transport(tried),
                ..
            } = asker.select_next_some().await
                && id == peer
            {
                break tried.into_iter().map(|(address, _)| address).collect();
            }
        }
    };
    timeout(LONG, dialled).await.expect("a dial")
}

/// A peer that announces other addresses again and again fills only its own short list: calls are not delayed, and
/// others still learn where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_announced_addresses_fills_a_short_list() {
    const PUSHES: u8 = 150;
    let node = start(answering(0)).await;
    let caller = start_knowing(config(1, Role::LifecycleManager), &node).await;
    until_friends(&caller, &node).await;
    let mut swarm = announcing_to(&node).await;
    let peer = *swarm.local_peer_id();
    let attack = async {
        for push in 0..PUSHES {
            let fake = |n: u8| format!("/ip4/127.1.{push}.{n}/tcp/1").parse().unwrap();
            (0..20).for_each(|n| swarm.add_external_address(fake(n)));
            swarm.behaviour_mut().identify.push([node.peer_id()]);
            until(&mut swarm, |event| {
                matches!(
                    event,
                    SwarmEvent::Behaviour(AnnouncerEvent::Identify(identify::Event::Pushed { .. }))
                )
            })
            .await;
            (0..20).for_each(|n| swarm.remove_external_address(&fake(n)));
        }
        told_of(&node, peer).await
    };
    let (told, longest) = calls_beside(&caller, &node, attack).await;
    assert!((1..=10).contains(&told.len()), "{told:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

/// A peer that says of another that it is at hundreds of ports of a third machine: this node tries few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_addresses_of_others_are_not_all_dialled() {
    const PORTS: usize = 200;
    let node = start(answering(0)).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (mut third, mut swarm) = (tokio::task::JoinSet::new(), announcer());
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    until(&mut swarm, |event| matches!(event, SwarmEvent::NewListenAddr { .. })).await;
    let fake = PeerId::random();
    for _ in 0..PORTS {
        let listener = tokio::net::TcpListener::bind("127.0.0.77:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = format!("/ip4/127.0.0.77/tcp/{port}").parse().unwrap();
        swarm.behaviour_mut().kad.add_address(&fake, place);
        let tell = tell.clone();
        third.spawn(async move {
            while listener.accept().await.is_ok() {
                tell.send(port).unwrap();
            }
        });
    }
    let dial = dial_opts::DialOpts::unknown_peer_id().address(address(&node));
    swarm.dial(dial.allocate_new_port().build()).unwrap();
    // It tells of them, but does not go there itself.
    *swarm.behaviour_mut().limits.limits_mut() =
        ConnectionLimits::default().with_max_pending_outgoing(Some(0));
    // The node asks for others at each discovery; by the third time it has tried what it was told before.
    let asked = async {
        let mut questions = 0;
        while questions < 3 {
            if let SwarmEvent::Behaviour(AnnouncerEvent::Kad(kad::Event::InboundRequest { .. })) =
                swarm.select_next_some().await
            {
                questions += 1;
            }
        }
    };
    timeout(LONG, asked).await.expect("questions");
    let mut dialled = std::collections::HashSet::new();
    while let Ok(port) = told.try_recv() {
        dialled.insert(port);
    }
    assert!((1..=16).contains(&dialled.len()), "{} of {PORTS} ports", dialled.len());
}

/// A peer that connects and disconnects all the time: the table of peers is not built again each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_connections_makes_few_tables() {
    const ROUNDS: usize = 60;
    let node = start(answering(0)).await;
    let caller = start_knowing(config(1, Role::LifecycleManager), &node).await;
    until_friends(&caller, &node).await;
    let mut tables = node.peers();
    tables.borrow_and_update();
    let (began, mut swarm) = (Instant::now(), announcer());
    let attack = async {
        for _ in 0..ROUNDS {
            swarm.dial(address(&node)).unwrap();
            until(&mut swarm, |event| matches!(event, SwarmEvent::ConnectionEstablished { .. })).await;
            swarm.disconnect_peer_id(node.peer_id()).unwrap();
            until(&mut swarm, |event| matches!(event, SwarmEvent::ConnectionClosed { .. })).await;
        }
    };
    let count = async move {
        let mut count = 0;
        while tables.changed().await.is_ok() {
            count += 1;
        }
        count
    };
    let counted = tokio::spawn(count);
    let ((), longest) = calls_beside(&caller, &node, attack).await;
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    let most = began.elapsed().as_millis() / 20 + 10;
    drop(node);
    let count = timeout(LONG, counted).await.unwrap().unwrap();
    assert!(count < most, "{count} tables, {most} at most, for {ROUNDS} connections");
}

/// "Upgrades" to a connection of a multiplexer's frames that are written by hand.
#[derive(Clone)]
struct Raw(&'static str);

impl UpgradeInfo for Raw {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0)
    }
}

impl<C: Send + 'static> InboundConnectionUpgrade<C> for Raw {
    type Output = Socket<C>;
    type Error = Infallible;
    type Future = Ready<Result<Socket<C>, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Socket(socket)))
    }
}

impl<C: Send + 'static> OutboundConnectionUpgrade<C> for Raw {
    type Output = Socket<C>;
    type Error = Infallible;
    type Future = Ready<Result<Socket<C>, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Socket(socket)))
    }
}

/// The connection, which has no streams of its own.
struct Socket<C>(C);

impl<C: AsyncRead + AsyncWrite> StreamMuxer for Socket<C> {
    type Substream = C;
    type Error = std::io::Error;

    fn poll_inbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<C, Self::Error>> {
        Poll::Pending
    }

    fn poll_outbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<C, Self::Error>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Pending
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Poll::Pending
    }
}

/// What a flood consists of: a multiplexer and its frames, by the number of the round.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

/// Sends frames to the node on a connection of its own until it ends, or the attack does.
async fn flood(node: Multiaddr, (multiplexer, frames): Flood) {
    let key = Keypair::generate_ed25519();
    let mut transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(Raw(multiplexer));
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let mut place = node;
    place.pop();
    let (_, Socket(socket)) = transport.dial(place, options).unwrap().await.unwrap();
    let (mut read, mut write) = socket.split();
    let send = async {
        for start in (0..).step_by(100) {
            let frames: Vec<u8> = (start..start + 100).flat_map(frames).collect();
            if write.write_all(&frames).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    };
    let drain = async {
        let mut buffer = vec![0; 65536];
        while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    tokio::join!(send, drain);
}

/// A frame of yamux without a body.
fn yamux(tag: u8, flags: u8, stream: u32) -> Vec<u8> {
    [&[0, tag, 0, flags][..], &stream.to_be_bytes(), &[0; 4]].concat()
}

/// A frame of mplex without a body.
fn mplex(flag: u32, stream: u32) -> Vec<u8> {
    let mut header = stream << 3 | flag;
    let mut bytes = Vec::new();
    while header >= 0x80 {
        bytes.push(header as u8 | 0x80);
        header >>= 7;
    }
    bytes.extend([header as u8, 0]);
    bytes
}

/// Streams that are opened, or also reset at once; pings, and window updates.
const FLOODS: [Flood; 6] = [
    ("/yamux/1.0.0", |n| yamux(0, 1, 2 * n + 1)),
    ("/yamux/1.0.0", |n| [yamux(0, 1, 2 * n + 1), yamux(0, 8, 2 * n + 1)].concat()),
    ("/yamux/1.0.0", |_| yamux(2, 1, 0)),
    ("/yamux/1.0.0", |_| yamux(1, 0, 1)),
    ("/mplex/6.7.0", |n| mplex(0, n)),
    ("/mplex/6.7.0", |n| [mplex(0, n), mplex(6, n)].concat()),
];

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / (1 << 20)
}

/// Frames of every kind, as fast as they go: calls are answered meanwhile, and nothing piles up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_delay_calls_little() {
    let node = start(answering(0)).await;
    let caller = start_knowing(config(1, Role::LifecycleManager), &node).await;
    until_friends(&caller, &node).await;
    let before = resident_mib();
    for kind in FLOODS {
        let mut attack = tokio::task::JoinSet::new();
        for _ in 0..4 {
            attack.spawn(flood(address(&node), kind));
        }
        let a_while = tokio::time::sleep(Duration::from_millis(400));
        let ((), longest) = calls_beside(&caller, &node, a_while).await;
        assert!(longest < Duration::from_secs(5), "{longest:?}");
        attack.shutdown().await;
    }
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 100, "{grown} MiB");
}
