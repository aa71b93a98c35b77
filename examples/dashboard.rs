//! A custom dashboard over the management API of `prb all` or `prb lifecycle`.
//!
//! Why: the console covers common needs; a wall display, a chat bot or a spreadsheet has others. The API offers all
//! that the command line does, to any language: its OpenAPI document is at `/api/v1/openapi.json`. Reads from the
//! daemon's own machine need no token; for others, set `PRB_API_TOKEN`. Lists are paged: increase `offset` until
//! `total` is reached.
//!
//! `cargo run --package prb-examples --bin dashboard -- http://127.0.0.1:3001 [seconds between updates]`
use std::{fmt::Write, time::Duration};

use anyhow::Context;
use reqwest::Client;
use serde::{Deserialize, de::DeserializeOwned};

/// The fields shown; serde ignores the others, so new ones break nothing.
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

/// All workers, those that need attention first.
async fn screen(http: &Client, base: &str) -> anyhow::Result<String> {
    let mut workers = Vec::new();
    loop {
        let url = format!("{base}/api/v1/workers?limit=1000&offset={}", workers.len());
        let page: Page = get(http, url).await?;
        let end = page.workers.is_empty();
        workers.extend(page.workers);
        // An empty page also ends it: workers may be removed meanwhile, and `total` then never be reached.
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
    // reqwest is built without a default TLS provider; needed for https URLs.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap_or_else(|| "http://127.0.0.1:3001".into());
    let every = args.next().map(|seconds| seconds.parse()).transpose()?.map(Duration::from_secs);
    // No address but the given one is asked.
    let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    loop {
        print!("{}", screen(&http, base.trim_end_matches('/')).await?);
        let Some(every) = every else { return Ok(()) };
        tokio::time::sleep(every).await;
    }
}
