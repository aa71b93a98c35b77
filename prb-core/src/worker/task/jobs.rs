//! [`Jobs`]: the jobs that a worker's task has submitted, and their outcomes.

use std::{fmt, sync::Arc, time::SystemTime};

use tokio::sync::mpsc;

use crate::{
    queue::{Job, JobId},
    wire::MessageOrigin,
    worker::{
        InFlight, Operation, Stage,
        job_driver::{DrivenJob, Event, JobDriver},
    },
};

/// The purpose of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ticket {
    Operation(Operation),
    /// The start of a key that does not answer any more.
    Superseded(Operation),
    /// Messages of that sender, with the ticket that its [`Egress`](crate::worker::egress::Egress) tracks.
    Messages(MessageOrigin, u64),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) | Self::Superseded(operation) => f.write_str(operation.name()),
            Self::Messages(origin, number) => write!(f, "messages of {origin} up to {number}"),
        }
    }
}

/// An event of a job.
pub(super) type JobEvent = (Ticket, Event);

/// Jobs being submitted or awaited.
pub(super) struct Jobs {
    driver: Arc<JobDriver>,
    events: Events,
    /// Oldest first: at most one operation, and what all senders may have in flight.
    pending: Vec<Pending>,
    superseded: Option<Superseded>,
}

/// Where the events of jobs arrive.
type Events = (mpsc::UnboundedSender<JobEvent>, mpsc::UnboundedReceiver<JobEvent>);

/// The start of a key that does not answer any more: it may lock stake, so its outcome is awaited.
struct Superseded {
    operation: Operation,
    /// Not those of what is submitted from now on: a ticket may be the same.
    events: Events,
    /// Keeps it unwanted.
    _driven: DrivenJob,
}

impl Superseded {
    /// The event that ends it; pending forever if there is none.
    async fn ended(start: &mut Option<Self>) -> JobEvent {
        let Some(this) = start else { return std::future::pending().await };
        loop {
            // `None` is impossible: a sender is kept here.
            let Some((ticket, event)) = this.events.1.recv().await else {
                return std::future::pending().await;
            };
            if matches!(ticket, Ticket::Operation(_)) && !matches!(event, Event::Queued(_)) {
                let ticket = Ticket::Superseded(this.operation);
                *start = None;
                return (ticket, event);
            }
        }
    }
}

/// A job being submitted or awaited.
struct Pending {
    ticket: Ticket,
    /// Its id, once the queue has it.
    job: Option<JobId>,
    /// When it was submitted, or accepted by the queue.
    since: SystemTime,
    driven: DrivenJob,
}

impl Pending {
    const fn is_operation(&self) -> bool {
        matches!(self.ticket, Ticket::Operation(_))
    }
}

impl Jobs {
    pub(super) fn new(driver: Arc<JobDriver>) -> Self {
        Self { driver, events: mpsc::unbounded_channel(), pending: Vec::new(), superseded: None }
    }

    /// Stops waiting for all of them. Those that wait in the queue are withdrawn: the operation, and messages unless they
    /// are kept. What is with a trader may still be executed: the chain shows its effect.
    pub(super) fn reset(&mut self, keep_messages: bool) {
        self.give_up(keep_messages);
        // Events of the old ones go nowhere.
        self.events = mpsc::unbounded_channel();
        self.pending.clear();
        self.superseded = None;
    }

    /// Another key answers: stops waiting for all of them but for a start, which is withdrawn if it still can be. Messages
    /// of the last key are still wanted: they keep it from being slashed.
    pub(super) fn supersede(&mut self) {
        let superseded = self.superseded.take();
        let is_start = |pending: &Pending| matches!(pending.ticket, Ticket::Operation(Operation::Start(_)));
        let start = self.pending.iter().position(is_start).map(|at| self.pending.swap_remove(at));
        let events = std::mem::replace(&mut self.events, mpsc::unbounded_channel());
        let started = start.and_then(|Pending { ticket, driven, .. }| {
            let Ticket::Operation(operation) = ticket else { return None };
            driven.set_unwanted(true);
            Some(Superseded { operation, events, _driven: driven })
        });
        self.reset(true);
        self.superseded = started.or(superseded);
    }

    /// The start of a key that does not answer any more, while its outcome is not known.
    pub(super) fn superseded(&self) -> Option<Operation> {
        self.superseded.as_ref().map(|start| start.operation)
    }

    /// Stops waiting for the start of a key that does not answer any more.
    pub(super) fn forget_superseded(&mut self) {
        self.superseded = None;
    }

    fn give_up(&self, keep_messages: bool) {
        for pending in &self.pending {
            pending.driven.set_unwanted(pending.is_operation() || !keep_messages);
        }
    }

    /// Sets whether the operation is to be withdrawn, if there is one.
    pub(super) fn withdraw_operation(&self, is_unwanted: bool) {
        if let Some(pending) = self.pending.iter().find(|pending| pending.is_operation()) {
            pending.driven.set_unwanted(is_unwanted);
        }
    }

    pub(super) fn submit(&mut self, ticket: Ticket, job: Job) {
        let driven = self.driver.submit(job, ticket.clone(), self.events.0.clone());
        self.pending.push(Pending { ticket, job: None, since: SystemTime::now(), driven });
    }

    /// The next event; pending forever if no job is in flight.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn next(&mut self) -> JobEvent {
        let (ticket, event) = tokio::select! {
            // `None` is impossible: a sender is kept here.
            Some(event) = self.events.1.recv() => event,
            ended = Superseded::ended(&mut self.superseded) => return ended,
        };
        match event {
            Event::Queued(id) => {
                if let Some(pending) = self.pending.iter_mut().find(|pending| pending.ticket == ticket) {
                    (pending.job, pending.since) = (Some(id), SystemTime::now());
                }
            }
            _ => self.pending.retain(|pending| pending.ticket != ticket),
        }
        (ticket, event)
    }

    /// The operation being submitted or awaited; if there is none, the oldest messages.
    pub(super) fn in_flight(&self) -> Option<InFlight> {
        let operation = self.pending.iter().find(|pending| pending.is_operation());
        let pending = operation.or_else(|| self.pending.first())?;
        let operation = match &pending.ticket {
            Ticket::Operation(operation) | Ticket::Superseded(operation) => operation.name(),
            Ticket::Messages(..) => InFlight::MESSAGES,
        };
        let stage = if pending.job.is_some() { Stage::Queued } else { Stage::Submitting };
        Some(InFlight { operation, stage, since: pending.since, job: pending.job })
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // The worker was removed or disabled, or its task panicked: nobody waits for what it has started. Its messages
        // stay: they keep a worker that computes from being slashed. When the fleet stops, the driver has stopped before.
        self.give_up(true);
    }
}
