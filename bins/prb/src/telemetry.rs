//! Logs: JSON lines on standard output, or text in development, on a terminal, and of commands.
//!
//! A thread writes the lines, so that logging never blocks. Lines that exceed its queue are dropped and
//! counted; a full disk or a closed pipe only loses lines.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, writer::OptionalWriter},
};

use crate::progress::Display;

mod level;
mod writer;

pub use level::{LogLevel, log_level};
pub use writer::Flush;
use writer::{Line, LineWriter};

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A daemon's log, on standard output.
    Daemon,
    /// A command's log, on standard error, because its result is on standard output: text, like its error.
    Command,
}

/// Starts logging according to `NODE_ENV` and `PHALA_LOGGER_LEVEL`. Keep the returned value until the process
/// ends.
///
/// On a terminal, lines are printed above the bars on standard error, and only warnings unless a level is
/// configured.
///
/// # Errors
/// This process has a logger already.
pub fn init(
    level: Option<&LogLevel>,
    development: bool,
    stream: Stream,
    display: &Display,
) -> anyhow::Result<Flush> {
    // Bars and log lines are either both visible on the terminal, or neither.
    let beside_bars = display.is_live() && (stream == Stream::Command || io::stdout().is_terminal());
    let default = match (beside_bars, development) {
        (true, _) => LogLevel::WARN,
        (false, true) => LogLevel::DEBUG,
        (false, false) => LogLevel::INFO,
    };
    let filter = level.cloned().unwrap_or(default);
    let filter = EnvFilter::try_new(filter.directives())?;
    let (lines, flush) = if beside_bars || stream == Stream::Command {
        writer::start(writer::stderr()?, display.clone())?
    } else {
        writer::start(writer::stdout()?, Display::Plain)?
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    // By default, write errors would be printed to standard error, which panics if that fails, too.
    let logs = logs.log_internal_errors(false);
    if development || beside_bars || stream == Stream::Command {
        logs.with_ansi(beside_bars).try_init().map_err(|e| anyhow::anyhow!(e))?;
    } else {
        logs.json().try_init().map_err(|e| anyhow::anyhow!(e))?;
    }
    // Into the log: by default, panics are printed to standard error as plain text.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a part of the program panicked")));
    Ok(flush)
}

/// Whether a line may hold the credentials of a node: jsonrpsee shows the whole endpoint that it connects to, with the
/// header made of its password. Whatever the filter asks for, such lines are not written.
fn shows_credentials(line: &Metadata<'_>) -> bool {
    line.target() == "jsonrpsee-client" && *line.level() > Level::INFO
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = OptionalWriter<Line<'a>>;

    fn make_writer(&'a self) -> Self::Writer {
        OptionalWriter::some(self.line())
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Self::Writer {
        if shows_credentials(line) { OptionalWriter::none() } else { self.make_writer() }
    }
}
