//! A supervisor that follows the inventory and keeps one task running per worker.
//!
//! Workers are distributed over runners, shards of a bounded number of workers. A worker that panics is
//! restarted with backoff and affects no other; edits of the inventory apply at once; shutdown is bounded in
//! time.
//!
//! Not for: the reconciliation of one worker (see [`crate::worker`]), or edits (see [`crate::inventory`]).

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use metrics::{describe_counter, describe_gauge};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;
use uuid::Uuid;

use crate::{
    attestation::CollateralSource,
    blob::BlobSource,
    chain::ChainReader,
    inventory::Inventory,
    pruntime::Connect,
    queue::JobQueue,
    sync::{self, Driver, TransferBudget, TransferLimits},
    worker::{
        Context, JobDriver, Keys, LineLimit, NodeBehind, Saver, Settings, Slot, StakeQueue, State, Tuning,
        Views, preview,
    },
};

mod genesis;
mod receipt;
mod runner;
mod supervisor;
mod watchdog;

pub use receipt::{NotStored, Receipt};

pub use crate::worker::{Command, Event, WorkerStatus};

/// The components of a fleet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Parts {
    /// The pools and workers.
    pub inventory: Arc<dyn Inventory>,
    /// Chain data for workers. Put a cache in front: workers at one cursor then share one fetch.
    pub source: Arc<dyn BlobSource>,
    /// On-chain state of the workers.
    pub chain: Arc<dyn ChainReader>,
    /// The queue for on-chain operations and messages.
    pub queue: Arc<dyn JobQueue>,
    /// Connects to workers.
    pub connect: Arc<dyn Connect>,
    /// The source of collateral for DCAP quotes; without it, workers that attest by DCAP are not registered.
    pub collateral: Option<Arc<dyn CollateralSource>>,
}

impl Parts {
    /// Creates the parts, without a source of collateral.
    pub fn new(
        inventory: Arc<dyn Inventory>,
        source: Arc<dyn BlobSource>,
        chain: Arc<dyn ChainReader>,
        queue: Arc<dyn JobQueue>,
        connect: Arc<dyn Connect>,
    ) -> Self {
        Self { inventory, source, chain, queue, connect, collateral: None }
    }

    /// Adds a source of collateral.
    #[must_use]
    pub fn with_collateral(mut self, collateral: Arc<dyn CollateralSource>) -> Self {
        self.collateral = Some(collateral);
        self
    }
}

/// Limits and settings of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Maximum workers per runner. Default: 150.
    pub max_workers_per_runner: usize,
    /// Maximum workers that run; further ones, in the order of their names, stay idle. Default: 10,000.
    pub max_workers: usize,
    /// Maximum bytes of chain data in flight to all workers together. Default: 512 MiB.
    pub in_flight_bytes: usize,
    /// Time without progress after which a worker counts as stalled, if there is data for it. Default: 2 minutes.
    pub stall_after: Duration,
    /// Interval of the check for stalled workers. Default: 10 s.
    pub watchdog_interval: Duration,
    /// How long [`Fleet::stop`] waits for tasks before it abandons them. Default: 5 s.
    pub stop_timeout: Duration,
    /// Whether views of the chain may be older than those that stored records were decided with, because the chain was
    /// set back for good. Default: `false`.
    pub chain_set_back: bool,
    /// Settings that apply to every worker. Default: those of [`Settings`].
    pub settings: Settings,
    /// Backoffs, intervals and size limits of every worker's task. Default: those of [`Tuning`].
    pub tuning: Tuning,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_workers_per_runner: 150,
            max_workers: 10_000,
            in_flight_bytes: 512 * 1024 * 1024,
            stall_after: Duration::from_secs(120),
            watchdog_interval: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            chain_set_back: false,
            settings: Settings::default(),
            tuning: Tuning::default(),
        }
    }
}

/// Why a command was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No worker has that id.
    #[error("there is no worker {id}")]
    Unknown {
        /// The id.
        id: Uuid,
    },
    /// The worker, or its pool, is disabled or missing.
    #[error("worker {name} does not run: {reason}")]
    NotRunning {
        /// The worker's name.
        name: String,
        /// Why it does not run.
        reason: String,
    },
    /// The worker is not in a state in which the command makes sense.
    #[error("worker {name} cannot {command}: {reason}")]
    NotNow {
        /// The worker's name.
        name: String,
        /// The command.
        command: Command,
        /// Why it is rejected.
        reason: String,
    },
    /// The fleet has stopped.
    #[error("the fleet has stopped")]
    Stopped,
}

/// A snapshot of all workers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FleetStatus {
    /// Revision of the status; comparable with [`Fleet::changes`].
    pub revision: u64,
    /// The workers, by name.
    pub workers: Vec<Arc<WorkerStatus>>,
    /// The number of runners.
    pub runners: usize,
    /// Whether the newest view of the chain is older than one that the fleet has acted on: nothing is sent on chain
    /// then.
    pub node_behind: Option<NodeBehind>,
}

impl FleetStatus {
    /// Returns the number of workers in a state.
    pub fn count(&self, state: State) -> usize {
        self.workers.iter().filter(|w| w.state == state).count()
    }
}

/// The slots, in the inventory's order and by id.
#[derive(Debug, Default)]
struct Registry {
    slots: Vec<Arc<Slot>>,
    by_id: HashMap<Uuid, Arc<Slot>>,
    runners: usize,
}

#[derive(Debug)]
struct Shared {
    registry: RwLock<Arc<Registry>>,
    changes: watch::Sender<u64>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    stop_timeout: Duration,
    saver: Arc<Saver>,
    views: Arc<Views>,
}

/// A running fleet. Clones share it; it stops when the last one is dropped.
///
/// ```
/// use std::sync::Arc;
/// use prb_core::{
///     blob::{cache::{self, CachedSource}, memory::MemorySource},
///     chain::memory::{self, MemoryChain},
///     fleet::{Config, Fleet, Parts},
///     inventory::memory::MemoryInventory,
///     pruntime::scripted::ScriptedConnect,
///     queue::memory::MemoryQueue,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // Any of the parts may be a type of yours.
/// let source = Arc::new(CachedSource::new(Arc::new(MemorySource::of_empty_blocks(3)), cache::Config::default()));
/// let chain = Arc::new(MemoryChain::new(memory::Config::default()));
/// let (inventory, connect) = (Arc::new(MemoryInventory::default()), Arc::new(ScriptedConnect::default()));
/// let parts = Parts::new(inventory, source, chain, Arc::new(MemoryQueue::default()), connect);
/// let fleet = Fleet::start(parts, Config::default().with_max_workers(100));
/// let mut changes = fleet.changes();
/// assert!(fleet.status().workers.is_empty());
/// # changes.borrow_and_update();
/// assert!(fleet.stop().await, "all tasks ended in time");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

impl Fleet {
    /// Starts a fleet.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: its tasks run on the one that it is started in.
    pub fn start(parts: Parts, config: Config) -> Self {
        describe_metrics();
        let cancel = CancellationToken::new();
        let saver = Arc::new(Saver::new(Arc::clone(&parts.inventory)));
        let views = Arc::new(Views::new(parts.chain.views(), parts.source.heights()));
        let shared = Arc::new(Shared {
            registry: RwLock::default(),
            changes: watch::Sender::new(0),
            cancel: cancel.clone(),
            tasks: TaskTracker::new(),
            stop_timeout: config.stop_timeout,
            saver: Arc::clone(&saver),
            views: Arc::clone(&views),
        });
        let (genesis, genesis_seen) = watch::channel(None);
        let budget = TransferBudget::new(TransferLimits::new(config.in_flight_bytes));
        let snapshots = parts.inventory.snapshots();
        let context = Arc::new(Context {
            views,
            keys: Arc::new(Keys::new(parts.chain)),
            stakes: StakeQueue::default(),
            saver,
            lines: LineLimit::default(),
            driver: Driver::new(Arc::clone(&parts.source), budget),
            source: parts.source,
            jobs: Arc::new(JobDriver::new(parts.queue, config.tuning.job_timeout, cancel.clone())),
            connect: parts.connect,
            collateral: parts.collateral,
            genesis: genesis_seen,
            settings: config.settings,
            tuning: config.tuning,
        });
        let supervisor = supervisor::Supervisor::new(Arc::clone(&shared), context, genesis, config);
        shared.tasks.spawn(supervisor.run(snapshots));
        // `TaskTracker::wait` only returns once the tracker is closed. All other tasks are the supervisor's
        // children.
        shared.tasks.close();
        Self { shared, _stop: Arc::new(cancel.drop_guard()) }
    }

    /// Returns the status of all workers. Costs one pointer copy per worker.
    pub fn status(&self) -> FleetStatus {
        // The revision is read first: a change in between is reported again rather than missed.
        let revision = *self.shared.changes.borrow();
        let registry = self.shared.registry();
        FleetStatus {
            revision,
            workers: registry.slots.iter().map(|slot| slot.status()).collect(),
            runners: registry.runners,
            node_behind: self.shared.views.node_behind(),
        }
    }

    /// Returns the status of one worker.
    pub fn worker(&self, id: Uuid) -> Option<Arc<WorkerStatus>> {
        Some(self.shared.registry().by_id.get(&id)?.status())
    }

    /// A revision number that increases with every change of any worker's status.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Gives a command to a running worker. Returns before it is carried out, with a description of what will
    /// happen.
    ///
    /// Commands queued for a worker are executed in the order in which they were last given. The worker's new goal is
    /// stored a moment later: if the process is killed before, it is lost. [`Self::command_with_receipt`] tells when.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn command(&self, id: Uuid, command: Command) -> Result<String, CommandError> {
        self.command_with_receipt(id, command).map(|(answer, _)| answer)
    }

    /// As [`command`](Self::command); the receipt resolves once the inventory has stored the worker's new goal or key.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn command_with_receipt(
        &self,
        id: Uuid,
        command: Command,
    ) -> Result<(String, Receipt), CommandError> {
        if self.shared.cancel.is_cancelled() {
            return Err(CommandError::Stopped);
        }
        let registry = self.shared.registry();
        let slot = registry.by_id.get(&id).ok_or(CommandError::Unknown { id })?;
        let desired = slot.desired();
        if let Some(reason) = slot.idle_reason() {
            let (name, reason) = (desired.worker.name.clone(), reason.to_string());
            return Err(CommandError::NotRunning { name, reason });
        }
        let name = || desired.worker.name.clone();
        // Before the command is queued: its effect on the status must not be described as the present.
        let answer = preview(command, &slot.status()).map_err(|reason| CommandError::NotNow {
            name: name(),
            command,
            reason,
        })?;
        let given = slot.command(command);
        // It may have come too late for the worker's task to persist it.
        if self.shared.cancel.is_cancelled() {
            return Err(CommandError::Stopped);
        }
        let saver = &self.shared.saver;
        Ok((answer, if command.is_stored() { Receipt::new(slot, given, saver) } else { Receipt::nothing() }))
    }

    /// Describes what a command would do to a worker, without giving it.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn preview(&self, id: Uuid, command: Command) -> Result<String, CommandError> {
        let registry = self.shared.registry();
        let slot = registry.by_id.get(&id).ok_or(CommandError::Unknown { id })?;
        let name = slot.desired().worker.name.clone();
        if let Some(reason) = slot.idle_reason() {
            return Err(CommandError::NotRunning { name, reason: reason.to_string() });
        }
        preview(command, &slot.status()).map_err(|reason| CommandError::NotNow { name, command, reason })
    }

    /// Returns the events of a worker, oldest first: at most the last
    /// [`MAX_EVENTS`](crate::worker::MAX_EVENTS) since the fleet started. `None` if there is no such worker.
    pub fn events(&self, id: Uuid) -> Option<Vec<Event>> {
        Some(self.shared.registry().by_id.get(&id)?.events())
    }

    /// Resolves when the fleet has ended: because it was stopped, or because the supervisor failed.
    pub async fn ended(&self) {
        self.shared.tasks.wait().await;
    }

    /// Stops all tasks and waits for them, at most for [`Config::stop_timeout`]. Calls in flight are dropped.
    /// Returns whether all tasks have ended.
    pub async fn stop(&self) -> bool {
        self.shared.cancel.cancel();
        let ended = tokio::time::timeout(self.shared.stop_timeout, self.shared.tasks.wait()).await.is_ok();
        if !ended {
            warn!("the fleet did not stop in time; its tasks are abandoned");
        }
        ended
    }
}

impl Shared {
    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_registry(&self, registry: Registry) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        self.changes.send_modify(|revision| *revision += 1);
    }
}

fn describe_metrics() {
    describe_gauge!("prb_worker_state", "Workers by state");
    describe_gauge!("prb_worker_reason", "Workers by the reason of their state");
    describe_gauge!("prb_worker_stalled", "Workers without progress although there is data for them");
    sync::describe_metrics();
    describe_counter!("prb_worker_operations_total", "Operations on chain by kind and outcome");
    describe_counter!("prb_worker_panics_total", "Worker tasks that panicked and were restarted");
    // From the start: `increase` does not see a series that begins with 1.
    metrics::counter!("prb_worker_panics_total").increment(0);
}
