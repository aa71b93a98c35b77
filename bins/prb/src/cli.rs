//! The command line over the management API: `prb status`, `prb worker`, `prb pool`, `prb job`, `prb provider`; and
//! shell completions and man pages.
//!
//! Tables for people, `--json` for programs. Everything is decided by the daemon: this asks and shows.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;

use self::{
    args::{
        Caution, CompletionsArgs, JobsArgs, ManArgs, PoolsArgs, ProviderAction, ProvidersArgs, StatusArgs,
        StoreArgs, WorkersArgs,
    },
    client::Client,
};
use crate::daemon::Failure;

pub mod args;
mod client;
mod import;
mod jobs;
mod offline;
mod pages;
mod pools;
mod status;
mod store;
pub(crate) mod table;
mod update;
mod workers;

/// Time between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// What is asked of a running daemon, or of none.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Request {
    /// Show how a running daemon and its fleet are.
    Status(StatusArgs),
    /// List, edit and command the workers of a daemon; of a stopped one with --offline.
    Worker(Box<WorkersArgs>),
    /// List and edit the pools of a daemon; of a stopped one with --offline.
    Pool(Box<PoolsArgs>),
    /// List, retry and remove jobs of a running daemon's trade queue.
    Job(JobsArgs),
    /// List the data providers that a running daemon has met.
    Provider(ProvidersArgs),
    /// Check, export, import, compact and cut the block store of a data provider or `prb all` that is stopped.
    Store(StoreArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Print or write man pages.
    Man(ManArgs),
}

/// Does what was asked and prints the answer.
///
/// # Errors
/// [`Failure::Run`] where the daemon does not answer or refuses; it says which.
pub fn run(request: Request) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(error.into()))?;
    runtime.block_on(answer(request)).map_err(Failure::Run)
}

async fn answer(request: Request) -> anyhow::Result<()> {
    match request {
        Request::Status(args) => {
            let client = Client::new(&args.remote)?;
            let json = args.remote.json;
            watched(args.watch, async || status::status(&client, json).await).await
        }
        Request::Worker(args) => workers::run(*args).await,
        Request::Pool(args) => pools::run(*args).await,
        Request::Job(args) => jobs::run(args).await,
        Request::Provider(ProvidersArgs { action: ProviderAction::List(args) }) => {
            let client = Client::new(&args.remote)?;
            let json = args.remote.json;
            watched(args.watch, async || status::providers(&client, json).await).await
        }
        Request::Store(args) => store::run(args).await,
        Request::Completions(args) => pages::completions(args.shell),
        Request::Man(args) => pages::man(args.to.as_deref()),
    }
}

/// Prints what there is to show, once, or again and again until the program is ended.
async fn watched(again: bool, mut show: impl AsyncFnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
    loop {
        let text = show().await;
        if !again {
            return print(&text?);
        }
        let clear = if std::io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
        // A daemon that is away for a moment does not end the watch.
        let text = text.unwrap_or_else(|error| format!("{error:#}\n"));
        if !is_read(&format!("{clear}{text}"))? {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Prints a text; a reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    is_read(text).map(|_| ())
}

/// The same; gives whether somebody reads it still.
fn is_read(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

fn json(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Says that an edit was made, or would be.
fn wrote(answer: &Value, as_json: bool, caution: Caution, text: &str) -> anyhow::Result<()> {
    if as_json {
        return print(&json(answer)?);
    }
    let dry = if caution.dry_run { "dry run, nothing was changed: " } else { "" };
    print(&format!("{dry}{text}\n"))
}

/// Asks whether to go on, where somebody is there to ask.
fn confirm(caution: Caution, question: &str) -> anyhow::Result<()> {
    if caution.yes || caution.dry_run || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if !matches!(line.trim(), "y" | "Y" | "yes") {
        bail!("nothing was done");
    }
    Ok(())
}
