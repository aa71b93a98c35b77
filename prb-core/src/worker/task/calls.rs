//! Calls to the worker besides syncing: one at a time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use prost::Message;
use tracing::{debug, error, info, warn};

use super::Task;
use crate::{
    inventory::{FleetRecord, KeyChange, SeenKeys},
    primitives::ParaNumber,
    prpc::{PhactoryInfo, SyncedTo},
    pruntime::Error,
    queue::admin::now_ms,
    sync::{Lane, Outcome, Step, StepResult},
    text::describe,
    wire::EgressMessages,
    worker::{Checkpoint, EventKind, Reason, line_limit::Line, requests},
};

/// Appended to the error of a checkpoint if a kick waited for it.
const KICK_DROPPED: &str =
    "; the kick that waited for it was dropped: kick again to end the process without this checkpoint";

/// A call in flight.
pub(super) struct Call {
    /// Whether the call must not be dropped: its effect would be lost or corrupted.
    must_finish: bool,
    future: BoxFuture<'static, Answer>,
}

/// The result of a call.
pub(super) enum Answer {
    Info(Result<Box<PhactoryInfo>, Arc<str>>),
    Init(Result<(), Error>),
    Messages(Result<EgressMessages, Error>),
    Kick(Result<(), Arc<str>>),
    Checkpoint(Result<SyncedTo, Error>),
}

/// Waits for the call in flight; pending forever if there is none.
///
/// # Cancel safety
/// Safe.
pub(super) async fn next(call: &mut Option<Call>) -> Answer {
    let Some(running) = call else { return std::future::pending().await };
    let answer = running.future.as_mut().await;
    *call = None;
    answer
}

impl Task {
    /// Whether the call in flight must not be dropped.
    pub(super) fn must_finish_call(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.must_finish)
    }

    fn call(&mut self, must_finish: bool, future: impl Future<Output = Answer> + Send + 'static) {
        self.call = Some(Call { must_finish, future: future.boxed() });
    }

    /// Starts the calls that were commanded. A checkpoint goes before a kick: the worker must restart from
    /// it.
    pub(super) fn start_commanded(&mut self) {
        if self.must_finish_call() {
            return;
        }
        // A checkpoint waits for the batch in flight: pRuntime holds its lock while it processes one.
        if self.checkpoint_requested && !self.sync.is_running() {
            self.checkpoint_requested = false;
            let client = self.connection.client();
            self.call(true, async move {
                Answer::Checkpoint(match client {
                    Ok(client) => client.take_checkpoint().await,
                    Err(text) => Err(no_client(text)),
                })
            });
        } else if self.kick_requested && !self.checkpoint_requested {
            self.kick_requested = false;
            // A batch in flight is dropped, not awaited: a kick is the remedy for a worker that hangs.
            self.sync.cancel();
            let client = self.connection.client();
            self.call(true, async move {
                Answer::Kick(match client {
                    Ok(client) => client.kick().await.map_err(|e| describe(&e).into()),
                    Err(text) => Err(text),
                })
            });
        }
    }

    /// Whether a checkpoint is being taken, or waits for the batch in flight.
    pub(super) fn takes_checkpoint(&self) -> bool {
        self.checkpoint_requested || self.must_finish_call()
    }

    pub(super) fn get_info(&mut self) {
        let client = self.connection.client();
        self.call(false, async move {
            Answer::Info(match client {
                Ok(client) => client.info().await.map(Box::new).map_err(|e| describe(&e).into()),
                Err(text) => Err(text),
            })
        });
    }

    pub(super) fn init(&mut self) {
        let (Some(genesis), Some(info)) = (self.genesis.borrow().clone(), self.connection.info.clone())
        else {
            return;
        };
        let request =
            requests::init_request(&info, &genesis, self.desired.operator(), self.ctx.settings.dev_skip_ra);
        let client = self.connection.client();
        let budget = self.ctx.driver.budget().clone();
        self.call(false, async move {
            // The genesis state has megabytes, and a fleet that starts sends it to many workers at once.
            let _in_flight = budget.reserve(Lane::CatchUp, request.encoded_len()).await;
            Answer::Init(match client {
                Ok(client) => client.init(&request).await.map(drop),
                Err(text) => Err(no_client(text)),
            })
        });
    }

    pub(super) fn fetch_messages(&mut self) {
        // Without a client there are no messages; the failure to connect is shown already.
        let Ok(client) = self.connection.client() else { return };
        self.call(false, async move { Answer::Messages(client.egress_messages().await) });
    }

    pub(super) fn call_ended(&mut self, answer: Answer) {
        match answer {
            Answer::Info(Ok(info)) => self.info_received(*info),
            Answer::Info(Err(error)) => self.call_failed(error),
            Answer::Init(result) => self.init_ended(result),
            Answer::Messages(result) => self.messages_received(result),
            Answer::Kick(result) => self.kick_ended(result),
            Answer::Checkpoint(result) => self.checkpoint_ended(result),
        }
    }

    fn info_received(&mut self, info: PhactoryInfo) {
        let worker = Arc::clone(&self.desired.worker);
        // A supervisor restarted it on an empty disk: it is initialised and synced from the start again.
        if self.connection.is_initialised() && !info.initialized {
            warn!(worker = %worker.name, "worker has lost its state");
            self.slot.event(EventKind::LostState);
            self.sync.cancel();
        }
        self.sync.info_received(&info, tokio::time::Instant::now());
        if self.identity.update(&info) {
            self.key_changed();
        }
        self.record_keys(&info);
        if info.initialized {
            // Also if the answer to its initialisation was lost, or somebody else has initialised it.
            self.init_failures.reset();
        }
        if info.pending_messages == 0 {
            self.relay.forget_failures();
        }
        self.connection.info_received(info);
        self.identity.claim(&self.ctx.keys, &worker, self.saved.key, self.view.as_deref());
        self.relay.request_fetch();
    }

    /// Records the keys that answer.
    fn record_keys(&mut self, info: &PhactoryInfo) {
        let Some(key) = self.identity.key() else { return };
        let ecdh = info.ecdh_public_key.as_deref().and_then(|key| key.parse().ok());
        let block = self.on_chain.block;
        let change = KeyChange { at_ms: now_ms(), block: (block.0 > 0).then_some(block) };
        let seen = SeenKeys::after(self.saved.seen_keys, self.saved.key, (key, ecdh), change);
        self.set_saved(FleetRecord { seen_keys: Some(seen), ..self.saved });
    }

    fn call_failed(&mut self, error: Arc<str>) {
        let lost = self.connection.call_failed(Arc::clone(&error));
        if self.connection.failures.should_warn() {
            let worker = &self.desired.worker.name;
            if self.ctx.lines.admits(Line::NoAnswer, worker) {
                warn!(%worker, error = &*error, "worker does not answer");
            } else {
                debug!(%worker, error = &*error, "worker does not answer");
            }
        }
        if lost {
            self.disconnect();
        }
    }

    fn init_ended(&mut self, result: Result<(), Error>) {
        // Whether it succeeded or not, the worker's own info decides.
        self.connection.stale = true;
        match result {
            Ok(()) => {
                info!(worker = %self.desired.worker.name, "worker was initialised");
                self.slot.event(EventKind::Initialised);
                self.init_failures.reset();
            }
            Err(error) => {
                let error: Arc<str> = describe(&error).into();
                self.init_failures.fail(Reason::InitFailed { error: Arc::clone(&error) });
                if self.init_failures.should_warn() {
                    warn!(worker = %self.desired.worker.name, error = &*error, "worker cannot be initialised");
                }
            }
        }
    }

    fn kick_ended(&mut self, result: Result<(), Arc<str>>) {
        self.disconnect();
        self.connection.kicked = result.is_ok();
        match result {
            // Its HTTP server may answer once more before the process exits.
            Ok(()) => self.connection.failures.defer(Reason::Kicked, Duration::from_secs(1)),
            Err(error) => {
                warn!(worker = %self.desired.worker.name, error = &*error, "worker was not kicked");
                self.connection.failures.fail(Reason::Unreachable { error });
            }
        }
    }

    fn checkpoint_ended(&mut self, result: Result<SyncedTo, Error>) {
        let result: Result<ParaNumber, Arc<str>> = match result {
            Ok(to) => {
                info!(worker = %self.desired.worker.name, block = to.synced_to, "worker took a checkpoint");
                Ok(ParaNumber(to.synced_to))
            }
            Err(error) => {
                self.connection.stale |= error.is_connection();
                let dropped = if self.drop_kick() { KICK_DROPPED } else { "" };
                let error = format!("{}{dropped}", describe(&error));
                warn!(worker = %self.desired.worker.name, error, "worker did not take a checkpoint");
                Err(error.into())
            }
        };
        self.slot.event(EventKind::Checkpoint(result.clone()));
        self.slot.update(|status| status.checkpoint = Some(Checkpoint { at: SystemTime::now(), result }));
    }

    /// Drops a kick that waited for a checkpoint, which pRuntime may still be writing; returns whether there was one.
    fn drop_kick(&mut self) -> bool {
        self.take_commands(Self::commanded);
        std::mem::take(&mut self.kick_requested)
    }

    pub(super) fn sync_ended(&mut self, stepped: &StepResult) {
        let alerted = self.sync.health.problem().is_some_and(|problem| problem.cause.is_alert());
        let advice = self.sync.ended(stepped, tokio::time::Instant::now());
        self.connection.stale |= advice.observe;
        if let Ok(Outcome::Advanced { position, .. }) = stepped.result {
            let heights = *self.heights.borrow();
            // At the tip: the info shows what the block brought (messages, registration).
            self.connection.stale |= matches!(stepped.planned.step, Step::Blocks(_))
                && !matches!(self.sync.next_step(&heights, &self.ctx.tuning), Step::Blocks(_))
                && position.lag(&heights).is_some_and(|lag| lag <= self.ctx.tuning.caught_up_within);
        }
        let Some(problem) = self.sync.health.problem() else { return };
        let (worker, message) = (&self.desired.worker.name, &problem.message);
        if problem.cause.is_alert() && !alerted {
            error!(%worker, cause = problem.cause.as_str(), error = &**message, "worker does not advance");
        // The first failure and every tenth after it, because a worker may be away for days.
        } else if problem.failures % 10 == 1
            && stepped.result.is_err()
            && self.ctx.lines.admits(Line::SyncFailed, worker)
        {
            warn!(%worker, cause = problem.cause.as_str(), failures = problem.failures, error = &**message, "sync failed");
        } else {
            debug!(%worker, cause = problem.cause.as_str(), failures = problem.failures, error = &**message, "sync failed");
        }
    }
}

/// The error of a call if no client can be created for the endpoint.
fn no_client(text: Arc<str>) -> Error {
    let source = text.to_string().into();
    Error::Unreachable { endpoint: "the worker's endpoint".into(), connected: false, source }
}
