//! [`Jobs`]: the jobs that a worker's task has submitted, and their outcomes.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{
    queue::{self, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue},
    wire::MessageOrigin,
    worker::{InFlight, Operation, Stage},
};

/// The purpose of a job.
#[derive(Clone, Debug, PartialEq)]
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
    /// The jobs that `set` waits for, oldest first: at most one operation, and what all senders may have in flight.
    pending: Vec<Pending>,
}

/// A job being submitted or awaited, for observers.
struct Pending {
    ticket: Ticket,
    /// Its id, once the queue has it.
    job: Option<JobId>,
    /// When it was submitted, or accepted by the queue.
    since: SystemTime,
}

impl Jobs {
    pub(super) fn new(queue: Arc<dyn JobQueue>, timeout_after: Duration) -> Self {
        Self { queue, timeout_after, set: JoinSet::new(), pending: Vec::new() }
    }

    /// Stops waiting for all of them. They may still be executed: the chain shows their effect.
    pub(super) fn reset(&mut self) {
        // Dropping the old set aborts its tasks.
        self.set = JoinSet::new();
        self.pending.clear();
    }

    pub(super) fn submit(&mut self, ticket: Ticket, job: Job) {
        self.pending.push(Pending { ticket: ticket.clone(), job: None, since: SystemTime::now() });
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
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.ticket == ticket) {
            (pending.job, pending.since) = (Some(handle.id), SystemTime::now());
        }
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
        let Some(event) = self.set.join_next().await else { return std::future::pending().await };
        if let Ok(JobEvent::Submitted(ticket, Err(_)) | JobEvent::Ended(ticket, _)) = &event {
            self.pending.retain(|pending| pending.ticket != *ticket);
        }
        event
    }

    /// The operation being submitted or awaited; if there is none, the oldest messages.
    pub(super) fn in_flight(&self) -> Option<InFlight> {
        let operation = |pending: &&Pending| matches!(pending.ticket, Ticket::Operation(_));
        let pending = self.pending.iter().find(operation).or_else(|| self.pending.first())?;
        let operation = match &pending.ticket {
            Ticket::Operation(operation) => operation.name(),
            Ticket::Messages(..) => InFlight::MESSAGES,
        };
        let stage = if pending.job.is_some() { Stage::Queued } else { Stage::Submitting };
        Some(InFlight { operation, stage, since: pending.since, job: pending.job })
    }
}

fn timeout_message(timeout_after: Duration) -> String {
    format!("the queue has not answered within {} minutes", timeout_after.as_secs() / 60)
}
