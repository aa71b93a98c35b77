//! `prb worker`.

use anyhow::{Context, bail, ensure};
use prb_core::manage::MAX_ENTRIES;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    args::{ChangeOptions, CommandArgs, Selection, WorkerAction, WorkerFields, WorkersArgs},
    client::{Client, Refusal},
    confirm, import, json, print, print_change, print_repeatedly,
    table::{cell, clean, pairs, pha, table, to_base_units},
};

pub(super) async fn run(args: WorkersArgs) -> anyhow::Result<()> {
    let adds = matches!(args.action, WorkerAction::Add { .. } | WorkerAction::Import(_));
    let client = Client::of(&args.offline, &args.remote, adds).await?;
    let as_json = args.remote.json;
    match args.action {
        WorkerAction::List { selection, state, reason, watch } => {
            let mut query = Vec::new();
            query.extend(state.map(|state| ("state", state)));
            query.extend(reason.map(|reason| ("reason", reason)));
            print_repeatedly(watch, async || list(&client, &selection, &query, as_json).await).await
        }
        WorkerAction::Show { worker, watch } => {
            print_repeatedly(watch, async || show(&client, &worker, as_json).await).await
        }
        WorkerAction::Add { name, fields, options } => {
            let mut entry = read(&fields);
            entry.insert("name".into(), json!(name));
            let body = json!({ "workers": [entry] });
            let answer = client.ask(Method::POST, &["workers"], &dry(options), Some(&body)).await?;
            print_change(&answer.body, as_json, options, &format!("worker {name} was added"))
        }
        WorkerAction::Set { selection, rename, fields, options } => {
            let mut set = read(&fields);
            set.extend(rename.map(|name| ("name".to_owned(), json!(name))));
            ensure!(!set.is_empty(), "there is nothing to change: give at least one field");
            edit(&client, &selection, options, as_json, &json!({ "set": set }), &dry(options)).await
        }
        WorkerAction::Remove { selection, force, options } => {
            let mut query = dry(options);
            query.push(("force", force.to_string()));
            edit(&client, &selection, options, as_json, &json!({ "delete": true }), &query).await
        }
        WorkerAction::Import(args) => import::run(&client, &import::WORKERS, args, as_json).await,
        WorkerAction::Export { selection, format } => {
            let workers = select(&client, &selection, true, &[]).await?;
            print(&import::write(&import::WORKERS, &workers, format)?)
        }
        WorkerAction::Start(args) => command(&client, "start", args, as_json).await,
        WorkerAction::Stop(args) => command(&client, "stop", args, as_json).await,
        WorkerAction::Reclaim(args) => command(&client, "reclaim", args, as_json).await,
        WorkerAction::LeavePool(args) => command(&client, "leave-pool", args, as_json).await,
        WorkerAction::RegisterAgain(args) => command(&client, "register-again", args, as_json).await,
        WorkerAction::Restart(args) => command(&client, "restart", args, as_json).await,
        WorkerAction::Kick(args) => command(&client, "kick", args, as_json).await,
        WorkerAction::Checkpoint(args) => command(&client, "checkpoint", args, as_json).await,
        WorkerAction::ConfirmKey(args) => command(&client, "confirm-key", args, as_json).await,
    }
}

fn dry(options: ChangeOptions) -> Vec<(&'static str, String)> {
    vec![("dry_run", options.dry_run.to_string())]
}

fn read(fields: &WorkerFields) -> Map<String, Value> {
    let mut set = Map::new();
    let mut put = |name: &str, value: Option<Value>| set.extend(value.map(|value| (name.to_owned(), value)));
    put("pid", fields.pid.map(Value::from));
    put("endpoint", fields.endpoint.as_ref().map(|url| json!(url)));
    put("stake", fields.stake.as_ref().map(|stake| json!(to_base_units(stake))));
    put("enabled", fields.enabled.map(Value::from));
    put("sync_only", fields.sync_only.map(Value::from));
    put("gatekeeper", fields.gatekeeper.map(Value::from));
    let announced = |urls: &String| -> Vec<String> {
        urls.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect()
    };
    put("endpoints", fields.announce.as_ref().map(|urls| json!(announced(urls))));
    put("after_stop", fields.after_stop.map(|setting| json!(setting.0)));
    set
}

/// Returns the selected workers with their status, each once.
async fn select(
    client: &Client,
    selection: &Selection,
    all_by_default: bool,
    query: &[(&str, String)],
) -> anyhow::Result<Vec<Value>> {
    let mut query = query.to_vec();
    query.extend(selection.pool.map(|pool| ("pid", pool.to_string())));
    if selection.workers.is_empty() {
        ensure!(
            all_by_default || selection.pool.is_some(),
            "no worker is selected: name some (patterns such as 'rack-1-*' in quotes, '*' for all) or give --pool"
        );
        return client.list("workers", &query).await;
    }
    let listed = client.list("workers", &query).await?;
    let mut taken = vec![false; listed.len()];
    for name in &selection.workers {
        // A name or an id first: a name may itself contain a star.
        let exact = |worker: &Value| worker["name"] == **name || worker["id"] == **name;
        let pattern = !listed.iter().any(exact) && name.contains(['*', '?']);
        let fits = |worker: &Value| {
            let own = worker["name"].as_str().unwrap_or_default();
            if pattern { crate::api::fits(name, own) } else { exact(worker) }
        };
        let mut found = false;
        for (index, worker) in listed.iter().enumerate() {
            if fits(worker) {
                found = true;
                taken[index] = true;
            }
        }
        // With a filter by state or reason, an empty selection is not an error.
        let filtered = query.iter().any(|(name, _)| *name == "state" || *name == "reason");
        ensure!(found || filtered, "there is no worker {name:?}{}", of_pool(selection));
    }
    Ok(listed.into_iter().zip(taken).filter_map(|(worker, taken)| taken.then_some(worker)).collect())
}

fn of_pool(selection: &Selection) -> String {
    selection.pool.map(|pool| format!(" in pool {pool}")).unwrap_or_default()
}

/// Applies the same change to each selected worker, all or none; rejected if one has changed since it was
/// read.
async fn edit(
    client: &Client,
    selection: &Selection,
    options: ChangeOptions,
    as_json: bool,
    change: &Value,
    query: &[(&str, String)],
) -> anyhow::Result<()> {
    let workers = select(client, selection, false, &[]).await?;
    ensure!(!workers.is_empty(), "no worker is selected{}", of_pool(selection));
    let removes = change["delete"] == true;
    let starting = removes.then(|| starting(&workers)).flatten();
    if removes || workers.len() > 1 {
        let verb = if removes { "Remove" } else { "Change" };
        let note = starting.as_ref().map(|note| format!("{note}\n")).unwrap_or_default();
        confirm(options, &format!("{note}{verb} {}?", named(&workers)))?;
    }
    let item = |worker: &Value| {
        let mut item = change.clone();
        (item["id"], item["version"]) = (worker["id"].clone(), worker["version"].clone());
        item
    };
    let body = json!({ "items": workers.iter().map(item).collect::<Vec<_>>() });
    let answer = client.ask(Method::PATCH, &["workers"], query, Some(&body)).await?;
    let verb = if removes { "removed" } else { "changed" };
    let note = starting.map(|note| format!("\n{note}")).unwrap_or_default();
    print_change(&answer.body, as_json, options, &format!("{} {verb}{note}", named(&workers)))
}

/// Says what happens to the starts of removed workers that are in flight, if there are any.
fn starting(workers: &[Value]) -> Option<String> {
    let starts = |worker: &&Value| worker["in_flight"]["operation"] == "start";
    let starting: Vec<Value> = workers.iter().filter(starts).cloned().collect();
    let text = "its start is in the queue and is taken back; if a trader already has it, the worker starts, and computes \
                without heartbeats";
    (!starting.is_empty()).then(|| format!("{}: {text}", named(&starting)))
}

/// Formats names, such as `workers a, b, c and 12 more`.
fn named(workers: &[Value]) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = workers.iter().take(SHOWN).map(|worker| clean(&cell(&worker["name"]))).collect();
    let more = workers.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} {}{more}", if workers.len() == 1 { "worker" } else { "workers" }, names.join(", "))
}

async fn command(client: &Client, command: &str, args: CommandArgs, as_json: bool) -> anyhow::Result<()> {
    client.check_running(command)?;
    let CommandArgs { selection, options } = args;
    let mut body = json!({});
    if !selection.workers.is_empty() {
        body["workers"] = json!(selection.workers);
    }
    if let Some(pool) = selection.pool {
        body["pool"] = json!(pool);
    }
    // These commands ask for confirmation, as does any command for several workers.
    let severe = matches!(command, "stop" | "reclaim" | "leave-pool" | "kick" | "confirm-key");
    // Always a dry run first: it resolves patterns, and its answer is what the operator confirms.
    let preview = tell(client, command, &body, true).await?;
    let shown = preview["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if options.dry_run {
        return print_answer(&preview, as_json);
    }
    let asks = (severe || shown.len() > 1) && !options.yes;
    if asks {
        confirm(options, &format!("{}Continue?", answers(&preview)))?;
    }
    // By their ids, not by patterns or the pool again: others may fit these by now. Confirmed were those that accept.
    let ids = shown.iter().filter(|one| !asks || !one["answer"].is_null()).map(|one| one["id"].clone());
    let ids: Vec<Value> = ids.collect();
    if ids.is_empty() {
        return print_answer(&preview, as_json);
    }
    print_answer(&tell_all(client, command, &ids).await?, as_json)
}

/// Gives a command to workers, as many at a time as the API takes; returns all answers as one.
async fn tell_all(client: &Client, command: &str, ids: &[Value]) -> anyhow::Result<Value> {
    let (mut taken, mut workers) = (0, Vec::new());
    for part in ids.chunks(MAX_ENTRIES) {
        let answer = tell(client, command, &json!({ "workers": part }), false).await;
        let mut answer = answer.with_context(|| format!("{taken} workers have accepted {command}"))?;
        taken += answer["taken"].as_u64().unwrap_or_default();
        workers.extend(answer["workers"].as_array_mut().into_iter().flat_map(std::mem::take));
    }
    Ok(json!({ "taken": taken, "workers": workers }))
}

async fn tell(client: &Client, command: &str, body: &Value, dry_run: bool) -> anyhow::Result<Value> {
    let query = [("dry_run", dry_run.to_string())];
    let answer = client.send(Method::POST, &["commands", command], &query, Some(body)).await?;
    // If 409 is about workers, it comes with each worker's reason.
    if answer.status >= 400 && !answer.body["workers"].is_array() {
        return Err(Refusal { status: answer.status, body: answer.body }.into());
    }
    Ok(answer.body)
}

fn print_answer(answer: &Value, as_json: bool) -> anyhow::Result<()> {
    print(&if as_json { json(answer)? } else { answers(answer) })?;
    if answer["taken"] == 0 {
        bail!("no worker accepts the command");
    }
    Ok(())
}

fn answers(answer: &Value) -> String {
    let rows: Vec<_> = answer["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| match &one["answer"] {
            Value::Null => vec![cell(&one["name"]), format!("refused: {}", cell(&one["refused"]))],
            will => vec![cell(&one["name"]), cell(will)],
        })
        .collect();
    table(&["WORKER", "ANSWER"], &rows)
}

async fn list(
    client: &Client,
    selection: &Selection,
    query: &[(&str, String)],
    as_json: bool,
) -> anyhow::Result<String> {
    let workers = select(client, selection, true, query).await?;
    if as_json {
        return json(&Value::from(workers));
    }
    let row = |worker: &Value| {
        let stalled = if worker["stalled"] == true { "stalled; " } else { "" };
        vec![
            cell(&worker["name"]),
            cell(&worker["pid"]),
            cell(&worker["state"]),
            cell(&worker["reason"]),
            cell(&worker["lag"]),
            cell(&worker["position"]["block"]),
            cell(&worker["session"]),
            pha(&worker["stake"]),
            cell(&worker["goal"]),
            in_flight(&worker["in_flight"]),
            cell(&worker["key_change"]["at"]),
            format!("{stalled}{}", cell(&worker["message"])),
        ]
    };
    let headings = [
        "NAME",
        "POOL",
        "STATE",
        "REASON",
        "LAG",
        "BLOCK",
        "SESSION",
        "STAKE PHA",
        "GOAL",
        "IN FLIGHT",
        "KEY CHANGE",
        "MESSAGE",
    ];
    Ok(table(&headings, &workers.iter().map(row).collect::<Vec<_>>()))
}

/// Formats an operation in flight, such as `start queued since 2026-01-02T03:04:05Z`.
fn in_flight(value: &Value) -> String {
    if value.is_null() {
        return cell(value);
    }
    format!("{} {} since {}", cell(&value["operation"]), cell(&value["stage"]), cell(&value["since"]))
}

async fn show(client: &Client, worker: &str, as_json: bool) -> anyhow::Result<String> {
    let mut shown = client.get(&["workers", worker], &[]).await?;
    // The daemon may have no events for the worker, for example without a fleet.
    let events = client.get(&["workers", worker, "events"], &[]).await.unwrap_or_default();
    if as_json {
        shown["events"] = events["events"].clone();
        return json(&shown);
    }
    let mut rows: Vec<(&str, String)> = Vec::new();
    for (name, value) in shown.as_object().into_iter().flatten() {
        match value {
            in_flight_now if name == "in_flight" => rows.push((name, in_flight(in_flight_now))),
            // Shown below, each as a part of its own.
            Value::Object(_) => {}
            _ if name == "stake" => rows.push((name, format!("{} PHA", pha(value)))),
            value => rows.push((name, cell(value))),
        }
    }
    let mut text = pairs(&rows);
    for part in ["position", "key_change", "saved", "checkpoint", "on_chain"] {
        if shown[part].is_object() {
            text += &format!("\n{part}\n{}\n", clean_lines(&json(&shown[part])?));
        }
    }
    let rows: Vec<_> = events["events"].as_array().into_iter().flatten().map(event).collect();
    text += "\n";
    text += &table(&["AT", "EVENT", "WHAT"], &rows);
    Ok(text)
}

fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}

fn event(event: &Value) -> Vec<String> {
    let known = ["number", "at", "kind"];
    let fields = event.as_object().into_iter().flatten().filter(|(name, _)| !known.contains(&name.as_str()));
    let what: Vec<_> = fields.map(|(name, value)| format!("{name}: {}", cell(value))).collect();
    vec![cell(&event["at"]), cell(&event["kind"]), what.join(", ")]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use axum::{Json, Router};

    use super::*;

    #[tokio::test]
    async fn command_is_given_to_the_workers_that_were_shown() {
        let shown = json!({ "taken": 1, "workers": [
            { "id": "a", "name": "one", "answer": "stops", "refused": null },
            { "id": "b", "name": "two", "answer": null, "refused": "it is not running" },
        ] });
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        let answer = async move |Json(body): Json<Value>| {
            seen.lock().unwrap().push(body);
            Json(shown)
        };
        let client = Client::to_test(Router::new().fallback(answer)).await;
        let options = ChangeOptions { yes: true, ..ChangeOptions::default() };
        let selection = Selection { workers: Vec::new(), pool: Some(7) };
        command(&client, "stop", CommandArgs { selection, options }, true).await.unwrap();
        assert_eq!(*bodies.lock().unwrap(), [json!({ "pool": 7 }), json!({ "workers": ["a", "b"] })]);
    }

    #[test]
    fn removing_a_worker_says_that_its_start_is_taken_back() {
        let worker = |name: &str, operation: Option<&str>| match operation {
            Some(operation) => {
                json!({ "name": name, "in_flight": { "operation": operation, "stage": "queued" } })
            }
            None => json!({ "name": name, "in_flight": null }),
        };
        let workers = [worker("a", Some("start")), worker("b", None), worker("c", Some("messages"))];
        let note = starting(&workers).unwrap_or_default();
        assert!(note.starts_with("worker a: its start is in the queue and is taken back"), "{note}");
        assert_eq!(starting(&workers[1..]), None);
    }
}
