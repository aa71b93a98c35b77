//! The task that carries decisions out.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Action, Command, Decision, Desired, Keys, Observed, Operation, Settings, Slot, Trouble, Troubles, Tuning,
    decide, egress::Egress, keys::KeyClaim,
};
use crate::{
    blob::{BlobSource, Genesis, Heights},
    chain::{ChainView, WorkerOnChain},
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    pruntime::{Connect, PRuntime},
    queue::JobQueue,
    sync::{Backoff, BackoffConfig, ByteBudget, Driver, Position, Step, plan},
};

mod act;
mod jobs;

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

/// Something that fails, since when, and when it is tried again.
struct Ache {
    backoff: Backoff,
    message: Option<Arc<str>>,
    due: Instant,
}

impl Ache {
    fn new(config: BackoffConfig) -> Self {
        Self { backoff: Backoff::new(config), message: None, due: Instant::now() }
    }

    fn fail(&mut self, message: &str) {
        self.due = Instant::now() + self.backoff.fail();
        self.message = Some(message.into());
    }

    /// To be tried again soon, without counting as a failure.
    fn defer(&mut self, message: &str, wait: Duration) {
        self.due = Instant::now() + wait;
        self.message = Some(message.into());
    }

    fn heal(&mut self) {
        self.backoff.reset();
        self.message = None;
    }

    fn trouble(&self, now: Instant) -> Option<Trouble> {
        let message = Arc::clone(self.message.as_ref()?);
        Some(Trouble { message, attempts: self.backoff.attempts(), due: self.due <= now })
    }

    /// When it is due, if that is to come.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        (self.message.is_some() && self.due > now).then_some(self.due)
    }
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

    // --- what comes from outside ---

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

    fn look_at_chain(&mut self) {
        let Some(key) = self.claim.as_ref().map(KeyClaim::key) else {
            self.claim_key();
            return;
        };
        let (block, found) = {
            let view = self.views.borrow_and_update();
            let Some(view) = view.as_ref() else { return };
            (view.block, view.workers.get(&key).cloned())
        };
        self.view_block = block;
        if self.settling.is_some_and(|settling| block >= settling) {
            self.settling = None;
        }
        let Some(found) = found else { return };
        if self.on_chain.as_ref().is_some_and(|known| has_moved(known, &found)) {
            // Another situation: what failed in the last one may succeed in this.
            self.chain.heal();
        }
        self.note_benchmark(&found);
        self.on_chain = Some(found);
    }

    /// A worker without a sufficient score is given one benchmark's time before it registers again.
    fn note_benchmark(&mut self, found: &WorkerOnChain) {
        if found.registration.is_none() {
            self.benchmark_since = None;
        } else if self.benchmark_since.is_none() {
            self.benchmark_since = Some(self.view_block);
        }
    }

    fn claim_key(&mut self) {
        let Some(key) = self.info.as_deref().and_then(public_key) else { return };
        let worker = &self.desired.worker;
        match self.ctx.keys.claim(key, worker.id, &worker.name) {
            Ok(claim) => {
                self.claim = Some(claim);
                self.twin = None;
            }
            Err(holder) => {
                if self.twin.is_none() {
                    warn!(worker = %worker.name, %holder, %key, "two workers have the same public key");
                }
                self.twin = Some(holder);
            }
        }
    }

    // --- observe, show ---

    fn observe(&mut self, now: Instant) -> Observed {
        let heights = *self.heights.borrow_and_update();
        let lag = self.position.lag(&heights);
        if self.info.as_ref().is_some_and(|info| info.initialized) {
            let tuning = &self.ctx.tuning;
            let within = if self.caught_up { tuning.behind_after } else { tuning.caught_up_within };
            self.caught_up = lag.is_some_and(|lag| lag <= within);
        }
        let (cool_down_period_secs, benchmark_blocks) =
            self.views.borrow().as_ref().map_or((0, 0), |v| (v.cool_down_period_secs, v.benchmark_blocks));
        let relay_genesis = self.genesis.borrow_and_update().as_ref().map(|g| g.relay_hash);
        let unsent = self.info.as_ref().is_some_and(|info| info.pending_messages > 0);
        Observed {
            info: self.info.clone(),
            stale: self.stale,
            position: self.position,
            heights,
            relay_genesis,
            step: self.next_step(&heights),
            caught_up: self.caught_up,
            chain: self.on_chain.clone(),
            chain_problem: if self.on_chain.is_none() { self.ctx.keys.problem() } else { None },
            settling: self.settling,
            cool_down_period_secs,
            benchmark_running: self.benchmark_runs(benchmark_blocks),
            job: self.operation,
            unsent_messages: unsent && self.on_chain.is_some() && self.egress.is_open(self.view_block),
            refresh_ra: self.refresh_ra,
            kicked: self.kicked,
            twin: self.twin.clone(),
            troubles: Troubles {
                connection: self.connection.trouble(now),
                sync: self.sync.trouble(now),
                chain: self.chain.trouble(now),
                relay: self.relay.trouble(now),
            },
        }
    }

    fn next_step(&self, heights: &Heights) -> Step {
        let step = plan(self.position, heights, &self.ctx.tuning.limits);
        if self.empty == Some((step, *heights)) { Step::Wait } else { step }
    }

    fn benchmark_runs(&self, benchmark_blocks: u32) -> bool {
        /// For the report's way to the chain, and its score's way back.
        const ON_THE_WAY: u32 = 20;
        let wait = benchmark_blocks.saturating_mul(2).saturating_add(ON_THE_WAY);
        self.benchmark_since.is_none_or(|since| self.view_block.0 < since.0.saturating_add(wait))
    }

    fn show(&self, decision: &Decision, observed: &Observed) {
        let before = self.slot.status();
        let position = self.info.is_some().then_some(self.position);
        let info = self.info.as_ref().or(before.info.as_ref());
        let failures = self.connection.backoff.attempts().max(self.sync.backoff.attempts());
        let lag = position.and_then(|p| p.lag(&observed.heights));
        let same = before.state == decision.state
            && before.message == decision.message
            && before.position == position
            && before.lag == lag
            && before.failures == failures
            && before.runner == Some(self.runner)
            && before.info.as_ref().map(Arc::as_ptr) == info.map(Arc::as_ptr)
            && before.chain.as_ref().map(Arc::as_ptr) == self.on_chain.as_ref().map(Arc::as_ptr);
        if same {
            return;
        }
        if before.state != decision.state {
            let worker = &self.desired.worker.name;
            info!(%worker, state = %decision.state, before = %before.state, "{}", decision.message);
        }
        self.slot.update(|status| {
            status.runner = Some(self.runner);
            status.state = decision.state;
            status.message = Arc::clone(&decision.message);
            status.position = position;
            status.lag = lag;
            status.public_key = info.and_then(|i| public_key(i));
            status.info = info.cloned();
            status.chain = self.on_chain.clone();
            status.failures = failures;
        });
    }
}

fn connect(ctx: &Context, desired: &Desired) -> Result<PRuntime, Arc<str>> {
    ctx.connect.connect(&desired.worker.endpoint).map(PRuntime::new).map_err(Arc::from)
}

fn public_key(info: &PhactoryInfo) -> Option<WorkerKey> {
    info.public_key.as_ref().filter(|_| info.initialized)?.parse().ok()
}

/// Whether the worker's standing on chain has changed; its sequence and its rewards do not count.
fn has_moved(before: &Arc<WorkerOnChain>, after: &Arc<WorkerOnChain>) -> bool {
    if Arc::ptr_eq(before, after) {
        return false;
    }
    let session = |w: &WorkerOnChain| w.session.as_ref().map(|s| (s.state, s.stake));
    before.registration != after.registration
        || before.pool != after.pool
        || session(before) != session(after)
}
