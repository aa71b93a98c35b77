//! [`Jobs`]: the jobs that a worker's task has submitted, and their outcomes.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{
    queue::{self, Job, JobFailure, JobHandle, JobOutcome, JobQueue},
    wire::MessageOrigin,
    worker::Operation,
};

/// The purpose of a job.
#[derive(Clone, Debug)]
pub(super) enum Ticket {
    Operation(Operation),
    /// Messages of that sender, with the ticket that its [`Egress`](crate::worker::egress::Egress) tracks.
    Messages(MessageOrigin, u64),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => f.write_str(operation.name()),
            Self::Messages(origin, number) => write!(f, "messages of {origin} up to {number}"),
        }
    }
}

pub(super) enum JobEvent {
    Submitted(Ticket, Result<JobHandle, queue::Error>),
    Ended(Ticket, Result<JobOutcome, JobFailure>),
}

/// Jobs being submitted or awaited.
pub(super) struct Jobs {
    queue: Arc<dyn JobQueue>,
    timeout_after: Duration,
    set: JoinSet<JobEvent>,
}

impl Jobs {
    pub(super) fn new(queue: Arc<dyn JobQueue>, timeout_after: Duration) -> Self {
        Self { queue, timeout_after, set: JoinSet::new() }
    }

    /// Stops waiting for all of them. They may still be executed: the chain shows their effect.
    pub(super) fn reset(&mut self) {
        self.set = JoinSet::new();
    }

    pub(super) fn submit(&mut self, ticket: Ticket, job: Job) {
        let queue = Arc::clone(&self.queue);
        let timeout_after = self.timeout_after;
        self.set.spawn(async move {
            let submitted = timeout(timeout_after, queue.submit(job)).await;
            let submitted = submitted
                .unwrap_or_else(|_| Err(queue::Error::Unavailable(timeout_message(timeout_after).into())));
            JobEvent::Submitted(ticket, submitted)
        });
    }

    /// Waits for the outcome of a submitted job.
    pub(super) fn await_outcome(&mut self, ticket: Ticket, handle: JobHandle) {
        let timeout_after = self.timeout_after;
        self.set.spawn(async move {
            // Bounded: a lost outcome would block the worker forever.
            let ended = timeout(timeout_after, handle.outcome()).await;
            let ended = ended.unwrap_or_else(|_| Err(JobFailure { message: timeout_message(timeout_after) }));
            JobEvent::Ended(ticket, ended)
        });
    }

    /// The next event; pending forever if no job is in flight.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn next(&mut self) -> Result<JobEvent, JoinError> {
        match self.set.join_next().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

fn timeout_message(timeout_after: Duration) -> String {
    format!("the queue has not answered within {} minutes", timeout_after.as_secs() / 60)
}
