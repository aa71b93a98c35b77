//! What a node is told at its start, checked before anything is opened.

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use prb_core::{primitives::Hash, sync::BackoffConfig};

use super::Trust;
use crate::{
    blob::Lookup,
    identity::Identity,
    proto::Role,
    rpc::{Handlers, auth},
};

/// What the guides print where there is no boot node.
const PLACEHOLDER: [&str; 2] = ["/ip4/0.0.0.0/tcp/18888", "/ip6/::/tcp/28889"];

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What is wrong with a configuration, or why it cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An address is none.
    #[error("{address:?} is not an address like /ip4/192.0.2.1/tcp/28888: {reason}")]
    Address {
        /// The text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nowhere to listen.
    #[error("no address to listen on is given")]
    NoListenAddress,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        reason: String,
    },
    /// The identity is no key for libp2p.
    #[error("the identity cannot be used: {reason}")]
    Identity {
        /// Why.
        reason: String,
    },
    /// The rules for who is let in make no sense.
    #[error("{reason}")]
    Auth {
        /// What is wrong with them.
        reason: String,
    },
}

/// Bounds and waits of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Limits {
    /// Largest request, sent or taken, wrapping included.
    pub request_bytes: usize,
    /// Largest answer, sent or taken, wrapping included.
    pub answer_bytes: usize,
    /// Memory for all requests and answers on their way together, beyond 16 KiB each. An eighth of it is for requests
    /// of others.
    pub in_flight_bytes: usize,
    /// Time for a call, dialling included; also for answering one.
    pub call_timeout: Duration,
    /// Calls that are answered at a time, in each class: management, discovery, small blobs, and blobs that are read
    /// from the store. Those beyond are refused. A quarter of each class is not for strangers.
    pub calls: usize,
    /// The same of strangers with one IP address, or in one IPv6 network of /64.
    pub calls_per_ip: usize,
    /// The same of one peer.
    pub calls_per_peer: usize,
    /// Calls to one peer at a time; those beyond wait. At most 48: a connection has 128 streams, for both sides.
    pub calls_to_peer: usize,
    /// Connections. An eighth is for those that this node makes, and a quarter of the others is not for strangers.
    pub connections: u32,
    /// Connections that one IP address, or one IPv6 network of /64, may have made, beside those of peers in the
    /// configuration and of those who know the key.
    pub connections_per_ip: u32,
    /// Connections with one peer: originals open one a call.
    pub connections_per_peer: u32,
    /// Connections whose handshake is not done yet, made by others, and as many made by this node. One address has a
    /// quarter of the first; peers that are not in the configuration and do not know the key have a quarter of the
    /// second.
    pub handshakes: u32,
    /// Peers that are remembered.
    pub peers: usize,
    /// How often connections are pinged.
    pub ping_interval: Duration,
    /// How long a ping may take before its connection is dropped.
    pub ping_timeout: Duration,
    /// How often peers are asked anew who they are; more often than `idle_timeout`, which keeps them connected.
    pub hello_interval: Duration,
    /// How long a connection may be without a call before it is closed.
    pub idle_timeout: Duration,
    /// How often other peers are looked for: mDNS queries, and kad lookups.
    pub discovery_interval: Duration,
    /// How long a peer that is away is remembered.
    pub forget_after: Duration,
    /// Waits between dials.
    pub redial: BackoffConfig,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 16 * MIB,
            answer_bytes: 128 * MIB,
            in_flight_bytes: 512 * MIB,
            call_timeout: Duration::from_secs(30),
            calls: 192,
            calls_per_ip: 96,
            calls_per_peer: 64,
            calls_to_peer: 48,
            connections: 512,
            connections_per_ip: 64,
            connections_per_peer: 32,
            handshakes: 128,
            peers: 1024,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
            hello_interval: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(150),
            discovery_interval: Duration::from_secs(20),
            forget_after: Duration::from_secs(60 * 60),
            redial: BackoffConfig { first: Duration::from_millis(500), max: Duration::from_secs(15) },
        }
    }
}

/// What a node is told at its start.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Its key.
    pub identity: Identity,
    /// TCP addresses to listen on; port 0 takes any.
    pub listen: Vec<Multiaddr>,
    /// TCP addresses of peers to start from, with or without `/p2p/ID`.
    pub boot_nodes: Vec<Multiaddr>,
    /// Whether peers are looked for by mDNS.
    pub mdns: bool,
    /// What this node does.
    pub role: Role,
    /// The machine's name, for people.
    pub hostname: String,
    /// The operator's namespace: peers of another are ignored.
    pub bridge_identity: String,
    /// Takes peers of any namespace.
    pub ignore_bridge_identity: bool,
    /// Hash of parachain block 1, where it is known already; see
    /// [`Node::set_chain_identity`](super::Node::set_chain_identity).
    pub chain_identity: Option<Hash>,
    /// Who may call management methods.
    pub auth: auth::Policy,
    /// Who is trusted with chain data, beside those of this machine, boot nodes and those who know the key.
    pub trust: Trust,
    /// Bounds and waits.
    pub limits: Limits,
    /// What `/blob` and `GetBlobByKey` answer from; without it this node does not offer `/blob`.
    pub blobs: Option<Arc<dyn Lookup>>,
    /// What else is answered. `Hello` and `Auth` are the node's own.
    pub handlers: Handlers,
}

impl Config {
    /// A node that listens on any port of every address, looks around by mDNS, and answers `Hello`.
    pub fn new(identity: Identity, role: Role) -> Self {
        let any = |ip: Protocol<'static>| Multiaddr::empty().with(ip).with(Protocol::Tcp(0));
        Self {
            identity,
            listen: vec![
                any(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)),
                any(Protocol::Ip6(std::net::Ipv6Addr::UNSPECIFIED)),
            ],
            boot_nodes: Vec::new(),
            mdns: true,
            role,
            hostname: String::new(),
            bridge_identity: "default".to_owned(),
            ignore_bridge_identity: false,
            chain_identity: None,
            auth: auth::Policy::default(),
            trust: Trust::default(),
            limits: Limits::default(),
            blobs: None,
            handlers: Handlers::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            return Err(ConfigError::NoListenAddress);
        }
        for address in &self.listen {
            check_tcp(address, false)?;
        }
        for address in &self.boot_nodes {
            check_tcp(address, true)?;
        }
        match self.auth.problem() {
            Some(reason) => Err(ConfigError::Auth { reason }),
            None => Ok(()),
        }
    }

    /// The peers that the configuration names: they may be given a proof of the key.
    pub(super) fn named(&self) -> HashSet<PeerId> {
        let boot = self.boot().into_iter().filter_map(|(_, peer)| peer);
        boot.chain(self.auth.whitelist.iter().copied()).chain(self.trust.peers.iter().copied()).collect()
    }

    /// The boot nodes, each once, without the placeholder of the guides.
    pub(super) fn boot(&self) -> Vec<(Multiaddr, Option<PeerId>)> {
        let placeholder: HashSet<_> = PLACEHOLDER.iter().map(|s| (*s).to_owned()).collect();
        let mut seen = HashSet::new();
        let boot = self.boot_nodes.iter().map(split_peer_id);
        boot.filter(|(address, _)| {
            !placeholder.contains(&address.to_string()) && seen.insert(address.clone())
        })
        .collect()
    }
}

/// Reads a comma list of addresses, as the variables hold it.
///
/// # Errors
/// [`ConfigError::Address`], with the address.
pub fn parse_addresses(list: &str) -> Result<Vec<Multiaddr>, ConfigError> {
    let parse = |address: &str| {
        address.parse().map_err(|e: libp2p::multiaddr::Error| ConfigError::Address {
            address: address.to_owned(),
            reason: e.to_string(),
        })
    };
    list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(parse).collect()
}

/// Takes `/p2p/ID` off the end.
pub(super) fn split_peer_id(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut rest = address.clone();
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            rest.pop();
            (rest, Some(peer))
        }
        _ => (rest, None),
    }
}

/// Whether an address that somebody else gives can be dialled as it is.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    // Looking up names for strangers is not for us, and a link-local address lacks its interface.
    let is_place = match address.iter().next() {
        Some(Protocol::Ip4(_)) => true,
        Some(Protocol::Ip6(ip)) => !ip.is_unicast_link_local(),
        _ => false,
    };
    is_place && check_tcp(address, true).is_ok()
}

/// `/ip4|ip6|dns…/…/tcp/PORT`, and `/p2p/ID` where that makes sense.
fn check_tcp(address: &Multiaddr, remote: bool) -> Result<(), ConfigError> {
    let wrong =
        |reason: &str| Err(ConfigError::Address { address: address.to_string(), reason: reason.to_owned() });
    let (rest, peer) = split_peer_id(address);
    if peer.is_some() && !remote {
        return wrong("an address to listen on has no /p2p/…");
    }
    let mut parts = rest.iter();
    match parts.next() {
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => {}
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) if remote => {}
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => {
            return wrong("an address to listen on starts with /ip4 or /ip6");
        }
        _ => return wrong("it must start with /ip4, /ip6 or /dns4"),
    }
    match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(0)), None) if remote => wrong("port 0 cannot be dialled"),
        (Some(Protocol::Tcp(_)), None) => Ok(()),
        (Some(Protocol::Tcp(_)), Some(_)) => wrong("only plain TCP is spoken: nothing may follow /tcp/PORT"),
        _ => wrong("/tcp/PORT must follow"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PEER: &str = "QmSoLer265NRgSp2LA3dPaeykiS1J6DifTC88f5uVQKNAd";

    fn error_of(list: &str, remote: bool) -> String {
        let check = || parse_addresses(list)?.iter().try_for_each(|a| check_tcp(a, remote));
        check().unwrap_err().to_string()
    }

    #[test]
    fn good_addresses() {
        for (list, remote) in [
            ("/ip4/0.0.0.0/tcp/0,/ip6/::/tcp/0", false),
            (" /ip4/10.0.0.1/tcp/28888 ,", true),
            (&format!("/ip4/10.0.0.1/tcp/28888/p2p/{PEER}"), true),
            (&format!("/dns4/provider/tcp/28888/p2p/{PEER},/dns/x/tcp/1"), true),
        ] {
            parse_addresses(list).unwrap().iter().for_each(|a| check_tcp(a, remote).unwrap());
        }
    }

    #[test]
    fn bad_ones_are_named() {
        for (list, remote, part) in [
            ("/ip4/0.0.0.0/tcp/0,10.0.0.1:1", false, "10.0.0.1:1"),
            ("/ip4/0.0.0.0/udp/1", false, "/tcp/PORT"),
            ("/ip4/0.0.0.0/tcp/1/ws", true, "plain TCP"),
            ("/ip4/10.0.0.1/tcp/0", true, "port 0"),
            ("/dns4/here/tcp/1", false, "/ip4 or /ip6"),
            ("/unix/x", false, "must start"),
            (&format!("/ip4/0.0.0.0/tcp/1/p2p/{PEER}"), false, "/p2p/"),
        ] {
            let error = error_of(list, remote);
            assert!(error.contains(part), "{list}: {error}");
        }
    }

    #[test]
    fn the_placeholder_is_no_boot_node() {
        let mut config = Config::new(
            Identity::from_bytes(include_bytes!("../../tests/data/js-peer-id.bin")).unwrap(),
            Role::Client,
        );
        config.boot_nodes = parse_addresses("/ip4/0.0.0.0/tcp/18888,/ip6/::/tcp/28889").unwrap();
        assert_eq!(config.boot(), []);
        let node: Multiaddr = "/ip4/10.0.0.1/tcp/28888".parse().unwrap();
        config.boot_nodes.push(format!("{node}/p2p/{PEER}").parse().unwrap());
        config.boot_nodes.push(node.clone());
        assert_eq!(config.boot(), [(node, Some(PEER.parse().unwrap()))]);
    }
}
