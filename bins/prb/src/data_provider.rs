//! `prb data-provider`: fetches, verifies and stores both chains, and serves them to peers.
//!
//! Composition only. [`DataProvider::stop`] defines the order of the shutdown.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context;
use prb_core::blob::{BlobSource, range::RangeSource};
use prb_walkie::{
    blob::{
        Lookup,
        keyspace::{self, KeySpace},
        server::{self, Server},
    },
    identity,
    node::{self, Node},
    proto::Role,
};

use crate::{
    blocks::{Blocks, Chains, Location},
    config::DataProviderArgs,
    daemon::{self, Background, Daemon, Failure, pool, stop},
    descriptors::{self, Shares},
    disk_watch::{self, DiskWatch, Files},
    fleet_runtime, legacy_files,
    ops::Probe,
    peers,
    progress::{Display, Shown, View},
};

mod handlers;
mod info;

const MIB: usize = 1024 * 1024;

/// A running data provider.
#[derive(Debug)]
pub struct DataProvider {
    blocks: Blocks,
    node: Node,
    serving: Background,
    disk: DiskWatch,
}

impl DataProvider {
    /// Reads the identity, opens the store and starts everything.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &DataProviderArgs) -> Result<Self, Failure> {
        args.warn_of_no_effect();
        let (what, blocks) = (format!("{}", args.local_db_path.display()), args.local_db_path.clone());
        let look = move || legacy_files::warn_of_blocks(&blocks, "PHALA_LOCAL_DB_PATH");
        disk_watch::open(what, look).await.map_err(Failure::Run)?;
        let chains = chains(args).map_err(Failure::Configuration)?;
        let folder = &args.walkie.peer_id_prefix;
        let identity = peers::identity(folder, identity::Role::DataProvider).await;
        let config =
            peers::config(&args.walkie, identity.map_err(Failure::Configuration)?, Role::DataProviderInt);
        let config = config.map_err(Failure::Configuration)?;
        let blocks = Blocks::start(store_location(args), chains, &args.history.history).await?;
        Self::compose(args, blocks, config).await
    }

    async fn compose(
        args: &DataProviderArgs,
        blocks: Blocks,
        mut config: node::Config,
    ) -> Result<Self, Failure> {
        let source: Arc<dyn RangeSource> = Arc::clone(&blocks.source) as _;
        let keys = keyspace::Config::default().with_max_para_blocks(args.blob_max_para_block_range_count);
        let blobs: Arc<dyn Lookup> = Arc::new(KeySpace::new(Arc::clone(&source), keys));
        // Before the node, which tells peers the port: it is only known once it is bound (0 selects a free
        // one).
        let shares = shares();
        let server =
            blob_server(args, shares.blobs, Arc::clone(&blobs)).await.map_err(Failure::Configuration)?;
        let port = server.local_addr().port();
        let store = Arc::clone(&blocks.store);
        config.chain_identity = store.chain_identity();
        config.limits.connections = shares.peers;
        config.blobs = Some(blobs);
        let origin = config.identity.peer_id().to_string();
        let chain_data = blocks.chain_data(&args.local_db_path);
        config.handlers = handlers::of(store, chain_data, source, origin, port);
        let node = peers::start(config).await?;

        let mut serving = Background::default();
        serving.spawn(|stop| async move {
            server.run(stop).await;
            anyhow::anyhow!("the blob server has ended")
        });
        let (informed, of) = (node.clone(), Arc::clone(&blocks.source));
        serving.spawn(|stop| async move {
            // A background task that ends counts as a failure, so this one waits for the shutdown after its
            // work.
            stop.run_until_cancelled(announce_identity(&*of, informed)).await;
            stop.cancelled().await;
            anyhow::anyhow!("stopped")
        });
        let files = Files::default().with_store(Arc::clone(&blocks.store));
        let files = files.with_identity(&args.walkie.peer_id_prefix, &[identity::Role::DataProvider]);
        let disk = DiskWatch::start(files, &mut serving);
        Ok(Self { blocks, node, serving, disk })
    }

    /// Returns the current view.
    pub fn view(&self) -> View {
        let peers = self.node.peers().borrow().iter().filter(|peer| peer.is_usable()).count();
        View {
            heights: *self.blocks.store.heights().borrow(),
            shown: Shown::Provider { peers },
            ..View::default()
        }
    }

    /// Its peer-to-peer node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Shuts down in order: first the node (peers turn to other providers), then the blob connections, then
    /// fetching; the store closes with its last user. Takes less than five seconds.
    pub async fn stop(self) {
        // 1. Calls in flight are answered, new ones refused.
        peers::stop(&self.node).await;
        // 2. Pending blobs are sent.
        self.serving.stop(stop::BLOBS).await;
        // 3. Verified blocks are stored, no more are fetched.
        self.blocks.stop().await;
    }
}

impl Daemon for DataProvider {
    const OPS_PORT: u16 = 18012;
    const MEMORY_MIB: u64 = 1024;

    fn probe(&self) -> Probe {
        let (disk, blocks) = (self.disk.clone(), self.blocks.probe());
        Probe::new(move || disk.reasons().into_iter().chain(blocks()).collect())
    }

    async fn view(&self) -> View {
        self.view()
    }

    async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            () = fleet_runtime::closed(self.node.peers()) => anyhow::anyhow!("the peer-to-peer node has ended"),
            error = self.serving.ended() => error,
            error = self.blocks.ended() => error,
        }
    }

    fn stop(self) -> impl Future<Output = ()> {
        self.stop()
    }
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: DataProviderArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, DataProvider::start(&args), &display).await
}

/// Where the block store is.
pub(crate) fn store_location(args: &DataProviderArgs) -> Location<'_> {
    Location { path: &args.local_db_path, setting: "PHALA_LOCAL_DB_PATH" }
}

/// The chains' nodes, if any are configured.
pub(crate) fn chains(args: &DataProviderArgs) -> anyhow::Result<Option<Chains>> {
    if args.chain_endpoint.is_empty() {
        return Ok(None);
    }
    let relay = pool("relay", &args.parent_chain_endpoint, args.parent_chain_genesis)?;
    Ok(Some(Chains { relay, para: pool("para", &args.chain_endpoint, args.chain_genesis)? }))
}

/// The number of connections that the file descriptors allow. Warns if it is below the default, so it is called once.
fn shares() -> Shares {
    let (blobs, peers) = (server::Config::default().max_connections, node::Limits::default().connections);
    let (limit, most) = (descriptors::limit(), Shares { blobs, peers });
    let shares = descriptors::shares(limit, most);
    if shares != most {
        tracing::warn!(
            limit,
            blob_connections = shares.blobs,
            peer_connections = shares.peers,
            "the limit on open files is low, so fewer connections are served than the default of {blobs} and {peers}: \
             raise the hard limit (LimitNOFILE of systemd, --ulimit nofile of docker)"
        );
    }
    shares
}

/// Binds the port, on every address of the machine unless one is configured.
async fn blob_server(
    args: &DataProviderArgs,
    connections: usize,
    blobs: Arc<dyn Lookup>,
) -> anyhow::Result<Server> {
    // All clients behind a proxy may share one address.
    let config = server::Config::default()
        .with_max_connections(connections)
        .with_max_connections_per_ip(
            (connections / 2).clamp(1, server::Config::default().max_connections_per_ip),
        )
        .with_session_max_bytes(args.blob_server_session_max_memory as usize * MIB);
    let port = args.local_server_port;
    if let Some(address) = args.blob_server_address {
        let bound = Server::bind((address, port).into(), blobs, config).await;
        return bound.context("PRB_BLOB_SERVER_ADDRESS, PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT");
    }
    // By the default of Linux, this socket accepts IPv4 connections, too.
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match Server::bind(everywhere, Arc::clone(&blobs), config).await {
        Err(error) if error.source.kind() != io::ErrorKind::AddrInUse => {
            // The machine has no IPv6.
            Server::bind((Ipv4Addr::UNSPECIFIED, port).into(), blobs, config).await
        }
        bound => bound,
    }
    .context("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT")
}

/// Tells peers the chain's identity as soon as the store knows it.
async fn announce_identity(source: &impl BlobSource, node: Node) {
    let mut heights = source.heights();
    loop {
        if let Ok(genesis) = source.genesis().await {
            tracing::info!(chain_identity = %genesis.chain_identity, "chain identity known");
            return node.set_chain_identity(genesis.chain_identity).await;
        }
        if heights.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;
    use prb_core::blob::memory::MemorySource;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DataProviderArgs,
    }

    async fn bound(arguments: &[&str]) -> anyhow::Result<SocketAddr> {
        let line = ["prb", "--local-server-port", "0"].iter().chain(arguments);
        let args = Line::try_parse_from(line)?.args;
        let source = Arc::new(MemorySource::of_empty_blocks(1));
        let server =
            blob_server(&args, shares().blobs, Arc::new(KeySpace::new(source, keyspace::Config::default())))
                .await?;
        Ok(server.local_addr())
    }

    #[tokio::test]
    async fn the_blob_server_listens_on_the_configured_address_only() {
        let one = bound(&["--blob-server-address", "127.0.0.2"]).await.unwrap();
        assert_eq!(one.ip().to_string(), "127.0.0.2");
        assert!(bound(&[]).await.unwrap().ip().is_unspecified());
        // TEST-NET-1: no machine has it.
        let error = format!("{:#}", bound(&["--blob-server-address", "192.0.2.1"]).await.unwrap_err());
        assert!(error.contains("PRB_BLOB_SERVER_ADDRESS") && error.contains("192.0.2.1"), "{error}");
        assert!(bound(&["--blob-server-address", "here"]).await.is_err());
    }
}
