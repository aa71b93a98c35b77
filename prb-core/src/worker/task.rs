//! The task that carries decisions out.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Action, Command, Desired, Keys, Operation, Settings, Slot, Tuning, decide, egress::Egress, keys::KeyClaim,
};
use crate::{
    blob::{BlobSource, Genesis, Heights},
    chain::{ChainView, WorkerOnChain},
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    pruntime::{Connect, PRuntime},
    queue::JobQueue,
    sync::{Backoff, ByteBudget, Driver, Position, Step},
};

mod ache;
mod act;
mod jobs;
mod look;

use ache::Ache;
use jobs::{JobEvent, Ticket};

/// What all workers of a fleet share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) views: watch::Receiver<Option<Arc<ChainView>>>,
    pub(crate) queue: Arc<dyn JobQueue>,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) genesis: watch::Receiver<Option<Arc<Genesis>>>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) budget: ByteBudget,
    pub(crate) settings: Settings,
    pub(crate) tuning: Tuning,
}

/// What a turn comes to: a decision, or what was commanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Act(Action),
    Kick,
    Checkpoint,
}

/// One worker's task.
pub(crate) struct Task {
    ctx: Arc<Context>,
    slot: Arc<Slot>,
    runner: usize,
    desired: Arc<Desired>,
    client: Result<PRuntime, Arc<str>>,
    driver: Driver,
    heights: watch::Receiver<Heights>,
    views: watch::Receiver<Option<Arc<ChainView>>>,
    genesis: watch::Receiver<Option<Arc<Genesis>>>,

    info: Option<Arc<PhactoryInfo>>,
    seen_at: Instant,
    stale: bool,
    position: Position,
    /// A step that the source had nothing for, at those heights.
    empty: Option<(Step, Heights)>,
    caught_up: bool,
    kicked: bool,
    kick_asked: bool,
    checkpoint_asked: bool,
    key: Option<WorkerKey>,
    claim: Option<KeyClaim>,
    twin: Option<Arc<str>>,

    on_chain: Option<Arc<WorkerOnChain>>,
    chain_problem: Option<Arc<str>>,
    view_block: ParaNumber,
    settling: Option<ParaNumber>,
    benchmark_since: Option<ParaNumber>,
    refresh_ra: bool,
    operation: Option<Operation>,
    egress: Egress,
    jobs: JoinSet<JobEvent>,

    connection: Ache,
    sync: Ache,
    chain: Ache,
    relay: Ache,
    recheck: Backoff,
}

impl Task {
    pub(crate) fn new(ctx: Arc<Context>, slot: Arc<Slot>, runner: usize) -> Self {
        let desired = slot.desired();
        let tuning = &ctx.tuning;
        let driver = Driver::new(Arc::clone(&ctx.source), ctx.budget.clone(), tuning.max_batch_bytes);
        Self {
            client: connect(&ctx, &desired),
            heights: driver.heights(),
            views: ctx.views.clone(),
            genesis: ctx.genesis.clone(),
            driver,
            desired,
            slot,
            runner,
            info: None,
            seen_at: Instant::now(),
            stale: false,
            position: Position::default(),
            empty: None,
            caught_up: false,
            kicked: false,
            kick_asked: false,
            checkpoint_asked: false,
            key: None,
            claim: None,
            twin: None,
            on_chain: None,
            chain_problem: None,
            view_block: ParaNumber(0),
            settling: None,
            benchmark_since: None,
            refresh_ra: false,
            operation: None,
            egress: Egress::default(),
            jobs: JoinSet::new(),
            connection: Ache::new(tuning.connection_backoff),
            sync: Ache::new(tuning.sync_backoff),
            chain: Ache::new(tuning.chain_backoff),
            relay: Ache::new(tuning.chain_backoff),
            recheck: Backoff::new(tuning.connection_backoff),
            ctx,
        }
    }

    /// Runs until cancelled. A call under way is dropped then.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let slot = Arc::clone(&self.slot);
        let mut edits = slot.edits();
        loop {
            let desired = Arc::clone(&edits.borrow_and_update());
            self.edited(desired);
            for command in slot.take_commands() {
                self.commanded(command);
            }
            let errand = self.turn();
            let endpoint = self.desired.worker.endpoint.clone();
            let waits = matches!(errand, Errand::Act(Action::Wait | Action::Recheck));
            // Dropped, these would be lost; and a kick while a checkpoint is being written would spoil it.
            let whole = matches!(errand, Errand::Kick | Errand::Checkpoint);
            let acting = self.act(errand);
            tokio::pin!(acting);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = slot.commanded(), if !whole => break,
                    Ok(()) = edits.changed() => {
                        if waits || edits.borrow().worker.endpoint != endpoint {
                            break;
                        }
                    }
                    () = &mut acting => break,
                }
            }
        }
    }

    /// Takes in what has changed, decides, shows; gives what is to be done.
    fn turn(&mut self) -> Errand {
        while let Some(event) = self.jobs.try_join_next() {
            self.job_event(event);
        }
        self.look_at_chain();
        // The checkpoint first: with both, the worker is to come back from it.
        if std::mem::take(&mut self.checkpoint_asked) {
            return Errand::Checkpoint;
        }
        if std::mem::take(&mut self.kick_asked) {
            return Errand::Kick;
        }
        let now = Instant::now();
        self.stale |= self.info.is_some() && now >= self.look_again_at();
        let observed = self.observe(now);
        let decision = decide(&self.desired, &self.ctx.settings, &observed);
        self.show(&decision, &observed);
        if decision.action != Action::Recheck && !observed.stale {
            self.recheck.reset();
        }
        Errand::Act(decision.action)
    }

    async fn act(&mut self, errand: Errand) {
        match errand {
            Errand::Kick => self.kick().await,
            Errand::Checkpoint => self.checkpoint().await,
            Errand::Act(Action::Wait) => self.wait().await,
            Errand::Act(Action::Recheck) => {
                tokio::time::sleep(self.recheck.fail()).await;
                self.stale = true;
            }
            Errand::Act(Action::Observe) => self.get_info().await,
            Errand::Act(Action::Init) => self.init().await,
            Errand::Act(Action::Sync(step)) => self.sync(step).await,
            Errand::Act(Action::Relay) => self.relay().await,
            Errand::Act(Action::Operate(operation)) => self.operate(operation).await,
        }
    }

    fn edited(&mut self, desired: Arc<Desired>) {
        if desired == self.desired {
            return;
        }
        info!(worker = %desired.worker.name, "worker was edited");
        if desired.worker.endpoint != self.desired.worker.endpoint {
            self.client = connect(&self.ctx, &desired);
            self.lose_sight();
        }
        if desired.worker.pid != self.desired.worker.pid {
            self.benchmark_since = None;
        }
        self.desired = desired;
        self.chain.heal();
        self.relay.heal();
        self.egress.look_again();
    }

    fn commanded(&mut self, command: Command) {
        info!(worker = %self.desired.worker.name, ?command, "worker was commanded");
        match command {
            Command::Kick => self.kick_asked = true,
            Command::Checkpoint => self.checkpoint_asked = true,
            Command::Restart => self.restart(),
            Command::RefreshRaAndRestart => {
                self.refresh_ra = true;
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        self.client = connect(&self.ctx, &self.desired);
        self.lose_sight();
        for ache in [&mut self.connection, &mut self.sync, &mut self.chain, &mut self.relay] {
            ache.heal();
        }
        self.egress.look_again();
    }

    /// Forgets what the worker said. Jobs that are under way stay so.
    fn lose_sight(&mut self) {
        self.info = None;
        self.caught_up = false;
        self.stale = false;
        self.empty = None;
        self.claim = None;
        self.twin = None;
        self.on_chain = None;
        self.connection.heal();
        self.sync.heal();
    }
}

fn connect(ctx: &Context, desired: &Desired) -> Result<PRuntime, Arc<str>> {
    ctx.connect.connect(&desired.worker.endpoint).map(PRuntime::new).map_err(|e| act::describe(&e).into())
}
