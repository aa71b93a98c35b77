//! Submits operations and messages as jobs, and applies their outcomes.

use std::{
    future::ready,
    time::{Duration, SystemTime},
};

use futures::FutureExt;
use metrics::counter;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    Operation, Task,
    jobs::{JobEvent, Ticket},
    registration_quota::Exceeded,
};
use crate::{
    attestation::{Expected, RegistrationError, RegistrationRequest, registration},
    chain::{Call, KNOWN_ERRORS},
    inventory::{FleetRecord, PendingOperation},
    primitives::WorkerKey,
    pruntime::{Error, endpoints},
    queue::{JobFailure, JobOutcome},
    text::describe,
    wire::EgressMessages,
    worker::{EventKind, InFlight, Reason, Stage, job_driver::Event, record, requests},
};

/// The result of preparing a transaction with data from the worker.
pub(super) struct Prepared {
    operation: Operation,
    call: Result<Call, Reason>,
    /// Whether the connection failed, so that the worker's process may have restarted.
    connection_lost: bool,
    /// The registration request, for the next attempt.
    request: Option<RegistrationRequest>,
}

impl Task {
    /// Starts an operation. Data that the worker must provide is requested concurrently: an attestation may
    /// take minutes, and heartbeats must not wait for it.
    pub(super) fn start_operation(&mut self, operation: Operation) {
        if self.operation.is_some() {
            return;
        }
        let Some(key) = self.key_for(operation) else { return };
        if operation == Operation::Register
            && let Some((reason, wait)) = self.wait_to_register(key)
        {
            let (worker, error) = (&self.desired.worker.name, reason.to_string());
            // A worker with ever new keys would fill the log; what it shows is in its state.
            if self.takes_over {
                warn!(%worker, error, "the worker is not registered");
            }
            return self.on_chain.failures.defer(reason, wait);
        }
        if let Some(sent) = operation.recorded_as()
            && !record::is_recorded(&self.saved, sent, self.on_chain.block)
        {
            // Persisted first: its effect must be recognised as ours even if this process crashes after
            // sending it.
            self.set_saved(FleetRecord {
                sent: Some(PendingOperation::new(sent, self.on_chain.block)),
                ..self.saved
            });
            return self.store_saved();
        }
        self.operation = Some(operation);
        self.basis = requests::basis(operation, &self.desired);
        self.preparing_since = SystemTime::now();
        self.preparing = Some(match operation {
            Operation::Register => self.registration(key).boxed(),
            Operation::AnnounceEndpoints => self.announcement(key).boxed(),
            _ => {
                let call = requests::call(operation, &self.desired, key)
                    .ok_or_else(|| failed(operation, "it has no call"));
                ready(Prepared { operation, call, connection_lost: false, request: None }).boxed()
            }
        });
    }

    /// The key that an operation is for: the one that answers, or the last known one if that does not answer and has
    /// something to lose (see `decide::recorded`).
    fn key_for(&self, operation: Operation) -> Option<WorkerKey> {
        let ends = matches!(operation, Operation::Stop | Operation::Reclaim | Operation::LeavePool);
        let last = self.view.as_ref().filter(|_| ends).and_then(|view| self.last_key(view));
        let last = last.filter(|last| self.identity.key().is_none() || !last.is_free());
        last.map(|last| last.key).or_else(|| self.identity.claimed())
    }

    /// Returns why and for how long a registration has to wait, if the worker has been registered too often.
    fn wait_to_register(&mut self, key: WorkerKey) -> Option<(Reason, Duration)> {
        let registration = match &self.on_chain.worker {
            Some(Ok(chain)) => chain.registration.as_ref(),
            _ => None,
        };
        let other = registration.map(|registration| registration.operator);
        let other = other.filter(|operator| *operator != self.desired.operator());
        self.takes_over = other.is_some();
        let taken = self.registration_quota.take(key, self.takes_over, Instant::now());
        taken.err().map(|(exceeded, wait)| {
            let error = match exceeded {
                Exceeded::Keys => "too many other keys have answered here within six hours, and each registration \
                                   costs a fee; the command start registers this one now"
                    .into(),
                Exceeded::Takeovers => {
                    let by = other.flatten().map_or_else(String::new, |account| format!(" ({})", account.address()));
                    format!(
                        "another operator{by} has registered it again each time: another lifecycle manager has this \
                         worker as well; remove it from one of the two. The command start registers it here once more"
                    )
                }
            };
            (failed(Operation::Register, &error), wait)
        })
    }

    fn registration(&self, key: WorkerKey) -> impl Future<Output = Prepared> + Send + use<> {
        let operation = Operation::Register;
        let (client, operator) = (self.connection.client(), self.desired.operator());
        let genesis = self.genesis.borrow().clone();
        let info = self.connection.info.clone();
        let collateral = self.ctx.collateral.clone();
        // Read before the worker attests: a registration that arrives meanwhile then shows as this one's effect.
        let replaces = match &self.on_chain.worker {
            Some(Ok(chain)) => chain.registration.as_ref().map(|registration| registration.last_updated),
            _ => None,
        };
        let mut request = self.registration.unwrap_or_else(|| RegistrationRequest::new(self.refresh_ra));
        async move {
            let (call, connection_lost) = match (client, operator, genesis) {
                (Ok(client), Some(operator), Some(genesis)) => {
                    let mut expected = Expected::new(key, operator, genesis.relay_hash, genesis.para_id);
                    if let Some(info) = &info {
                        expected = expected.with_info(info);
                    }
                    let collateral = collateral.as_deref();
                    let call = registration(&client, &expected, &mut request, replaces, collateral).await;
                    let connection_lost = call.as_ref().is_err_and(RegistrationError::is_connection);
                    let rejected = |error| Reason::RegistrationRejected { error: describe(&error).into() };
                    (call.map_err(rejected), connection_lost)
                }
                (Err(error), ..) => (Err(failed(operation, &error)), false),
                // Removed in between: the next decision takes that into account.
                _ => (
                    Err(failed(operation, "the pool has no operator, or the chain's genesis is not known")),
                    false,
                ),
            };
            Prepared { operation, call, connection_lost, request: Some(request) }
        }
    }

    fn announcement(&self, key: WorkerKey) -> impl Future<Output = Prepared> + Send + use<> {
        let operation = Operation::AnnounceEndpoints;
        let client = self.connection.client();
        let endpoints = self.desired.worker.endpoints.clone();
        let chain_time_ms = self.on_chain.rules.now_secs.saturating_mul(1000);
        async move {
            let (call, connection_lost) = match client {
                Ok(client) => {
                    let call = endpoints::announcement(&client, key, &endpoints, chain_time_ms).await;
                    let connection_lost = call.as_ref().is_err_and(endpoints::Error::is_connection);
                    (call.map_err(|error| failed(operation, &describe(&error))), connection_lost)
                }
                Err(error) => (Err(failed(operation, &error)), false),
            };
            Prepared { operation, call, connection_lost, request: None }
        }
    }

    /// The operation on its way to the chain; if there is none, the oldest messages that are.
    fn in_flight(&self) -> Option<InFlight> {
        match self.operation {
            Some(operation) if self.preparing.is_some() => Some(InFlight {
                operation: operation.name(),
                stage: Stage::Preparing,
                since: self.preparing_since,
                job: None,
            }),
            _ => self.jobs.in_flight(),
        }
    }

    /// Publishes what is in flight. Apart from the rest of the status: it also changes after a decision.
    pub(super) fn publish_in_flight(&self) {
        let in_flight = self.in_flight();
        if self.slot.status().in_flight != in_flight {
            self.slot.update(|status| status.in_flight = in_flight);
        }
    }

    pub(super) fn operation_prepared(&mut self, prepared: Prepared) {
        let Prepared { operation, call, connection_lost, request } = prepared;
        self.registration = request.or(self.registration);
        self.connection.stale |= connection_lost;
        match call.map(|call| requests::operation_job(&self.desired, call)) {
            Ok(Some(job)) => {
                info!(worker = %self.desired.worker.name, operation = operation.name(), "submitting an operation");
                self.slot.event(EventKind::OperationSent { operation: operation.name() });
                self.jobs.submit(Ticket::Operation(operation), job);
            }
            // The operator was removed in between: the next decision takes that into account.
            Ok(None) => self.operation = None,
            Err(reason) => {
                self.operation = None;
                self.operation_failed(operation, reason);
            }
        }
    }

    pub(super) fn job_event(&mut self, (ticket, event): JobEvent) {
        match (ticket, event) {
            (ticket, Event::Queued(job)) => {
                debug!(worker = %self.desired.worker.name, %job, %ticket, "job added");
                if let Ticket::Messages(sender, _) = &ticket {
                    self.relay.submitted(sender);
                }
            }
            (Ticket::Messages(sender, ticket), Event::NotSubmitted(error)) => {
                let worker = &self.desired.worker.name;
                self.relay.not_submitted(&sender, ticket, &describe(&error), worker);
            }
            (Ticket::Superseded(operation), event) => self.superseded_ended(operation, event),
            (Ticket::Operation(operation), Event::NotSubmitted(error)) => {
                self.operation = None;
                self.maybe_sent();
                // A queue that does not answer may still have accepted the job.
                self.on_chain.awaiting_block = Some(self.on_chain.block.next());
                self.operation_failed(operation, failed(operation, &describe(&error)));
            }
            (Ticket::Messages(sender, ticket), Event::Ended(result)) => {
                let at = (self.on_chain.block, &*self.desired.worker.name);
                self.relay.ended(&sender, ticket, &result, at);
            }
            (Ticket::Operation(operation), Event::Ended(result)) => {
                self.operation = None;
                self.operation_ended(operation, result);
            }
            (Ticket::Operation(operation), Event::Withdrawn(withdrawal)) => {
                self.operation = None;
                self.operation_withdrawn(operation, withdrawal);
            }
            // Which job a panic of the queue has lost is unknown. Messages are only withdrawn once nobody waits for them.
            (_, Event::Lost) | (Ticket::Messages(..), Event::Withdrawn(_)) => {
                warn!(worker = %self.desired.worker.name, "the queue failed");
                self.forget_jobs();
            }
        }
    }

    fn operation_ended(&mut self, operation: Operation, result: Result<JobOutcome, JobFailure>) {
        match result {
            Ok(outcome) => {
                self.on_chain.awaiting_block = Some(outcome.block);
                match outcome.calls.iter().find_map(|call| call.error()) {
                    Some(error) => self.operation_refused(operation, error),
                    None => self.operation_done(operation, &outcome),
                }
            }
            Err(failure) => {
                self.maybe_sent();
                // It may have been included nevertheless: only a newer view shows that.
                self.on_chain.awaiting_block = Some(self.on_chain.block.next());
                match chain_error_in(&failure.message) {
                    Some(error) => self.operation_refused(operation, error),
                    None => self.operation_failed(operation, failed(operation, &failure.message)),
                }
            }
        }
    }

    fn operation_done(&mut self, operation: Operation, outcome: &JobOutcome) {
        count_operation(operation, "done");
        let JobOutcome { block, extrinsic, .. } = *outcome;
        info!(worker = %self.desired.worker.name, operation = operation.name(), %block, "operation took effect on chain");
        self.slot.event(EventKind::OperationDone { operation: operation.name(), block, extrinsic });
        // Failures are discarded once a view shows the effect.
        self.on_chain.confirming = Some((operation, block));
        if operation == Operation::Register {
            self.refresh_ra = false;
            self.registration = None;
            self.on_chain.registered(block);
            if std::mem::take(&mut self.takes_over) {
                self.registration_quota.took_over(Instant::now());
            }
        }
    }

    fn operation_refused(&mut self, operation: Operation, error: &str) {
        if operation.recorded_as().is_some() {
            // It was included without effect, so no late effect has to be recognised.
            self.set_saved(FleetRecord { sent: None, ..self.saved });
        }
        self.on_chain.refuse(operation, error);
        self.note_failure(operation, error);
    }

    pub(super) fn operation_failed(&mut self, operation: Operation, reason: Reason) {
        let message = reason.to_string();
        self.on_chain.failures.fail(reason);
        self.note_failure(operation, &message);
    }

    fn note_failure(&self, operation: Operation, error: &str) {
        count_operation(operation, "failed");
        let failed = EventKind::OperationFailed { operation: operation.name(), error: error.into() };
        self.slot.event(failed);
        let (worker, attempts) = (&self.desired.worker.name, self.on_chain.failures.attempts());
        let operation = operation.name();
        if self.on_chain.failures.should_warn() {
            warn!(%worker, operation, attempts, error, "an operation on chain failed");
        } else {
            debug!(%worker, operation, attempts, %error, "an operation on chain failed");
        }
    }

    pub(super) fn messages_received(&mut self, result: Result<EgressMessages, Error>) {
        let messages = match result {
            Ok(messages) => messages,
            Err(error) => {
                self.connection.stale |= error.is_connection();
                let error = describe(&error).into();
                return self.relay.fetch_failed(error, &self.desired.worker.name);
            }
        };
        let view = self.view.clone().filter(|_| self.node_behind.is_none());
        let (Some(view), Some(key), Some(Ok(on_chain))) =
            (view, self.identity.claimed(), self.on_chain.worker.clone())
        else {
            return;
        };
        let by = (&self.ctx.keys, &*self.desired.worker);
        for (sender, ticket, run) in self.relay.select(messages, key, &on_chain, &view, by) {
            match requests::message_job(&self.desired, run) {
                Some(job) => self.jobs.submit(Ticket::Messages(sender, ticket), job),
                None => self.relay.not_submitted(
                    &sender,
                    ticket,
                    "its pool has no operator",
                    &self.desired.worker.name,
                ),
            }
        }
    }
}

fn failed(operation: Operation, error: &str) -> Reason {
    Reason::OperationFailed { operation: operation.description(), error: error.into() }
}

/// The chain's error that failed a whole transaction, if the trader's message names one.
fn chain_error_in(message: &str) -> Option<&str> {
    // As `SubmitError::Dispatch` is displayed: a queue carries a job's failure as text only.
    let failed = message.split_once("the transaction failed: ")?.1;
    let name = failed.split([' ', ';', ',']).next()?;
    let bare = name.rsplit("::").next()?;
    KNOWN_ERRORS.iter().any(|known| known.name == bare).then_some(name)
}

pub(super) fn count_operation(operation: Operation, outcome: &'static str) {
    counter!("prb_worker_operations_total", "operation" => operation.name(), "outcome" => outcome)
        .increment(1);
}
