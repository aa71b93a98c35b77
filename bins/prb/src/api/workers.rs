//! `/workers`: entries, status and events of workers.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use prb_core::{
    inventory::{Goal, Snapshot, Worker},
    manage::{Error, Item, Manager, OperatorKeys, WorkerValue},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    edits::{self, EditConditions, Edited, EntryKind},
    fields::WorkerFields,
    problem::{Fault, Problem},
    query::{EditQuery, WorkerQuery},
    request::{Body, QueryString, etag},
    view::{self, WorkerDetail, WorkerEntry, WorkerSummary},
};
use crate::entry_version;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create, edit))
        .routes(routes!(show, change, delete))
        .routes(routes!(events))
}

/// A page of workers, by name.
#[derive(Serialize, ToSchema)]
struct WorkerList {
    /// How many workers match the query.
    total: usize,
    offset: usize,
    workers: Vec<WorkerSummary>,
}

/// The result of an edit.
#[derive(Serialize, ToSchema)]
pub(super) struct EditedWorkers {
    /// Whether this was a dry run: everything was checked and nothing changed.
    dry_run: bool,
    /// The added or changed workers, in the request's order.
    workers: Vec<EditedWorker>,
}

/// A worker that was added or changed.
#[derive(Serialize, ToSchema)]
struct EditedWorker {
    #[serde(flatten)]
    entry: WorkerEntry,
    /// Only of an added worker that goes on with the goal of a removed one, which it had under the same name or with
    /// the same endpoint: that goal. Start it if it should compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    resumed_goal: Option<Goal>,
}

/// Workers to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWorkers {
    #[schema(value_type = Vec<WorkerFields>)]
    workers: Vec<Value>,
}

/// Changes of workers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WorkerChanges {
    #[schema(value_type = Vec<WorkerChange>)]
    items: Vec<Value>,
}

/// One change: an `id` with either `set` or `delete`, or `add` alone.
#[derive(ToSchema)]
#[expect(dead_code, reason = "shows the shape in the OpenAPI document; the entries are read one by one")]
struct WorkerChange {
    /// A worker's id or name.
    id: Option<String>,
    /// The version that the change is based on; if the entry has another one by now, the edit is refused.
    version: Option<String>,
    set: Option<WorkerFields>,
    delete: Option<bool>,
    /// A new one.
    add: Option<WorkerFields>,
}

/// Which events to return.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventQuery {
    /// Only events after this number.
    after: Option<u64>,
}

/// A worker's latest events, oldest first.
#[derive(Serialize, ToSchema)]
struct Events {
    /// Each has `number`, `at`, `kind` and the fields of its kind.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
}

/// Lists workers with their status.
///
/// The entity tag is that of all pools and workers: an edit of several entries can be made conditional on it.
#[utoipa::path(get, path = "/workers", tag = "workers", params(WorkerQuery), responses(
    (status = 200, body = WorkerList), (status = 400, body = Problem)))]
async fn list(
    State(api): State<Api>,
    QueryString(query): QueryString<WorkerQuery>,
) -> Result<Response, Problem> {
    let (offset, limit) = query.page()?;
    // Before the status: if an edit comes in between, the version is older than the entries, and an edit
    // based on them is refused. The other way round, it would overwrite the edit.
    let version = api.inventory_version();
    let all = api.manager().status(&[])?;
    let fitting: Vec<_> =
        all.iter().filter(|one| query.fits_entry(&one.worker) && query.fits_status(one)).collect();
    let workers = fitting.iter().skip(offset).take(limit).map(|status| WorkerSummary::of(status)).collect();
    let list = WorkerList { total: fitting.len(), offset, workers };
    Ok((etag(&version), Json(list)).into_response())
}

/// Adds workers, all or none.
#[utoipa::path(post, path = "/workers", tag = "workers", params(EditQuery), request_body = NewWorkers, responses(
    (status = 201, body = EditedWorkers), (status = 200, description = "dry run", body = EditedWorkers),
    (status = 401, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 413, body = Problem), (status = 422, description = "names every faulty entry", body = Problem)),
    security(("token" = [])))]
async fn create(
    State(api): State<Api>,
    conditions: EditConditions,
    Body(body): Body<NewWorkers>,
) -> Result<Response, Problem> {
    edits::post::<Workers>(&api, body.workers, &conditions).await
}

/// Adds, changes and deletes workers, all or none.
#[utoipa::path(patch, path = "/workers", tag = "workers", params(EditQuery), request_body = WorkerChanges, responses(
    (status = 200, body = EditedWorkers), (status = 401, body = Problem), (status = 409, body = Problem),
    (status = 412, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)),
    security(("token" = [])))]
async fn edit(
    State(api): State<Api>,
    conditions: EditConditions,
    Body(body): Body<WorkerChanges>,
) -> Result<Response, Problem> {
    edits::patch::<Workers>(&api, body.items, &conditions).await
}

/// Shows all known details of a worker, by its id or name.
#[utoipa::path(get, path = "/workers/{worker}", tag = "workers", params(("worker" = String, Path)), responses(
    (status = 200, body = WorkerDetail), (status = 404, body = Problem)))]
async fn show(State(api): State<Api>, Path(named): Path<String>) -> Result<Response, Problem> {
    let id = api.worker(&named)?;
    let mut status = api.manager().status(&[id])?;
    let status = status.pop().ok_or_else(|| no_worker(&named))?;
    Ok((etag(&entry_version::of_worker(&status.worker)), Json(WorkerDetail::of(&status))).into_response())
}

/// Changes a worker's fields; absent fields keep their value.
#[utoipa::path(patch, path = "/workers/{worker}", tag = "workers", params(("worker" = String, Path), EditQuery),
    request_body = WorkerFields, responses((status = 200, body = EditedWorkers), (status = 401, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 422, body = Problem)), security(("token" = [])))]
async fn change(
    State(api): State<Api>,
    Path(named): Path<String>,
    conditions: EditConditions,
    Body(set): Body<Value>,
) -> Result<Response, Problem> {
    let id = api.worker(&named)?;
    edits::one::<Workers>(&api, json!({ "id": id, "set": set }), conditions).await
}

/// Deletes a worker. This does not stop it on chain: stop it first, and reclaim its stake. Refused while it computes,
/// unless `force` is given.
#[utoipa::path(delete, path = "/workers/{worker}", tag = "workers", params(("worker" = String, Path), EditQuery),
    responses((status = 200, body = EditedWorkers), (status = 401, body = Problem), (status = 404, body = Problem),
    (status = 409, body = Problem), (status = 412, body = Problem)), security(("token" = [])))]
async fn delete(
    State(api): State<Api>,
    Path(named): Path<String>,
    conditions: EditConditions,
) -> Result<Response, Problem> {
    let id = api.worker(&named)?;
    edits::one::<Workers>(&api, json!({ "id": id, "delete": true }), conditions).await
}

/// Shows a worker's events since the daemon started.
#[utoipa::path(get, path = "/workers/{worker}/events", tag = "workers", params(("worker" = String, Path), EventQuery),
    responses((status = 200, body = Events), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn events(
    State(api): State<Api>,
    Path(named): Path<String>,
    QueryString(query): QueryString<EventQuery>,
) -> Result<Json<Events>, Problem> {
    let events = api.manager().events(api.worker(&named)?)?;
    let wanted = events.iter().filter(|event| query.after.is_none_or(|after| event.number > after));
    Ok(Json(Events { events: wanted.map(view::event).collect() }))
}

pub(super) fn no_worker(named: &str) -> Problem {
    Problem::not_found(format!("there is no worker {named:?}"))
}

/// Workers, for edits.
pub(super) struct Workers;

#[async_trait]
impl EntryKind for Workers {
    const NAME: &'static str = "worker";
    type Fields = WorkerFields;
    type Value = WorkerValue;
    type Entry = Worker;
    type Response = EditedWorkers;

    fn complete(fields: WorkerFields, old: Option<&Worker>) -> Result<WorkerValue, Vec<Fault>> {
        fields.merged_with(old)
    }

    fn name(value: &WorkerValue) -> &str {
        &value.name
    }

    fn name_of(entry: &Worker) -> &str {
        &entry.name
    }

    fn find<'a>(snapshot: &'a Snapshot, named: &str) -> Option<&'a Arc<Worker>> {
        let by_id = named.parse().ok().and_then(|id| Self::by_id(snapshot, id));
        by_id.or_else(|| snapshot.workers.iter().find(|worker| worker.name == named))
    }

    fn by_id(snapshot: &Snapshot, id: Uuid) -> Option<&Arc<Worker>> {
        snapshot.workers.iter().find(|worker| worker.id == id)
    }

    fn id(entry: &Worker) -> Uuid {
        entry.id
    }

    fn version(entry: &Worker) -> String {
        entry_version::of_worker(entry)
    }

    fn secret_fault(_: &WorkerValue, _: &dyn OperatorKeys) -> Option<Fault> {
        None
    }

    fn shown(_: &Api, dry_run: bool, edited: &Edited<Worker>) -> EditedWorkers {
        let goals = edited.resumed_goals();
        let shown = |worker: &Arc<Worker>| EditedWorker {
            entry: WorkerEntry::of(worker),
            resumed_goal: goals.get(&worker.id).copied(),
        };
        EditedWorkers { dry_run, workers: edited.entries.iter().map(shown).collect() }
    }

    fn in_use_fault(
        manager: &Manager,
        _: &Snapshot,
        entry: &Worker,
        new: Option<&WorkerValue>,
    ) -> Option<Fault> {
        if new.is_some() {
            return None;
        }
        let status = manager.fleet()?.worker(entry.id)?;
        let text = || {
            format!(
                "worker {:?} is computing, and without its heartbeats its stake is slashed: stop it first, reclaim its \
                 stake after the cool-down, and delete it then; or give force=true",
                entry.name
            )
        };
        status.needs_heartbeats().then(|| Fault::new("in-use", text()))
    }

    async fn edit(manager: &Manager, items: Vec<Item<WorkerValue>>) -> Result<Vec<Arc<Worker>>, Error> {
        manager.edit_workers(items).await
    }
}
