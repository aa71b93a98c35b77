//! Operations on chain and messages: from a decision to a job, and from its outcome to the next decision.

use std::sync::Arc;

use futures::FutureExt;
use metrics::counter;
use tokio::task::JoinError;
use tracing::{debug, info, warn};

use super::{
    Operation, Task,
    jobs::{JobEvent, Ticket},
};
use crate::{
    chain::{self, REFUSALS},
    primitives::WorkerKey,
    pruntime::Error,
    queue::{JobFailure, JobOutcome},
    wire::EgressMessages,
    worker::{EventKind, Reason, operate, text::describe},
};

impl Task {
    /// Has an operation sent. What the worker has to say for it is asked beside everything else: an
    /// attestation may take minutes, and its heartbeats must not wait.
    pub(super) fn operate(&mut self, operation: Operation) {
        if self.operation.is_some() {
            return;
        }
        let Some(key) = self.identity.claimed() else { return };
        self.operation = Some(operation);
        match operation {
            Operation::Register => {
                let made = self.registration(key);
                self.preparing = Some(async move { (operation, made.await) }.boxed());
            }
            Operation::AnnounceEndpoints => {
                let made = self.endpoints(key);
                self.preparing = Some(async move { (operation, made.await) }.boxed());
            }
            _ => {
                if let Some(call) = operate::call(operation, &self.desired, key) {
                    self.operation_prepared(operation, Ok(call));
                } else {
                    self.operation = None;
                }
            }
        }
    }

    fn registration(
        &self,
        key: WorkerKey,
    ) -> impl Future<Output = Result<chain::Call, Arc<str>>> + Send + use<> {
        let (client, operator) = (self.link.client(), self.desired.operator());
        let refresh_ra = self.refresh_ra;
        let on_chain = self.on_chain.worker.clone();
        async move {
            let operator = operator.ok_or("the pool has no operator")?;
            let request = operate::runtime_info_request(operator, refresh_ra);
            let answer = client?.runtime_info(&request).await.map_err(|error| describe(&error))?;
            let on_chain = on_chain.and_then(Result::ok).unwrap_or_default();
            let call = operate::register(key, answer, &on_chain);
            call.ok_or_else(|| "the worker gives no attestation yet: it has not validated a block".into())
        }
    }

    fn endpoints(
        &self,
        _key: WorkerKey,
    ) -> impl Future<Output = Result<chain::Call, Arc<str>>> + Send + use<> {
        async move { Err("TODO".into()) }
    }

    pub(super) fn operation_prepared(&mut self, operation: Operation, made: Result<chain::Call, Arc<str>>) {
        match made.map(|call| operate::operation_job(&self.desired, call)) {
            Ok(Some(job)) => {
                info!(worker = %self.desired.worker.name, operation = operation.name(), "sending on chain");
                self.slot.event(EventKind::OperationSent { operation: operation.name() });
                self.jobs.add(Ticket::Operation(operation), job);
            }
            // The operator was taken away in between: the next decision sees that.
            Ok(None) => self.operation = None,
            Err(error) => {
                self.operation = None;
                let reason = match operation {
                    Operation::Register => Reason::RegistrationRejected { error },
                    _ => Reason::OperationFailed { operation: operation.in_words(), error },
                };
                self.operation_failed(operation, reason);
            }
        }
    }

    pub(super) fn job_event(&mut self, event: Result<JobEvent, JoinError>) {
        match event {
            Ok(JobEvent::Added(ticket, Ok(handle))) => {
                if let Ticket::Messages(sender, _) = &ticket {
                    self.relay.submitted(sender);
                }
                debug!(worker = %self.desired.worker.name, job = %handle.id, ?ticket, "job added");
                self.jobs.await_outcome(ticket, handle);
            }
            Ok(JobEvent::Added(Ticket::Messages(sender, ticket), Err(error))) => {
                let worker = &self.desired.worker.name;
                self.relay.not_submitted(&sender, ticket, &describe(&error), worker);
            }
            Ok(JobEvent::Added(Ticket::Operation(operation), Err(error))) => {
                self.operation = None;
                let error = describe(&error).into();
                let reason = Reason::OperationFailed { operation: operation.in_words(), error };
                self.operation_failed(operation, reason);
            }
            Ok(JobEvent::Ended(Ticket::Messages(sender, ticket), result)) => {
                let at = (self.on_chain.block, &*self.desired.worker.name);
                self.relay.ended(&sender, ticket, &result, at);
            }
            Ok(JobEvent::Ended(Ticket::Operation(operation), result)) => {
                self.operation = None;
                self.operation_ended(operation, result);
            }
            // These tasks only wait for the queue; a panic there is the queue's. Which job is lost is not known.
            Err(error) => {
                warn!(worker = %self.desired.worker.name, %error, "the queue failed");
                self.forget_jobs();
            }
        }
    }

    fn operation_ended(&mut self, operation: Operation, result: Result<JobOutcome, JobFailure>) {
        match result {
            Ok(outcome) => {
                self.on_chain.settling = Some(outcome.block);
                match outcome.calls.iter().find_map(|call| call.error()) {
                    Some(error) => self.operation_refused(operation, error),
                    None => self.operation_done(operation, &outcome),
                }
            }
            Err(failure) => {
                // It may have landed all the same: only a newer view tells.
                self.on_chain.settling = Some(self.on_chain.block.next());
                match chain_error_in(&failure.message) {
                    Some(error) => self.operation_refused(operation, error),
                    None => {
                        let error = failure.message.into();
                        let reason = Reason::OperationFailed { operation: operation.in_words(), error };
                        self.operation_failed(operation, reason);
                    }
                }
            }
        }
    }

    fn operation_done(&mut self, operation: Operation, outcome: &JobOutcome) {
        count_operation(operation, "done");
        let JobOutcome { block, extrinsic, .. } = *outcome;
        info!(worker = %self.desired.worker.name, operation = operation.name(), %block, "done on chain");
        self.slot.event(EventKind::OperationDone { operation: operation.name(), block, extrinsic });
        // Failures are forgotten once a view shows the effect.
        self.on_chain.confirming = Some((operation, block));
        if operation == Operation::Register {
            self.refresh_ra = false;
            self.on_chain.registered(block);
        }
    }

    fn operation_refused(&mut self, operation: Operation, error: &str) {
        let pool = self.views.borrow().as_ref().and_then(|v| v.pools.get(&self.desired.worker.pid).cloned());
        self.on_chain.refuse(operation, error, pool);
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
        if self.on_chain.failures.is_worth_a_warning() {
            warn!(%worker, operation, attempts, %error, "an operation on chain failed");
        } else {
            debug!(%worker, operation, attempts, %error, "an operation on chain failed");
        }
    }

    pub(super) fn got_messages(&mut self, result: Result<EgressMessages, Error>) {
        let messages = match result {
            Ok(messages) => messages,
            Err(error) => {
                self.link.stale |= error.is_connection();
                let error = describe(&error).into();
                return self.relay.asking_failed(error, &self.desired.worker.name);
            }
        };
        let view = self.views.borrow().clone();
        let (Some(view), Some(key), Some(Ok(on_chain))) =
            (view, self.identity.claimed(), self.on_chain.worker.clone())
        else {
            return;
        };
        let by = (&self.ctx.keys, &*self.desired.worker);
        for (sender, ticket, run) in self.relay.take_in(messages, key, &on_chain, &view, by) {
            match operate::message_job(&self.desired, run) {
                Some(job) => self.jobs.add(Ticket::Messages(sender, ticket), job),
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

/// The chain's error that a whole transaction failed with, where the trader's message names one.
fn chain_error_in(message: &str) -> Option<&str> {
    let failed = message.split_once("the transaction failed: ")?.1;
    let name = failed.split([' ', ';', ',']).next()?;
    let bare = name.rsplit("::").next()?;
    REFUSALS.iter().any(|known| known.name == bare).then_some(name)
}

fn count_operation(operation: Operation, outcome: &'static str) {
    counter!("prb_worker_operations_total", "operation" => operation.name(), "outcome" => outcome)
        .increment(1);
}
