//! `prb`: parse, log, run, exit. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use prb::{
    config::{Cli, Command},
    telemetry,
};

/// Exit code for a bad configuration, as clap's own.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let development = cli.node_env == "development";
    let Command::All(args) = cli.command;
    let display = prb::progress::Display::detect();
    if let Err(error) = telemetry::init(cli.log_level.as_deref(), development, &display) {
        eprintln!("prb: {error:#}");
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("prb: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(prb::all::run(*args, display)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(prb::all::Failure::Configuration(error)) => {
            eprintln!("prb: {error:#}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(prb::all::Failure::Run(error)) => {
            eprintln!("prb: {error:#}");
            ExitCode::FAILURE
        }
    };
    // Blocking work that outlives the deadline must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}
