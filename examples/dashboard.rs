//! A custom dashboard over the management API of `prb all` or `prb lifecycle`.
//!
//! Why: the console shows what most operators want; a wall screen, a chat bot or a spreadsheet wants something else.
//! Everything that the console and the command line do goes through `/api/v1`, whose OpenAPI document is at
//! `/api/v1/openapi.json`: any language will do. Reads on the daemon's own machine need no token; elsewhere it goes
//! into `PRB_API_TOKEN`. Lists come in pages: ask with `offset` until `total` is reached.
//!
//! `cargo run --package prb-examples --bin dashboard -- http://127.0.0.1:3001 [seconds between looks]`
use std::{fmt::Write, time::Duration};

use anyhow::Context;
use reqwest::Client;
use serde::{Deserialize, de::DeserializeOwned};

/// The fields that this dashboard shows; others are left alone, so that new ones break nothing.
#[derive(Deserialize)]
struct Worker {
    name: String,
    pid: u64,
    state: String,
    message: String,
    lag: Option<u64>,
}

#[derive(Deserialize)]
struct Page {
    total: usize,
    workers: Vec<Worker>,
}

async fn get<T: DeserializeOwned>(http: &Client, url: String) -> anyhow::Result<T> {
    let mut request = http.get(&url).timeout(Duration::from_secs(10));
    if let Ok(token) = std::env::var("PRB_API_TOKEN") {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
    Ok(answer.error_for_status()?.json().await?)
}

/// All workers, those that need somebody first.
async fn screen(http: &Client, base: &str) -> anyhow::Result<String> {
    let mut workers = Vec::new();
    loop {
        let url = format!("{base}/api/v1/workers?limit=1000&offset={}", workers.len());
        let page: Page = get(http, url).await?;
        let end = page.workers.is_empty();
        workers.extend(page.workers);
        if end || workers.len() >= page.total {
            break;
        }
    }
    workers.sort_by_key(|worker| (worker.state == "S_ACTIVE", worker.pid, worker.name.clone()));
    let mut text = format!("{} workers\n", workers.len());
    for Worker { name, pid, state, message, lag } in workers {
        let lag = lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
        writeln!(text, "{state:<16} pool {pid:<6} {name:<20} {lag:>8} behind  {message}")?;
    }
    Ok(text)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // For addresses behind a proxy with TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap_or_else(|| "http://127.0.0.1:3001".into());
    let every = args.next().map(|seconds| seconds.parse()).transpose()?.map(Duration::from_secs);
    let http = Client::new();
    loop {
        print!("{}", screen(&http, base.trim_end_matches('/')).await?);
        let Some(every) = every else { return Ok(()) };
        tokio::time::sleep(every).await;
    }
}
