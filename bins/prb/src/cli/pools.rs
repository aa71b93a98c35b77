//! `prb pool`.

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    args::{ChangeOptions, PoolAction, PoolFields, PoolsArgs},
    client::Client,
    confirm, import, json, print, print_change, print_repeatedly,
    table::{cell, pairs, pha, table},
};
use crate::{config::first_line, input::without_mark};

/// Maximum size of a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;

pub(super) async fn run(args: PoolsArgs) -> anyhow::Result<()> {
    let adds = matches!(args.action, PoolAction::Add { .. } | PoolAction::Import(_));
    // Before an inventory is opened, which adding creates: without a secret, nothing is.
    let added = match &args.action {
        // A pool that only syncs needs no operator.
        PoolAction::Add { fields, .. } => Some(read(fields, fields.sync_only != Some(true))?),
        _ => None,
    };
    let client = Client::of(&args.offline, &args.remote, adds).await?;
    let as_json = args.remote.json;
    match args.action {
        PoolAction::List { watch } => print_repeatedly(watch, async || list(&client, as_json).await).await,
        PoolAction::Show { pool } => {
            let shown = client.get(&["pools", &pool], &[]).await?;
            print(&if as_json { json(&shown)? } else { one(&shown) })
        }
        PoolAction::Add { pid, options, .. } => {
            let mut entry = added.unwrap_or_default();
            entry.insert("pid".into(), json!(pid));
            let body = json!({ "pools": [entry] });
            let answer = client.ask(Method::POST, &["pools"], &dry(options), Some(&body)).await?;
            print_change(&answer.body, as_json, options, &format!("pool {pid} was added"))
        }
        PoolAction::Set { pool, pid, secret, fields, options } => {
            let mut set = read(&fields, secret)?;
            set.extend(pid.map(|pid| ("pid".to_owned(), json!(pid))));
            ensure!(!set.is_empty(), "there is nothing to change: give at least one field");
            let answer = client
                .ask(Method::PATCH, &["pools", &pool], &dry(options), Some(&Value::Object(set)))
                .await?;
            print_change(&answer.body, as_json, options, &format!("pool {pool} was changed"))
        }
        PoolAction::Import(args) => import::run(&client, &import::POOLS, args, as_json).await,
        PoolAction::Export { format } => {
            print(&import::write(&import::POOLS, &client.list("pools", &[]).await?, format)?)
        }
        PoolAction::Remove { pool, force, options } => {
            let shown = client.get(&["pools", &pool], &[]).await?;
            let workers = client.list("workers", &[("pid", cell(&shown["pid"]))]).await?;
            let left = left(&shown, &workers);
            confirm(
                options,
                &format!("{left}Remove pool {} ({})?", cell(&shown["pid"]), cell(&shown["name"])),
            )?;
            let mut query = dry(options);
            query.push(("force", force.to_string()));
            // By the id that was confirmed: the name may belong to another pool by now.
            let id = cell(&shown["id"]);
            let answer = client.ask(Method::DELETE, &["pools", &id], &query, None).await?;
            print_change(&answer.body, as_json, options, &format!("pool {pool} was removed"))
        }
    }
}

/// Says how many workers would have no pool, and how many of them compute.
fn left(pool: &Value, workers: &[Value]) -> String {
    let relays = |entry: &Value| entry["enabled"] == true && entry["sync_only"] == false;
    let computes = |worker: &&Value| {
        let session = worker["session"].as_str().unwrap_or_default();
        relays(pool) && relays(worker) && matches!(session, "WorkerIdle" | "WorkerUnresponsive")
    };
    let computing = match workers.iter().filter(computes).count() {
        0 => String::new(),
        count => format!(", and {count} of them compute, whose stake is slashed without heartbeats"),
    };
    match workers.len() {
        0 => String::new(),
        count => format!("{count} workers belong to it{computing}.\n"),
    }
}

fn dry(options: ChangeOptions) -> Vec<(&'static str, String)> {
    vec![("dry_run", options.dry_run.to_string())]
}

fn read(fields: &PoolFields, ask: bool) -> anyhow::Result<Map<String, Value>> {
    let mut set = Map::new();
    let mut put = |name: &str, value: Option<Value>| set.extend(value.map(|value| (name.to_owned(), value)));
    put("name", fields.name.as_ref().map(|name| json!(name)));
    put("enabled", fields.enabled.map(Value::from));
    put("sync_only", fields.sync_only.map(Value::from));
    let proxied = fields.proxied.as_ref();
    put("proxied", proxied.map(|address| if address.is_empty() { Value::Null } else { json!(address) }));
    put("after_stop", fields.after_stop.map(|setting| json!(setting.0)));
    put("secret", secret(fields, ask)?.map(|secret| json!(secret.expose_secret())));
    Ok(set)
}

/// Reads the operator's secret: from the file, from standard input, or from the terminal if `ask` is set.
fn secret(fields: &PoolFields, ask: bool) -> anyhow::Result<Option<SecretString>> {
    let secret = match (&fields.secret_file, fields.secret_stdin) {
        (Some(file), _) => first_line(file, MAX_SECRET_BYTES).context("--secret-file")?,
        (None, true) => of_input()?,
        (None, false) if !ask => return Ok(None),
        (None, false) => {
            if !std::io::stdin().is_terminal() {
                bail!(
                    "there is no secret: give --secret-file, --secret-stdin, or --sync-only for a pool without one"
                );
            }
            rpassword::prompt_password("Operator's mnemonic: ").context("cannot read the mnemonic")?.into()
        }
    };
    ensure!(!secret.expose_secret().trim().is_empty(), "the secret is empty");
    Ok(Some(secret))
}

fn of_input() -> anyhow::Result<SecretString> {
    // The capacity is final: a buffer that grows leaves unwiped copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET_BYTES as usize + 1));
    std::io::stdin()
        .take(MAX_SECRET_BYTES + 1)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    ensure!(text.len() as u64 <= MAX_SECRET_BYTES, "the secret has more than {MAX_SECRET_BYTES} bytes");
    Ok(without_mark(&text).lines().next().unwrap_or_default().into())
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<String> {
    let pools = client.list("pools", &[]).await?;
    if as_json {
        return json(&Value::from(pools));
    }
    let row = |pool: &Value| {
        let chain = &pool["on_chain"];
        vec![
            cell(&pool["pid"]),
            cell(&pool["name"]),
            cell(&pool["enabled"]),
            cell(&pool["sync_only"]),
            cell(&pool["workers"]),
            cell(&pool["operator"]),
            pha(&chain["operator_balance"]),
            pha(&chain["free_stake"]),
            pha(&chain["releasing_stake"]),
        ]
    };
    let headings = [
        "PID",
        "NAME",
        "ENABLED",
        "SYNC ONLY",
        "WORKERS",
        "OPERATOR",
        "BALANCE PHA",
        "FREE PHA",
        "RELEASING PHA",
    ];
    Ok(table(&headings, &pools.iter().map(row).collect::<Vec<_>>()))
}

fn one(pool: &Value) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for (name, value) in pool.as_object().into_iter().flatten().filter(|(name, _)| *name != "on_chain") {
        rows.push((name, cell(value)));
    }
    for (name, value) in pool["on_chain"].as_object().into_iter().flatten() {
        let amount = ["free_stake", "releasing_stake", "total_value", "cap", "operator_balance"]
            .contains(&name.as_str());
        rows.push((name, if amount { format!("{} PHA", pha(value)) } else { cell(value) }));
    }
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_pool_says_which_workers_are_left() {
        let entry = |session: Value, enabled: bool, sync_only: bool| {
            let mut entry = json!({ "enabled": enabled, "sync_only": sync_only });
            entry["session"] = session;
            entry
        };
        let pool = entry(Value::Null, true, false);
        assert_eq!(left(&pool, &[]), "");
        let stopped = [entry(json!("WorkerCoolingDown"), true, false), pool.clone()];
        assert_eq!(left(&pool, &stopped), "2 workers belong to it.\n");
        let computing = [
            entry(json!("WorkerIdle"), true, false),
            entry(json!("WorkerUnresponsive"), true, false),
            entry(json!("WorkerIdle"), false, false),
            entry(json!("WorkerIdle"), true, true),
        ];
        let told =
            "4 workers belong to it, and 2 of them compute, whose stake is slashed without heartbeats.\n";
        assert_eq!(left(&pool, &computing), told);
        let disabled = entry(Value::Null, false, false);
        assert_eq!(left(&disabled, &computing), "4 workers belong to it.\n");
    }
}
