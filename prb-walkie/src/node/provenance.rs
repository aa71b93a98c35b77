//! Why a peer may be trusted with more than a stranger is.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use libp2p::PeerId;
use serde::Serialize;

/// Where a peer was heard of, or what it has proved; a later one is trusted more.
///
/// It decides whose data is used, and who has places of its own where all others are full. It does not decide
/// who may call management methods (see [`crate::rpc::auth`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Provenance {
    /// Known by mDNS, by kad, or by its own call: anybody can be.
    #[default]
    Discovered,
    /// Its connection comes from, or goes to, one of the [trusted networks](Trust::networks).
    TrustedNetwork,
    /// Its connection does not leave this machine.
    SameMachine,
    /// It answered at the address of a boot node.
    BootNode,
    /// Its peer id is in the configuration: as [trusted](Trust::peers), on the whitelist, or in a boot node's
    /// address.
    Named,
    /// It has proved that it knows the pre-shared key.
    SharedKey,
}

/// Who is trusted, beside boot nodes, peers on the whitelist or of the same machine, and those who know the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Peers by name.
    pub peers: HashSet<PeerId>,
    /// Networks whose every peer is trusted. `0.0.0.0/0` and `::/0` are everybody.
    pub networks: Vec<IpNet>,
}

impl Trust {
    pub(super) fn has_network(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// What shares of connections, calls and bytes are counted by: an IPv4 address, or an IPv6 network of /64, as one
/// machine commonly has all of it.
pub(crate) fn share_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_network_is_one_share() {
        assert_eq!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:3::1")));
        assert_eq!(share_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(share_of(ip("10.0.0.1")), share_of(ip("10.0.0.2")));
    }

    #[test]
    fn networks_take_mapped_addresses_too() {
        let trust = Trust { networks: vec!["10.0.0.0/8".parse().unwrap()], ..Trust::default() };
        assert!(trust.has_network(ip("::ffff:10.1.2.3")) && !trust.has_network(ip("11.0.0.1")));
        assert!(!Trust::default().has_network(ip("10.1.2.3")));
        let all = Trust { networks: vec!["0.0.0.0/0".parse().unwrap()], ..Trust::default() };
        assert!(all.has_network(ip("192.0.2.1")) && !all.has_network(ip("2001:db8::1")));
    }
}
