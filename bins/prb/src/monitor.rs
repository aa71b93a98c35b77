//! `prb monitor`: the console of all discovered data providers and lifecycle managers, and the original
//! monitor's JSON calls.
//!
//! Composition only. `Daemon::stop` defines the order of the shutdown.

use std::net::SocketAddr;

use anyhow::Context;
use prb_walkie::{identity, node::Node, proto::Role};
use tokio::net::TcpListener;

use crate::{
    config::MonitorArgs,
    console::{self, Console},
    daemon::{self, Background, Daemon, Failure, stop},
    fleet_runtime,
    listen::Port,
    ops::{Probe, Reason},
    pages::Rules,
    pages::Site,
    peers,
    progress::{Display, Shown, View},
    readiness::Code,
    token::Access,
};

mod json;
mod proxy;
mod schema;

/// The largest request: an import of many workers.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// A running monitor.
#[derive(Debug)]
pub struct Monitor {
    node: Node,
    address: SocketAddr,
    background: Background,
}

impl Monitor {
    /// Opens its port, reads its identity (created at the first start) and discovers peers.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &MonitorArgs) -> Result<Self, Failure> {
        args.warn_of_no_effect();
        let port = Port { name: "console", variable: "HOST and PORT", default: args.listen() };
        // First: a port that is in use is reported before an identity is generated or a peer is asked.
        let listener = TcpListener::bind(port.default)
            .await
            .with_context(|| format!("cannot open the console at {} (HOST, PORT); if a manager's console uses the port, move that with PRB_CONSOLE_LISTEN", port.default))
            .map_err(Failure::Configuration)?;
        let walkie = args.walkie();
        let identity = peers::identity(&walkie.peer_id_prefix, identity::Role::Monitor).await;
        let mut config = peers::config(&walkie, identity.map_err(Failure::Configuration)?, Role::Client)
            .map_err(Failure::Configuration)?;
        let access = Access::open(&args.pages, &walkie.peer_id_prefix).await;
        let access = access.map_err(Failure::Configuration)?;
        // All discovered peers are shown, with their chain and group.
        config.ignore_bridge_identity = true;
        let node = peers::start(config).await?;
        let address = listener.local_addr().map_err(|error| Failure::Run(error.into()))?;
        let pages = console::router(Console::of_peers(node.clone()))
            .merge(proxy::router(node.clone(), address.ip().is_loopback()));
        // The original's calls may use any HTTP method, so these handlers decide by the called method what is
        // a change.
        let rules = Rules { max_body_bytes: MAX_BODY_BYTES, checked_below: Some("/ptp/") };
        let site =
            Site::new(port, listener, &args.pages, &access, rules, pages).map_err(Failure::Configuration)?;
        let mut background = Background::default();
        background.spawn(|stop| async move {
            stop.run_until_cancelled(site.serve()).await;
            anyhow::anyhow!("the console has ended")
        });
        Ok(Self { node, address, background })
    }

    /// Its peer-to-peer node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The address of its console.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Daemon for Monitor {
    const OPS_PORT: u16 = 18016;
    const MEMORY_MIB: u64 = 256;

    fn probe(&self) -> Probe {
        let peers = self.node.peers();
        Probe::new(move || {
            let nobody = !peers.borrow().iter().any(|peer| peer.connected);
            nobody.then(|| Reason::new(Code::NoPeer, "no peer is connected")).into_iter().collect()
        })
    }

    async fn view(&self) -> View {
        let peers = self.node.peers().borrow().iter().filter(|peer| peer.connected).count();
        View { shown: Shown::Monitor { peers }, ..View::default() }
    }

    async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            () = fleet_runtime::closed(self.node.peers()) => anyhow::anyhow!("the peer-to-peer node has ended"),
            error = self.background.ended() => error,
        }
    }

    async fn stop(self) {
        // 1. No more requests.
        self.background.stop(stop::HELPERS).await;
        // 2. Disconnect from peers.
        peers::stop(&self.node).await;
    }
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: MonitorArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, Monitor::start(&args), &display).await
}
