//! [`Provenance`]: how far a peer is trusted with chain data, and the unit of quotas.

use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;

/// How a peer was found, or what it has proved; later variants are trusted more.
///
/// It decides whose data is used, and who has reserved slots. It does not decide who may call management
/// methods (see `rpc::auth`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Provenance {
    /// Known by mDNS, by kad, or by its own call: it could be anybody.
    #[default]
    Discovered,
    /// Its connection comes from, or goes to, one of the trusted networks.
    TrustedNetwork,
    /// Its connection stays on this machine.
    SameMachine,
    /// It answered at the address of a boot node.
    BootNode,
    /// Its peer id is in the configuration: as trusted, on the whitelist, or in a boot node's address.
    Named,
    /// It has proved that it knows the pre-shared key.
    SharedKey,
}

impl Provenance {
    /// A short name for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::TrustedNetwork => "trusted_network",
            Self::SameMachine => "same_machine",
            Self::BootNode => "boot_node",
            Self::Named => "named",
            Self::SharedKey => "shared_key",
        }
    }
}

/// What shares of connections, calls and bytes are counted by: an IPv4 address, or a quarter of an IPv6 /48.
///
/// One machine commonly has all of a /64, so these count as one at least. A site commonly has a /48 with 65,536 of them,
/// which are folded into four: no owner of a /48 has more than four shares of anything. Neighbouring subnets, also of /56
/// and /60, are in different ones.
#[cfg_attr(not(feature = "node"), expect(unreachable_pub, reason = "only the node exports it"))]
pub fn share_of(ip: IpAddr) -> IpAddr {
    match network_of(ip) {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, c, subnet, ..] = ip.segments();
            // The quarter is the parity of the even bits and that of the odd ones.
            let quarter = [8, 4, 2].into_iter().fold(subnet, |bits, by| bits ^ (bits >> by)) & 3;
            Ipv6Addr::new(a, b, c, quarter, 0, 0, 0, 0).into()
        }
    }
}

/// The part of an address that one machine commonly has: an IPv4 address, or an IPv6 network of /64.
pub(crate) fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_network_is_one_quota_unit() {
        assert_eq!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:3::1")));
        assert_eq!(share_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(share_of(ip("10.0.0.1")), share_of(ip("10.0.0.2")));
    }

    #[test]
    fn ipv6_site_has_four_shares() {
        let at = |subnet: u16| share_of(Ipv6Addr::new(0x2001, 0xdb8, 1, subnet, 7, 7, 7, 7).into());
        let mut count = HashMap::<_, u32>::new();
        (0..=u16::MAX).for_each(|subnet| *count.entry(at(subnet)).or_default() += 1);
        assert_eq!(count.into_values().collect::<Vec<_>>(), [0x4000; 4]);
        // Subnets of /64, /60 and /56 that are handed out in turn.
        for step in [0x1, 0x10, 0x100] {
            let next: HashSet<_> = (0..4).map(|number| at(0x5000 + number * step)).collect();
            assert_eq!(next.len(), 4, "{step:#x}");
        }
        assert_ne!(share_of(ip("2001:db8:1::1")), share_of(ip("2001:db8:2::1")));
    }
}
