//! [`Task`]: runs one worker's reconciliation loop.
//!
//! One loop applies changes, decides, updates the status, and starts the action decided on. Calls to the
//! worker, a sync step, the preparation of a transaction and jobs run concurrently: none waits for another.

use std::{sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Action, Command, Desired, EventKind, Grant, JobDriver, Keys, NodeBehind, Observed, Operation, Settings,
    Slot, StakeQueue, Tuning, Views, decide, key_registry::Interest, line_limit::LineLimit, requests::Basis,
    saver::Saver,
};
use crate::{
    attestation::{CollateralSource, RegistrationRequest},
    blob::{BlobSource, Genesis, Heights},
    chain::ChainView,
    inventory::FleetRecord,
    pruntime::Connect,
    sync::{Driver, Step},
};

mod calls;
mod connection;
mod failures;
mod identity;
mod jobs;
mod observe;
mod on_chain;
mod operations;
mod registration_quota;
mod relay;
mod resume;
mod syncing;
mod withdrawal;

use calls::Call;
use connection::Connection;
use failures::FailureTracker;
use identity::Identity;
use jobs::Jobs;
use on_chain::OnChain;
use operations::Prepared;
use registration_quota::RegistrationQuota;
use relay::Relay;
use syncing::Syncing;

/// Resources that all workers of a fleet share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) driver: Driver,
    pub(crate) views: Arc<Views>,
    pub(crate) jobs: Arc<JobDriver>,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) collateral: Option<Arc<dyn CollateralSource>>,
    pub(crate) genesis: watch::Receiver<Option<Arc<Genesis>>>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) stakes: StakeQueue,
    pub(crate) saver: Arc<Saver>,
    pub(crate) lines: LineLimit,
    pub(crate) settings: Settings,
    pub(crate) tuning: Tuning,
}

/// One worker's task.
pub(crate) struct Task {
    ctx: Arc<Context>,
    slot: Arc<Slot>,
    runner: usize,
    desired: Arc<Desired>,
    heights: watch::Receiver<Heights>,
    views: watch::Receiver<Option<Arc<ChainView>>>,
    /// The newest view that may be acted on.
    view: Option<Arc<ChainView>>,
    /// Whether a view is too old to be acted on.
    node_behind: Option<NodeBehind>,
    genesis: watch::Receiver<Option<Arc<Genesis>>>,

    connection: Connection,
    identity: Identity,
    sync: Syncing,
    init_failures: FailureTracker,
    on_chain: OnChain,
    relay: Relay,
    jobs: Jobs,

    /// The call to the worker in flight, besides syncing.
    call: Option<Call>,
    kick_requested: bool,
    checkpoint_requested: bool,
    /// [`Decision::on_the_way`] of the last decision.
    on_the_way: bool,
    /// The operation in flight: being prepared, or with the trader.
    operation: Option<Operation>,
    /// The configuration that it is for.
    basis: Option<Basis>,
    /// The transaction being prepared with data from the worker.
    preparing: Option<BoxFuture<'static, Prepared>>,
    /// When its preparation began.
    preparing_since: SystemTime,
    refresh_ra: bool,
    registration_quota: RegistrationQuota,
    /// Whether the registration that is prepared or sent replaces another operator's.
    takes_over: bool,
    /// The registration request, kept across the attempts that it takes.
    registration: Option<RegistrationRequest>,
    /// Whether an operation that is recorded as sent may have been sent before the one in flight.
    earlier_sent: bool,
    /// The record to persist; persisted once `slot.saved()` equals it.
    saved: FleetRecord,
}

/// Why the loop woke up.
enum Wake {
    Cancelled,
    Changed,
    Edited,
    Call(calls::Answer),
    Sync(Box<crate::sync::StepResult>),
    Prepared(Box<Prepared>),
    Job(jobs::JobEvent),
}

impl Task {
    pub(crate) fn new(ctx: Arc<Context>, slot: Arc<Slot>, runner: usize) -> Self {
        let desired = slot.desired();
        let tuning = &ctx.tuning;
        // Not only the stored one: a task that restarts after a panic must not revert a queued change.
        let saved = ctx.saver.newest(slot.id(), slot.saved());
        Self {
            heights: ctx.driver.heights(),
            views: ctx.views.changes(),
            view: None,
            node_behind: None,
            genesis: ctx.genesis.clone(),
            connection: Connection::new(&ctx, &desired),
            identity: Identity::default(),
            sync: Syncing::new(ctx.driver.clone(), tuning),
            init_failures: FailureTracker::new(tuning.connection_backoff),
            on_chain: OnChain::new(tuning.chain_backoff),
            relay: Relay::new(tuning.chain_backoff),
            jobs: Jobs::new(Arc::clone(&ctx.jobs)),
            call: None,
            kick_requested: false,
            checkpoint_requested: false,
            on_the_way: true,
            operation: None,
            basis: None,
            preparing: None,
            preparing_since: SystemTime::now(),
            refresh_ra: false,
            registration_quota: RegistrationQuota::default(),
            takes_over: false,
            registration: None,
            earlier_sent: saved.sent.is_some(),
            saved,
            desired,
            slot,
            runner,
            ctx,
        }
    }

    /// Runs until cancelled. Calls in flight are dropped then.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let slot = Arc::clone(&self.slot);
        let mut edits = slot.edits();
        loop {
            let desired = Arc::clone(&edits.borrow_and_update());
            self.edited(desired);
            // A command that drops the call in flight would corrupt a checkpoint being written.
            if !self.must_finish_call() {
                self.take_commands(Self::commanded);
            }
            self.reconcile();
            let until = self.wakes_at();
            let wake = tokio::select! {
                // In this order: cancellation and commands take precedence over everything else.
                biased;
                () = cancel.cancelled() => Wake::Cancelled,
                () = slot.woken() => Wake::Changed,
                Ok(()) = edits.changed() => Wake::Edited,
                answer = calls::next(&mut self.call) => Wake::Call(answer),
                stepped = self.sync.next() => Wake::Sync(Box::new(stepped)),
                prepared = prepared(&mut self.preparing) => Wake::Prepared(Box::new(prepared)),
                event = self.jobs.next() => Wake::Job(event),
                () = changed(&mut self.heights) => Wake::Changed,
                () = changed(&mut self.views) => Wake::Changed,
                () = changed(&mut self.genesis) => Wake::Changed,
                () = sleep_until(until) => Wake::Changed,
            };
            match wake {
                Wake::Cancelled => return self.keep_commands(),
                Wake::Changed | Wake::Edited => {}
                Wake::Call(answer) => self.call_ended(answer),
                Wake::Sync(stepped) => self.sync_ended(&stepped),
                Wake::Prepared(prepared) => self.operation_prepared(*prepared),
                Wake::Job(event) => self.job_event(event),
            }
        }
    }

    /// One iteration: applies changes, decides, updates the status, and starts the action.
    fn reconcile(&mut self) {
        let now = Instant::now();
        self.start_commanded();
        let seen = self.apply_view();
        self.relay.release_unused_claims(now, self.on_chain.block);
        self.withdraw_obsolete();
        self.connection.expire_info(now, &self.ctx.tuning, self.sync.caught_up);
        let mut observed = self.observe(now);
        let mut decision = decide(&self.desired, &self.ctx.settings, &observed);
        // An operation that was included and is still wanted counts as a failure, which changes the decision.
        if seen && self.confirm(decision.wanted) {
            observed.failures.chain = self.on_chain.failures.failure(now);
            decision = decide(&self.desired, &self.ctx.settings, &observed);
        }
        self.on_the_way = decision.on_the_way;
        self.publish_status(&decision, &observed);
        if decision.action != Action::Recheck && !observed.stale {
            self.connection.stop_rechecking();
        }
        self.start(decision.action, now);
        if decision.sync != Step::Wait
            && let Ok(client) = self.connection.client()
        {
            self.sync.start(client, decision.sync, observed.heights, &self.ctx.tuning);
        }
        self.publish_in_flight();
    }

    fn start(&mut self, action: Action, now: Instant) {
        match action {
            Action::Wait => {}
            Action::Recheck => self.connection.recheck_later(now),
            Action::Operate(operation) => self.start_operation(operation),
            // One call at a time, besides syncing: the next iteration after it ends decides again.
            _ if self.call.is_some() => {}
            Action::Observe => self.get_info(),
            Action::Init => self.init(),
            Action::Relay => self.fetch_messages(),
        }
    }

    fn edited(&mut self, desired: Arc<Desired>) {
        if desired == self.desired {
            return;
        }
        info!(worker = %desired.worker.name, "worker was edited");
        self.slot.event(EventKind::Edited);
        let before = std::mem::replace(&mut self.desired, desired);
        if self.desired.worker.endpoint != before.worker.endpoint {
            self.reconnect();
        }
        if self.desired.worker.pid != before.worker.pid {
            // The session state in the previous pool says nothing about the new one.
            self.on_chain.reset();
            self.saved.was_computing = false;
        }
        self.on_chain.forget_failures();
        self.relay.forget_failures();
        self.relay.request_fetch();
    }

    /// Persists the goals of commands that were accepted and not taken up before the end.
    pub(crate) fn keep_commands(&mut self) {
        self.take_commands(|task, command| task.set_saved(task.saved_after(command)));
        self.store_saved();
    }

    /// Takes the queued commands, and queues their effect for persisting: who gave them waits for that.
    fn take_commands(&mut self, apply: impl Fn(&mut Self, Command)) {
        let (commands, given) = self.slot.take_commands();
        if commands.is_empty() {
            return;
        }
        if commands.iter().any(|command| command.is_stored()) {
            self.ctx.views.note_command();
        }
        for command in commands {
            apply(self, command);
        }
        let (id, saver) = (self.slot.id(), &self.ctx.saver);
        let change = saver.enqueue(id, saver.stored_record(id), self.saved);
        self.slot.set_taken(given, change);
    }

    fn commanded(&mut self, given: Command) {
        info!(worker = %self.desired.worker.name, command = %given, "worker was commanded");
        self.slot.event(EventKind::Commanded(given));
        let last = self.saved.key;
        self.set_saved(self.saved_after(given));
        match given {
            // The new key waits for nothing of the last one.
            Command::ConfirmKey if self.saved.key != last => self.jobs.forget_superseded(),
            Command::Kick => self.kick_requested = true,
            Command::Checkpoint => self.checkpoint_requested = true,
            Command::RegisterAgain => {
                self.refresh_ra = true;
                self.registration = None;
                self.restart();
            }
            Command::Restart => self.restart(),
            _ => {}
        }
        self.registration_quota.clear();
        self.on_chain.forget_failures();
    }

    /// Discards failures and pending outcomes, and observes everything again.
    fn restart(&mut self) {
        self.reconnect();
        self.forget_jobs();
        self.relay.forget_failures();
        self.relay.request_fetch();
    }

    fn reconnect(&mut self) {
        self.connection.reset(&self.ctx, &self.desired);
        self.sync.reset(&self.ctx.tuning);
        self.init_failures.reset();
        self.disconnect();
    }

    /// Discards what the worker reported. Jobs stay in flight: they concern its key, not the connection. A call that must
    /// finish does, over the last connection; until then no other one begins.
    fn disconnect(&mut self) {
        if !self.must_finish_call() {
            self.call = None;
        }
        self.connection.discard_info();
        self.identity.release();
        self.sync.cancel();
        self.relay.release_claims();
    }

    /// Another key answers: discards everything that concerns the last one, except for a start that may lock its stake.
    fn key_changed(&mut self) {
        self.on_chain.reset();
        self.relay.reset();
        self.refresh_ra = false;
        self.registration = None;
        self.forget_unsent();
        self.jobs.supersede();
        self.operation = None;
        self.preparing = None;
    }

    /// Stops waiting for jobs: their effects are read from the chain.
    fn forget_jobs(&mut self) {
        // What is still wanted is submitted again, messages as well.
        self.jobs.reset(false);
        self.maybe_sent();
        self.operation = None;
        self.preparing = None;
        self.relay.reset();
        // Their effects may be in the next block: nothing is decided on the view of before.
        self.on_chain.awaiting_block = Some(self.on_chain.block.next());
    }

    /// Sets the record to persist for the worker.
    fn set_saved(&mut self, saved: FleetRecord) {
        if saved == self.saved {
            return;
        }
        if saved.goal != self.saved.goal {
            self.slot.event(EventKind::Goal { before: self.saved.goal, after: saved.goal });
        }
        // The first key of an entry is no change.
        if let (Some(last), Some(now)) = (self.saved.key, saved.key)
            && last != now
        {
            self.slot.event(EventKind::KeyChanged { last, now });
        }
        let kind = |record: FleetRecord| record.sent.map(|sent| sent.operation);
        self.earlier_sent = match saved.key == self.saved.key {
            true => self.earlier_sent && kind(saved) == kind(self.saved),
            // The entry that had the key before has sent it.
            false => saved.sent.is_some(),
        };
        self.saved = FleetRecord { as_of: self.ctx.views.acted_on().or(saved.as_of), ..saved };
    }

    fn store_saved(&self) {
        self.ctx.saver.enqueue(self.slot.id(), self.slot.saved(), self.saved);
    }

    fn wakes_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let tuning = &self.ctx.tuning;
        // Copied: the guard would live until the end of the function, while the views are locked.
        let heights = *self.heights.borrow();
        [
            self.connection.wakes_at(now, tuning, self.sync.caught_up),
            self.sync.wakes_at(&heights, now),
            self.init_failures.wakes_at(now),
            self.on_chain.failures.wakes_at(now),
            self.relay.wakes_at(now),
            self.ctx.views.wakes_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // In `drop`, so that it happens after a panic as well.
        self.ctx.keys.set_interest(self.slot.id(), None);
    }
}

/// What the chain reader must follow for the worker.
fn interest(desired: &Desired, saved: &FleetRecord) -> Interest {
    Interest { pool: desired.worker.pid, payer: desired.payer(), last_key: saved.key }
}

/// Waits for the transaction being prepared; pending forever if there is none.
async fn prepared<T>(preparing: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = preparing else { return std::future::pending().await };
    let prepared = future.await;
    *preparing = None;
    prepared
}

/// Waits for a change; pending forever once the sender is gone.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
