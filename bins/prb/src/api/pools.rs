//! `/pools`: entries of pools, with their on-chain state.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use prb_core::{
    inventory::{Pool, Snapshot},
    manage::{Error, Item, KeyError, Manager, OperatorKeys, PoolValue},
    primitives::PoolId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    edits::{self, EditConditions, Edited, EntryKind},
    fields::PoolFields,
    problem::{Fault, Problem},
    query::{EditQuery, PoolQuery},
    request::{Body, QueryString, etag},
    view::{self, PoolEntry},
};
use crate::entry_version;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create, edit)).routes(routes!(show, change, delete))
}

/// A page of pools, by number.
#[derive(Serialize, ToSchema)]
struct PoolList {
    /// How many pools match the query.
    total: usize,
    offset: usize,
    pools: Vec<PoolEntry>,
}

/// The result of an edit.
#[derive(Serialize, ToSchema)]
pub(super) struct EditedPools {
    /// Whether this was a dry run: everything was checked and nothing changed.
    dry_run: bool,
    /// The added or changed pools, in the request's order.
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

/// One change: an `id` with either `set` or `delete`, or `add` alone.
#[derive(ToSchema)]
#[expect(dead_code, reason = "shows the shape in the OpenAPI document; the entries are read one by one")]
struct PoolChange {
    /// A pool's id, number or name.
    id: Option<String>,
    /// The version that the change is based on; if the entry has another one by now, the edit is refused.
    version: Option<String>,
    set: Option<PoolFields>,
    delete: Option<bool>,
    /// A new one.
    add: Option<PoolFields>,
}

/// Lists pools.
///
/// The entity tag is that of all pools and workers: an edit of several entries can be made conditional on it.
#[utoipa::path(get, path = "/pools", tag = "pools", params(PoolQuery), responses(
    (status = 200, body = PoolList), (status = 400, body = Problem)))]
async fn list(
    State(api): State<Api>,
    QueryString(query): QueryString<PoolQuery>,
) -> Result<Response, Problem> {
    let (offset, limit) = query.page()?;
    let (snapshot, chain) = (api.snapshot(), api.chain());
    let counts = view::worker_counts(&snapshot);
    let fitting: Vec<_> = snapshot.pools.iter().filter(|pool| query.fits(&pool.name)).collect();
    let shown = |pool: &&Arc<Pool>| PoolEntry::of(pool, &counts, chain.as_deref());
    let pools = fitting.iter().skip(offset).take(limit).map(shown).collect();
    let list = PoolList { total: fitting.len(), offset, pools };
    Ok((etag(&entry_version::of_all(&snapshot)), Json(list)).into_response())
}

/// Adds pools, all or none.
#[utoipa::path(post, path = "/pools", tag = "pools", params(EditQuery), request_body = NewPools, responses(
    (status = 201, body = EditedPools), (status = 200, description = "dry run", body = EditedPools),
    (status = 401, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 413, body = Problem), (status = 422, description = "names every faulty entry", body = Problem)),
    security(("token" = [])))]
async fn create(
    State(api): State<Api>,
    conditions: EditConditions,
    Body(body): Body<NewPools>,
) -> Result<Response, Problem> {
    edits::post::<Pools>(&api, body.pools, &conditions).await
}

/// Adds, changes and deletes pools, all or none.
#[utoipa::path(patch, path = "/pools", tag = "pools", params(EditQuery), request_body = PoolChanges, responses(
    (status = 200, body = EditedPools), (status = 401, body = Problem), (status = 409, body = Problem),
    (status = 412, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)),
    security(("token" = [])))]
async fn edit(
    State(api): State<Api>,
    conditions: EditConditions,
    Body(body): Body<PoolChanges>,
) -> Result<Response, Problem> {
    edits::patch::<Pools>(&api, body.items, &conditions).await
}

/// Shows a pool, by its id, number or name.
#[utoipa::path(get, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path)), responses(
    (status = 200, body = PoolEntry), (status = 404, body = Problem)))]
async fn show(State(api): State<Api>, Path(named): Path<String>) -> Result<Response, Problem> {
    let (snapshot, chain) = (api.snapshot(), api.chain());
    let pool = Pools::find(&snapshot, &named).ok_or_else(|| no_pool(&named))?;
    let shown = PoolEntry::of(pool, &view::worker_counts(&snapshot), chain.as_deref());
    Ok((etag(&entry_version::of_pool(pool)), Json(shown)).into_response())
}

/// Changes a pool's fields; absent fields keep their value. Another number is refused while workers belong to the
/// pool, unless `force` is given.
#[utoipa::path(patch, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path), EditQuery),
    request_body = PoolFields, responses((status = 200, body = EditedPools), (status = 401, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
    (status = 422, body = Problem)), security(("token" = [])))]
async fn change(
    State(api): State<Api>,
    Path(named): Path<String>,
    conditions: EditConditions,
    Body(set): Body<Value>,
) -> Result<Response, Problem> {
    let id = api.pool(&named)?;
    // By id: an edit by name could reach another pool if the names are swapped meanwhile.
    edits::one::<Pools>(&api, json!({ "id": id, "set": set }), conditions).await
}

/// Deletes a pool. Refused while workers belong to it, unless `force` is given.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "pools", params(("pool" = String, Path), EditQuery),
    responses((status = 200, body = EditedPools), (status = 401, body = Problem), (status = 404, body = Problem),
    (status = 409, body = Problem), (status = 412, body = Problem)), security(("token" = [])))]
async fn delete(
    State(api): State<Api>,
    Path(named): Path<String>,
    conditions: EditConditions,
) -> Result<Response, Problem> {
    let id = api.pool(&named)?;
    edits::one::<Pools>(&api, json!({ "id": id, "delete": true }), conditions).await
}

pub(super) fn no_pool(named: &str) -> Problem {
    Problem::not_found(format!("there is no pool {named:?}"))
}

/// Pools, for edits.
pub(super) struct Pools;

#[async_trait]
impl EntryKind for Pools {
    const NAME: &'static str = "pool";
    type Fields = PoolFields;
    type Value = PoolValue;
    type Entry = Pool;
    type Response = EditedPools;

    fn complete(fields: PoolFields, old: Option<&Pool>) -> Result<PoolValue, Vec<Fault>> {
        fields.merged_with(old)
    }

    fn name(value: &PoolValue) -> &str {
        &value.name
    }

    fn name_of(entry: &Pool) -> &str {
        &entry.name
    }

    fn find<'a>(snapshot: &'a Snapshot, named: &str) -> Option<&'a Arc<Pool>> {
        // Ids and numbers before names: a pool may be named like another one's number.
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
        entry_version::of_pool(entry)
    }

    fn secret_fault(value: &PoolValue, keys: &dyn OperatorKeys) -> Option<Fault> {
        let error = keys.account(value.secret.as_ref()?).err()?;
        let reason = match error {
            KeyError::Invalid(reason) => reason.to_string(),
            error => error.to_string(),
        };
        Some(
            Fault::new("invalid", format!("the operator's secret is not valid: {reason}"))
                .with_field("secret"),
        )
    }

    fn shown(api: &Api, dry_run: bool, edited: &Edited<Pool>) -> EditedPools {
        let (counts, chain) = (view::worker_counts(&edited.after), api.chain());
        let shown = |pool: &Arc<Pool>| PoolEntry::of(pool, &counts, chain.as_deref());
        EditedPools { dry_run, pools: edited.entries.iter().map(shown).collect() }
    }

    fn in_use_fault(
        manager: &Manager,
        snapshot: &Snapshot,
        entry: &Pool,
        new: Option<&PoolValue>,
    ) -> Option<Fault> {
        // The workers of a pool name it by its number.
        if new.is_some_and(|new| new.pid == entry.pid) {
            return None;
        }
        let workers: Vec<_> = snapshot.workers.iter().filter(|worker| worker.pid == entry.pid).collect();
        if workers.is_empty() {
            return None;
        }
        let status = |id: Uuid| manager.fleet()?.worker(id);
        let computes = |id: Uuid| status(id).is_some_and(|status| status.needs_heartbeats());
        let computing = match workers.iter().filter(|worker| computes(worker.id)).count() {
            0 => String::new(),
            count => format!(", and {count} of them compute, whose stake is slashed without heartbeats"),
        };
        let what = format!("{} workers belong to pool {:?}{computing}", workers.len(), entry.name);
        Some(match new {
            None => Fault::new("in-use", format!("{what}: delete or move them first, or give force=true")),
            Some(new) => {
                let text =
                    format!("{what}: to change its number, add a pool {} and move them to it", new.pid);
                Fault::new("in-use", text).with_field("pid")
            }
        })
    }

    async fn edit(manager: &Manager, items: Vec<Item<PoolValue>>) -> Result<Vec<Arc<Pool>>, Error> {
        manager.edit_pools(items).await
    }
}
