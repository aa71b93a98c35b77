//! [`Backend`]: the source of the fleets on the console's pages, which also receives commands and edits.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    manage::{PoolValue, WorkerValue},
    worker::{Command, Event},
};
use uuid::Uuid;

use super::{format, view::FleetView};

/// Why a backend refuses a request. The message is for operators.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The HTTP status of the answer.
    pub status: StatusCode,
    /// The reason, a sentence without its full stop.
    pub message: String,
}

impl Error {
    /// Creates an error with a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Creates the error of an entry that has changed since it was read.
    pub fn changed() -> Self {
        Self::conflict("somebody else has changed it since this page was opened: load the page again")
    }

    /// Creates the error of a pool that workers still belong to.
    pub(super) fn in_use(workers: usize) -> Self {
        let text = "by now: remove them, or move them to another pool, and load the page again";
        Self::conflict(format!("the pool has {} {text}", format::count(workers, "worker")))
    }

    /// Returns whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.status.is_server_error()
    }
}

/// An edit of one entry.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Adds a pool, or replaces the one with this id.
    PutPool(Option<Uuid>, PoolValue),
    /// Removes a pool.
    RemovePool(Uuid),
    /// Adds a worker, or replaces the one with this id.
    PutWorker(Option<Uuid>, WorkerValue),
    /// Removes a worker.
    RemoveWorker(Uuid),
}

/// The result of a command: how many workers accepted it, and why others did not.
#[derive(Clone, Debug, Default)]
pub struct CommandResult {
    /// How many workers accepted it.
    pub taken: usize,
    /// Why the others did not.
    pub refused: Vec<String>,
    /// Why the new goals of some that did are not stored yet, if so.
    pub not_stored: Option<String>,
}

/// What a command would do to a worker, or why it cannot be given.
pub type Preview = (Uuid, Result<String, String>);

/// Provides a fleet's state, and accepts commands and edits.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Returns the fleet's state, at most a few seconds old.
    async fn fleet(&self) -> Result<Arc<FleetView>, Error>;

    /// Returns a worker's events, oldest first; `None` if the backend does not know them.
    async fn events(&self, id: Uuid) -> Result<Option<Vec<Event>>, Error>;

    /// Returns the supported commands.
    fn commands(&self) -> &'static [Command];

    /// Returns what a command would do.
    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error>;

    /// Gives a command.
    async fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error>;

    /// Returns why entries cannot be edited here, if so, as a sentence.
    fn read_only(&self) -> Option<&str>;

    /// Edits an entry. `version` is the entry's version when it was read; ignored for a new entry.
    ///
    /// # Errors
    ///
    /// A conflict if the entry has another version by now, or workers still belong to a removed pool. Nothing is
    /// changed then.
    async fn edit(&self, edit: Edit, version: &str) -> Result<(), Error>;
}
