//! [`Provenance`]: how far a peer is trusted with chain data, and the unit of quotas.

use std::net::IpAddr;

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

/// The unit of quotas for connections, calls and bytes: an IPv4 address, or an IPv6 /64 network, which one
/// machine commonly has as a whole.
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
    fn ipv6_network_is_one_quota_unit() {
        assert_eq!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(share_of(ip("2001:db8:1:2::1")), share_of(ip("2001:db8:1:3::1")));
        assert_eq!(share_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(share_of(ip("10.0.0.1")), share_of(ip("10.0.0.2")));
    }
}
