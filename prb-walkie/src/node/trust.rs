//! [`Trust`]: peers that the configuration trusts with chain data.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use libp2p::PeerId;

/// Trusted peers, besides boot nodes, peers on the whitelist or on the same machine, and those that know the
/// shared key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Peers by id.
    pub peers: HashSet<PeerId>,
    /// Networks in which every peer is trusted. `0.0.0.0/0` and `::/0` cover everybody.
    pub networks: Vec<IpNet>,
}

impl Trust {
    pub(super) fn has_network(&self, ip: IpAddr) -> bool {
        is_in(&self.networks, ip)
    }
}

/// Whether an address is in one of the networks. A dual-stack listener shows IPv4 addresses as IPv4-mapped
/// IPv6 ones.
pub(crate) fn is_in(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_match_ipv4_mapped_addresses() {
        let trust = Trust { networks: vec!["10.0.0.0/8".parse().unwrap()], ..Trust::default() };
        assert!(trust.has_network(ip("::ffff:10.1.2.3")) && !trust.has_network(ip("11.0.0.1")));
        assert!(!Trust::default().has_network(ip("10.1.2.3")));
        let all = Trust { networks: vec!["0.0.0.0/0".parse().unwrap()], ..Trust::default() };
        assert!(all.has_network(ip("192.0.2.1")) && !all.has_network(ip("2001:db8::1")));
    }
}
