//! The task that carries decisions out.

use std::{error::Error as StdError, fmt::Write, future::pending, sync::Arc, time::Duration};

use metrics::counter;
use prost::Message;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Action, Command, Decision, Desired, Keys, Observed, Operation, Settings, Slot, Trouble, Troubles, Tuning,
    decide, egress::Egress, keys::KeyClaim, operate,
};
use crate::{
    blob::{BlobSource, Genesis, Heights},
    chain::{ChainView, WorkerOnChain},
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    pruntime::{self, Connect, PRuntime},
    queue::{self, Job, JobFailure, JobHandle, JobOutcome, JobQueue},
    sync::{self, Backoff, BackoffConfig, ByteBudget, Driver, Outcome, Position, Step, plan},
    wire::MessageOrigin,
};

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

#[derive(Clone, Copy, Debug)]
enum Ticket {
    Operation(Operation),
    Messages(u64),
}

enum JobEvent {
    Added(Ticket, Result<JobHandle, queue::Error>),
    Ended(Ticket, Result<JobOutcome, JobFailure>),
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
            let action = self.turn();
            let endpoint = self.desired.worker.endpoint.clone();
            let waits = matches!(action, Some(Action::Wait | Action::Recheck));
            let acting = self.act(action);
            tokio::pin!(acting);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = slot.commanded() => break,
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

    /// Takes in what has changed, decides, shows; gives what is to be done, `None` for a kick.
    fn turn(&mut self) -> Option<Action> {
        while let Some(event) = self.jobs.try_join_next() {
            self.job_event(event);
        }
        self.look_at_chain();
        if std::mem::take(&mut self.kick_asked) {
            return None;
        }
        let now = Instant::now();
        self.stale |= self.info.is_some() && now >= self.look_again_at();
        let observed = self.observe(now);
        let decision = decide(&self.desired, &self.ctx.settings, &observed);
        self.show(&decision, &observed);
        if decision.action != Action::Recheck && !observed.stale {
            self.recheck.reset();
        }
        Some(decision.action)
    }

    async fn act(&mut self, action: Option<Action>) {
        match action {
            None => self.kick().await,
            Some(Action::Wait) => self.wait().await,
            Some(Action::Recheck) => {
                tokio::time::sleep(self.recheck.fail()).await;
                self.stale = true;
            }
            Some(Action::Observe) => self.get_info().await,
            Some(Action::Init) => self.init().await,
            Some(Action::Sync(step)) => self.sync(step).await,
            Some(Action::Relay) => self.relay().await,
            Some(Action::Operate(operation)) => self.operate(operation).await,
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

    // --- act ---

    async fn wait(&mut self) {
        let until = self.wakes_at();
        tokio::select! {
            () = changed(&mut self.heights) => {}
            () = changed(&mut self.views) => {}
            () = changed(&mut self.genesis) => {}
            Some(event) = self.jobs.join_next() => self.job_event(event),
            () = async {
                match until {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            } => {}
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let aches = [&self.connection, &self.sync, &self.chain, &self.relay];
        let due = aches.into_iter().filter_map(|ache| ache.wakes_at(now));
        due.chain(self.info.is_some().then(|| self.look_again_at()).filter(|at| *at > now)).min()
    }

    fn look_again_at(&self) -> Instant {
        let tuning = &self.ctx.tuning;
        self.seen_at + if self.caught_up { tuning.max_silence } else { tuning.observe_interval }
    }

    fn client(&self) -> Result<PRuntime, String> {
        self.client.clone().map_err(|text| text.to_string())
    }

    async fn get_info(&mut self) {
        let answer = match self.client() {
            Ok(client) => client.info().await.map_err(|e| describe(&e)),
            Err(text) => Err(text),
        };
        match answer {
            Ok(info) => self.saw(info),
            Err(message) => {
                self.connection.fail(&message);
                self.complain(&self.connection, "worker does not answer");
                if self.connection.backoff.attempts() >= super::decide::HITCHES {
                    self.info = None;
                }
            }
        }
    }

    fn saw(&mut self, info: PhactoryInfo) {
        self.connection.heal();
        self.kicked = false;
        self.stale = false;
        self.empty = None;
        self.seen_at = Instant::now();
        self.position = Position::of(&info);
        if self.info.as_ref().is_some_and(|before| before.initialized && !info.initialized) {
            warn!(worker = %self.desired.worker.name, "worker has lost its state");
            self.caught_up = false;
        }
        let key = public_key(&info);
        if self.key != key {
            self.key = key;
            self.claim = None;
            self.twin = None;
            self.on_chain = None;
            self.benchmark_since = None;
            self.egress.reset();
        }
        self.info = Some(Arc::new(info));
        if self.claim.is_none() {
            self.claim_key();
        }
        self.egress.look_again();
    }

    async fn kick(&mut self) {
        let kicked = match self.client() {
            Ok(client) => client.kick().await.map_err(|e| describe(&e)),
            Err(text) => Err(text),
        };
        self.lose_sight();
        self.kicked = kicked.is_ok();
        match kicked {
            // It may answer once more before it exits.
            Ok(()) => self.connection.defer("Kicked", Duration::from_secs(1)),
            Err(message) => self.connection.fail(&message),
        }
    }

    async fn init(&mut self) {
        let (Some(genesis), Some(info)) = (self.genesis.borrow().clone(), self.info.clone()) else { return };
        let request =
            operate::init_request(&info, &genesis, self.desired.operator(), self.ctx.settings.dev_skip_ra);
        // Whatever comes of it, the worker's own word is what counts.
        self.stale = true;
        let client = match self.client() {
            Ok(client) => client,
            Err(text) => return self.sync.fail(&text),
        };
        let _held = self.ctx.budget.hold(request.encoded_len()).await;
        match client.init(&request).await {
            Ok(_) => {
                info!(worker = %self.desired.worker.name, "worker was initialised");
                self.sync.heal();
            }
            Err(error) => {
                self.sync.fail(&describe(&error));
                self.complain(&self.sync, "worker cannot be initialised");
            }
        }
    }

    async fn sync(&mut self, step: Step) {
        let client = match self.client() {
            Ok(client) => client,
            Err(text) => return self.sync.fail(&text),
        };
        // Until the answer is there, the position is not known: also where this call is cancelled.
        self.stale = true;
        let outcome = self.driver.step(&client, self.position, step).await;
        let kind = if matches!(step, Step::Blocks(_)) { "blocks" } else { "headers" };
        match outcome {
            Ok(Outcome::Advanced { position, bytes }) => {
                counter!("prb_sync_bytes_total", "kind" => kind).increment(bytes as u64);
                self.position = position;
                self.sync.heal();
                let heights = *self.heights.borrow();
                // At the tip: what the block brought (messages, registration) is in the info.
                self.stale = matches!(step, Step::Blocks(_))
                    && !matches!(self.next_step(&heights), Step::Blocks(_))
                    && position.lag(&heights).is_some_and(|lag| lag <= self.ctx.tuning.caught_up_within);
            }
            Ok(Outcome::NotYet) => {
                self.stale = false;
                self.empty = Some((step, *self.heights.borrow()));
            }
            Err(error) if error.is_busy() => {
                self.sync.defer(&error.to_string(), sync::busy_wait());
            }
            Err(error) => {
                counter!("prb_sync_errors_total", "kind" => kind).increment(1);
                self.stale = !error.is_source();
                self.sync.fail(&describe(&error));
                self.complain(&self.sync, "sync failed");
            }
        }
    }

    async fn relay(&mut self) {
        let (Ok(client), Some(key), Some(on_chain)) =
            (self.client(), self.claim.as_ref().map(KeyClaim::key), self.on_chain.clone())
        else {
            return;
        };
        let messages = match client.egress_messages().await {
            Ok(messages) => messages,
            Err(error) => {
                self.stale = error.is_connection();
                self.relay.fail(&describe(&error));
                return self.complain(&self.relay, "messages cannot be read");
            }
        };
        let own = messages
            .into_iter()
            .filter(|(sender, _)| *sender == MessageOrigin::Worker(key))
            .flat_map(|(_, messages)| messages)
            .collect();
        let run = self.egress.pick(on_chain.ingress_sequence, self.view_block, own);
        let Some(last) = run.last() else { return };
        let next = last.sequence + 1;
        let Some(job) = operate::message_job(&self.desired, run) else { return };
        let ticket = self.egress.submitting(next);
        self.add_job(Ticket::Messages(ticket), job);
    }

    async fn operate(&mut self, operation: Operation) {
        let Some(key) = self.claim.as_ref().map(KeyClaim::key) else { return };
        let call = match operation {
            Operation::Register => self.registration(key).await,
            _ => operate::call(operation, &self.desired, key).ok_or_else(String::new),
        };
        match call.map(|call| operate::operation_job(&self.desired, call)) {
            Ok(Some(job)) => {
                info!(worker = %self.desired.worker.name, operation = operation.name(), "sending on chain");
                self.operation = Some(operation);
                self.add_job(Ticket::Operation(operation), job);
            }
            // The operator was taken away in between: the next decision sees that.
            Ok(None) => {}
            Err(message) => {
                self.chain.fail(&message);
                self.complain(&self.chain, "worker cannot be registered");
            }
        }
    }

    async fn registration(&mut self, key: WorkerKey) -> Result<crate::chain::Call, String> {
        let operator = self.desired.operator().ok_or("the pool has no operator")?;
        let client = self.client()?;
        let request = operate::runtime_info_request(operator, self.refresh_ra);
        let answer = client.runtime_info(&request).await.map_err(|error: pruntime::Error| {
            self.stale = error.is_connection();
            describe(&error)
        })?;
        let on_chain = self.on_chain.clone().unwrap_or_default();
        operate::register(key, answer, &on_chain)
            .ok_or_else(|| "the worker gives no attestation yet: it has not validated a block".to_owned())
    }

    // --- jobs ---

    fn add_job(&mut self, ticket: Ticket, job: Job) {
        let queue = Arc::clone(&self.ctx.queue);
        self.jobs.spawn(async move { JobEvent::Added(ticket, queue.submit(job).await) });
    }

    fn job_event(&mut self, event: Result<JobEvent, JoinError>) {
        match event {
            Ok(JobEvent::Added(ticket, Ok(handle))) => {
                if let Ticket::Messages(_) = ticket {
                    self.egress.submitted();
                }
                debug!(worker = %self.desired.worker.name, job = %handle.id, ?ticket, "job added");
                self.jobs.spawn(async move { JobEvent::Ended(ticket, handle.outcome().await) });
            }
            Ok(JobEvent::Added(Ticket::Messages(ticket), Err(error))) => {
                self.egress.not_submitted(ticket);
                self.relay_failed(&describe(&error));
            }
            Ok(JobEvent::Added(Ticket::Operation(operation), Err(error))) => {
                self.operation = None;
                self.operation_failed(operation, &describe(&error));
            }
            Ok(JobEvent::Ended(Ticket::Messages(ticket), result)) => {
                match self.egress.ended(ticket, &result, self.view_block) {
                    None => self.relay.heal(),
                    Some(error) => self.relay_failed(&error),
                }
            }
            Ok(JobEvent::Ended(Ticket::Operation(operation), result)) => {
                self.operation = None;
                self.operation_ended(operation, result);
            }
            // These tasks only wait for the queue; a panic there is the queue's.
            Err(error) => {
                warn!(worker = %self.desired.worker.name, %error, "the queue failed");
                self.forget_jobs();
            }
        }
    }

    /// Which job is lost is not known: their effects are read from the chain.
    fn forget_jobs(&mut self) {
        self.jobs.abort_all();
        self.jobs = JoinSet::new();
        self.operation = None;
        self.egress = Egress::default();
        self.settling = Some(self.view_block.next());
        self.chain.fail("The job queue failed");
        self.relay.fail("The job queue failed");
    }

    fn operation_ended(&mut self, operation: Operation, result: Result<JobOutcome, JobFailure>) {
        match result {
            Ok(outcome) => {
                self.settling = Some(outcome.block);
                match outcome.calls.iter().find_map(|call| call.error()) {
                    Some(error) => self.operation_failed(operation, error),
                    None => self.operation_done(operation, outcome.block),
                }
            }
            Err(failure) => {
                // It may have landed all the same: only a newer view tells.
                self.settling = Some(self.view_block.next());
                self.operation_failed(operation, &failure.message);
            }
        }
    }

    fn operation_done(&mut self, operation: Operation, block: ParaNumber) {
        count_operation(operation, "done");
        info!(worker = %self.desired.worker.name, operation = operation.name(), %block, "done on chain");
        self.chain.heal();
        if operation == Operation::Register {
            self.refresh_ra = false;
            self.benchmark_since = Some(block);
        }
    }

    fn operation_failed(&mut self, operation: Operation, error: &str) {
        count_operation(operation, "failed");
        self.chain.fail(&format!("{} failed: {error}", in_words(operation)));
        self.complain(&self.chain, "an operation on chain failed");
    }

    fn relay_failed(&mut self, error: &str) {
        self.relay.fail(&format!("Sending its messages failed: {error}"));
        self.complain(&self.relay, "messages were not sent");
    }

    /// Logs the first of several failures in a row, and every tenth.
    fn complain(&self, ache: &Ache, what: &str) {
        let attempts = ache.backoff.attempts();
        let (worker, message) = (&self.desired.worker.name, ache.message.as_deref().unwrap_or_default());
        if attempts % 10 == 1 {
            warn!(%worker, attempts, "{what}: {message}");
        } else {
            debug!(%worker, attempts, "{what}: {message}");
        }
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

/// Waits for a change; for ever where there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// An error and its causes in one line.
fn describe(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat their source.
        if !text.ends_with(&next) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

const fn in_words(operation: Operation) -> &'static str {
    match operation {
        Operation::Register => "Registering worker",
        Operation::AddToPool => "Adding worker to its pool",
        Operation::Start(_) => "Starting computing",
        Operation::RaiseStake(_) => "Raising its stake",
        Operation::Reclaim => "Reclaiming its stake",
    }
}

fn count_operation(operation: Operation, outcome: &'static str) {
    counter!("prb_worker_operations_total", "operation" => operation.name(), "outcome" => outcome)
        .increment(1);
}
