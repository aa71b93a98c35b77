//! Runs a devnet until SIGINT or SIGTERM.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

mod cli;

fn main() -> ExitCode {
    let cli::Cli { command: cli::Command::Run(arguments) } = cli::Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,jsonrpsee=warn".into()),
        )
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(run(*arguments));
    // Connections that outlived their server end with the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

async fn run(arguments: cli::Run) -> anyhow::Result<()> {
    let mut stop = cli::StopSignal::new()?;
    let running = tokio::select! {
        // Authoring a long history takes minutes, so a signal must end the start as well.
        running = arguments.start() => running?,
        () = stop.received() => return Ok(()),
    };
    writeln!(std::io::stdout(), "{}", running.describe())?;
    stop.received().await;
    running.shutdown().await;
    Ok(())
}
