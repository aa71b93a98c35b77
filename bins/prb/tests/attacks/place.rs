//! Where everybody is: the daemons, the strangers and the honest users in network namespaces on one link, or, without
//! the permission for these, on loopback addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Handle, Runtime},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    daemons::Daemon,
    namespaces::{Bridge, Namespace, bridge_or_loopback, has_ipv6},
};

/// Addresses of the strangers of each family; the IPv6 ones are in /64 networks of their own.
const ADDRESSES: u8 = 64;
/// The soft limit on descriptors that programs commonly start with.
const LIMITED: [&str; 3] = ["sh", "-c", "ulimit -n 1024 && exec \"$0\""];
/// Priority of the strangers, whose machines share no cores with the daemons.
const NICE: i32 = 10;

/// A port that strangers attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    v4: SocketAddr,
    v6: Option<SocketAddr>,
}

/// The strangers' addresses.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    v4: Arc<[Ipv4Addr]>,
    /// Empty on loopback, and on a system without IPv6.
    v6: Arc<[Ipv6Addr]>,
}

impl Sources {
    /// Connects to a port from one of the addresses; `None` where there is no socket left, or the other end takes
    /// none.
    pub(crate) async fn connect(&self, number: usize, to: Port) -> Option<TcpStream> {
        let half = number / 2;
        let (socket, from, to) = match to.v6 {
            Some(to) if number % 2 == 1 => {
                (TcpSocket::new_v6(), IpAddr::from(self.v6[half % self.v6.len()]), to)
            }
            _ => (TcpSocket::new_v4(), self.v4(half).into(), to.v4),
        };
        let socket = socket.ok()?;
        socket.bind((from, 0).into()).ok()?;
        timeout(Duration::from_secs(2), socket.connect(to)).await.ok()?.ok()
    }

    pub(crate) fn v4(&self, number: usize) -> Ipv4Addr {
        self.v4[number % self.v4.len()]
    }

    /// Opens a local port that leads to another from one of the addresses, for programs that choose none.
    pub(crate) async fn tunnel(&self, number: usize, to: Port) -> Tunnel {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let local = listener.local_addr().unwrap();
        let sources = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let sources = sources.clone();
                connections.spawn(async move {
                    // An even number is an IPv4 address.
                    if let Some(mut far) = sources.connect(2 * number, to).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Tunnel { local, _task: AbortOnDropHandle::new(task) }
    }
}

/// A local port that leads elsewhere.
pub(crate) struct Tunnel {
    pub(crate) local: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// The link and who is on it.
pub(crate) struct Place {
    /// Of the provider, of the manager and of the monitor.
    daemons: Option<[Namespace; 3]>,
    strangers: Option<Runtime>,
    pub(crate) sources: Sources,
    // Dropped last.
    bridge: Option<Bridge>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let Some(mut bridge) = bridge_or_loopback() else {
            let v4 = (0..ADDRESSES).map(|at| Ipv4Addr::new(127, 0, 0, 2 + at)).collect();
            let sources = Sources { v4, v6: Arc::new([]) };
            return Self { daemons: None, strangers: None, sources, bridge: None };
        };
        let daemons = ["dp", "lm", "mo"].map(|short| bridge.namespace(short));
        for (namespace, host) in daemons.iter().zip(2..) {
            namespace.plug(bridge.address(host));
            if has_ipv6() {
                namespace.add_addresses([format!("{}/48", bridge.address6(0, host.into()))]);
            }
        }
        let namespace = bridge.namespace("them");
        let v4: Arc<[_]> = (0..ADDRESSES).map(|at| bridge.address(100 + at)).collect();
        let networks = 1..if has_ipv6() { 1 + u16::from(ADDRESSES) } else { 1 };
        let v6: Arc<[_]> = networks.map(|network| bridge.address6(network, 1)).collect();
        namespace.plug(v4[0]);
        let rest = v4[1..].iter().map(|ip| format!("{ip}/24"));
        namespace.add_addresses(rest.chain(v6.iter().map(|ip| format!("{ip}/48"))));
        namespace.route_multicast();
        let mut strangers = Builder::new_multi_thread();
        strangers.worker_threads(2).enable_all().on_thread_start(move || {
            namespace.enter();
            // Best effort: it only makes the test's other parts faster.
            let _ = rustix::process::nice(NICE);
        });
        let strangers = Some(strangers.build().unwrap());
        Self { daemons: Some(daemons), strangers, sources: Sources { v4, v6 }, bridge: Some(bridge) }
    }

    /// The runtime whose sockets are the strangers'.
    pub(crate) fn strangers(&self) -> Handle {
        self.strangers.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    /// Returns the address of the honest users and workers, of the provider (2), of the manager (3)
    /// or of the monitor (4).
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        self.bridge.as_ref().map_or(Ipv4Addr::LOCALHOST, |bridge| bridge.address(host))
    }

    /// The address that honest users come from: never the one for which ports keep a reserve.
    pub(crate) fn honest(&self) -> Ipv4Addr {
        self.bridge.as_ref().map_or(Ipv4Addr::new(127, 0, 0, 250), |bridge| bridge.address(1))
    }

    /// The port of a daemon.
    pub(crate) fn port(&self, host: u8, port: u16) -> Port {
        let bridge = self.bridge.as_ref().filter(|_| has_ipv6());
        let v6 = bridge.map(|bridge| SocketAddr::from((bridge.address6(0, host.into()), port)));
        Port { v4: (self.address(host), port).into(), v6 }
    }

    /// The address at which a daemon listens on a port.
    pub(crate) fn listen(&self, port: u16) -> SocketAddr {
        let any = if has_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        (if self.bridge.is_some() { any } else { Ipv4Addr::LOCALHOST.into() }, port).into()
    }

    /// Configures a daemon for its place, with few descriptors.
    pub(crate) fn put(&self, daemon: Daemon, host: u8) -> Daemon {
        let Some(namespaces) = &self.daemons else {
            return daemon.launched_by(&LIMITED, Ipv4Addr::LOCALHOST);
        };
        let namespace = &namespaces[usize::from(host) - 2];
        let launcher = [&namespace.launcher()[..], &LIMITED].concat();
        let daemon = daemon.launched_by(&launcher, self.address(host));
        let (ops, walkie) = (self.listen(daemon.ops_address().port()), daemon.walkie_port());
        daemon
            .set("PRB_OPS_LISTEN", ops)
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", format!("/ip4/0.0.0.0/tcp/{walkie},/ip6/::/tcp/{walkie}"))
    }

    pub(crate) fn end(&mut self) {
        if let Some(strangers) = self.strangers.take() {
            strangers.shutdown_background();
        }
    }
}
