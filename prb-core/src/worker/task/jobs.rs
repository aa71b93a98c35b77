//! Jobs: adding them, and what becomes of them.

use std::sync::Arc;

use metrics::counter;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, info, warn};

use super::{Ache, Task, act::describe};
use crate::{
    primitives::ParaNumber,
    queue::{self, Job, JobFailure, JobHandle, JobOutcome},
    worker::{Operation, egress::Egress},
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Ticket {
    Operation(Operation),
    Messages(u64),
}

pub(super) enum JobEvent {
    Added(Ticket, Result<JobHandle, queue::Error>),
    Ended(Ticket, Result<JobOutcome, JobFailure>),
}

impl Task {
    pub(super) fn add_job(&mut self, ticket: Ticket, job: Job) {
        let queue = Arc::clone(&self.ctx.queue);
        self.jobs.spawn(async move { JobEvent::Added(ticket, queue.submit(job).await) });
    }

    pub(super) fn job_event(&mut self, event: Result<JobEvent, JoinError>) {
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
    pub(super) fn complain(&self, ache: &Ache, what: &str) {
        let attempts = ache.backoff.attempts();
        let (worker, message) = (&self.desired.worker.name, ache.message.as_deref().unwrap_or_default());
        if attempts % 10 == 1 {
            warn!(%worker, attempts, "{what}: {message}");
        } else {
            debug!(%worker, attempts, "{what}: {message}");
        }
    }
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
