//! [`Receipt`]: tells when the effect of a command is stored.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::worker::{Saver, Slot, Taken};

/// A command that was accepted, and whose effect on the worker's goal or key is about to be stored. May be dropped: the
/// command is carried out all the same.
#[derive(Debug)]
pub struct Receipt(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    /// The command's number among those given to the worker.
    command: u64,
    taken: watch::Receiver<Taken>,
    saver: Arc<Saver>,
}

/// The effect of a command is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted, but not stored yet, so that it is lost if the process ends abnormally now: {reason}")]
pub struct NotStored {
    reason: String,
}

impl Receipt {
    pub(super) fn new(slot: &Slot, command: u64, saver: &Arc<Saver>) -> Self {
        Self(Some(Waiting { command, taken: slot.taken(), saver: Arc::clone(saver) }))
    }

    /// The receipt of a command that stores nothing.
    pub(super) const fn nothing() -> Self {
        Self(None)
    }

    /// Waits until the effect is stored, at most until `deadline`.
    ///
    /// # Errors
    /// [`NotStored`] at the deadline. The effect is stored later, unless the process ends before.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn stored_until(self, deadline: Instant) -> Result<(), NotStored> {
        let Some(mut waiting) = self.0 else { return Ok(()) };
        let Some(change) = waiting.change(deadline).await else {
            return Err(waiting.not_stored("the worker has not taken it up; it may be writing a checkpoint"));
        };
        let mut stored = waiting.saver.stored();
        match timeout_at(deadline, stored.wait_for(|stored| *stored >= change)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(waiting.not_stored("the inventory has not answered")),
        }
    }
}

impl Waiting {
    /// Returns the change that stores the command's effect, once the worker's task has taken it.
    async fn change(&mut self, deadline: Instant) -> Option<u64> {
        let command = self.command;
        let taken = self.taken.wait_for(|taken| taken.commands >= command);
        timeout_at(deadline, taken).await.ok()?.ok().map(|taken| taken.change)
    }

    fn not_stored(&self, otherwise: &str) -> NotStored {
        let problem = self.saver.problem();
        NotStored { reason: problem.map_or_else(|| otherwise.to_owned(), |problem| problem.to_string()) }
    }
}
