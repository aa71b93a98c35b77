//! The management calls of a lifecycle manager: a skin over [`Manager`].
//!
//! | method | asks for | answers |
//! |---|---|---|
//! | `ListPool`, `ListWorker` | | all of them |
//! | `CreatePool`, `CreateWorker` | new ones; all are made or none | those made, in order |
//! | `UpdatePool`, `UpdateWorker` | whole values; `deleted` removes; all or none | those changed, without the removed |
//! | `RestartWorker`, `RefreshRaAndRestartWorker`, `KickWorker` | ids; an empty list is nobody | the workers, the command not done yet |
//! | `GetWorkerStatus` | ids; an empty list is everybody | the workers |
//!
//! A command leaves out workers that do not run; it fails where none of those named does.
//!
//! # What is answered as the original does, and what is not
//!
//! - A pool's `owner` has the operator's two addresses. `mnemonic` and `polkadotJson` are always empty: the
//!   original gives its ciphertext, which is of use only to somebody who is after the key.
//! - What the wire has no field for (a gatekeeper, endpoints to announce, what happens after a stop from
//!   elsewhere) has its default in a new entry, and stays as it is in an update.
//! - A pool without a mnemonic is made only where it is `syncOnly`; in an update none leaves the operator.
//! - Heights are the last that the worker holds, -1 where it holds none or is not seen.
//! - `sessionInfoJson` is laid out in [`state`].
//! - Workers that are disabled are shown too, as `S_IDLE`; the original leaves them out.
//!
//! | cause | error |
//! |---|---|
//! | a pid, name or endpoint that is taken | `DUPLICATED` |
//! | no such pool or worker | `NOT_FOUND` |
//! | a value that cannot be, too many entries, no fleet here, a failure of ours | `SERVER` |
//!
//! Messages name the entry and the field: `pools[1] "rack": pid "12" is taken by "shelf"`.
//!
//! Not for: who may call (see [`crate::rpc`]).

use prb_core::manage::{self, Manager};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    proto::{Empty, WorkerStateUpdate, lifecycle as lm},
    rpc::{ErrorKind, Handlers, ResponseError, calls},
};

mod convert;
mod session;
pub mod state;

/// How many names one log line has.
const MAX_NAMES: usize = 10;

/// Adds the management methods to a node's handlers.
#[must_use]
pub fn handlers(manager: Manager, handlers: Handlers) -> Handlers {
    let handlers = pools(manager.clone(), handlers);
    let handlers = workers(manager.clone(), handlers);
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
                let values = request.pools.into_iter().map(convert::pool_value).collect();
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
                let values = request.workers.into_iter().map(convert::worker_value).collect();
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

fn commands(manager: Manager, handlers: Handlers) -> Handlers {
    let (restart, refresh, kick, status) = (manager.clone(), manager.clone(), manager.clone(), manager);
    handlers
        .on(calls::RestartWorker, move |_, request| command(restart.clone(), request, Manager::restart))
        .on(calls::RefreshRaAndRestartWorker, move |_, request| {
            command(refresh.clone(), request, Manager::refresh_ra_and_restart)
        })
        .on(calls::KickWorker, move |_, request| command(kick.clone(), request, Manager::kick))
        .on(calls::GetWorkerStatus, move |_, request: lm::UuidQueryRequest| {
            let manager = status.clone();
            async move {
                let workers = manager.status(&ids(&request)?).map_err(refused)?;
                told(move || workers.iter().map(|worker| state::worker_state(worker)).collect()).await
            }
        })
}

async fn command(
    manager: Manager,
    request: lm::UuidQueryRequest,
    command: impl FnOnce(&Manager, &[Uuid]) -> Result<manage::Commanded, manage::Error>,
) -> Result<WorkerStateUpdate, ResponseError> {
    let done = command(&manager, &ids(&request)?).map_err(refused)?;
    if !done.refused.is_empty() {
        let why: Vec<_> = done.refused.iter().take(MAX_NAMES).map(|(_, error)| error.to_string()).collect();
        warn!(count = done.refused.len(), why = why.join("; "), "workers were left out of a command");
    }
    told(move || done.workers.iter().map(|worker| state::worker_state(worker)).collect()).await
}

/// Thousands of workers' JSON take a while: not on an executor's thread.
async fn told(
    states: impl FnOnce() -> Vec<crate::proto::WorkerState> + Send + 'static,
) -> Result<WorkerStateUpdate, ResponseError> {
    let worker_states = tokio::task::spawn_blocking(states).await;
    let worker_states = worker_states.map_err(|_| ResponseError::server("the states cannot be shown"))?;
    Ok(WorkerStateUpdate { worker_states })
}

fn ids(request: &lm::UuidQueryRequest) -> Result<Vec<Uuid>, ResponseError> {
    let parse = |(index, id): (usize, &String)| {
        // A text that is no id is the id of nobody.
        id.parse().map_err(|_| {
            let id: String = id.chars().take(64).collect();
            ResponseError::not_found(format!("ids[{index}]: there is no worker {id:?}"))
        })
    };
    request.ids.iter().enumerate().map(parse).collect()
}

/// What the caller is told.
fn refused(error: manage::Error) -> ResponseError {
    use manage::Error;
    let kind = match &error {
        Error::Duplicate { .. } => ErrorKind::Duplicated,
        Error::NotFound { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Server,
    };
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        message.push_str(": ");
        message.push_str(&next.to_string());
        cause = next.source();
    }
    if !error.is_callers() {
        error!(error = message, "a management call failed");
    }
    ResponseError::new(kind, message)
}
