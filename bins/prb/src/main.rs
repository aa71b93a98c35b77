//! `prb`: parse, log, run, exit. Everything else is in the library.

use std::{process::ExitCode, time::Duration};

use prb::{
    config::{self, BAD_CONFIGURATION, Cli, Command},
    daemon::Failure,
    keys,
    progress::Display,
    telemetry,
};

/// How long blocking work may outlive a daemon's own deadline.
const LAST_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is there to read it where this fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_CONFIGURATION } else { 0 });
        }
    };
    if cli.check {
        println!("{:#?}", cli.command);
        return ExitCode::SUCCESS;
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => {
            eprintln!("prb: {error:#}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Run(error)) => {
            eprintln!("prb: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let display = Display::detect();
    let development = cli.node_env == "development";
    telemetry::init(cli.log_level.as_deref(), development, &display).map_err(Failure::Configuration)?;
    for name in config::unknown_variables() {
        tracing::warn!(variable = name, "this variable looks like a setting, but nothing reads it");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(anyhow::Error::new(error).context("cannot start")))?;
    let result = match cli.command {
        Command::All(args) => runtime.block_on(prb::all::run(*args, display)),
        Command::DataProvider(args) => runtime.block_on(prb::data_provider::run(*args, display)),
        Command::Lifecycle(args) => runtime.block_on(prb::lifecycle::run(*args, display)),
        Command::Trader(args) => runtime.block_on(prb::trader::run(*args, display)),
        Command::Monitor(args) => runtime.block_on(prb::monitor::run(*args, display)),
        Command::Keys(args) => keys::run(&args),
    };
    runtime.shutdown_timeout(LAST_WAIT);
    result
}
