//! Forms to add, change and remove pools and workers.
//!
//! A form contains the version of the entry that it was filled from; the backend rejects the edit if the
//! entry has changed since.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::RawPathParams,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use prb_core::{
    inventory::{AfterExternalStop, MAX_ENDPOINT_BYTES, MAX_NAME_BYTES},
    manage::{PoolValue, WorkerValue},
    primitives::{PHALA_SS58_PREFIX, PoolId},
    worker::Operation,
};
use secrecy::SecretString;
use uuid::Uuid;

use super::{
    backend::{Backend, Edit, Error},
    context::Context,
    fields::Fields,
    format,
    view::{FleetView, PoolView, WorkerView},
};
use crate::{entry_version, pages::layout};

/// Shows the form of a new worker, or of the one in the path.
pub(super) async fn worker_page(context: Context, params: RawPathParams) -> Response {
    let shown = async {
        let fleet = editable(&context)?.fleet().await?;
        let worker = match id_of(&params)? {
            None => None,
            Some(id) => Some(fleet.worker(id).ok_or_else(|| no_such("worker"))?),
        };
        let title = if worker.is_some() { "Edit a worker" } else { "Add a worker" };
        Ok(context.page(title, "/workers", None, &worker_form(&context, title, worker, &fleet)))
    };
    shown.await.map_or_else(|error: Error| context.failed(&error), IntoResponse::into_response)
}

/// Shows the form of a new pool, or of the one in the path.
pub(super) async fn pool_page(context: Context, params: RawPathParams) -> Response {
    let shown = async {
        let fleet = editable(&context)?.fleet().await?;
        let pool = match id_of(&params)? {
            None => None,
            Some(id) => Some(fleet.pools.iter().find(|pool| pool.id == id).ok_or_else(|| no_such("pool"))?),
        };
        let title = if pool.is_some() { "Edit a pool" } else { "Add a pool" };
        Ok(context.page(title, "/pools", None, &pool_form(&context, title, pool, &fleet)))
    };
    shown.await.map_or_else(|error: Error| context.failed(&error), IntoResponse::into_response)
}

/// Returns the fleet if its entries can be edited.
fn editable(context: &Context) -> Result<&Arc<dyn Backend>, Error> {
    let backend = context.fleet()?;
    match backend.read_only() {
        Some(reason) => Err(Error::conflict(reason)),
        None => Ok(backend),
    }
}

fn id_of(params: &RawPathParams) -> Result<Option<Uuid>, Error> {
    let text = params.iter().find(|(name, _)| *name == "id").map(|(_, text)| text);
    text.map(|text| text.parse().map_err(|_| no_such("entry"))).transpose()
}

/// The entry may have been removed since the page was loaded.
fn no_such(what: &str) -> Error {
    Error::not_found(format!("there is no such {what}"))
}

fn check(name: &str, label: &str, checked: bool) -> Markup {
    html! { label.check { input type="checkbox" name=(name) value="1" checked[checked]; (label) } }
}

fn after_stop(chosen: Option<AfterExternalStop>, default: &str) -> Markup {
    html! {
        label {
            "After a stop by somebody else"
            select name="after_stop" {
                option value="" { (default) }
                @for setting in AfterExternalStop::ALL {
                    option value=(setting.as_str()) selected[chosen == Some(setting)] { (setting.as_str()) }
                }
            }
        }
    }
}

/// Shows which settings a manager's calls have no fields for.
fn unsupported_notice(what: &str) -> Markup {
    html! {
        p.notice {
            "This manager is an original or of an older version: it cannot be set from here " (what)
            ". These settings stay as they are."
        }
    }
}

/// Refuses fields that the form of this manager does not have.
fn check_taken(fields: &Fields, takes_settings: bool) -> Result<(), Error> {
    // The form of a newer manager may be open while an older one takes its place; nothing is dropped silently.
    let settings = ["gatekeeper", "endpoints", "after_stop"];
    match settings.into_iter().find(|name| !takes_settings && !fields.get(name).trim().is_empty()) {
        Some(name) => Err(Error::conflict(format!(
            "this manager is an original or of an older version and does not take {name}: nothing was changed"
        ))),
        None => Ok(()),
    }
}

fn worker_form(context: &Context, title: &str, worker: Option<&WorkerView>, fleet: &FleetView) -> Markup {
    let entry = worker.map(|worker| &*worker.entry);
    let list = format!("{}/workers", context.base);
    let back = entry.map_or_else(|| list.clone(), |entry| format!("{list}/{}", entry.id));
    let takes_settings = fleet.takes_settings;
    html! {
        div.title { h1 { (title) } }
        @if !takes_settings { (unsupported_notice("whether a worker is a gatekeeper, which endpoints it announces, and what happens after an external stop")) }
        form.edit method="post" action={ (list) "/save" } data-act data-then=(back) autocomplete="off" {
            @if let Some(entry) = entry {
                input type="hidden" name="id" value=(entry.id);
                input type="hidden" name="version" value=(entry_version::of_worker(entry));
            }
            label {
                "Name"
                input name="name" required maxlength=(MAX_NAME_BYTES) value=[entry.map(|entry| &entry.name)];
            }
            label {
                "Pool"
                select name="pid" required { (pool_options(entry.map(|entry| entry.pid.0), fleet)) }
            }
            label.wide {
                "pRuntime endpoint"
                input name="endpoint" type="url" required maxlength=(MAX_ENDPOINT_BYTES) placeholder="http://10.0.0.7:8000" value=[entry.map(|entry| &entry.endpoint)];
            }
            label {
                "Stake in PHA"
                input name="stake" required inputmode="decimal" pattern="[0-9]+(\\.[0-9]{0,12})?" placeholder="15000" value=[entry.map(|entry| format::plain_amount(entry.stake))];
            }
            @if takes_settings { (after_stop(entry.and_then(|entry| entry.after_stop), "as set for its pool")) }
            @if takes_settings {
                label.wide {
                    "Endpoints to announce on chain, separated by commas"
                    input name="endpoints" placeholder="https://worker.example.org" value=[entry.map(|entry| entry.endpoints.join(", "))];
                }
            }
            div.checks {
                (check("enabled", "Enabled", entry.is_none_or(|entry| entry.enabled)))
                (check("sync_only", "Sync only (send nothing on chain)", entry.is_some_and(|entry| entry.sync_only)))
                @if takes_settings { (check("gatekeeper", "Gatekeeper", entry.is_some_and(|entry| entry.gatekeeper))) }
            }
            p.error role="alert" data-error hidden {}
            p.buttons { a.button href=(back) { "Back" } button.main #save type="submit" { "Save" } }
        }
        @if let Some(entry) = entry {
            // A computing worker gets a warning, and a box to tick: its session would go on without it.
            @let text = worker.map_or(UNTOUCHED, removal_text);
            @let asks = worker.is_some_and(WorkerView::needs_heartbeats);
            (removal(&format!("{list}/remove"), &list, entry.id, &entry_version::of_worker(entry), &entry.name, text, asks))
        }
    }
}

/// The pools that a worker can be in. Browsers send the first one if none is selected.
fn pool_options(pid: Option<u64>, fleet: &FleetView) -> Markup {
    html! {
        @match pid {
            None => option value="" {},
            Some(pid) if fleet.pools.iter().all(|pool| pool.pid != pid) => {
                option value=(pid) selected { (pid) " (not in the inventory)" }
            }
            Some(_) => {}
        }
        @for pool in &fleet.pools {
            option value=(pool.pid) selected[pid == Some(pool.pid)] { (pool.pid) " " (pool.name) }
        }
    }
}

/// The box without which a computing worker is not removed.
const WHILE_COMPUTING: &str = "while_computing";
const UNTOUCHED: &str = "Its session on chain, if there is one, does not change.";

fn removal_text(worker: &WorkerView) -> &'static str {
    let starts = worker.in_flight.as_ref().is_some_and(|it| it.operation == Operation::Start(0).name());
    if worker.needs_heartbeats() {
        "It is computing: its session would stay on chain without heartbeats and be slashed. Stop it first, reclaim its \
         stake after the cool-down, and remove it then."
    } else if starts {
        "Its start is in the queue and is taken back. If a trader already has it, the worker starts, and computes without \
         heartbeats: to be sure, stop it first."
    } else {
        UNTOUCHED
    }
}

fn removal(
    action: &str,
    then: &str,
    id: Uuid,
    version: &str,
    name: &str,
    consequence: &str,
    asks: bool,
) -> Markup {
    html! {
        form.remove method="post" action=(action) data-act data-then=(then) data-ask={ "Remove " (name) "? " (consequence) } {
            input type="hidden" name="id" value=(id);
            input type="hidden" name="version" value=(version);
            p.small { (consequence) }
            @if asks { div.checks { (check(WHILE_COMPUTING, "Remove it although it is computing", false)) } }
            p.error role="alert" data-error hidden {}
            button.danger #remove type="submit" { "Remove " (name) }
        }
    }
}

fn pool_form(context: &Context, title: &str, pool: Option<&PoolView>, fleet: &FleetView) -> Markup {
    let list = format!("{}/pools", context.base);
    let proxied = pool.and_then(|pool| pool.proxied).map(|account| account.to_ss58(PHALA_SS58_PREFIX));
    let workers = pool.map_or(0, |pool| fleet.workers.iter().filter(|w| w.entry.pid.0 == pool.pid).count());
    html! {
        div.title { h1 { (title) } }
        @if !fleet.takes_settings { (unsupported_notice("what happens to a pool's workers after an external stop")) }
        form.edit method="post" action={ (list) "/save" } data-act data-then=(list) autocomplete="off" {
            @if let Some(pool) = pool {
                input type="hidden" name="id" value=(pool.id);
                input type="hidden" name="version" value=(pool.version);
            }
            label {
                "Pool number (pid)"
                input name="pid" required inputmode="numeric" pattern="[0-9]{1,20}" value=[pool.map(|pool| pool.pid)];
            }
            label { "Name" input name="name" required maxlength=(MAX_NAME_BYTES) value=[pool.map(|pool| &pool.name)]; }
            label.wide {
                "Operator's mnemonic or secret URI"
                // `new-password`: a browser must not fill in a password that it has stored for this address.
                input name="secret" type="password" autocomplete="new-password" maxlength="4096"
                    placeholder=(if pool.is_some_and(|pool| pool.operator.is_some()) { "(unchanged)" } else { "" });
            }
            label.wide {
                "Address of the owner, if the operator is its proxy"
                input name="proxied" maxlength="64" placeholder="(none)" value=[proxied];
            }
            @if fleet.takes_settings { (after_stop(pool.and_then(|pool| pool.after_stop.flatten()), "as set for the manager")) }
            div.checks {
                (check("enabled", "Enabled", pool.is_none_or(|pool| pool.enabled)))
                (check("sync_only", "Sync only (send nothing on chain)", pool.is_some_and(|pool| pool.sync_only)))
            }
            p.error role="alert" data-error hidden {}
            p.buttons { a.button href=(list) { "Back" } button.main #save type="submit" { "Save" } }
        }
        @if let Some(pool) = pool {
            // The manager refuses to remove it: the workers would have no pool.
            @if workers > 0 {
                p.small { "It has " (format::count(workers, "worker")) " here: remove them, or move them to another pool, before you remove it or change its number." }
            } @else {
                (removal(&format!("{list}/remove"), &list, pool.id, &pool.version, &pool.name, "Nothing changes on chain.", false))
            }
        }
    }
}

/// Adds or replaces a worker.
pub(super) async fn save_worker(context: Context, headers: HeaderMap, body: Bytes) -> Response {
    let fields = Fields::read(&body);
    let done = async {
        let backend = editable(&context)?;
        let id = form_id(&fields)?;
        // Asked again, and not taken from the form: the manager may have been replaced by an older one since.
        let takes_settings = backend.fleet().await?.takes_settings;
        check_taken(&fields, takes_settings)?;
        let endpoints = fields.get("endpoints").split(',').map(str::trim).filter(|text| !text.is_empty());
        let value = WorkerValue::default()
            .with_pid(pid(&fields)?)
            .with_name(fields.get("name").to_owned())
            .with_endpoint(fields.get("endpoint").to_owned())
            .with_stake(format::read_amount(fields.get("stake")).map_err(bad)?.to_string())
            .with_enabled(fields.is_on("enabled"))
            .with_sync_only(fields.is_on("sync_only"))
            // A missing box means off only if the form had it. `None` keeps the present value.
            .with_gatekeeper(takes_settings.then(|| fields.is_on("gatekeeper")))
            .with_endpoints(takes_settings.then(|| endpoints.map(str::to_owned).collect()))
            .with_after_stop(if takes_settings { Some(setting(&fields)?) } else { None });
        let name = value.name.clone();
        backend.edit(Edit::PutWorker(id, value), fields.get("version")).await?;
        tracing::info!(worker = name, "worker saved by an operator");
        Ok(format!("Worker {name} is saved."))
    };
    answer(&headers, done.await)
}

/// Adds or replaces a pool.
pub(super) async fn save_pool(context: Context, headers: HeaderMap, body: Bytes) -> Response {
    let fields = Fields::read(&body);
    let done = async {
        let backend = editable(&context)?;
        let id = form_id(&fields)?;
        let takes_settings = backend.fleet().await?.takes_settings;
        check_taken(&fields, takes_settings)?;
        let secret = fields.get("secret");
        let value = PoolValue::default()
            .with_pid(pid(&fields)?)
            .with_name(fields.get("name").to_owned())
            // The form never contains the present secret, so an empty field means that it stays.
            .with_secret((!secret.is_empty()).then(|| SecretString::from(secret)))
            .with_proxied(fields.get("proxied").to_owned())
            .with_enabled(fields.is_on("enabled"))
            .with_sync_only(fields.is_on("sync_only"))
            .with_after_stop(if takes_settings { Some(setting(&fields)?) } else { None });
        let name = value.name.clone();
        backend.edit(Edit::PutPool(id, value), fields.get("version")).await?;
        tracing::info!(pool = name, "pool saved by an operator");
        Ok(format!("Pool {name} is saved."))
    };
    answer(&headers, done.await)
}

/// Removes a worker. One that computes only if the form says that this is known.
pub(super) async fn remove_worker(context: Context, headers: HeaderMap, body: Bytes) -> Response {
    let fields = Fields::read(&body);
    let done = async {
        if !fields.is_on(WHILE_COMPUTING) {
            check_not_computing(&context, form_id(&fields)?).await?;
        }
        remove(&context, &fields, "worker", Edit::RemoveWorker).await
    };
    answer(&headers, done.await)
}

async fn check_not_computing(context: &Context, id: Option<Uuid>) -> Result<(), Error> {
    let fleet = context.fleet()?.fleet().await?;
    match id.and_then(|id| fleet.worker(id)) {
        Some(worker) if worker.needs_heartbeats() => Err(Error::conflict(format!(
            "worker {} is computing, and without its heartbeats its stake is slashed. Stop it first, reclaim its stake \
             after the cool-down, and remove it then; or tick the box to remove it nevertheless",
            worker.entry.name
        ))),
        _ => Ok(()),
    }
}

/// Removes a pool.
pub(super) async fn remove_pool(context: Context, headers: HeaderMap, body: Bytes) -> Response {
    answer(&headers, remove(&context, &Fields::read(&body), "pool", Edit::RemovePool).await)
}

async fn remove(
    context: &Context,
    fields: &Fields,
    what: &str,
    edit: fn(Uuid) -> Edit,
) -> Result<String, Error> {
    let id = form_id(fields)?.ok_or_else(|| no_such(what))?;
    context.fleet()?.edit(edit(id), fields.get("version")).await?;
    tracing::info!(%id, "{what} removed by an operator");
    Ok(format!("The {what} is removed."))
}

fn form_id(fields: &Fields) -> Result<Option<Uuid>, Error> {
    match fields.get("id") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| no_such("entry")),
    }
}

fn pid(fields: &Fields) -> Result<PoolId, Error> {
    // `parse` alone accepts a leading plus sign.
    let digits = fields.get("pid").bytes().all(|byte| byte.is_ascii_digit());
    let pid = fields.get("pid").parse().ok().filter(|_| digits);
    pid.map(PoolId).ok_or_else(|| bad("The pool's number must be a whole number.".to_owned()))
}

fn setting(fields: &Fields) -> Result<Option<AfterExternalStop>, Error> {
    match fields.get("after_stop") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error| bad(format!("What happens after a stop {error}."))),
    }
}

fn bad(text: String) -> Error {
    Error::new(StatusCode::BAD_REQUEST, text.trim_end_matches('.'))
}

fn answer(headers: &HeaderMap, done: Result<String, Error>) -> Response {
    match done {
        Ok(text) => layout::message_response(headers, StatusCode::OK, &text),
        Err(error) => layout::message_response(headers, error.status, &format::sentence(&error.message)),
    }
}
