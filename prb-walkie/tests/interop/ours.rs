//! Our side of the interoperability tests.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use prb_walkie::{
    blob::Lookup,
    identity::Identity,
    node::{Config, Node, Peer},
    proto::Role,
};
use tokio::time::timeout;

/// Timeout of an event, generous for a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// Starts a node on a port of 127.0.0.1, without mDNS.
pub(crate) async fn start(role: Role, configure: impl FnOnce(&mut Config)) -> Node {
    let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
    let mut config = Config::new(identity, role);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    configure(&mut config);
    Node::start(config).await.unwrap()
}

/// The node's first address with its peer id, as originals need it.
pub(crate) fn address(node: &Node) -> String {
    node.listen_addresses()[0].clone().with(Protocol::P2p(node.peer_id())).to_string()
}

/// An address without its peer id.
pub(crate) fn without_id(address: &str) -> Multiaddr {
    let mut address: Multiaddr = address.parse().unwrap();
    address.pop();
    address
}

/// Waits until a peer in the table is as `wanted`.
pub(crate) async fn peer(node: &Node, id: &str, what: &str, wanted: impl Fn(&Peer) -> bool) -> Peer {
    let id: PeerId = id.parse().unwrap();
    let mut peers = node.peers();
    let found =
        timeout(TIMEOUT, peers.wait_for(|table| table.get(&id).is_some_and(|peer| wanted(peer)))).await;
    match found {
        Ok(table) => Peer::clone(table.unwrap().get(&id).unwrap()),
        Err(_) => panic!("{id} is not {what} within {TIMEOUT:?}: {:?}", node.peers().borrow().get(&id)),
    }
}

/// The content of the blob `pattern:SIZE`, here and in the JavaScript tools.
pub(crate) fn pattern(size: u32) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Serves patterns only.
#[derive(Debug)]
pub(crate) struct Patterns;

#[async_trait]
impl Lookup for Patterns {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, prb_core::blob::Error> {
        let size = key.strip_prefix("pattern:").and_then(|size| size.parse().ok());
        Ok(size.map(|size| pattern(size).into()))
    }
}
