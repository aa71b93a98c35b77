//! The addresses that a daemon listens on, and the check that no two settings claim the same one.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use multiaddr::{Multiaddr, Protocol};

use super::{ApiArgs, Command, MONITOR_PORT, OpsArgs, OpsListen, PageArgs, WalkieArgs};
use crate::{
    all::Bridge, api, daemon::Daemon, data_provider::DataProvider, lifecycle::LifecycleManager,
    monitor::Monitor, pages, trader::TraderDaemon,
};

/// The settings of the port for blobs, and of a monitor's console.
const BLOB_SERVER: &str = "PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT";
const MONITOR: &str = "HOST and PORT";
const PEERS: &str = "PHALA_WALKIE_LISTEN_ADDRESSES";

/// An address on which a daemon listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// The setting with the address.
    pub(crate) setting: &'static str,
    /// The address.
    pub(crate) address: SocketAddr,
    /// Whether the daemon runs without it if the address is in use, because it is only the default.
    pub(crate) is_default: bool,
    /// Whether an IPv6 socket accepts IPv4, too.
    is_dual: bool,
}

impl Listener {
    fn new(setting: &'static str, address: SocketAddr) -> Self {
        Self { setting, address, is_default: false, is_dual: true }
    }

    /// Whether only one of both can listen.
    fn overlaps(self, other: Self) -> bool {
        let (a, b) = (self.address.ip().to_canonical(), other.address.ip().to_canonical());
        let same_family = a.is_ipv4() == b.is_ipv4();
        let of_both = |listener: Self, ip: IpAddr| listener.is_dual && ip == Ipv6Addr::UNSPECIFIED;
        self.address.port() != 0
            && self.address.port() == other.address.port()
            && (a == b
                || same_family && (a.is_unspecified() || b.is_unspecified())
                || of_both(self, a)
                || of_both(other, b))
    }
}

/// The listeners of a daemon, in the order in which it opens them.
#[derive(Debug, Default)]
struct List(Vec<Listener>);

impl List {
    fn with(mut self, setting: &'static str, listen: Option<OpsListen>, default: SocketAddr) -> Self {
        match listen {
            Some(OpsListen::Off) => {}
            Some(OpsListen::At(address)) => self.0.push(Listener::new(setting, address)),
            None => self.0.push(Listener { is_default: true, ..Listener::new(setting, default) }),
        }
        self
    }

    fn with_ops<D: Daemon>(self, args: &OpsArgs) -> Self {
        self.with("PRB_OPS_LISTEN", args.ops_listen, at(D::OPS_PORT))
    }

    fn with_queue_page(self, args: &PageArgs) -> Self {
        self.with("PRB_QUEUE_PAGE_LISTEN", args.queue_page_listen, at(pages::queue::PORT))
    }

    fn with_api_and_console(self, of_api: &ApiArgs, of_pages: &PageArgs) -> Self {
        let list = self.with("PRB_API_LISTEN", of_api.api_listen, at(api::PORT));
        list.with("PRB_CONSOLE_LISTEN", of_pages.console_listen, at(MONITOR_PORT))
    }

    fn with_fixed(mut self, setting: &'static str, address: SocketAddr) -> Self {
        self.0.push(Listener::new(setting, address));
        self
    }

    fn with_peers(mut self, args: &WalkieArgs) -> Self {
        let addresses = args.walkie_listen_addresses.iter().filter_map(socket_address);
        // Peers on IPv4 have a socket of their own.
        self.0.extend(addresses.map(|address| Listener { is_dual: false, ..Listener::new(PEERS, address) }));
        self
    }
}

/// The default address of a port.
fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The address of a TCP port.
fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some((ip, port).into()),
        _ => None,
    }
}

impl Command {
    /// Returns the daemon's listeners, in the order in which it opens them.
    pub(crate) fn listeners(&self) -> Vec<Listener> {
        let list = List::default();
        match self {
            Self::All(args) => list
                .with_ops::<Bridge>(&args.ops)
                .with_queue_page(&args.pages)
                .with_api_and_console(&args.api, &args.pages),
            Self::DataProvider(args) => {
                let address = args.blob_server_address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
                list.with_ops::<DataProvider>(&args.ops)
                    .with_fixed(BLOB_SERVER, (address, args.local_server_port).into())
                    .with_peers(&args.walkie)
            }
            Self::Lifecycle(args) => {
                let list = list.with_ops::<LifecycleManager>(&args.ops);
                let has_page = args.use_built_in_trader || args.pages.queue_page_listen.is_some();
                let opens_page = has_page && !args.lifecycle_config_mode;
                let list = if opens_page { list.with_queue_page(&args.pages) } else { list };
                list.with_peers(&args.walkie).with_api_and_console(&args.api, &args.pages)
            }
            Self::Trader(args) => list.with_ops::<TraderDaemon>(&args.ops).with_queue_page(&args.pages),
            Self::Monitor(args) => {
                let of_page = matches!(args.pages.console_listen, Some(OpsListen::At(_)));
                let setting = if of_page { "PRB_CONSOLE_LISTEN" } else { MONITOR };
                list.with_ops::<Monitor>(&args.ops)
                    .with_fixed(setting, args.listen())
                    .with_peers(&args.walkie())
            }
            Self::Keys(_) | Self::Import(_) | Self::Healthcheck(_) | Self::Request(_) => list,
        }
        .0
    }
}

/// Checks that no listener needs the address of an earlier one. A default gives way, as if another program had it.
///
/// # Errors
/// Names both settings.
pub(super) fn check(listeners: &[Listener]) -> Result<(), String> {
    for (index, later) in listeners.iter().enumerate().filter(|(_, later)| !later.is_default) {
        let Some(first) = listeners[..index].iter().find(|first| first.overlaps(*later)) else { continue };
        let mut text = format!("{} ({}", later.setting, later.address);
        let of_default = if first.is_default { ", its default" } else { "" };
        let _ = write!(text, ") and {} ({}{of_default}) need the same port: ", first.setting, first.address);
        text.push_str("give each its own, or set one to none where that is allowed");
        return Err(text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sockets_overlap_as_in_the_system() {
        let overlap = |a: &str, b: &str, dual: bool| {
            let of = |text: &str| Listener { is_dual: dual, ..Listener::new("x", text.parse().unwrap()) };
            assert_eq!(of(a).overlaps(of(b)), of(b).overlaps(of(a)));
            of(a).overlaps(of(b))
        };
        for (a, b) in [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1")] {
            assert!(overlap(a, b, true) && overlap(a, b, false), "{a} {b}");
        }
        for (a, b) in [("[::]:1", "0.0.0.0:1"), ("[::]:1", "10.0.0.1:1")] {
            assert!(overlap(a, b, true) && !overlap(a, b, false), "{a} {b}");
        }
        for (a, b) in [
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("[::1]:1", "127.0.0.1:1"),
            ("[::1]:1", "0.0.0.0:1"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert!(!overlap(a, b, true), "{a} {b}");
        }
    }
}
