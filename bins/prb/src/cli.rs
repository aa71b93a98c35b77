//! The command line over the management API (`prb status`, `prb worker`, `prb pool`, `prb job`, `prb
//! provider`), `prb store`, shell completions and man pages.
//!
//! Output is tables for people and JSON (`--json`) for programs. The daemon makes all decisions; the commands
//! only send requests and print answers.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;

use self::{
    args::{
        ChangeOptions, CompletionsArgs, JobsArgs, ManArgs, PoolsArgs, ProviderAction, ProvidersArgs,
        StatusArgs, StoreArgs, WorkersArgs,
    },
    client::Client,
};
use crate::{daemon::Failure, output};

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

/// Interval of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// A command of this module.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Request {
    /// Show the state of a running daemon and its fleet.
    Status(StatusArgs),
    /// List, edit and command the workers of a daemon; of a stopped one with --offline.
    Worker(Box<WorkersArgs>),
    /// List and edit the pools of a daemon; of a stopped one with --offline.
    Pool(Box<PoolsArgs>),
    /// List, retry and remove jobs of a running daemon's trade queue.
    Job(JobsArgs),
    /// List the data providers that a running daemon has discovered.
    Provider(ProvidersArgs),
    /// Check, export, import and compact the block store of a data provider or `prb all` that is stopped, or drop its
    /// newest blocks.
    Store(StoreArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Print or write man pages.
    Man(ManArgs),
}

/// Runs a command and prints its output.
///
/// # Errors
///
/// [`Failure::Run`] if the daemon does not answer, or refuses; the message says which.
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
            print_repeatedly(args.watch, async || status::status(&client, json).await).await
        }
        Request::Worker(args) => workers::run(*args).await,
        Request::Pool(args) => pools::run(*args).await,
        Request::Job(args) => jobs::run(args).await,
        Request::Provider(ProvidersArgs { action: ProviderAction::List(args) }) => {
            let client = Client::new(&args.remote)?;
            let json = args.remote.json;
            print_repeatedly(args.watch, async || status::providers(&client, json).await).await
        }
        Request::Store(args) => store::run(args).await,
        Request::Completions(args) => pages::completions(args.shell),
        Request::Man(args) => pages::man(args.to.as_deref()),
    }
}

/// Prints once, or repeatedly until the program is stopped.
async fn print_repeatedly(
    again: bool,
    mut show: impl AsyncFnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    loop {
        let text = show().await;
        if !again {
            return print(&text?);
        }
        // ANSI: cursor to the top, erase the screen.
        let clear = if std::io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
        // A daemon that is briefly unreachable does not end the watch.
        let text = text.unwrap_or_else(|error| format!("{error:#}\n"));
        if !is_read(&format!("{clear}{text}"))? {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Prints a text; a closed pipe is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    is_read(text).map(|_| ())
}

/// Prints a text; returns whether the output is still open.
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

/// Prints that an edit was made, or would be.
fn print_change(answer: &Value, as_json: bool, options: ChangeOptions, text: &str) -> anyhow::Result<()> {
    if as_json {
        return print(&json(answer)?);
    }
    let dry = if options.dry_run { "dry run, nothing was changed: " } else { "" };
    print(&format!("{dry}{text}\n{}", resumed(answer)))
}

/// Returns a line for each added worker that goes on with the goal of a removed one.
fn resumed(answer: &Value) -> String {
    let workers = answer["workers"].as_array().into_iter().flatten();
    let line = |worker: &Value| {
        let goal = worker["resumed_goal"].as_str()?;
        Some(resumed_line(worker["name"].as_str().unwrap_or_default(), goal))
    };
    workers.filter_map(line).collect()
}

/// Tells the operator that an added worker does not start by itself.
pub(crate) fn resumed_line(name: &str, goal: &str) -> String {
    let name = table::clean(name);
    format!(
        "worker {name} was removed or renamed before and keeps its goal, {goal}: start it if it should compute\n"
    )
}

/// Asks for confirmation if input is a terminal.
fn confirm(options: ChangeOptions, question: &str) -> anyhow::Result<()> {
    // Without a terminal there is nobody to ask: scripts run without confirmation.
    if options.yes || options.dry_run || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    output::error_text(&format!("{question} [y/N] "));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if !matches!(line.trim(), "y" | "Y" | "yes") {
        bail!("cancelled, nothing was done");
    }
    Ok(())
}
