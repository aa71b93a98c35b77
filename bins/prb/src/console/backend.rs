//! [`Backend`]: where the console's pages have a fleet from, and where they send what an operator does.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    manage::{PoolValue, WorkerValue},
    worker::{Command, Event},
};
use uuid::Uuid;

use super::{format, view::FleetView};

/// Why a backend does not do what it is asked for. The message is for operators.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The status of the answer.
    pub status: StatusCode,
    /// What happened, in a sentence without its full stop.
    pub message: String,
}

impl Error {
    /// An error of a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Somebody else has changed the entry since it was read.
    pub fn changed() -> Self {
        Self::conflict("somebody else has changed it since this page was opened: load the page again")
    }

    /// Workers still belong to the pool.
    pub(super) fn in_use(workers: usize) -> Self {
        let text = "by now: remove them, or move them to another pool, and load the page again";
        Self::conflict(format!("the pool has {} {text}", format::count(workers, "worker")))
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.status.is_server_error()
    }
}

/// An edit of one entry.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Adds a pool, or replaces that of an id.
    PutPool(Option<Uuid>, PoolValue),
    /// Removes a pool.
    RemovePool(Uuid),
    /// Adds a worker, or replaces that of an id.
    PutWorker(Option<Uuid>, WorkerValue),
    /// Removes a worker.
    RemoveWorker(Uuid),
}

/// What a command did: the workers that took it, and why others did not.
#[derive(Clone, Debug, Default)]
pub struct CommandResult {
    /// How many took it.
    pub taken: usize,
    /// Why the others did not.
    pub refused: Vec<String>,
}

/// What a command would do to a worker, or why it cannot be given.
pub type Preview = (Uuid, Result<String, String>);

/// A fleet: looked at, commanded, edited.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// How everything is, at most some seconds old.
    async fn fleet(&self) -> Result<Arc<FleetView>, Error>;

    /// What happened to a worker, oldest first; `None` where the backend does not know.
    async fn events(&self, id: Uuid) -> Result<Option<Vec<Event>>, Error>;

    /// The commands that it takes.
    fn commands(&self) -> &'static [Command];

    /// What a command would do.
    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error>;

    /// Gives a command.
    async fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error>;

    /// Why entries cannot be edited here, if so, in a sentence.
    fn read_only(&self) -> Option<&str>;

    /// Edits an entry. `version` is that of the entry when it was read; none is needed for a new one.
    ///
    /// # Errors
    /// A conflict where the entry has another version by now, or workers still belong to a pool that is to go: nothing
    /// was changed then.
    async fn edit(&self, edit: Edit, version: &str) -> Result<(), Error>;
}
