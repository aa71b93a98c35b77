//! [`Jobs`]: what a worker's task has given to the queue, and what comes back.

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

/// What a job is for.
#[derive(Clone, Debug)]
pub(super) enum Ticket {
    Operation(Operation),
    /// Messages of that sender, by the number that its queue gave them.
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
    Added(Ticket, Result<JobHandle, queue::Error>),
    Ended(Ticket, Result<JobOutcome, JobFailure>),
}

/// Jobs being added or awaited.
pub(super) struct Jobs {
    queue: Arc<dyn JobQueue>,
    patience: Duration,
    set: JoinSet<JobEvent>,
}

impl Jobs {
    pub(super) fn new(queue: Arc<dyn JobQueue>, patience: Duration) -> Self {
        Self { queue, patience, set: JoinSet::new() }
    }

    /// Waits for none of them any more. They may still be carried out: the chain tells.
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

    /// Waits for the outcome of a job that was added.
    pub(super) fn await_outcome(&mut self, ticket: Ticket, handle: JobHandle) {
        let patience = self.patience;
        self.set.spawn(async move {
            // Without an end a lost outcome would hold up the worker for ever.
            let ended = timeout(patience, handle.outcome()).await;
            let ended = ended.unwrap_or_else(|_| Err(JobFailure { message: no_answer(patience) }));
            JobEvent::Ended(ticket, ended)
        });
    }

    /// The next event; pends for ever where nothing is under way.
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
    format!("the queue gave no answer within {} minutes", patience.as_secs() / 60)
}
