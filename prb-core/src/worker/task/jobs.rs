//! [`Jobs`]: the jobs that a worker's task has submitted, and their outcomes.

use std::{sync::Arc, time::Duration};

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

pub(super) enum JobEvent {
    Added(Ticket, Result<JobHandle, queue::Error>),
    Ended(Ticket, Result<JobOutcome, JobFailure>),
}

/// Jobs being submitted or awaited.
pub(super) struct Jobs {
    queue: Arc<dyn JobQueue>,
    patience: Duration,
    set: JoinSet<JobEvent>,
}

impl Jobs {
    pub(super) fn new(queue: Arc<dyn JobQueue>, patience: Duration) -> Self {
        Self { queue, patience, set: JoinSet::new() }
    }

    /// Stops waiting for all of them. They may still be executed: the chain shows their effect.
    pub(super) fn reset(&mut self) {
        self.set = JoinSet::new();
    }

    pub(super) fn add(&mut self, ticket: Ticket, job: Job) {
        let queue = Arc::clone(&self.queue);
        let patience = self.patience;
        self.set.spawn(async move {
            let added = timeout(patience, queue.submit(job)).await;
            let added = added.unwrap_or_else(|_| Err(queue::Error::Unavailable(no_answer(patience).into())));
            JobEvent::Added(ticket, added)
        });
    }

    /// Waits for the outcome of a submitted job.
    pub(super) fn await_outcome(&mut self, ticket: Ticket, handle: JobHandle) {
        let patience = self.patience;
        self.set.spawn(async move {
            // Bounded: a lost outcome would block the worker forever.
            let ended = timeout(patience, handle.outcome()).await;
            let ended = ended.unwrap_or_else(|_| Err(JobFailure { message: no_answer(patience) }));
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

fn no_answer(patience: Duration) -> String {
    format!("the queue has not answered within {} minutes", patience.as_secs() / 60)
}
