//! The fleet with its chain reader and its trade queue.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prb_chain::{
    reader::{self, Reader},
    rpc::NodePool,
};
use prb_core::{
    blob::{BlobSource, Heights},
    chain::{ChainReader, ChainView},
    fleet::{self, Fleet},
    inventory::Inventory,
};
use tokio::sync::watch;

use crate::{
    config::WorkerArgs,
    daemon::{Background, stop},
    descriptors,
    nodes::NodeWatch,
    ops::Reason,
    progress::{Shown, View},
    readiness,
    trade_queue::{self, TradeQueue},
};

/// The parts to start with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) chain: Chain,
    pub(crate) trade_queue: TradeQueue,
}

/// The on-chain state and its reader.
#[derive(Debug)]
pub(crate) struct Chain {
    reader: Arc<dyn ChainReader>,
    nodes: NodeWatch,
    reading: Background,
}

impl Chain {
    /// Starts to follow the chain.
    pub(crate) fn follow(para: NodePool) -> Self {
        let mut reading = Background::default();
        let nodes = NodeWatch::para(para.clone(), &mut reading);
        let (reader, task) = Reader::new(para, reader::Config::default());
        reading.spawn(|stop| async move {
            task.run(stop).await;
            anyhow::anyhow!("the chain reader has ended")
        });
        Self { reader: Arc::new(reader), nodes, reading }
    }

    pub(crate) fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.reader.views()
    }
}

/// A running fleet with its trade queue.
#[derive(Debug)]
pub(crate) struct FleetRuntime {
    source: Arc<dyn BlobSource>,
    chain: Chain,
    fleet: Fleet,
    trade_queue: TradeQueue,
}

impl FleetRuntime {
    /// Starts the fleet.
    ///
    /// # Errors
    /// The HTTP client cannot be created.
    pub(crate) fn start(parts: Parts, workers: &WorkerArgs) -> anyhow::Result<Self> {
        let Parts { source, inventory, chain, trade_queue } = parts;
        descriptors::warn_if_too_few(inventory.snapshots().borrow().workers.len());
        let connect = Arc::new(workers.connect()?);
        let reader = Arc::clone(&chain.reader);
        let fleet = fleet::Parts::new(inventory, Arc::clone(&source), reader, trade_queue.queue(), connect);
        // The chain's time, not this machine's: the chain decides by its own whether collateral has expired.
        let views = chain.views();
        let collateral = workers.pccs.source(move || chain_time(&views))?;
        let fleet = Fleet::start(fleet.with_collateral(collateral), workers.fleet_config());
        Ok(Self { source, chain, fleet, trade_queue })
    }

    pub(crate) const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(crate) const fn trade_queue(&self) -> &TradeQueue {
        &self.trade_queue
    }

    /// Returns a probe of the reasons why workers do not compute.
    pub(crate) fn probe(&self) -> impl Fn() -> Vec<Reason> + Send + Sync + 'static {
        let (nodes, views) = (self.chain.nodes.clone(), self.chain_views());
        let (fleet, queue) = (self.fleet.clone(), self.trade_queue.watch());
        move || {
            let fleet = fleet.status();
            let view = readiness::chain_view(&views).or_else(|| readiness::node_behind(&fleet));
            let surroundings = [view, trade_queue::readiness(&queue)];
            let workers = readiness::workers(&fleet);
            nodes.reasons().into_iter().chain(surroundings.into_iter().flatten()).chain(workers).collect()
        }
    }

    pub(crate) fn chain_views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.chain.views()
    }

    /// The heights of the chain data.
    pub(crate) fn heights(&self) -> watch::Receiver<Heights> {
        self.source.heights()
    }

    /// Returns the current view.
    pub(crate) fn view(&self, shown: Shown) -> View {
        // Copied first: in the expression below, the guard would live until the whole view is made. The fleet reads the
        // same heights, and a second read waits for a writer that waits for the end of the first one.
        let heights = *self.source.heights().borrow();
        let chain = self.chain.views().borrow().clone();
        View { heights, fleet: self.fleet.status(), jobs: self.trade_queue.stats(), chain, shown }
    }

    /// Waits for an essential part to end. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.trade_queue.ended() => error,
            error = self.chain.reading.ended() => error,
            () = closed(self.source.heights()) => anyhow::anyhow!("the source of blocks has ended"),
            () = self.fleet.ended() => anyhow::anyhow!("the fleet's supervisor has ended"),
        }
    }

    /// Shuts down in order.
    pub(crate) async fn stop(self) {
        // 1. Workers keep their state; no new jobs are submitted.
        if !self.fleet.stop().await {
            tracing::warn!("some workers' tasks did not end in time and were aborted");
        }
        // 2. Batches in flight end or their jobs are handed back.
        self.trade_queue.stop().await;
        // 3. The chain reader ends.
        self.chain.reading.stop(stop::HELPERS).await;
    }
}

/// Returns the chain's time, or this machine's before the first view.
fn chain_time(views: &watch::Receiver<Option<Arc<ChainView>>>) -> SystemTime {
    let time_ms = views.borrow().as_ref().map_or(0, |view| view.time_ms);
    match time_ms {
        0 => SystemTime::now(),
        ms => SystemTime::UNIX_EPOCH + Duration::from_millis(ms),
    }
}

/// Completes when the sender of a watch channel is gone.
pub(crate) async fn closed<T>(mut receiver: watch::Receiver<T>) {
    while receiver.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        sync::{
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        thread,
    };

    use clap::Parser;
    use prb_core::{
        blob::memory::MemorySource,
        inventory::memory::MemoryInventory,
        primitives::{ParaNumber, RelayNumber},
        vault::DiscardVault,
    };
    use tokio::runtime;

    use super::*;
    use crate::{
        config::{Cli, Command},
        daemon::pool,
    };

    /// Starts a fleet without workers, with a node that does not answer.
    fn start(source: Arc<MemorySource>) -> FleetRuntime {
        let nobody = "ws://127.0.0.1:1";
        let words = [
            "prb",
            "all",
            "--chain-endpoint",
            nobody,
            "--parent-chain-endpoint",
            nobody,
            "--data",
            "/unused",
        ];
        let Command::All(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        let para = pool("para", &args.chain_endpoint, None).unwrap();
        let trade_queue = TradeQueue::built_in(para.clone(), Arc::new(DiscardVault), &args.sending).unwrap();
        let (inventory, chain) = (Arc::new(MemoryInventory::default()), Chain::follow(para));
        FleetRuntime::start(Parts { source, inventory, chain, trade_queue }, &args.workers).unwrap()
    }

    /// A view that keeps the heights locked while it reads the fleet never ends if they change in between.
    #[test]
    fn views_are_taken_while_the_heights_change() {
        const ENOUGH: u32 = 100_000;
        let runtime = runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let source = Arc::new(MemorySource::of_empty_blocks(1));
        let fleet = runtime.block_on(async { start(Arc::clone(&source)) });
        let counts = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        // Each goes on until both have done enough, so that they run at the same time.
        let goes_on = |mine: usize| {
            let counts = Arc::clone(&counts);
            move || {
                counts[mine].fetch_add(1, Ordering::Relaxed);
                counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH)
            }
        };
        let [changes, views] = [0, 1].map(goes_on);
        thread::spawn(move || {
            while changes() {
                source.set_targets(RelayNumber(1), ParaNumber(1));
            }
        });
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            while views() {
                fleet.view(Shown::Everything);
            }
            // Returned, so that the fleet ends before its runtime; nobody waits for it any more after a failure.
            let _ = sender.send(fleet);
        });
        let all = ended.recv_timeout(Duration::from_secs(60)).map(drop);
        // Tasks that wait for a lock do not end.
        runtime.shutdown_background();
        assert_eq!(all, Ok(()), "a view was not completed");
    }
}
