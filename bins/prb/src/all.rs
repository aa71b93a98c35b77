//! `prb all`: data provider, lifecycle manager and trader in one process.
//!
//! Composition only. [`Bridge::stop`] defines the order of the shutdown.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use prb_chain::{inventory::HeedInventory, keys::Sr25519Keys};
use prb_core::{
    blob::{BlobSource, cache::CachedSource},
    inventory::Inventory,
    manage::{self, Manager},
    vault::Vault,
};
use prb_walkie::{identity::Role, vault::RsaVault};

pub use crate::daemon::Failure;
use crate::{
    api,
    blocks::{Blocks, Chains, Location},
    config::AllArgs,
    console::{self, Console, Local},
    daemon::{self, Background, Daemon, pool, stop},
    disk_watch::{DiskWatch, Files},
    fleet_file::{Changes, FleetFile},
    fleet_runtime::{self, Chain, FleetRuntime},
    identity_check, inventory,
    ops::Probe,
    peers,
    progress::{Display, Shown, View},
    token::Access,
    trade_queue::TradeQueue,
};

/// A running data provider, lifecycle manager and trader.
#[derive(Debug)]
pub struct Bridge {
    inventory: Arc<dyn Inventory>,
    vault: Arc<dyn Vault>,
    manager: Manager,
    blocks: Blocks,
    work: FleetRuntime,
    api: Option<api::Server>,
    console: console::Open,
    fleet_file: Option<PathBuf>,
    probe: Probe,
    background: Background,
}

impl Bridge {
    /// Reads and checks the configuration, opens the store and starts everything.
    ///
    /// # Errors
    /// [`Failure::Configuration`] before anything was started, [`Failure::Run`] for later failures.
    pub async fn start(args: &AllArgs) -> Result<Self, Failure> {
        // Before the inventory opens: a file with an error leaves everything as it is.
        let file = FleetFile::read_optional(args.fleet.as_deref()).await.map_err(Failure::Configuration)?;
        let relay = pool("relay", &args.parent_chain_endpoint, args.parent_chain_genesis)
            .map_err(Failure::Configuration)?;
        let para = pool("para", &args.chain_endpoint, args.chain_genesis).map_err(Failure::Configuration)?;
        let folder = args.peer_id_prefix.clone().unwrap_or_else(|| args.data.join("id"));
        let inventory = inventory::open(&args.data.join("inventory"), "PRB_DATA").await?;
        let identity = match file {
            // Without the old identity, the fleet file's keys are sealed again with the new one.
            Some(_) => peers::identity(&folder, Role::Lifecycle).await,
            None => identity_check::of_manager(&folder, &inventory).await,
        };
        let identity = identity.map_err(Failure::Configuration)?;
        let vault: Arc<dyn Vault> = Arc::new(RsaVault::new(&identity));
        if let Some(file) = file {
            let changes = apply(file, &inventory, &*vault).await.map_err(Failure::Configuration)?;
            changes.warn_of_computing();
        }
        identity_check::check(&inventory, &*vault, &folder).await.map_err(Failure::Configuration)?;
        let files = Files::default().with_identity(&folder, &[Role::Lifecycle]);
        Self::compose(args, Chains { relay, para }, files, inventory, vault).await
    }

    async fn compose(
        args: &AllArgs,
        chains: Chains,
        files: Files,
        inventory: HeedInventory,
        vault: Arc<dyn Vault>,
    ) -> Result<Self, Failure> {
        let para = chains.para.clone();
        let trade_queue = TradeQueue::built_in(para.clone(), Arc::clone(&vault), &args.sending);
        let trade_queue = trade_queue.map_err(Failure::Configuration)?;
        let access = Access::open(&args.pages, &args.data).await.map_err(Failure::Configuration)?;
        let trade_queue = trade_queue.with_page(&args.pages, &access).await?;
        let path = args.data.join("blocks");
        let location = Location { path: &path, setting: "PRB_DATA" };
        let blocks = Blocks::start(location, Some(chains), &args.history.history).await?;
        let files = files.with_store(Arc::clone(&blocks.store)).with_inventory(inventory.clone());
        let mut background = Background::default();
        let disk = DiskWatch::start(files, &mut background);
        let inventory: Arc<dyn Inventory> = Arc::new(inventory);
        let stored = Arc::clone(&blocks.source);
        let source: Arc<dyn BlobSource> = Arc::new(CachedSource::new(stored, args.blob_cache.config()));
        let chain = Chain::follow(para);
        let parts = fleet_runtime::Parts { source, inventory: Arc::clone(&inventory), chain, trade_queue };
        let work = FleetRuntime::start(parts, &args.workers).map_err(Failure::Run)?;
        let manager = Manager::new(manage::Parts {
            inventory: Arc::clone(&inventory),
            vault: Arc::clone(&vault),
            keys: Arc::new(Sr25519Keys),
            fleet: Some(work.fleet().clone()),
        });
        let probe = probe(disk, &blocks, &work);
        let source = api::Source {
            daemon: "all",
            manager: manager.clone(),
            fleet_file: args.fleet.clone(),
            queue: Some(work.trade_queue().source()),
            chain: Some(work.chain_views()),
            heights: Some(work.heights()),
            peers: None,
            providers: None,
            probe: Some(probe.clone()),
        };
        // After the fleet has started: an answer then has its status.
        let api = api::Server::open(&args.api, &args.pages, &access, source).await;
        let api = api.map_err(Failure::Configuration)?;
        let fleet = Local::new(manager.clone()).with_probe(probe.clone());
        let console = Self::console_of(args, fleet, &work, &blocks);
        let console = console::Open::start(&args.pages, &access, console).await?;
        let fleet_file = args.fleet.clone();
        Ok(Self { inventory, vault, manager, blocks, work, api, console, fleet_file, probe, background })
    }

    fn console_of(args: &AllArgs, fleet: Local, work: &FleetRuntime, blocks: &Blocks) -> Console {
        let mut fleet =
            fleet.with_chain(work.heights(), work.chain_views()).with_jobs(work.trade_queue().watch());
        if let Some(file) = &args.fleet {
            fleet = fleet.with_read_only(format!(
                "Pools and workers are edited in the file {}; SIGHUP reloads it",
                file.display()
            ));
        }
        Console::of_fleet(Arc::new(fleet))
            .with_chain_data(blocks.chain_data(&args.data))
            .with_queue(work.trade_queue().source())
    }

    /// The manager of pools and workers. If they come from a fleet file, changes made here last until the file is
    /// read again, which is refused if it does not name a pool or worker that was added here.
    pub const fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Returns the current view.
    pub async fn view(&self) -> View {
        self.work.view(Shown::Everything)
    }

    /// The address of the queue page, if it could be opened.
    pub const fn queue_page(&self) -> Option<SocketAddr> {
        self.work.trade_queue().page()
    }

    /// The address of the management API, if it could be opened.
    pub fn api(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(api::Server::address)
    }

    /// The address of the console, if it could be opened.
    pub const fn console(&self) -> Option<SocketAddr> {
        self.console.address()
    }

    /// Waits for an essential part to end, after which the daemon cannot continue.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.work.ended() => error,
            error = self.console.ended() => error,
            error = self.blocks.ended() => error,
            error = api::ended(&mut self.api) => error,
            error = self.background.ended() => error,
        }
    }

    /// Reads the fleet file again and applies its changes.
    ///
    /// # Errors
    /// The file is invalid, or there is none; nothing was changed then.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let file = self
            .fleet_file
            .as_deref()
            .context("there is no fleet file (PRB_FLEET): nothing to read again")?;
        let file = FleetFile::read(file).await?;
        apply(file, &*self.inventory, &*self.vault).await.map(drop)
    }

    /// Shuts down in order: first the API and the console (no more changes), then workers (no new jobs), then the
    /// trader (batches end or their jobs are handed back), then the chain reader. Takes less than five seconds.
    pub async fn stop(self) {
        // 1. No more edits and commands.
        tokio::join!(api::stop(self.api), self.console.stop());
        // 2. Workers, trader, chain reader: see there. Meanwhile, fetching ends; the store closes with its last user.
        tokio::join!(self.work.stop(), self.blocks.stop(), self.background.stop(stop::HELPERS));
    }
}

impl Daemon for Bridge {
    const OPS_PORT: u16 = 18015;
    const MEMORY_MIB: u64 = 1536;

    fn probe(&self) -> Probe {
        self.probe.clone()
    }

    fn view(&self) -> impl Future<Output = View> {
        self.view()
    }

    fn ended(&mut self) -> impl Future<Output = anyhow::Error> {
        self.ended()
    }

    async fn reload(&self) {
        let file = self.fleet_file.as_deref().map(|file| file.display().to_string()).unwrap_or_default();
        match self.reload().await {
            Ok(()) => tracing::info!(file, "fleet file applied"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(file, error, "fleet file not applied, nothing changed");
            }
        }
    }

    fn stop(self) -> impl Future<Output = ()> {
        self.stop()
    }
}

fn probe(disk: DiskWatch, blocks: &Blocks, work: &FleetRuntime) -> Probe {
    let (blocks, work) = (blocks.probe(), work.probe());
    Probe::new(move || {
        let mut reasons = disk.reasons();
        reasons.extend(blocks());
        // Both parts watch the parachain's nodes and may report the same reason.
        let others = work().into_iter().filter(|new| reasons.iter().all(|old| old.code != new.code));
        let others: Vec<_> = others.collect();
        reasons.extend(others);
        reasons
    })
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: AllArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, Bridge::start(&args), &display).await
}

/// Makes the inventory match the file.
async fn apply(file: FleetFile, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<Changes> {
    if file.is_empty() {
        tracing::warn!("the fleet file names no pools and no workers: nothing runs");
    }
    file.apply(inventory, vault).await
}
