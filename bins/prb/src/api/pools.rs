//! `/pools`: entries, with what the chain says of them.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use prb_core::{
    inventory::{Pool, Snapshot},
    manage::{Change, Error, KeyError, Manager, OperatorKeys, PoolValue, Selector},
    primitives::PoolId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    edits::{self, Edited, Kind, Terms},
    fields::PoolFields,
    problem::{Fault, Problem},
    query::{EditQuery, PoolQuery},
    request::{Asked, Body, IfMatch, etag},
    view::{self, PoolEntry},
};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create, edit)).routes(routes!(show, change, delete))
}

/// A page of pools, by number.
#[derive(Serialize, ToSchema)]
struct PoolList {
    /// How many the query lets through.
    total: usize,
    offset: usize,
    pools: Vec<PoolEntry>,
}

/// What an edit has put.
#[derive(Serialize, ToSchema)]
struct EditedPools {
    /// Whether everything was checked and nothing changed.
    dry_run: bool,
    /// The pools that were added or changed, in the request's order.
    pools: Vec<PoolEntry>,
}

/// Pools to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPools {
    #[schema(value_type = Vec<PoolFields>)]
    pools: Vec<Value>,
}

/// Changes of pools.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PoolChanges {
    #[schema(value_type = Vec<PoolChange>)]
    items: Vec<Value>,
}

/// One change: either `set` or `delete`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "shows the shape in the OpenAPI document; the entries are read one by one")]
struct PoolChange {
    /// A pool's id, number or name.
    id: String,
    /// The version that the change is based on: refused where it is another by now.
    version: Option<String>,
    set: Option<PoolFields>,
    delete: Option<bool>,
}

/// Lists pools.
///
/// The entity tag is that of all pools and workers: an edit of several may be made conditional on it.
#[utoipa::path(get, path = "/pools", tag = "pools", params(PoolQuery), responses(
    (status = 200, body = PoolList), (status = 400, body = Problem)))]
async fn list(State(api): State<Api>, Asked(query): Asked<PoolQuery>) -> Result<Response, Problem> {
    let (offset, limit) = query.page()?;
    let (snapshot, chain) = (api.snapshot(), api.chain());
    let counts = view::worker_counts(&snapshot);
    let fitting: Vec<_> = snapshot.pools.iter().filter(|pool| query.fits(&pool.name)).collect();
    let shown = |pool: &&Arc<Pool>| {
        let workers = counts.get(&pool.pid.0).copied().unwrap_or_default();
        PoolEntry::of(pool, workers, chain.as_deref())
    };
    let pools = fitting.iter().skip(offset).take(limit).map(shown).collect();
    let list = PoolList { total: fitting.len(), offset, pools };
    Ok((etag(&view::inventory_version(&snapshot)), Json(list)).into_response())
}

/// Adds pools, all or none.
#[utoipa::path(post, path = "/pools", tag = "pools", params(EditQuery), request_body = NewPools, responses(
    (status = 201, body = EditedPools), (status = 200, description = "dry run", body = EditedPools),
    (status = 401, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 413, body = Problem), (status = 422, description = "names every entry at fault", body = Problem)),
    security(("token" = [])))]
async fn create(
    State(api): State<Api>,
    Asked(query): Asked<EditQuery>,
    headers: HeaderMap,
    Body(body): Body<NewPools>,
) -> Result<Response, Problem> {
    let terms = terms(&query, &headers)?;
    let edited = edits::create::<Pools>(&api, body.pools, &terms).await?;
    Ok(answer(edited, query.dry_run, StatusCode::CREATED))
}

/// Changes and deletes pools, all or none.
#[utoipa::path(patch, path = "/pools", tag = "pools", params(EditQuery), request_body = PoolChanges, responses(
    (status = 200, body = EditedPools), (status = 401, body = Problem), (status = 409, body = Problem),
    (status = 412, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)),
    security(("token" = [])))]
async fn edit(
    State(api): State<Api>,
    Asked(query): Asked<EditQuery>,
    headers: HeaderMap,
    Body(body): Body<PoolChanges>,
) -> Result<Response, Problem> {
    let terms = terms(&query, &headers)?;
    let edited = edits::update::<Pools>(&api, body.items, &terms).await?;
    Ok(answer(edited, query.dry_run, StatusCode::OK))
}

/// Shows a pool, by its id, number or name.
#[utoipa::path(get, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path)), responses(
    (status = 200, body = PoolEntry), (status = 404, body = Problem)))]
async fn show(State(api): State<Api>, Path(named): Path<String>) -> Result<Response, Problem> {
    let (snapshot, chain) = (api.snapshot(), api.chain());
    let pool = Pools::find(&snapshot, &named).ok_or_else(|| no_pool(&named))?;
    let workers = view::worker_counts(&snapshot).get(&pool.pid.0).copied().unwrap_or_default();
    let shown = PoolEntry::of(pool, workers, chain.as_deref());
    Ok((etag(&view::pool_version(pool)), Json(shown)).into_response())
}

/// Changes a pool's fields; those that are absent stay.
#[utoipa::path(patch, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path), EditQuery),
    request_body = PoolFields, responses((status = 200, body = EditedPools), (status = 401, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 422, body = Problem)), security(("token" = [])))]
async fn change(
    State(api): State<Api>,
    Path(named): Path<String>,
    Asked(query): Asked<EditQuery>,
    headers: HeaderMap,
    Body(set): Body<Value>,
) -> Result<Response, Problem> {
    let id = api.pool(&named)?;
    one(&api, &query, &headers, json!({ "id": id, "set": set })).await
}

/// Deletes a pool. Refused while workers belong to it, unless `force` is given.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path), EditQuery),
    responses((status = 200, body = EditedPools), (status = 401, body = Problem), (status = 404, body = Problem),
    (status = 412, body = Problem)), security(("token" = [])))]
async fn delete(
    State(api): State<Api>,
    Path(named): Path<String>,
    Asked(query): Asked<EditQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = api.pool(&named)?;
    one(&api, &query, &headers, json!({ "id": id, "delete": true })).await
}

/// An edit of one entry, whose condition is of that entry.
async fn one(
    api: &Api,
    query: &EditQuery,
    headers: &HeaderMap,
    mut item: Value,
) -> Result<Response, Problem> {
    if let IfMatch::Version(version) = IfMatch::read(headers)? {
        item["version"] = Value::from(version);
    }
    let terms = Terms { if_match: IfMatch::Any, dry_run: query.dry_run, force: query.force };
    let edited = edits::update::<Pools>(api, vec![item], &terms).await?;
    let version = edited.entries.first().map(|pool| view::pool_version(pool));
    let body = Json(shown(&edited, query.dry_run));
    Ok(match version {
        Some(version) => (etag(&version), body).into_response(),
        None => body.into_response(),
    })
}

fn terms(query: &EditQuery, headers: &HeaderMap) -> Result<Terms, Problem> {
    Ok(Terms { if_match: IfMatch::read(headers)?, dry_run: query.dry_run, force: query.force })
}

fn answer(edited: Edited<Pool>, dry_run: bool, status: StatusCode) -> Response {
    let status = if dry_run { StatusCode::OK } else { status };
    (status, etag(&edited.inventory), Json(shown(&edited, dry_run))).into_response()
}

fn shown(edited: &Edited<Pool>, dry_run: bool) -> EditedPools {
    EditedPools { dry_run, pools: edited.entries.iter().map(|pool| PoolEntry::of(pool, 0, None)).collect() }
}

pub(super) fn no_pool(named: &str) -> Problem {
    Problem::not_found(format!("there is no pool {named:?}"))
}

/// Pools, as edits treat them.
pub(super) struct Pools;

#[async_trait]
impl Kind for Pools {
    const NAME: &'static str = "pool";
    type Fields = PoolFields;
    type Value = PoolValue;
    type Entry = Pool;

    fn whole(fields: PoolFields, old: Option<&Pool>) -> Result<PoolValue, Vec<Fault>> {
        fields.over(old)
    }

    fn name(value: &PoolValue) -> &str {
        &value.name
    }

    fn find<'a>(snapshot: &'a Snapshot, named: &str) -> Option<&'a Arc<Pool>> {
        let by_id = named.parse().ok().and_then(|id| Self::by_id(snapshot, id));
        let by_pid = || named.parse().ok().and_then(|pid| snapshot.pool(PoolId(pid)));
        by_id.or_else(by_pid).or_else(|| snapshot.pools.iter().find(|pool| pool.name == named))
    }

    fn by_id(snapshot: &Snapshot, id: Uuid) -> Option<&Arc<Pool>> {
        snapshot.pools.iter().find(|pool| pool.id == id)
    }

    fn id(entry: &Pool) -> Uuid {
        entry.id
    }

    fn version(entry: &Pool) -> String {
        view::pool_version(entry)
    }

    fn secret_fault(value: &PoolValue, keys: &dyn OperatorKeys) -> Option<Fault> {
        let error = keys.account(value.secret.as_ref()?).err()?;
        let reason = match error {
            KeyError::Invalid(reason) => reason.to_string(),
            error => error.to_string(),
        };
        Some(Fault::new("invalid", format!("the operator's secret is not valid: {reason}")).of("secret"))
    }

    fn keeps(snapshot: &Snapshot, entry: &Pool) -> Option<Fault> {
        let workers = snapshot.workers.iter().filter(|worker| worker.pid == entry.pid).count();
        let text = || {
            let name = &entry.name;
            format!(
                "{workers} workers belong to pool {name:?}: delete or move them first, or give force=true"
            )
        };
        (workers > 0).then(|| Fault::new("in-use", text()))
    }

    async fn create(manager: &Manager, values: Vec<PoolValue>) -> Result<Vec<Arc<Pool>>, Error> {
        manager.create_pools(values).await
    }

    async fn update(
        manager: &Manager,
        items: Vec<(Selector, Change<PoolValue>)>,
    ) -> Result<Vec<Arc<Pool>>, Error> {
        manager.update_pools(items).await
    }
}
