//! `prb data-provider`: both chains fetched, verified, stored, and served to peers.
//!
//! Composition only. The order of the end is that of [`DataProvider::stop`].

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use prb_chain::{
    ingest::{self, Ingest},
    rpc::NodePool,
    source::StoreSource,
    store::{self, Store},
};
use prb_core::blob::range::RangeSource;
use prb_walkie::{
    blob::{
        Lookup,
        keyspace::{self, KeySpace},
        server::{self, Server},
    },
    identity::{self, Identity},
    node::Node,
    proto::Role,
    rpc::{Handlers, calls},
};

use crate::{
    config::DataProviderArgs,
    daemon::{self, Background, Daemon, Failure, ended, pool},
    ops::Probe,
    peers,
    progress::{Display, Shown, View},
    readiness,
};

mod info;

/// How long answers under way may take to end.
const NODE_STOP: Duration = Duration::from_millis(500);
const MIB: usize = 1024 * 1024;

/// A running data provider.
#[derive(Debug)]
pub struct DataProvider {
    source: Arc<dyn RangeSource>,
    node: Node,
    serving: Background,
    background: Background,
}

impl DataProvider {
    /// Reads the identity, opens the store and starts everything.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &DataProviderArgs) -> Result<Self, Failure> {
        let relay = pool("relay", &args.parent_chain_endpoint).map_err(Failure::Configuration)?;
        let para = pool("para", &args.chain_endpoint).map_err(Failure::Configuration)?;
        let folder = &args.walkie.peer_id_prefix;
        let identity =
            peers::identity(folder, identity::Role::DataProvider).await.map_err(Failure::Configuration)?;
        let store = open_store(&args.local_db_path).await.map_err(Failure::Run)?;
        Self::compose(args, relay, para, identity, store).await
    }

    async fn compose(
        args: &DataProviderArgs,
        relay: NodePool,
        para: NodePool,
        identity: Identity,
        store: Arc<Store>,
    ) -> Result<Self, Failure> {
        let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
        let stored = StoreSource::new(Arc::clone(&store)).with_suspects(ingest.suspects());
        let source: Arc<dyn RangeSource> = Arc::new(stored);
        let keys = keyspace::Config {
            max_para_blocks: args.blob_max_para_block_range_count,
            ..keyspace::Config::default()
        };
        let blobs: Arc<dyn Lookup> = Arc::new(KeySpace::new(Arc::clone(&source), keys));
        let server = blob_server(args, Arc::clone(&blobs)).await.map_err(Failure::Configuration)?;
        let port = server.local_addr().port();

        let mut config =
            peers::config(&args.walkie, identity, Role::DataProviderInt).map_err(Failure::Configuration)?;
        config.chain_identity = store.genesis().map(|(_, genesis)| genesis.chain_identity);
        config.blobs = Some(blobs);
        config.handlers = handlers(store, port);
        let node = peers::start(config).await?;
        let (mut serving, mut background) = (Background::default(), Background::default());
        serving.spawn(|stop| async move {
            server.run(stop).await;
            anyhow::anyhow!("the blob server has ended")
        });
        background.spawn(|stop| async move { ended("the ingest", ingest.run(stop).await) });
        let (teller, told) = (node.clone(), Arc::clone(&source));
        background.spawn(|stop| async move {
            stop.run_until_cancelled(tell_identity(told, teller)).await;
            stop.cancelled().await;
            anyhow::anyhow!("stopped")
        });
        Ok(Self { source, node, serving, background })
    }

    /// What there is to see now.
    pub fn view(&self) -> View {
        let peers = self.node.peers().borrow().iter().filter(|peer| peer.is_usable()).count();
        View { heights: *self.source.heights().borrow(), shown: Shown::Provider { peers }, ..View::default() }
    }

    /// Its node among its peers.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Ends in order: peers are told nothing more (they turn to others), then those who fetch blobs are hung
    /// up on, then nothing is fetched any more; the store closes with its last user. Takes less than five
    /// seconds.
    pub async fn stop(self) {
        // 1. Calls under way are answered, no others.
        if !self.node.stop(NODE_STOP).await {
            tracing::warn!("some calls of peers were not answered in time");
        }
        // 2. Blobs under way are sent.
        self.serving.stop().await;
        // 3. What is verified is stored, nothing more is fetched.
        self.background.stop().await;
    }
}

impl Daemon for DataProvider {
    const OPS_PORT: u16 = 18012;

    fn probe(&self) -> Probe {
        let heights = self.source.heights();
        Arc::new(move || readiness::provider(&heights).collect())
    }

    async fn view(&self) -> View {
        self.view()
    }

    async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.serving.ended() => error,
            error = self.background.ended() => error,
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

async fn open_store(path: &Path) -> anyhow::Result<Arc<Store>> {
    let opening = path.to_owned();
    let store = tokio::task::spawn_blocking(move || Store::open(&opening, store::Config::default()))
        .await?
        .with_context(|| {
        format!("cannot open the block store {} (PHALA_LOCAL_DB_PATH)", path.display())
    })?;
    Ok(Arc::new(store))
}

/// Takes the port on every address of the machine.
async fn blob_server(args: &DataProviderArgs, blobs: Arc<dyn Lookup>) -> anyhow::Result<Server> {
    let config = server::Config {
        session_max_bytes: args.blob_server_session_max_memory as usize * MIB,
        ..server::Config::default()
    };
    let port = args.local_server_port;
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match Server::bind(everywhere, Arc::clone(&blobs), config).await {
        Err(error) if error.source.kind() != io::ErrorKind::AddrInUse => {
            // A machine without IPv6.
            Server::bind((Ipv4Addr::UNSPECIFIED, port).into(), blobs, config).await
        }
        bound => bound,
    }
    .context("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT")
}

/// Tells peers of the chain as soon as the store knows it.
async fn tell_identity(source: Arc<dyn RangeSource>, node: Node) {
    let mut heights = source.heights();
    loop {
        if let Ok(genesis) = source.genesis().await {
            tracing::info!(chain_identity = %genesis.chain_identity, "the chain is known");
            return node.set_chain_identity(genesis.chain_identity).await;
        }
        if heights.changed().await.is_err() {
            return;
        }
    }
}

fn handlers(store: Arc<Store>, port: u16) -> Handlers {
    Handlers::new().on(calls::GetDataProviderInfo, move |_, _| {
        let info = info::of(&store, port);
        async move { Ok(info) }
    })
}
