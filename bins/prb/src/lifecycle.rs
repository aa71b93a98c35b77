//! `prb lifecycle`: manages workers with the chain data of discovered data providers.
//!
//! Composition only. [`LifecycleManager::stop`] defines the order of the shutdown.

use std::{net::SocketAddr, sync::Arc};

use prb_chain::{inventory::HeedInventory, keys::Sr25519Keys, rpc::NodePool, verified::VerifiedSource};
use prb_core::{
    blob::{BlobSource, cache::CachedSource},
    manage::{self, Manager},
    vault::Vault,
};
use prb_walkie::{
    blob::remote::{Candidate, OwnChain, Providers, RemoteBlobSource},
    identity,
    manage::{Sources, handlers},
    node::{self, Node, PeerTable},
    proto::Role,
    rpc::Handlers,
    vault::RsaVault,
};
use tokio::sync::watch;

use crate::{
    api,
    chain_data::ChainData,
    config::LifecycleArgs,
    console::{self, Console, Local},
    daemon::{self, Background, Daemon, Failure, pool, stop},
    disk_watch::{self, DiskWatch, Files},
    fleet_runtime::{self, Chain, FleetRuntime},
    identity_check, inventory,
    ops::Probe,
    peers,
    progress::{Display, Shown, View},
    providers::ProviderTable,
    readiness::{self, ProvidersInUse},
    signers::InventorySigners,
    token::Access,
    trade_queue::{self, TradeQueue},
};

mod candidates;
mod own_chain;

pub(crate) use candidates::is_trusted;

/// A running lifecycle manager.
#[derive(Debug)]
pub struct LifecycleManager {
    node: Node,
    /// `None` if only the inventory is edited.
    work: Option<FleetRuntime>,
    api: Option<api::Server>,
    console: console::Open,
    background: Background,
    probe: Probe,
}

/// The parts of a lifecycle manager.
struct Parts {
    para: NodePool,
    inventory: HeedInventory,
    vault: Arc<dyn Vault>,
    files: Files,
}

impl LifecycleManager {
    /// Reads the identity, opens the inventory and starts everything. Data providers may appear later.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &LifecycleArgs) -> Result<Self, Failure> {
        let para = pool("para", &args.chain_endpoint, args.chain_genesis).map_err(Failure::Configuration)?;
        let folder = &args.walkie.peer_id_prefix;
        let inventory = inventory::open(&args.local_db_path, "PHALA_LOCAL_DB_PATH").await?;
        let identity =
            identity_check::of_manager(folder, &inventory).await.map_err(Failure::Configuration)?;
        let vault: Arc<dyn Vault> = Arc::new(RsaVault::new(&identity));
        identity_check::check(&inventory, &*vault, folder).await.map_err(Failure::Configuration)?;
        let mut config =
            peers::config(&args.walkie, identity, Role::LifecycleManager).map_err(Failure::Configuration)?;
        config.ignore_bridge_identity = args.ptp_ignore_bridge_identity;
        config.trust = args.trust();
        let files = Files::default().with_inventory(inventory.clone());
        let files = files.with_identity(folder, &[identity::Role::Lifecycle]);
        Self::compose(args, config, Parts { para, inventory, vault, files }).await
    }

    async fn compose(args: &LifecycleArgs, mut config: node::Config, parts: Parts) -> Result<Self, Failure> {
        let access = Access::open(&args.pages, &args.local_db_path).await.map_err(Failure::Configuration)?;
        let mut background = Background::default();
        let disk = DiskWatch::start(parts.files.clone(), &mut background);
        let (found, candidates) = watch::channel(Vec::new());
        let (own, identity) = own_chain::follow(&parts.para, &mut background);
        let (work, providers) = if args.lifecycle_config_mode {
            tracing::info!("configuration mode: pools and workers can be edited, no workers run");
            (None, None)
        } else {
            let (work, providers) = work(args, &access, candidates, own, &parts).await?;
            (Some(work), Some(providers))
        };
        let manager = Manager::new(manage::Parts {
            inventory: Arc::new(parts.inventory),
            vault: parts.vault,
            keys: Arc::new(Sr25519Keys),
            fleet: work.as_ref().map(|work| work.fleet().clone()),
        })
        .with_fleet_setting("PHALA_LIFECYCLE_CONFIG_MODE");
        // The node's handlers need the table before the node exists; the node's peers are added to it
        // afterwards.
        let provider_table = ProviderTable::new(providers.clone());
        let chain_data = ChainData::new(vec![parts.para.clone()], args.local_db_path.clone(), None);
        let sources = sources(work.as_ref(), &provider_table, &chain_data);
        config.handlers = handlers(manager.clone(), sources, Handlers::new());
        let node = peers::start(config).await?;
        provider_table.set_peers(node.peers());
        let probe = probe(disk, &node, work.as_ref(), providers.clone());
        let source = api_source(manager.clone(), work.as_ref(), &node, &provider_table, &probe);
        let api = api::Server::open(&args.api, &args.pages, &access, source).await;
        let api = api.map_err(Failure::Configuration)?;
        let fleet = Local::new(manager).with_providers(provider_table).with_probe(probe.clone());
        let console = console(fleet, &node, work.as_ref());
        let console = console::Open::start(&args.pages, &access, console.with_chain_data(chain_data)).await?;
        let informed = node.clone();
        background.spawn(|stop| async move {
            // A background task that ends counts as a failure, so this one waits for the shutdown after its
            // work.
            stop.run_until_cancelled(identity.publish_to(informed)).await;
            stop.cancelled().await;
            anyhow::anyhow!("stopped")
        });
        if let Some(providers) = providers {
            let looking = node.clone();
            background.spawn(|stop| async move {
                stop.run_until_cancelled(candidates::follow(looking, found, providers)).await;
                // The search ends only with the node, which may be noticed here first.
                anyhow::anyhow!("the peer-to-peer node has ended, and with it the search for data providers")
            });
        }
        Ok(Self { node, work, api, console, background, probe })
    }

    /// Its peer-to-peer node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The address of the management API, if it could be opened.
    pub fn api(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(api::Server::address)
    }

    /// Returns the current view.
    pub fn view(&self) -> View {
        let shown = Shown::Manager { providers: providers(&self.node.peers()) };
        match &self.work {
            None => View { shown, ..View::default() },
            Some(work) => work.view(shown),
        }
    }

    /// Shuts down in order: no more management calls, then the workers' tasks (no new jobs), then the trader
    /// (batches end or their jobs are handed back), then the chain reader; the inventory closes with its last
    /// user. Takes less than five seconds.
    pub async fn stop(self) {
        // 1. Calls in flight are answered, new ones refused; no more edits and commands.
        tokio::join!(api::stop(self.api), self.console.stop(), peers::stop(&self.node));
        // 2. Workers, trader, chain reader: see there.
        if let Some(work) = self.work {
            work.stop().await;
        }
        // 3. Discovery of data providers ends; the inventory closes.
        self.background.stop(stop::HELPERS).await;
    }
}

/// Starts the fleet with the data of these candidates; also returns a view of them.
async fn work(
    args: &LifecycleArgs,
    access: &Access,
    candidates: watch::Receiver<Vec<Candidate>>,
    own: OwnChain,
    parts: &Parts,
) -> Result<(FleetRuntime, Providers), Failure> {
    let remote = RemoteBlobSource::start_on(candidates, own, args.remote_config());
    let providers = remote.watcher();
    let mut source: Arc<dyn BlobSource> = Arc::new(remote);
    // Below the cache, so that a header is verified once for all workers.
    if args.verify_headers {
        let (what, config) = ("the verified authority sets".to_owned(), args.verified_config());
        let open = move || VerifiedSource::open(source, config);
        source = Arc::new(disk_watch::open(what, open).await.map_err(Failure::Run)?);
    }
    let source: Arc<dyn BlobSource> = Arc::new(CachedSource::new(source, args.blob_cache.config()));
    // Before the queue: the block at which effects of an original trader's jobs are expected is taken from
    // its views.
    let chain = Chain::follow(parts.para.clone());
    let trade_queue = trade_queue(args, &chain, parts).await?.with_page(&args.pages, access).await?;
    let inventory = Arc::new(parts.inventory.clone());
    let work =
        FleetRuntime::start(fleet_runtime::Parts { source, inventory, chain, trade_queue }, &args.workers);
    Ok((work.map_err(Failure::Run)?, providers))
}

/// Starts the trade queue, or connects to it.
async fn trade_queue(args: &LifecycleArgs, chain: &Chain, parts: &Parts) -> Result<TradeQueue, Failure> {
    let (para, vault, sending) = (parts.para.clone(), Arc::clone(&parts.vault), &args.sending);
    let queue = match &args.q_redis_endpoint {
        Some(url) => {
            let id = inventory::id(&parts.inventory).await?;
            let config = trade_queue::submitters(url.as_str(), id, chain.views());
            if args.use_built_in_trader {
                // That Redis may also have jobs of other managers, including the original's.
                let signers = InventorySigners::new(Arc::new(parts.inventory.clone()));
                TradeQueue::trading(config.with_signers(Some(Arc::new(signers))), para, vault, sending)
            } else {
                TradeQueue::queue_only(config)
            }
        }
        None => TradeQueue::built_in(para, vault, sending),
    };
    queue.map_err(Failure::Configuration)
}

/// Returns the sources of what peers are told besides the workers' states.
fn sources(work: Option<&FleetRuntime>, provider_table: &ProviderTable, chain_data: &ChainData) -> Sources {
    let (provider_table, chain_data) = (provider_table.clone(), chain_data.clone());
    let sources = Sources {
        providers: Some(Arc::new(move || provider_table.rows())),
        // May block: peers are answered from a blocking thread.
        chain_nodes: Some(Arc::new(move || chain_data.detail_blocking())),
        ..Sources::default()
    };
    let Some(work) = work else { return sources };
    let jobs = work.trade_queue().watch();
    Sources {
        heights: Some(work.heights()),
        chain: Some(work.chain_views()),
        jobs: Some(Arc::new(move || jobs.borrow().stats())),
        ..sources
    }
}

/// Returns what the management API exposes, over the manager that also serves the peers' calls.
fn api_source(
    manager: Manager,
    work: Option<&FleetRuntime>,
    node: &Node,
    provider_table: &ProviderTable,
    probe: &Probe,
) -> api::Source {
    api::Source {
        daemon: "lifecycle",
        manager,
        fleet_file: None,
        queue: work.map(|work| work.trade_queue().source()),
        chain: work.map(FleetRuntime::chain_views),
        heights: work.map(FleetRuntime::heights),
        peers: Some(node.peers()),
        providers: Some(provider_table.clone()),
        probe: Some(probe.clone()),
    }
}

/// Creates the console of this manager's fleet.
fn console(fleet: Local, node: &Node, work: Option<&FleetRuntime>) -> Console {
    let Some(work) = work else { return Console::of_fleet(Arc::new(fleet)).with_node(node.clone()) };
    let fleet = fleet.with_chain(work.heights(), work.chain_views()).with_jobs(work.trade_queue().watch());
    Console::of_fleet(Arc::new(fleet)).with_node(node.clone()).with_queue(work.trade_queue().source())
}

impl Daemon for LifecycleManager {
    const OPS_PORT: u16 = 18013;
    const MEMORY_MIB: u64 = 512;

    fn probe(&self) -> Probe {
        self.probe.clone()
    }

    async fn view(&self) -> View {
        self.view()
    }

    async fn ended(&mut self) -> anyhow::Error {
        let work = async {
            match &mut self.work {
                Some(work) => work.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = fleet_runtime::closed(self.node.peers()) => anyhow::anyhow!("the peer-to-peer node has ended"),
            error = work => error,
            error = api::ended(&mut self.api) => error,
            error = self.console.ended() => error,
            error = self.background.ended() => error,
        }
    }

    fn stop(self) -> impl Future<Output = ()> {
        self.stop()
    }
}

fn probe(disk: DiskWatch, node: &Node, work: Option<&FleetRuntime>, used: Option<Providers>) -> Probe {
    let (Some(work), Some(used)) = (work, used) else { return Probe::new(move || disk.reasons()) };
    let (peers, heights, work) = (node.peers(), work.heights(), work.probe());
    let in_use = ProvidersInUse::default();
    Probe::new(move || {
        let heights = *heights.borrow();
        let in_use = in_use.check(&used.all(), &heights);
        let data = readiness::data_providers(providers(&peers), untrusted(&peers)).or(in_use);
        disk.reasons().into_iter().chain(data).chain(work()).collect()
    })
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: LifecycleArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, LifecycleManager::start(&args), &display).await
}

fn providers(peers: &watch::Receiver<Arc<PeerTable>>) -> usize {
    peers.borrow().usable(Role::DataProviderInt).filter(|peer| candidates::is_trusted(peer)).count()
}

fn untrusted(peers: &watch::Receiver<Arc<PeerTable>>) -> usize {
    peers.borrow().usable(Role::DataProviderInt).filter(|peer| !candidates::is_trusted(peer)).count()
}
