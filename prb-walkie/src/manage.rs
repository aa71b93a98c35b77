//! Handlers of a lifecycle manager's management calls, on top of [`Manager`].
//!
//! | method | request | answer |
//! |---|---|---|
//! | `ListPool`, `ListWorker` | | all of them |
//! | `CreatePool`, `CreateWorker` | new entries; all are created or none | the created ones, in order |
//! | `UpdatePool`, `UpdateWorker` | complete values; `deleted` removes; all or none | the changed ones, without the removed |
//! | `RestartWorker`, `RefreshRaAndRestartWorker`, `KickWorker` | ids; an empty list selects none | the workers, before the command is carried out |
//! | `GetWorkerStatus` | ids; an empty list selects all | the workers; [details](detail) on request |
//! | `CommandWorker` (ours) | ids, a command's name, whether to preview only | what it does, or would do, to each |
//!
//! A command skips workers that do not run; it fails if none of the named workers runs.
//!
//! # Differences from the original
//!
//! - A pool's `owner` has the operator's two addresses. `mnemonic` and `polkadotJson` are always empty: the
//!   original returns its ciphertext, which is useful to attackers only.
//! - Settings that the original has no field for (gatekeeper, endpoints to announce, behaviour after an external
//!   stop) are in `settings` (field 1000). Without it, a new entry has the defaults and an updated one keeps its own.
//! - A pool without a mnemonic can only be created as `syncOnly`; an update without one keeps the operator.
//! - Heights are those of the last blocks that the worker has, -1 if it has none or has not been seen.
//! - [`state`] describes the layout of `sessionInfoJson`.
//! - Workers that are disabled are shown too, as `S_IDLE`; the original leaves them out.
//!
//! | cause | error |
//! |---|---|
//! | a pid, name or endpoint that is taken | `DUPLICATED` |
//! | no such pool or worker | `NOT_FOUND` |
//! | an invalid value, too many entries, no fleet in this daemon, an internal failure | `SERVER` |
//!
//! Messages name the entry and the field: `pools[1] "rack": pid "12" is taken by "shelf"`.
//!
//! Not for: access control (see [`crate::rpc`]).

use std::sync::Arc;

use prb_core::{
    manage::{self, Manager},
    text::{describe, shorten},
    worker::{Command, WorkerStatus},
};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    proto::{Empty, WorkerState, WorkerStateUpdate, detail as wire, lifecycle as lm},
    rpc::{ErrorKind, Handlers, MAX_QUOTED_BYTES, ResponseError, calls},
};

mod convert;
pub mod detail;
mod session;
pub mod state;

pub use detail::Sources;

/// Most names in one log line.
const MAX_NAMES: usize = 10;

/// Adds the management methods to a node's handlers.
#[must_use]
pub fn handlers(manager: Manager, sources: Sources, handlers: Handlers) -> Handlers {
    let handlers = pools(manager.clone(), handlers);
    let handlers = workers(manager.clone(), handlers);
    let handlers = status(manager.clone(), sources, handlers);
    commands(manager, handlers)
}

fn pools(manager: Manager, handlers: Handlers) -> Handlers {
    let (list, create, update) = (manager.clone(), manager.clone(), manager);
    handlers
        .on(calls::ListPool, move |_, Empty {}| {
            let answer = convert::pool_list(&list.pools());
            async { Ok(answer) }
        })
        .on(calls::CreatePool, move |_, request: lm::CreatePool| {
            let manager = create.clone();
            async move {
                let values = request.pools.into_iter().enumerate();
                let values = values.map(|(index, pool)| convert::pool_value("pools", index, pool));
                let values = values.collect::<Result<_, _>>()?;
                Ok(convert::pool_list(&manager.create_pools(values).await.map_err(refused)?))
            }
        })
        .on(calls::UpdatePool, move |_, request: lm::UpdatePool| {
            let manager = update.clone();
            async move {
                let items = convert::pool_changes(request)?;
                Ok(convert::pool_list(&manager.update_pools(items).await.map_err(refused)?))
            }
        })
}

fn workers(manager: Manager, handlers: Handlers) -> Handlers {
    let (list, create, update) = (manager.clone(), manager.clone(), manager);
    handlers
        .on(calls::ListWorker, move |_, Empty {}| {
            let answer = convert::worker_list(&list.workers());
            async { Ok(answer) }
        })
        .on(calls::CreateWorker, move |_, request: lm::CreateWorker| {
            let manager = create.clone();
            async move {
                let values = request.workers.into_iter().enumerate();
                let values = values.map(|(index, worker)| convert::worker_value("workers", index, worker));
                let values = values.collect::<Result<_, _>>()?;
                Ok(convert::worker_list(&manager.create_workers(values).await.map_err(refused)?))
            }
        })
        .on(calls::UpdateWorker, move |_, request: lm::UpdateWorker| {
            let manager = update.clone();
            async move {
                let items = convert::worker_changes(request)?;
                Ok(convert::worker_list(&manager.update_workers(items).await.map_err(refused)?))
            }
        })
}

fn status(manager: Manager, sources: Sources, handlers: Handlers) -> Handlers {
    handlers.on(calls::GetWorkerDetail, move |_, request: wire::StatusQuery| {
        let (manager, sources) = (manager.clone(), sources.clone());
        async move {
            let workers = manager.status(&ids(&request.ids)?).map_err(refused)?;
            if !request.detail {
                let worker_states = on_blocking_thread(move || worker_states(&workers)).await?;
                return Ok(wire::StatusUpdate { worker_states, detail: None });
            }
            // Only of named workers: the events of a whole fleet are too many for an answer.
            let with_events = request.events && !request.ids.is_empty();
            if with_events && workers.len() > detail::MAX_WITH_EVENTS {
                let limit = detail::MAX_WITH_EVENTS;
                return Err(ResponseError::server(format!(
                    "events are returned for at most {limit} workers per call"
                )));
            }
            on_blocking_thread(move || wire::StatusUpdate {
                worker_states: workers.iter().map(|worker| state::brief(worker)).collect(),
                detail: Some(sources.fleet(&manager, &workers, with_events)),
            })
            .await
        }
    })
}

fn commands(manager: Manager, handlers: Handlers) -> Handlers {
    let (restart, refresh, kick, any) = (manager.clone(), manager.clone(), manager.clone(), manager);
    handlers
        .on(calls::RestartWorker, move |_, request| command(restart.clone(), request, Manager::restart))
        .on(calls::RefreshRaAndRestartWorker, move |_, request| {
            command(refresh.clone(), request, Manager::refresh_ra_and_restart)
        })
        .on(calls::KickWorker, move |_, request| command(kick.clone(), request, Manager::kick))
        .on(calls::CommandWorker, move |_, request: wire::CommandRequest| {
            let any = any.clone();
            async move { any_command(&any, &request).await }
        })
}

/// Handles a command given by name.
async fn any_command(
    manager: &Manager,
    request: &wire::CommandRequest,
) -> Result<wire::CommandUpdate, ResponseError> {
    let known = Command::ALL.into_iter().find(|known| known.as_str() == request.command);
    let command = known.ok_or_else(|| {
        let name = shorten(&request.command, MAX_QUOTED_BYTES);
        ResponseError::server(format!("there is no command {name:?}"))
    })?;
    let ids = ids(&request.ids)?;
    let answer = |(id, answer): (Uuid, Result<String, String>)| {
        let refused = answer.is_err();
        let (Ok(text) | Err(text)) = answer;
        wire::CommandAnswer { uuid: id.to_string(), text, refused }
    };
    if request.dry_run {
        let previews = manager.preview(&ids, command).map_err(refused)?.into_iter();
        let answers = previews.map(|(id, text)| answer((id, text.map_err(|e| e.to_string())))).collect();
        return Ok(wire::CommandUpdate { answers, not_stored: String::new() });
    }
    let done = manager.command_stored(&ids, command).await.map_err(refused)?;
    log_left_out(&done);
    let not_stored = done.not_stored.map_or_else(String::new, |reason| reason.to_string());
    let taken = done.answers.into_iter().map(|(id, text)| (id, Ok(text)));
    let left_out = done.refused.into_iter().map(|(id, error)| (id, Err(error.to_string())));
    let answers = taken.chain(left_out).map(answer).collect();
    Ok(wire::CommandUpdate { answers, not_stored })
}

async fn command(
    manager: Manager,
    request: lm::UuidQueryRequest,
    command: impl FnOnce(&Manager, &[Uuid]) -> Result<manage::CommandResult, manage::Error>,
) -> Result<WorkerStateUpdate, ResponseError> {
    let done = command(&manager, &ids(&request.ids)?).map_err(refused)?;
    log_left_out(&done);
    let worker_states = on_blocking_thread(move || worker_states(&done.workers)).await?;
    Ok(WorkerStateUpdate { worker_states })
}

fn log_left_out(done: &manage::CommandResult) {
    if !done.refused.is_empty() {
        let why: Vec<_> = done.refused.iter().take(MAX_NAMES).map(|(_, error)| error.to_string()).collect();
        warn!(count = done.refused.len(), why = why.join("; "), "workers were left out of a command");
    }
}

fn worker_states(workers: &[Arc<WorkerStatus>]) -> Vec<WorkerState> {
    workers.iter().map(|worker| state::worker_state(worker)).collect()
}

/// Computing the states of thousands of workers takes a while, so it runs on a blocking thread.
async fn on_blocking_thread<T: Send + 'static>(
    states: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ResponseError> {
    let done = tokio::task::spawn_blocking(states).await;
    done.map_err(|_| ResponseError::server("the states cannot be shown"))
}

fn ids(ids: &[String]) -> Result<Vec<Uuid>, ResponseError> {
    let parse = |(index, id): (usize, &String)| {
        // A text that is not a UUID is no worker's id.
        id.parse().map_err(|_| {
            let id = shorten(id, MAX_QUOTED_BYTES);
            ResponseError::not_found(format!("ids[{index}]: there is no worker {id:?}"))
        })
    };
    ids.iter().enumerate().map(parse).collect()
}

/// Maps a manager's error to the response.
fn refused(error: manage::Error) -> ResponseError {
    use manage::Error;
    let kind = match &error {
        Error::Duplicate { .. } => ErrorKind::Duplicated,
        Error::NotFound { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Server,
    };
    let message = describe(&error);
    // The answer tells the caller of its own faults; nobody else needs them.
    if !error.is_caller_fault() {
        error!(error = message, "a management call failed");
    }
    ResponseError::new(kind, message)
}
