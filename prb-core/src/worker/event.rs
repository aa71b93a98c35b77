//! [`Event`]: the history of a worker, for pages and programs.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use super::{Command, State};
use crate::{
    inventory::Goal,
    primitives::{Hash, ParaNumber, WorkerKey},
};

/// Maximum number of events kept per worker; older ones are dropped.
pub const MAX_EVENTS: usize = 100;

/// Something that happened to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Sequence number of the event for this worker since the fleet started, from 0.
    pub number: u64,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// Creates an event, for clients that receive those of a fleet elsewhere.
    pub const fn new(number: u64, at: SystemTime, kind: EventKind) -> Self {
        Self { number, at, kind }
    }
}

/// The kind of an event, with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The state label changed.
    State {
        /// Before.
        before: State,
        /// Now.
        after: State,
        /// The code of the [`Reason`](super::Reason).
        reason: &'static str,
        /// Its message.
        message: Arc<str>,
    },
    /// An operator gave it a command.
    Commanded(Command),
    /// Its entry or its pool's was edited.
    Edited,
    /// It was initialised.
    Initialised,
    /// It answers without the state that it had.
    LostState,
    /// Another key answers than before.
    KeyChanged {
        /// The key before.
        last: WorkerKey,
        /// The key now.
        now: WorkerKey,
    },
    /// Its goal changed.
    Goal {
        /// Before.
        before: Goal,
        /// Now.
        after: Goal,
    },
    /// An operation was submitted to the job queue.
    OperationSent {
        /// Its name.
        operation: &'static str,
    },
    /// An operation was taken back from the job queue, because it was not wanted any more.
    OperationWithdrawn {
        /// Its name.
        operation: &'static str,
    },
    /// An operation took effect.
    OperationDone {
        /// Its name.
        operation: &'static str,
        /// The block that shows it.
        block: ParaNumber,
        /// The transaction's hash, if a transaction was sent for it.
        extrinsic: Option<Hash>,
    },
    /// An operation had no effect.
    OperationFailed {
        /// Its name.
        operation: &'static str,
        /// The chain's error, or the failure that prevented the submission.
        error: Arc<str>,
    },
    /// A checkpoint ended, successfully or not.
    Checkpoint(Result<ParaNumber, Arc<str>>),
    /// It made no progress for a long time although there is more data for it.
    Stalled,
    /// Its task panicked.
    Panicked {
        /// The panic's text.
        text: Arc<str>,
    },
}

/// The most recent events of one worker.
#[derive(Debug, Default)]
pub(super) struct Events {
    next: u64,
    kept: VecDeque<Event>,
}

impl Events {
    pub(super) fn push(&mut self, kind: EventKind) {
        // `next` still counts dropped events: readers notice the gap by the numbers.
        if self.kept.len() >= MAX_EVENTS {
            self.kept.pop_front();
        }
        self.kept.push_back(Event { number: self.next, at: SystemTime::now(), kind });
        self.next += 1;
    }

    /// Oldest first.
    pub(super) fn list(&self) -> Vec<Event> {
        self.kept.iter().cloned().collect()
    }
}
