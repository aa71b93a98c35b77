//! The libp2p protocols of a node.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol,
    connection_limits::{self, ConnectionLimits},
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    ping,
    request_response::{self, ProtocolSupport},
    swarm::NetworkBehaviour,
};

use super::{
    Config, Limits,
    codec::{Codec, Memories},
    routing::Routing,
    shares::Shares,
    transport::{Handshakes, MAX_STREAMS},
};

const PB: StreamProtocol = StreamProtocol::new("/pb");
const BLOB: StreamProtocol = StreamProtocol::new("/blob");
/// The originals' DHT.
pub(super) const KAD: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");
/// The identify version of originals.
const IDENTIFY_VERSION: &str = "ipfs/0.1.0";
const AGENT: &str = concat!("prb/", env!("CARGO_PKG_VERSION"));
/// Time that a stream outlives the timeout of its call.
const STREAM_GRACE: Duration = Duration::from_secs(3);
/// The longest key of a blob, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// A request-response protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Pb,
    Blob,
}

impl Protocol {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pb => "/pb",
            Self::Blob => "/blob",
        }
    }
}

/// All protocols. The connection limits come first: connections that they deny reach no other behaviour.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) shares: Shares,
    pub(super) pb: request_response::Behaviour<Codec>,
    pub(super) blob: request_response::Behaviour<Codec>,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    pub(super) kad: Routing,
}

impl Behaviour {
    pub(super) fn new(key: &Keypair, config: &Config, memory: &Memories, handshakes: Handshakes) -> Self {
        let (me, limits) = (key.public().to_peer_id(), &config.limits);
        let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), key.public())
            .with_agent_version(AGENT.to_owned())
            .with_push_listen_addr_updates(true);
        let calls = request_response::Config::default()
            // Both sides' own timeouts end first, which leaves time to report them on the stream.
            .with_request_timeout(limits.call_timeout + STREAM_GRACE)
            .with_max_concurrent_streams(MAX_STREAMS);
        let support = |inbound| if inbound { ProtocolSupport::Full } else { ProtocolSupport::Outbound };
        let codec = |request_limit| Codec::new(request_limit, limits.answer_bytes, memory.clone());
        Self {
            limits: connection_limits::Behaviour::new(connection_limits(limits)),
            shares: Shares::new(config, handshakes),
            pb: request_response::Behaviour::with_codec(
                codec(limits.request_bytes),
                [(PB, support(true))],
                calls.clone(),
            ),
            blob: request_response::Behaviour::with_codec(
                codec(MAX_KEY_BYTES),
                [(BLOB, support(config.blobs.is_some()))],
                calls,
            ),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(limits.ping_interval).with_timeout(limits.ping_timeout),
            ),
            identify: identify::Behaviour::new(identify),
            kad: kad(me, limits),
        }
    }
}

fn kad(me: PeerId, limits: &Limits) -> Routing {
    let mut config = kad::Config::new(KAD);
    // Only the routing table is used; records are not stored.
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_query_timeout(limits.call_timeout)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_periodic_bootstrap_interval(None);
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::new(me), config);
    // As originals: peers in client mode are in nobody's routing table, so others would not find them.
    kad.set_mode(Some(kad::Mode::Server));
    Routing(kad)
}

fn connection_limits(limits: &Limits) -> ConnectionLimits {
    // An eighth is reserved for dialling: strangers cannot use up the connections needed to reach peers.
    let incoming = limits.connections - limits.connections / 8;
    ConnectionLimits::default()
        // The shares are stricter: those in progress, and twice as many that were displaced and have not ended.
        .with_max_pending_incoming(Some(limits.handshakes.saturating_mul(3)))
        .with_max_pending_outgoing(Some(limits.handshakes))
        .with_max_established_incoming(Some(incoming))
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libp2p::{
        Multiaddr,
        core::{ConnectedPoint, Endpoint, transport::PortUse},
        swarm::{ConnectionId, FromSwarm, behaviour::ConnectionEstablished},
    };

    use super::*;
    use crate::{identity::Identity, proto::Role};

    /// Connections that are admitted: of many peers or of one, inbound or outbound.
    fn admitted(limits: &Limits, one_peer: bool, inbound: bool) -> u32 {
        let mut counts = connection_limits::Behaviour::new(connection_limits(limits));
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let (peer, mut admitted) = (PeerId::random(), 0);
        for number in 0..200 {
            let id = ConnectionId::new_unchecked(number);
            let peer_id = if one_peer { peer } else { PeerId::random() };
            let (role, port_use) = (Endpoint::Dialer, PortUse::Reuse);
            let (result, endpoint) = if inbound {
                let (local_addr, send_back_addr) = (address.clone(), address.clone());
                let result = counts.handle_established_inbound_connection(id, peer_id, &address, &address);
                (result.map(drop), ConnectedPoint::Listener { local_addr, send_back_addr })
            } else {
                let result =
                    counts.handle_established_outbound_connection(id, peer_id, &address, role, port_use);
                let address = address.clone();
                (result.map(drop), ConnectedPoint::Dialer { address, role_override: role, port_use })
            };
            if result.is_ok() {
                admitted += 1;
                counts.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    peer_id,
                    connection_id: id,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established: 0,
                }));
            }
        }
        admitted
    }

    /// A thousand sites of IPv6, and no connection that is displaced is ever closed: peers in the configuration and
    /// those that know the key have their reserve.
    #[tokio::test]
    async fn a_thousand_sites_leave_the_reserve_of_connections() {
        let identity = Identity::from_bytes(include_bytes!("../../tests/data/js-peer-id.bin")).unwrap();
        let mut config = Config::new(identity, Role::Client);
        let (named, knows) = (PeerId::random(), PeerId::random());
        config.trust.peers = [named].into();
        let key = Keypair::generate_ed25519();
        let mut all = Behaviour::new(&key, &config, &Memories::new(1 << 20), Handshakes::default());
        all.shares.trust(knows, true);
        let mut next = 0..;
        let local_addr: Multiaddr = "/ip6/::1/tcp/1".parse().unwrap();
        let mut comes = |peer_id: PeerId, site: u16, subnet: u16| {
            let connection_id = ConnectionId::new_unchecked(next.next().unwrap());
            let remote: Multiaddr = format!("/ip6/2001:db8:{site:x}:{subnet:x}::1/tcp/1").parse().unwrap();
            all.handle_established_inbound_connection(connection_id, peer_id, &local_addr, &remote).ok()?;
            let endpoint =
                ConnectedPoint::Listener { local_addr: local_addr.clone(), send_back_addr: remote };
            all.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
            Some(())
        };
        let mut admitted = 0;
        for subnet in 0..4 {
            admitted += (0..1000).filter_map(|site| comes(PeerId::random(), site, subnet)).count();
        }
        // Three quarters of 448, and an eighth of that.
        assert_eq!(admitted, 336 + 42);
        let known = (0..100).filter_map(|n| comes(if n % 2 == 0 { named } else { knows }, 7, 0)).count();
        assert_eq!(known, 64, "as many as two peers may have");
    }

    #[test]
    fn connections_are_limited_in_each_direction_and_for_each_peer() {
        let limits = Limits { connections: 80, connections_per_peer: 7, handshakes: 5, ..Limits::default() };
        assert_eq!(admitted(&limits, false, true), 70, "an eighth is for dialling");
        assert_eq!(admitted(&limits, false, false), 80);
        assert_eq!((admitted(&limits, true, true), admitted(&limits, true, false)), (7, 7));
        let mut counts = connection_limits::Behaviour::new(connection_limits(&limits));
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let ids = || (0..200).map(ConnectionId::new_unchecked);
        let incoming = ids()
            .filter(|id| counts.handle_pending_inbound_connection(*id, &address, &address).is_ok())
            .count();
        let outgoing = ids()
            .filter(|id| counts.handle_pending_outbound_connection(*id, None, &[], Endpoint::Dialer).is_ok());
        assert_eq!((incoming, outgoing.count()), (15, 5));
    }
}
