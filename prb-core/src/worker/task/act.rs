//! Carrying out each action.

use std::{
    error::Error as StdError,
    fmt::Write,
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics::counter;
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{Task, Ticket, look::public_key};
use crate::{
    attestation::{Expected, RegistrationRequest, registration},
    chain::Call,
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    pruntime::PRuntime,
    sync::{self, Outcome, Position, Step},
    wire::MessageOrigin,
    worker::{Checkpoint, Operation, decide::HITCHES, keys::KeyClaim, operate},
};

impl Task {
    pub(super) async fn wait(&mut self) {
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

    pub(super) fn look_again_at(&self) -> Instant {
        let tuning = &self.ctx.tuning;
        self.seen_at + if self.caught_up { tuning.max_silence } else { tuning.observe_interval }
    }

    fn client(&self) -> Result<PRuntime, String> {
        self.client.clone().map_err(|text| text.to_string())
    }

    pub(super) async fn get_info(&mut self) {
        let answer = match self.client() {
            Ok(client) => client.info().await.map_err(|e| describe(&e)),
            Err(text) => Err(text),
        };
        match answer {
            Ok(info) => self.saw(info),
            Err(message) => {
                self.connection.fail(&message);
                self.complain(&self.connection, "worker does not answer");
                if self.connection.backoff.attempts() >= HITCHES {
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

    pub(super) async fn kick(&mut self) {
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

    pub(super) async fn checkpoint(&mut self) {
        self.slot.update(|status| status.message = "Taking a checkpoint".into());
        let taken = match self.client() {
            Ok(client) => client.take_checkpoint().await.map_err(|error| {
                self.stale |= error.is_connection();
                describe(&error)
            }),
            Err(text) => Err(text),
        };
        let worker = &self.desired.worker.name;
        match &taken {
            Ok(to) => info!(%worker, block = to.synced_to, "worker has taken a checkpoint"),
            Err(error) => warn!(%worker, %error, "worker has not taken a checkpoint"),
        }
        let result = taken.map(|to| ParaNumber(to.synced_to)).map_err(Arc::from);
        self.slot.update(|status| status.checkpoint = Some(Checkpoint { at: SystemTime::now(), result }));
    }

    pub(super) async fn init(&mut self) {
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

    pub(super) async fn sync(&mut self, step: Step) {
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

    pub(super) async fn relay(&mut self) {
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

    pub(super) async fn operate(&mut self, operation: Operation) {
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

    async fn registration(&mut self, key: WorkerKey) -> Result<Call, String> {
        let operator = self.desired.operator().ok_or("the pool has no operator")?;
        let genesis = self.genesis.borrow().clone().ok_or("the chain's start is not known yet")?;
        let mut expected = Expected::new(key, operator, genesis.relay_hash, genesis.para_id);
        if let Some(info) = &self.info {
            expected = expected.with_info(info);
        }
        let replaces = self.on_chain.as_ref().and_then(|c| c.registration.as_ref()).map(|r| r.last_updated);
        let mut request = RegistrationRequest::new(self.refresh_ra);
        let client = self.client()?;
        registration(&client, &expected, &mut request, replaces, None).await.map_err(|error| {
            self.stale = error.is_connection();
            describe(&error)
        })
    }
}

/// Waits for a change; for ever where there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// An error and its causes in one line.
pub(super) fn describe(error: &dyn StdError) -> String {
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
