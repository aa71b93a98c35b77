//! Tests of hostile peers below the calls: floods of announcements, of frames and of handshakes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, Transport,
    core::upgrade::Version,
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    noise,
    swarm::{DialError, NetworkBehaviour, SwarmEvent},
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
    let kad_config = kad::Config::new(StreamProtocol::new("/ipfs/lan/kad/1.0.0"));
    let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), kad_config);
    kad.set_mode(Some(kad::Mode::Server));
    let identify = identify::Behaviour::new(
        identify::Config::new("ipfs/0.1.0".to_owned(), key.public())
            .with_agent_version("\u{1b}[2J\n".repeat(50)),
    );
    let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(LONG);
    Swarm::new(transport, Announcer { identify, kad }, id, config)
}

/// Connects, and waits until it is identified.
async fn announcing_to(node: &Node) -> Swarm<Announcer> {
    let mut swarm = announcer();
    swarm.dial(address(node)).unwrap();
    let identified = async {
        while !matches!(
            swarm.select_next_some().await,
            SwarmEvent::Behaviour(AnnouncerEvent::Identify(identify::Event::Sent { .. }))
        ) {}
    };
    timeout(LONG, identified).await.expect("identified");
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
            let sent = async {
                while !matches!(
                    swarm.select_next_some().await,
                    SwarmEvent::Behaviour(AnnouncerEvent::Identify(identify::Event::Pushed { .. }))
                ) {}
            };
            timeout(LONG, sent).await.expect("pushed");
            (0..20).for_each(|n| swarm.remove_external_address(&fake(n)));
        }
        told_of(&node, peer).await
    };
    let (told, longest) = calls_beside(&caller, &node, attack).await;
    assert!((1..=10).contains(&told.len()), "{told:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}
