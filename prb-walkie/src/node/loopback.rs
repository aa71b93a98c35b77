//! Detects connections that stay on this machine.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::core::ConnectedPoint;

use super::peers::ip_of;

/// How long the list of interface addresses is cached.
const FRESH: Duration = Duration::from_secs(5);

/// Whether an accepted connection comes from this machine: both ends have the same address. The system drops
/// packets from outside that claim one of its own addresses.
///
/// A link-local address proves nothing, because another machine may have it on another link.
pub(super) fn comes_from_here(local: IpAddr, remote: IpAddr) -> bool {
    let (local, remote) = (local.to_canonical(), remote.to_canonical());
    !is_link_local(remote) && (local == remote || (local.is_loopback() && remote.is_loopback()))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Addresses of this machine's interfaces, cached for [`FRESH`].
#[derive(Debug, Default)]
pub(super) struct LocalAddresses(Option<(Instant, Vec<IpAddr>)>);

impl LocalAddresses {
    /// Whether a connection stays on this machine.
    pub(super) fn has_both_ends(&mut self, endpoint: &ConnectedPoint) -> bool {
        match endpoint {
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                let ends = ip_of(local_addr).zip(ip_of(send_back_addr));
                ends.is_some_and(|(local, remote)| comes_from_here(local, remote))
            }
            ConnectedPoint::Dialer { address, .. } => ip_of(address).is_some_and(|ip| self.contains(ip)),
        }
    }

    /// Whether an address is one of this machine's and not link-local.
    pub(super) fn contains(&mut self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() || is_link_local(ip) {
            return ip.is_loopback();
        }
        match &self.0 {
            Some((at, addresses)) if at.elapsed() < FRESH => addresses.contains(&ip),
            _ => {
                let addresses = interfaces();
                let found = addresses.contains(&ip);
                self.0 = Some((Instant::now(), addresses));
                found
            }
        }
    }
}

/// The addresses of all interfaces; empty if they cannot be read.
pub(super) fn interfaces() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|i| i.ip()).collect(),
        Err(error) => {
            tracing::warn!(error = %prb_core::text::describe(&error), "cannot read the interfaces' addresses");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn connection_is_local_if_both_ends_have_the_same_address() {
        for (local, remote, here) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.9", true),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "127.0.0.1", false),
            ("::1", "::1", true),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1", "2001:db8::2", false),
            // Another machine on another link may have the same address.
            ("fe80::1", "fe80::1", false),
            ("169.254.1.1", "169.254.1.1", false),
        ] {
            let found = comes_from_here(local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!(found, here, "{local} {remote}");
        }
    }
}
