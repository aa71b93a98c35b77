//! `prb all`: data provider, lifecycle manager and trader in one process.
//!
//! Composition only. The order of the end is that of [`Bridge::stop`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use prb_chain::{
    ingest::{self, Ingest},
    reader::{self, Reader},
    rpc::NodePool,
    source::StoreSource,
    store::{self, Store},
    submit::{self, Submitter},
};
use prb_core::{
    blob::{
        BlobSource,
        cache::{self, CachedSource},
    },
    chain::ChainReader,
    fleet::{self, Fleet},
    inventory::{Inventory, memory::MemoryInventory},
    queue::JobQueue,
    trade::{self, Trader},
    vault::Vault,
};
use prb_queue::memory::{self, MemoryQueue};
use prb_walkie::{
    identity::{Identity, Role},
    vault::RsaVault,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::daemon::Failure;
use crate::{
    config::AllArgs,
    daemon::{self, Daemon, ended, pool},
    fleet_file::FleetFile,
    ops::Probe,
    progress::{Display, Shown, View},
    readiness,
};

/// How long the trader may finish its batches at the end.
const TRADER_STOP: Duration = Duration::from_millis(1500);
/// How long the background tasks may take to end.
const TASKS_STOP: Duration = Duration::from_millis(1500);

/// A running data provider, lifecycle manager and trader.
#[derive(Debug)]
pub struct Bridge {
    source: Arc<dyn BlobSource>,
    inventory: Arc<dyn Inventory>,
    vault: Arc<dyn Vault>,
    queue: MemoryQueue,
    fleet: Fleet,
    trader: Trader,
    chain: Arc<dyn ChainReader>,
    fleet_file: PathBuf,
    cancel: CancellationToken,
    tasks: JoinSet<anyhow::Error>,
}

impl Bridge {
    /// Reads and checks the configuration, opens the store and starts everything.
    ///
    /// # Errors
    /// [`Failure::Configuration`] before anything was started, [`Failure::Run`] where something broke.
    pub async fn start(args: &AllArgs) -> Result<Self, Failure> {
        let file = FleetFile::read(&args.fleet).map_err(Failure::Configuration)?;
        let relay = pool("relay", &args.parent_chain_endpoint).map_err(Failure::Configuration)?;
        let para = pool("para", &args.chain_endpoint).map_err(Failure::Configuration)?;
        let vault: Arc<dyn Vault> = Arc::new(vault(args).await.map_err(Failure::Configuration)?);
        let inventory: Arc<dyn Inventory> = Arc::new(MemoryInventory::default());
        apply(file, &*inventory, &*vault).await.map_err(Failure::Configuration)?;
        Self::compose(args, relay, para, inventory, vault).await.map_err(Failure::Run)
    }

    async fn compose(
        args: &AllArgs,
        relay: NodePool,
        para: NodePool,
        inventory: Arc<dyn Inventory>,
        vault: Arc<dyn Vault>,
    ) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let blocks = args.data.join("blocks");
        let opening = blocks.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&opening, store::Config::default()))
            .await?
            .with_context(|| format!("cannot open the block store {}", blocks.display()))?;
        let store = Arc::new(store);
        let ingest = Ingest::new(relay, para.clone(), Arc::clone(&store), ingest::Config::default());
        let stored = Arc::new(StoreSource::new(store).with_suspects(ingest.suspects()));
        let source: Arc<dyn BlobSource> = Arc::new(CachedSource::new(stored, cache::Config::default()));
        let stop = cancel.clone();
        tasks.spawn(async move { ended("the ingest", ingest.run(stop).await) });

        let (reader, task) = Reader::new(para.clone(), reader::Config::default());
        let chain: Arc<dyn ChainReader> = Arc::new(reader);
        let stop = cancel.clone();
        tasks.spawn(async move {
            task.run(stop).await;
            anyhow::anyhow!("the chain reader has ended")
        });

        let queue = MemoryQueue::new(memory::Config::default());
        let submitter = Arc::new(Submitter::new(para, submit::Config::default())?);
        let jobs: Arc<dyn JobQueue> = Arc::new(queue.clone());
        let parts = trade::Parts { queue: Arc::clone(&jobs), submitter, vault: Arc::clone(&vault) };
        let trader = Trader::start(trade::Config::default(), parts)?;

        let connect = Arc::new(args.workers.connect()?);
        let fleet = Fleet::start(
            fleet::Parts {
                inventory: Arc::clone(&inventory),
                source: Arc::clone(&source),
                chain: Arc::clone(&chain),
                queue: jobs,
                connect,
            },
            args.workers.fleet_config(),
        );
        let fleet_file = args.fleet.clone();
        Ok(Self { source, inventory, vault, queue, fleet, trader, chain, fleet_file, cancel, tasks })
    }

    /// What there is to see now.
    pub async fn view(&self) -> View {
        View {
            heights: *self.source.heights().borrow(),
            fleet: self.fleet.status(),
            jobs: self.queue.stats().await.unwrap_or_default(),
            shown: Shown::Everything,
        }
    }

    /// Waits for a part to end that should not: the daemon cannot go on without it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            trader = self.trader.ended() => match trader {
                Ok(_) => anyhow::anyhow!("the trader has ended"),
                Err(error) => anyhow::Error::new(error).context("the trader broke"),
            },
            () = self.fleet.ended() => anyhow::anyhow!("the fleet's supervisor has ended"),
            Some(task) = self.tasks.join_next() => match task {
                Ok(error) => error,
                Err(error) => anyhow::Error::new(error).context("a background task broke"),
            },
        }
    }

    /// Reads the fleet file again and applies what changed.
    ///
    /// # Errors
    /// Says what is wrong with the file; nothing was changed then.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let file = FleetFile::read(&self.fleet_file)?;
        apply(file, &*self.inventory, &*self.vault).await
    }

    /// Ends in order: workers first (no new jobs), then the trader (its batches end or are handed back), then
    /// what reads the chains. Takes less than five seconds.
    pub async fn stop(mut self) {
        if !self.fleet.stop().await {
            tracing::warn!("some workers' tasks did not end in time and were left behind");
        }
        match self.trader.stop(TRADER_STOP).await {
            Ok(report) => tracing::info!(?report, "trader stopped"),
            Err(error) => tracing::warn!("the trader broke: {error}"),
        }
        self.cancel.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(TASKS_STOP, drain).await.is_err() {
            tracing::warn!("background tasks did not end in time and are aborted; the store stays whole");
        }
    }
}

impl Daemon for Bridge {
    const OPS_PORT: u16 = 18015;

    fn probe(&self) -> Probe {
        let (heights, chain) = (self.source.heights(), self.chain.views());
        Arc::new(move || readiness::provider(&heights).chain(readiness::chain_view(&chain)).collect())
    }

    fn view(&self) -> impl Future<Output = View> {
        self.view()
    }

    fn ended(&mut self) -> impl Future<Output = anyhow::Error> {
        self.ended()
    }

    async fn reload(&self) {
        let file = self.fleet_file.display();
        match self.reload().await {
            Ok(()) => tracing::info!(%file, "fleet file applied"),
            Err(error) => tracing::error!("fleet file not applied, nothing changed: {error:#}"),
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
pub async fn run(args: AllArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, Bridge::start(&args), &display).await
}

async fn vault(args: &AllArgs) -> anyhow::Result<RsaVault> {
    let folder = args.peer_id_prefix.clone().unwrap_or_else(|| args.data.join("id"));
    let identity = Identity::load_or_generate(&folder, Role::Lifecycle).await?;
    tracing::info!(peer_id = %identity.peer_id(), "Got my peer id");
    Ok(RsaVault::new(&identity))
}

async fn apply(file: FleetFile, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<()> {
    let edits = file.edits(inventory, vault).await?;
    inventory.apply(edits).await?;
    Ok(())
}
