//! Strangers among the peers: data providers that lie, floods of calls, guesses of the key.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{Error, Heights, memory::empty_genesis},
    primitives::{Hash, ParaNumber, RelayNumber},
};
use prb_walkie::{
    blob::{
        Lookup, Parts,
        answer::{self, Position},
        server::{self, Server},
    },
    identity::Identity,
    node::{self, Multiaddr, Node},
    proto::{
        Role,
        data_provider::{Info, Status},
    },
    rpc::{Handlers, calls},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Targets, place::Tunnel};

/// Blocks that a liar claims to be ahead.
const INVENTED: u32 = 1_000_000;
/// Calls that a flooder has under way.
const CALLS: usize = 64;

/// Invents heights, has a genesis of its own, and garbage for everything else.
#[derive(Debug)]
struct Lies {
    identity: Hash,
    height: u32,
}

#[async_trait]
impl Lookup for Lies {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(match key.split(':').next().unwrap_or_default() {
            "heights" => {
                let heights = Heights {
                    relay: Some(RelayNumber(self.height)),
                    para: Some(ParaNumber(self.height)),
                    relay_target: Some(RelayNumber(self.height)),
                    para_target: Some(ParaNumber(self.height)),
                };
                Some(answer::heights(&Position { heights, identity: Some(self.identity) }).join())
            }
            "genesis" => {
                let mut genesis = empty_genesis(RelayNumber(7));
                genesis.chain_identity = self.identity;
                Some(answer::genesis(Ok(genesis)).join())
            }
            _ => Some(Parts::whole(Bytes::from(vec![0x5a; 100_000])).join()),
        })
    }
}

fn address(tunnel: &Tunnel) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{}", tunnel.local.port()).parse().unwrap()
}

async fn client(boot_node: Multiaddr, change: impl FnOnce(&mut node::Config)) -> Node {
    let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
    stranger(identity, Role::Client, vec![boot_node], change).await
}

async fn stranger(
    identity: Identity,
    role: Role,
    boot_nodes: Vec<Multiaddr>,
    change: impl FnOnce(&mut node::Config),
) -> Node {
    let mut config = node::Config::new(identity, role);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.boot_nodes = boot_nodes;
    change(&mut config);
    Node::start(config).await.unwrap()
}

/// Peers of the right chain and group that say to be data providers far ahead.
pub(crate) fn false_providers(targets: &Targets) -> JoinSet<()> {
    let mut liars = JoinSet::new();
    for (place, identity) in targets.identities.iter().cloned().enumerate() {
        let targets = targets.clone();
        liars.spawn(async move {
            let height = targets.tip + INVENTED;
            let lies = Arc::new(Lies { identity: targets.chain_identity, height });
            let ip = targets.sources.v4(place);
            let any = SocketAddr::from((ip, 0));
            let server = Server::bind(any, lies, server::Config::default()).await.unwrap();
            let number = height.cast_signed();
            let mut info = Info {
                parent_target: number,
                parent_fetched_height: number,
                parent_processed_height: number,
                parent_committed_height: number,
                para_target: number,
                para_fetched_height: number,
                para_processed_height: number,
                para_committed_height: number,
                para_id: 2004,
                blob_server_port: server.local_addr().port().into(),
                ..Info::default()
            };
            info.set_status(Status::Idle);
            let manager = targets.sources.tunnel(place, targets.manager).await;
            let provider = targets.sources.tunnel(place, targets.provider).await;
            let boot_nodes = vec![address(&manager), address(&provider)];
            let _node = stranger(identity, Role::DataProviderInt, boot_nodes, |config| {
                config.listen = vec![format!("/ip4/{ip}/tcp/0").parse().unwrap()];
                config.chain_identity = Some(targets.chain_identity);
                config.handlers =
                    Handlers::new().on(calls::GetDataProviderInfo, move |_, _| async move { Ok(info) });
            })
            .await;
            server.run(CancellationToken::new()).await;
        });
    }
    liars
}

/// Calls of every kind, as many as there is room for and more.
pub(crate) fn call_floods(targets: &Targets) -> JoinSet<()> {
    let mut floods = JoinSet::new();
    for target in [targets.provider, targets.manager] {
        for number in 0..4 {
            let sources = targets.sources.clone();
            floods.spawn(async move {
                let tunnel = sources.tunnel(20 + number, target).await;
                let node = client(address(&tunnel), |_| {}).await;
                let mut peers = node.peers();
                peers.wait_for(|table| table.iter().any(|peer| peer.connected)).await.unwrap();
                let peer =
                    peers.borrow().iter().find(|peer| peer.connected).map(|peer| peer.peer_id).unwrap();
                let mut calls = JoinSet::new();
                for number in 0..CALLS {
                    let client = node.client(peer);
                    calls.spawn(async move {
                        loop {
                            match number % 4 {
                                0 => drop(client.data_provider_info().await),
                                1 => drop(client.list_workers().await),
                                2 => drop(client.blob_by_key("blocks:1:100000:100000000").await),
                                _ => drop(client.blob("heights:999999999:999999999:60000").await),
                            }
                            tokio::task::yield_now().await;
                        }
                    });
                }
                while calls.join_next().await.is_some() {}
            });
        }
    }
    floods
}

/// Management calls with other keys.
pub(crate) fn key_guesses(targets: &Targets) -> JoinSet<()> {
    let mut guesses = JoinSet::new();
    for number in 0..4 {
        let Targets { sources, manager, .. } = targets.clone();
        guesses.spawn(async move {
            let tunnel = sources.tunnel(30 + number, manager).await;
            let key = format!("{number}c3f91e05b7d24a68a0e3d5c7f1b29e46");
            let node = client(address(&tunnel), |config| config.auth.psk = Some(key.into())).await;
            let mut peers = node.peers();
            peers.wait_for(|table| table.iter().any(|peer| peer.connected)).await.unwrap();
            let peer = peers.borrow().iter().find(|peer| peer.connected).map(|peer| peer.peer_id).unwrap();
            loop {
                assert!(node.client(peer).list_pools().await.is_err(), "a guess was let in");
            }
        });
    }
    guesses
}
