//! `prb`: parses arguments, starts the log, runs a command and exits. Everything else is in the library.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::{process::ExitCode, time::Duration};

use prb::{
    check,
    config::{BAD_CONFIGURATION, Cli, Command},
    container, core_dumps,
    daemon::Failure,
    descriptors, keys, output,
    progress::Display,
    signals,
    telemetry::{self, Stream},
};
use rustix::io::Errno;

/// Timeout of blocking work after a daemon has stopped; with the daemon's own timeout, five seconds in all.
const BLOCKING_STOP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    signals::handle_as_first_process();
    // Before anything reads a secret, which arguments and variables may refer to.
    let dumpable = core_dumps::disable();
    let arguments = container::arguments(std::env::args_os());
    if let Some(text) = container::retired_module(&arguments) {
        output::line(text);
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Ignored: the output may be closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_CONFIGURATION } else { 0 });
        }
    };
    // Before the log starts, which would mix with the settings on standard output.
    if cli.check {
        return ExitCode::from(check::run(&cli).map_or_else(Failure::report, |()| 0));
    }
    ExitCode::from(run(cli, &dumpable))
}

fn run(cli: Cli, dumpable: &[Errno]) -> u8 {
    // Requests to a running daemon have no log of their own.
    let cli = match cli {
        Cli { command: Command::Request(request), .. } => {
            return prb::cli::run(request).map_or_else(Failure::report, |()| 0);
        }
        Cli { command: Command::Healthcheck(args), .. } => {
            return container::check_health(&args).map_or_else(Failure::report, |()| 0);
        }
        cli => cli,
    };
    let display = Display::detect();
    let development = cli.node_env == "development";
    let stream = if matches!(cli.command, Command::Keys(_) | Command::Import(_)) {
        Stream::Command
    } else {
        Stream::Daemon
    };
    // Dropped last: it waits for the last lines to be written.
    let flush = telemetry::init(cli.log_level.as_ref(), development, stream, &display);
    let result = match &flush {
        Ok(_) => {
            core_dumps::report(dumpable);
            start(cli, display)
        }
        Err(error) => Err(Failure::Run(anyhow::anyhow!("cannot start the log: {error:#}"))),
    };
    let report = |failure: Failure| match stream {
        Stream::Daemon => failure.logged().report(),
        Stream::Command => failure.report(),
    };
    result.map_or_else(report, |()| 0)
}

fn start(cli: Cli, display: Display) -> Result<(), Failure> {
    // Before the daemons derive the limits of their connections from it.
    descriptors::raise();
    cli.warn();
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
        Command::Keys(args) => runtime.block_on(keys::run(&args)),
        Command::Import(args) => runtime.block_on(prb::import::run(&args)),
        // These two do not come here: `run` has answered them without a log.
        Command::Healthcheck(args) => container::check_health(&args),
        Command::Request(request) => prb::cli::run(request),
    };
    // Dropping the runtime would wait without limit for blocking work, such as a query of a network file system
    // that does not answer.
    runtime.shutdown_timeout(BLOCKING_STOP);
    result
}
