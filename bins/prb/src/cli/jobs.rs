//! `prb job`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    args::{JobAction, JobsArgs},
    client::Client,
    json, print, print_repeatedly,
    table::{cell, clean, pairs, table},
};

pub(super) async fn run(args: JobsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let as_json = args.remote.json;
    match args.action {
        JobAction::List { state, pool, limit, watch } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(state.map(|state| ("state", state)));
            query.extend(pool.map(|pool| ("pool", pool.to_string())));
            print_repeatedly(watch, async || list(&client, &query, as_json).await).await
        }
        JobAction::Show { job } => {
            let shown = client.get(&["jobs", &job.to_string()], &[]).await?;
            print(&if as_json { json(&shown)? } else { one(&shown) })
        }
        JobAction::Retry { jobs } => each(&client, &jobs, Method::POST, &["retry"], "is queued again").await,
        JobAction::Remove { jobs } => each(&client, &jobs, Method::DELETE, &[], "is removed").await,
    }
}

async fn list(client: &Client, query: &[(&str, String)], as_json: bool) -> anyhow::Result<String> {
    let answer = client.get(&["jobs"], query).await?;
    if as_json {
        return json(&answer);
    }
    let jobs = answer["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
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
            cell(&job["action"]),
            created,
            outcome,
        ]
    };
    let text = table(
        &["JOB", "STATE", "POOL", "ACTION", "CREATED", "BLOCK OR ERROR"],
        &jobs.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(format!("{text}{} of {} jobs\n", jobs.len(), cell(&answer["total"])))
}

fn one(job: &Value) -> String {
    let mut text = pairs(&[
        ("job", cell(&job["id"])),
        ("state", cell(&job["state"])),
        ("pool", cell(&job["pool"])),
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
