//! `/commands`: gives commands to workers, and previews them.

use std::collections::{HashMap, HashSet};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use prb_core::{
    inventory::Snapshot,
    manage::{Error, MAX_ENTRIES, Preview},
    worker::Command,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    problem::{Problem, command_code},
    query::named,
    request::{Body, QueryString},
    workers::no_worker,
};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(command))
}

/// Which workers a command is for: those named, those of a pool, or those named within a pool.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Selection {
    /// Ids, names, or patterns with `*` and `?`. Each must name at least one worker.
    workers: Option<Vec<String>>,
    /// Workers of the pool of this number.
    pool: Option<u64>,
}

/// Options of a command.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CommandQuery {
    /// Return what the command would do, without giving it.
    dry_run: bool,
}

/// The result of a command for each worker.
#[derive(Serialize, ToSchema)]
struct CommandResult {
    #[schema(value_type = String)]
    command: &'static str,
    dry_run: bool,
    /// How many workers accepted it.
    taken: usize,
    /// Why the new goals of some workers are not stored yet, if so: their answers say it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_stored: Option<String>,
    workers: Vec<Answer>,
}

/// One worker's answer.
#[derive(Serialize, ToSchema)]
struct Answer {
    id: Uuid,
    name: String,
    /// What will happen, if the worker accepts the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Why the worker does not accept the command: `not-running`, `not-now`, `not-found` or `stopped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    code: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// Gives a command to workers: `start`, `stop`, `reclaim`, `leave-pool`, `register-again`, `restart`,
/// `kick`, `checkpoint` or `confirm-key`.
///
/// Answers before it is done, with what will happen to each worker, and once the workers' new goals are stored; after
/// two seconds also without that, and says so. Workers that do not accept it are returned with the reason; if none
/// does, the status is 409.
#[utoipa::path(post, path = "/commands/{command}", tag = "commands", params(("command" = String, Path), CommandQuery),
    request_body = Selection, responses((status = 200, body = CommandResult), (status = 401, body = Problem),
    (status = 404, body = Problem), (status = 409, description = "no worker accepts it", body = CommandResult)),
    security(("token" = [])))]
async fn command(
    State(api): State<Api>,
    Path(name): Path<String>,
    QueryString(query): QueryString<CommandQuery>,
    Body(selection): Body<Selection>,
) -> Result<(StatusCode, Json<CommandResult>), Problem> {
    let Some(command) = Command::ALL.into_iter().find(|command| command.as_str() == name) else {
        let known: Vec<_> = Command::ALL.iter().map(|command| command.as_str()).collect();
        let text = format!("there is no command {name:?}; the commands are {}", known.join(", "));
        return Err(Problem::not_found(text));
    };
    let snapshot = api.snapshot();
    let ids = selected(&snapshot, &selection)?;
    let (previews, not_stored) = match query.dry_run {
        true => (api.manager().preview(&ids, command)?, None),
        false => give_command(&api, &ids, command).await?,
    };
    let taken = previews.iter().filter(|(_, answer)| answer.is_ok()).count();
    if !query.dry_run {
        tracing::info!(%command, workers = ids.len(), taken, "command given to workers");
    }
    let status = if taken == 0 { StatusCode::CONFLICT } else { StatusCode::OK };
    let names: HashMap<Uuid, &str> = snapshot.workers.iter().map(|w| (w.id, w.name.as_str())).collect();
    let workers = previews.into_iter().map(|preview| answer(&names, preview)).collect();
    let dry_run = query.dry_run;
    let command = command.as_str();
    Ok((status, Json(CommandResult { command, dry_run, taken, not_stored, workers })))
}

/// Gives the command, and returns answers and refusals in the order of the ids, and why goals are not stored yet.
async fn give_command(
    api: &Api,
    ids: &[Uuid],
    command: Command,
) -> Result<(Vec<Preview>, Option<String>), Problem> {
    match api.manager().command_stored(ids, command).await {
        Ok(done) => {
            let answers = done.answers.into_iter().map(|(id, answer)| (id, Ok(answer)));
            let mut all: Vec<Preview> =
                answers.chain(done.refused.into_iter().map(|(id, error)| (id, Err(error)))).collect();
            let places: HashMap<_, _> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
            all.sort_by_key(|(id, _)| places.get(id).copied());
            Ok((all, done.not_stored.map(|reason| reason.to_string())))
        }
        // No worker accepts it: each has its own reason.
        Err(Error::NotCommanded(_)) => {
            let mut all = api.manager().preview(ids, command)?;
            // A worker that would accept it by now was not given the command, and is left out.
            all.retain(|(_, answer)| answer.is_err());
            Ok((all, None))
        }
        Err(error) => Err(error.into()),
    }
}

fn selected(snapshot: &Snapshot, selection: &Selection) -> Result<Vec<Uuid>, Problem> {
    let of_pool = |pid: u64| selection.pool.is_none_or(|pool| pool == pid);
    if let Some(pool) = selection.pool
        && snapshot.pool(prb_core::primitives::PoolId(pool)).is_none()
    {
        return Err(Problem::not_found(format!("there is no pool {pool}")));
    }
    // Names and patterns may select a worker twice; it must get the command once.
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    match &selection.workers {
        Some(names) if names.len() > MAX_ENTRIES => {
            return Err(Error::TooMany { count: names.len(), limit: MAX_ENTRIES }.into());
        }
        Some(names) => {
            for name in names {
                let found = named(snapshot, name);
                if found.is_empty() {
                    return Err(no_worker(name));
                }
                let wanted = found.iter().filter(|worker| of_pool(worker.pid.0)).map(|worker| worker.id);
                ids.extend(wanted.filter(|id| seen.insert(*id)));
            }
        }
        None if selection.pool.is_some() => {
            ids.extend(snapshot.workers.iter().filter(|w| of_pool(w.pid.0)).map(|worker| worker.id));
        }
        None => {}
    }
    if ids.is_empty() {
        let text = "no worker is selected: give workers (ids, names or patterns; \"*\" for all) or a pool";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-selection", text));
    }
    Ok(ids)
}

fn answer(names: &HashMap<Uuid, &str>, (id, answer): Preview) -> Answer {
    let name = names.get(&id).copied().unwrap_or_default().to_owned();
    match answer {
        Ok(answer) => Answer { id, name, answer: Some(answer), code: None, refused: None },
        Err(error) => Answer {
            id,
            name,
            answer: None,
            code: Some(command_code(&error)),
            refused: Some(error.to_string()),
        },
    }
}
