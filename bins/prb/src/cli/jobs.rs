//! `prb job`.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    args::{JobAction, JobsArgs},
    client::Client,
    json, print, print_repeatedly,
    table::{cell, clean, pairs, table},
};

/// Characters shown of the key of a worker that is not in the inventory.
const SHORT_KEY: usize = 12;

/// The names of workers by their keys, requested once.
type Names = OnceCell<HashMap<String, String>>;

pub(super) async fn run(args: JobsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let as_json = args.remote.json;
    let names = Names::new();
    match args.action {
        JobAction::List { state, pool, limit, watch } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(state.map(|state| ("state", state)));
            query.extend(pool.map(|pool| ("pool", pool.to_string())));
            print_repeatedly(watch, async || list(&client, &query, &names, as_json).await).await
        }
        JobAction::Show { job } => {
            let shown = client.get(&["jobs", &job.to_string()], &[]).await?;
            print(&if as_json { json(&shown)? } else { one(&shown, known(&client, &names).await?) })
        }
        JobAction::Retry { jobs } => each(&client, &jobs, Method::POST, &["retry"], "is queued again").await,
        JobAction::Remove { jobs } => each(&client, &jobs, Method::DELETE, &[], "is removed").await,
    }
}

async fn list(
    client: &Client,
    query: &[(&str, String)],
    names: &Names,
    as_json: bool,
) -> anyhow::Result<String> {
    let answer = client.get(&["jobs"], query).await?;
    if as_json {
        return json(&answer);
    }
    let jobs = answer["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = known(client, names).await?;
    let row = |job: &Value| {
        let outcome = match &job["error"] {
            Value::Null => cell(&job["outcome"]["block"]),
            error => cell(error),
        };
        let created = time(&job["created_ms"]);
        vec![
            cell(&job["id"]),
            cell(&job["state"]),
            cell(&job["pool"]),
            workers(job, names),
            cell(&job["action"]),
            created,
            outcome,
        ]
    };
    let text = table(
        &["JOB", "STATE", "POOL", "WORKER", "ACTION", "CREATED", "BLOCK OR ERROR"],
        &jobs.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(format!("{text}{} of {} jobs\n", jobs.len(), cell(&answer["total"])))
}

fn one(job: &Value, names: &HashMap<String, String>) -> String {
    let mut text = pairs(&[
        ("job", cell(&job["id"])),
        ("state", cell(&job["state"])),
        ("pool", cell(&job["pool"])),
        ("worker", workers(job, names)),
        ("action", cell(&job["action"])),
        ("created", time(&job["created_ms"])),
        ("ended", time(&job["ended_ms"])),
        ("delivered", cell(&job["attempts"])),
        ("error", cell(&job["error"])),
        ("block", cell(&job["outcome"]["block"])),
        ("transaction", cell(&job["outcome"]["extrinsic"])),
    ]);
    for call in job["calls"].as_array().into_iter().flatten() {
        text += &format!("call  {}\n", clean(&cell(call)));
    }
    for step in job["history"].as_array().into_iter().flatten() {
        let note = step["note"].as_str().unwrap_or_default();
        text += &clean(&format!("{}  {} {note}", time(&step["at_ms"]), cell(&step["state"])));
        text += "\n";
    }
    text
}

async fn known<'a>(client: &Client, names: &'a Names) -> anyhow::Result<&'a HashMap<String, String>> {
    let read = async || {
        let workers = client.list("workers", &[]).await?;
        let keyed =
            workers.iter().filter_map(|worker| Some((worker["public_key"].as_str()?, cell(&worker["name"]))));
        anyhow::Ok(keyed.map(|(key, name)| (key.to_owned(), name)).collect())
    };
    names.get_or_try_init(read).await
}

/// The workers that a job concerns.
fn workers(job: &Value, names: &HashMap<String, String>) -> String {
    let name = |key: &Value| {
        let key = cell(key);
        names.get(&key).cloned().unwrap_or_else(|| match key.char_indices().nth(SHORT_KEY) {
            Some((end, _)) => format!("{}…", &key[..end]),
            None => key,
        })
    };
    let shown: Vec<_> = job["workers"].as_array().into_iter().flatten().map(name).collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

fn time(ms: &Value) -> String {
    let stamp = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| "-".into(), |stamp| stamp.to_string())
}

/// Does the same to several jobs. If one fails, the jobs before it are done.
async fn each(
    client: &Client,
    jobs: &[u64],
    method: Method,
    rest: &[&str],
    done: &str,
) -> anyhow::Result<()> {
    for job in jobs {
        let number = job.to_string();
        let path: Vec<&str> = ["jobs", &number].into_iter().chain(rest.iter().copied()).collect();
        client.ask(method.clone(), &path, &[], Some(&json!({}))).await?;
        print(&format!("job {job} {done}\n"))?;
    }
    Ok(())
}
