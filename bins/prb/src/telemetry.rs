//! Logs: one stream of JSON lines on standard output, or lines for people in development and on a terminal.
//!
//! A thread writes them; whoever logs never waits for it. Lines that it cannot keep up with are dropped and
//! counted, and a disk that is full or a reader that has gone costs the lines and nothing else.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::progress::Display;

mod level;
mod writer;

pub use level::{LogLevel, log_level};
pub use writer::Flush;
use writer::{Line, LineWriter};

/// What a process says, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A daemon's log, on standard output.
    Daemon,
    /// Of a command whose answer is on standard output: the log goes to standard error.
    Command,
}

/// Starts logging as `NODE_ENV` and `PHALA_LOGGER_LEVEL` say. Keep what it gives until the process ends.
///
/// Where a person has the terminal, lines go above the bars on standard error, and only warnings unless a level
/// was asked for.
///
/// # Errors
/// Where this process logs already.
pub fn init(
    level: Option<&LogLevel>,
    development: bool,
    stream: Stream,
    display: &Display,
) -> anyhow::Result<Flush> {
    // A person sees both, or neither.
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
    // What this cannot write goes to standard error, and takes the process along where that fails.
    let logs = logs.log_internal_errors(false);
    if development || beside_bars {
        logs.with_ansi(beside_bars).try_init().map_err(|e| anyhow::anyhow!(e))?;
    } else {
        logs.json().try_init().map_err(|e| anyhow::anyhow!(e))?;
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a part of the program panicked")));
    Ok(flush)
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line()
    }
}
