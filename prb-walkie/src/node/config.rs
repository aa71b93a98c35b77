//! A node's configuration, checked before anything is opened.

use std::{collections::HashSet, io, net::Ipv4Addr, sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use prb_core::{primitives::Hash, sync::BackoffConfig};

use super::Trust;
use crate::{
    blob::Lookup,
    identity::Identity,
    proto::Role,
    rpc::{Handlers, auth},
};

/// The placeholder in the original's guides for 'no boot node'.
const PLACEHOLDER: [&str; 2] = ["/ip4/0.0.0.0/tcp/18888", "/ip6/::/tcp/28889"];

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Why a configuration is invalid or cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An invalid address.
    #[error("{address:?} is not an address like /ip4/192.0.2.1/tcp/28888: {reason}")]
    Address {
        /// The address.
        address: String,
        /// The reason.
        reason: String,
    },
    /// No address to listen on.
    #[error("no address to listen on is given")]
    NoListenAddress,
    /// The node cannot listen on an address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// The cause; of kind [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP address.
        source: io::Error,
    },
    /// The identity is not usable as a libp2p key.
    #[error("the identity cannot be used: {reason}")]
    Identity {
        /// The reason.
        reason: String,
    },
    /// The access policy is invalid.
    #[error("{reason}")]
    Auth {
        /// The reason.
        reason: String,
    },
}

/// Limits and timeouts of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Limits {
    /// Largest request, sent or received, in bytes, including its envelope. Default: 16 MiB.
    pub request_bytes: usize,
    /// Largest answer, sent or received, in bytes, including its envelope. Default: 128 MiB.
    pub answer_bytes: usize,
    /// Memory for all requests and answers in flight, in bytes, beyond 16 KiB for each. An eighth of it is for
    /// others' requests. Default: 512 MiB.
    pub in_flight_bytes: usize,
    /// Timeout of a call, including dialling; also for answering one. Default: 30 s.
    pub call_timeout: Duration,
    /// Most calls answered concurrently in each class: management, discovery, small blobs, and blobs read from
    /// the store. Further ones are refused. A quarter of each class is reserved for known peers. Default: 192.
    pub calls: usize,
    /// The same for strangers with one IP address, or in one share of an IPv6 /48 ([`share_of`](super::share_of)). Default: 96.
    pub calls_per_ip: usize,
    /// The same for one peer. Default: 64.
    pub calls_per_peer: usize,
    /// Most concurrent calls to one peer; further ones wait. At most 48, because a connection has 128 streams for
    /// both sides. Default: 48.
    pub calls_to_peer: usize,
    /// Most connections. An eighth is reserved for connections made by this node, and a quarter of the others for
    /// known peers; strangers' connections that are being closed for others take up to three eighths of the latter,
    /// for a second each. Default: 512.
    pub connections: u32,
    /// Most inbound connections of one IP address, or of one share of an IPv6 /48, not counting peers in the
    /// configuration and those that know the shared key. Default: 64.
    pub connections_per_ip: u32,
    /// Most connections with one peer: originals open one for each call. Default: 32.
    pub connections_per_peer: u32,
    /// Most inbound connections in handshake, and as many outbound ones. One address may use a quarter of the
    /// inbound ones, and less if others use them too; one that has none always gets one: if all are in use, it ends the
    /// oldest of the address with the most. Boot nodes, trusted networks and trusted peers' addresses get four each, and
    /// make room only for each other. Peers that are neither configured nor know the shared key may use a quarter of
    /// the outbound ones. Default: 128.
    pub handshakes: u32,
    /// Most peers in the table. Default: 1,024.
    pub peers: usize,
    /// Interval of pings. Default: 10 s.
    pub ping_interval: Duration,
    /// A connection is dropped when two pings in a row take longer; on Linux also when sent bytes have not been
    /// acknowledged for 20 s, so that a peer that is cut off is noticed within 30 s. Default: 10 s.
    pub ping_timeout: Duration,
    /// Interval at which peers are sent `Hello` again; shorter than `idle_timeout`, so that it keeps them
    /// connected. Default: 60 s.
    pub hello_interval: Duration,
    /// How long a connection may be without calls. Default: 150 s.
    pub idle_timeout: Duration,
    /// Interval of discovery: mDNS queries and kad lookups. Default: 20 s.
    pub discovery_interval: Duration,
    /// How long a disconnected peer is remembered. Default: 1 hour.
    pub forget_after: Duration,
    /// Backoff between dials. Default: 500 ms to 15 s.
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
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
            hello_interval: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(150),
            discovery_interval: Duration::from_secs(20),
            forget_after: Duration::from_secs(60 * 60),
            redial: BackoffConfig { first: Duration::from_millis(500), max: Duration::from_secs(15) },
        }
    }
}

/// A node's configuration.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// The node's key.
    pub identity: Identity,
    /// TCP addresses to listen on; port 0 takes any. Default: `/ip4/0.0.0.0/tcp/0` and `/ip6/::/tcp/0`.
    pub listen: Vec<Multiaddr>,
    /// TCP addresses of boot nodes, with or without `/p2p/ID`. Default: none.
    pub boot_nodes: Vec<Multiaddr>,
    /// Whether to discover peers by mDNS. Default: true.
    pub mdns: bool,
    /// The node's role.
    pub role: Role,
    /// The machine's name, for display. Default: empty.
    pub hostname: String,
    /// The operator's namespace: peers of others are ignored. Default: `default`.
    pub bridge_identity: String,
    /// Accepts peers of any namespace. Default: false.
    pub ignore_bridge_identity: bool,
    /// Hash of parachain block 1, if it is already known; see
    /// [`Node::set_chain_identity`](super::Node::set_chain_identity). Default: none.
    pub chain_identity: Option<Hash>,
    /// Who may call management methods. Default: that of [`auth::Policy`].
    pub auth: auth::Policy,
    /// Peers trusted with chain data, besides those of this machine, boot nodes and those that know the shared
    /// key. Default: that of [`Trust`].
    pub trust: Trust,
    /// Limits and timeouts. Default: those of [`Limits`].
    pub limits: Limits,
    /// The source of `/blob` and `GetBlobByKey`; without it the node does not offer `/blob`. Default: none.
    pub blobs: Option<Arc<dyn Lookup>>,
    /// Handlers of other methods. `Hello` and `Auth` are handled by the node itself. Default: none.
    pub handlers: Handlers,
}

impl Config {
    /// Creates a configuration that listens on any port of every address, discovers peers by mDNS, and answers
    /// `Hello`.
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

    /// The peers named in the configuration, to which a proof of the shared key may be sent.
    pub(super) fn named(&self) -> HashSet<PeerId> {
        let boot = self.boot().into_iter().filter_map(|(_, peer)| peer);
        boot.chain(self.auth.whitelist.iter().copied()).chain(self.trust.peers.iter().copied()).collect()
    }

    /// The distinct boot nodes, without the guides' placeholder.
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

/// Parses a comma-separated list of addresses, as in environment variables.
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

/// Splits off a trailing `/p2p/ID`.
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

/// Whether an address from another peer may be dialled as it is.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    // Strangers must not make this node resolve names, and a link-local address lacks its interface.
    let is_place = match address.iter().next() {
        Some(Protocol::Ip4(_)) => true,
        Some(Protocol::Ip6(ip)) => !ip.is_unicast_link_local(),
        _ => false,
    };
    is_place && check_tcp(address, true).is_ok()
}

/// Checks for `/ip4|ip6|dns…/…/tcp/PORT`, with `/p2p/ID` where it is allowed.
fn check_tcp(address: &Multiaddr, remote: bool) -> Result<(), ConfigError> {
    let wrong =
        |reason: &str| Err(ConfigError::Address { address: address.to_string(), reason: reason.to_owned() });
    let (rest, peer) = split_peer_id(address);
    if peer.is_some() && !remote {
        return wrong("an address to listen on must not contain /p2p/…");
    }
    let mut parts = rest.iter();
    match parts.next() {
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => {}
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) if remote => {}
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => {
            return wrong("an address to listen on must start with /ip4 or /ip6");
        }
        _ => return wrong("it must start with /ip4, /ip6 or /dns4"),
    }
    match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(0)), None) if remote => wrong("port 0 cannot be dialled"),
        (Some(Protocol::Tcp(_)), None) => Ok(()),
        (Some(Protocol::Tcp(_)), Some(_)) => {
            wrong("only plain TCP is supported: nothing may follow /tcp/PORT")
        }
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
    fn valid_addresses_are_accepted() {
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
    fn invalid_addresses_are_reported() {
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
    fn guide_placeholder_is_not_a_boot_node() {
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
