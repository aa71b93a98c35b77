//! `prb trader`: sends the on-chain operations of lifecycle managers, from the queue in Redis.
//!
//! Composition only.

use std::sync::Arc;

use anyhow::Context;
use prb_core::{
    inventory::{Inventory, memory::MemoryInventory},
    vault::Vault,
};
use prb_queue::redis;
use prb_walkie::{identity::Role, vault::RsaVault};

use crate::{
    config::TraderArgs,
    daemon::{self, Background, Daemon, Failure, pool, stop},
    disk_watch::{DiskWatch, Files},
    fleet_file::FleetFile,
    identity_check,
    nodes::NodeWatch,
    ops::Probe,
    progress::{Display, Shown, View},
    signers::InventorySigners,
    token::Access,
    trade_queue::{self, TradeQueue},
};

/// A running trader.
#[derive(Debug)]
pub struct TraderDaemon {
    trade_queue: TradeQueue,
    nodes: NodeWatch,
    background: Background,
    disk: DiskWatch,
}

impl TraderDaemon {
    /// Reads the identity and starts to lease jobs. Redis does not have to be reachable yet.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &TraderArgs) -> Result<Self, Failure> {
        args.warn_of_no_effect();
        let para = pool("para", &args.chain_endpoint, args.chain_genesis).map_err(Failure::Configuration)?;
        let pools = FleetFile::read_optional(args.trader_pools.as_deref()).await;
        let pools = pools.map_err(Failure::Configuration)?;
        let identity = identity_check::of_trader(&args.peer_id_prefix, pools.is_some()).await;
        let vault: Arc<dyn Vault> = Arc::new(RsaVault::new(&identity.map_err(Failure::Configuration)?));
        let mut config = redis::Config::new(args.q_redis_endpoint.as_str());
        if let Some(pools) = pools {
            let signers = signers(pools, &*vault).await.map_err(Failure::Configuration)?;
            config.signers = Some(Arc::new(signers));
        }
        let mut background = Background::default();
        let files = Files::default().with_identity(&args.peer_id_prefix, &[Role::Lifecycle, Role::Trade]);
        let disk = DiskWatch::start(files, &mut background);
        let nodes = NodeWatch::para(para.clone(), &mut background);
        let trade_queue = TradeQueue::trading(config, para, vault, &args.sending);
        let trade_queue = trade_queue.map_err(Failure::Configuration)?;
        // No token is generated: a trader has no data folder to keep it in.
        let access = Access::given(&args.pages).map_err(Failure::Configuration)?;
        Ok(Self { trade_queue: trade_queue.with_page(&args.pages, &access).await?, nodes, background, disk })
    }
}

/// The operators of a file's pools, sealed by this process for its own use.
async fn signers(pools: FleetFile, vault: &dyn Vault) -> anyhow::Result<InventorySigners> {
    // In memory: the file is the only copy that lasts, and is read again at each start.
    let inventory = Arc::new(MemoryInventory::default());
    let edits = pools.edits(&*inventory, vault).await.context("PRB_TRADER_POOLS")?;
    inventory.apply(edits).await?;
    Ok(InventorySigners::new(inventory))
}

impl Daemon for TraderDaemon {
    const OPS_PORT: u16 = 18014;
    const MEMORY_MIB: u64 = 256;

    fn probe(&self) -> Probe {
        let (disk, nodes, queue) = (self.disk.clone(), self.nodes.clone(), self.trade_queue.watch());
        Probe::new(move || {
            let queue = trade_queue::readiness(&queue);
            disk.reasons().into_iter().chain(nodes.reasons()).chain(queue).collect()
        })
    }

    async fn view(&self) -> View {
        View { jobs: self.trade_queue.stats(), shown: Shown::Trader, ..View::default() }
    }

    async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.trade_queue.ended() => error,
            error = self.background.ended() => error,
        }
    }

    async fn stop(self) {
        self.trade_queue.stop().await;
        self.background.stop(stop::HELPERS).await;
    }
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: TraderArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, TraderDaemon::start(&args), &display).await
}
