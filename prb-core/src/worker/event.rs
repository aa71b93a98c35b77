//! [`Event`]: what happened to a worker, kept for pages and programs.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use super::{Command, State};
use crate::{
    inventory::Goal,
    primitives::{Hash, ParaNumber, WorkerKey},
};

/// Most events kept of one worker; older ones are dropped.
pub const MAX_EVENTS: usize = 100;

/// Something that happened to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Counts the worker's events since the fleet has started, from 0.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// An event, for who reads events of a fleet elsewhere.
    pub const fn new(number: u64, at: SystemTime, kind: EventKind) -> Self {
        Self { number, at, kind }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Its label changed.
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
    /// What is meant to become of it changed.
    Goal {
        /// Before.
        before: Goal,
        /// Now.
        after: Goal,
    },
    /// An operation was given to the trader.
    OperationSent {
        /// Its name.
        operation: &'static str,
    },
    /// An operation took effect.
    OperationDone {
        /// Its name.
        operation: &'static str,
        /// The block that shows it.
        block: ParaNumber,
        /// The transaction, where one was sent for it.
        extrinsic: Option<Hash>,
    },
    /// An operation had no effect.
    OperationFailed {
        /// Its name.
        operation: &'static str,
        /// The chain's error, or what went wrong on the way.
        error: Arc<str>,
    },
    /// A checkpoint was taken, or not.
    Checkpoint(Result<ParaNumber, Arc<str>>),
    /// It has not moved for long although there is more for it.
    Stalled,
    /// Its task panicked.
    Panicked {
        /// The panic's text.
        text: Arc<str>,
    },
}

/// The last events of one worker.
#[derive(Debug, Default)]
pub(super) struct Events {
    next: u64,
    kept: VecDeque<Event>,
}

impl Events {
    pub(super) fn push(&mut self, kind: EventKind) {
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
