//! `prb`: parses arguments, starts the log, runs a command and exits. Everything else is in the library.

use std::{process::ExitCode, time::Duration};

use prb::{
    check,
    config::{self, BAD_CONFIGURATION, Cli, Command},
    container, core_dumps,
    daemon::Failure,
    descriptors, keys,
    progress::Display,
    signals,
    telemetry::{self, Stream},
};

/// Timeout of blocking work after a daemon has stopped; with the daemon's own timeout, five seconds in all.
const BLOCKING_STOP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    signals::handle_as_first_process();
    let arguments = container::arguments(std::env::args_os());
    if let Some(text) = container::retired_module(&arguments) {
        println!("{text}");
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
    ExitCode::from(run(cli))
}

fn run(cli: Cli) -> u8 {
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
        Ok(_) => start(cli, display),
        Err(error) => Err(Failure::Run(anyhow::anyhow!("cannot start the log: {error:#}"))),
    };
    result.map_or_else(|failure| failure.report(), |()| 0)
}

fn start(cli: Cli, display: Display) -> Result<(), Failure> {
    // Before anything reads a secret.
    core_dumps::disable();
    // Before the daemons derive the limits of their connections from it.
    descriptors::raise();
    for flag in &cli.exposed {
        tracing::warn!(
            flag,
            "every user of this machine can read this flag's value, which contains a password or an access key: use its \
             variable, or a file named by that variable with _FILE at its end"
        );
    }
    for name in config::unknown_variables() {
        tracing::warn!(variable = name, "this variable looks like a setting, but is not one");
    }
    for (variable, why) in config::retired_variables() {
        tracing::warn!(variable, why, "this variable of the original has no effect");
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
