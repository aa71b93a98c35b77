//! Logs to standard error: JSON in production, human lines in development or on a terminal.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::progress::Display;

/// Starts logging as `NODE_ENV` and `PHALA_LOGGER_LEVEL` say.
///
/// Where bars have the terminal only warnings are shown, above them, unless a level was asked for.
///
/// # Errors
/// When the level is neither a level's name nor a filter.
pub fn init(level: Option<&str>, development: bool, display: &Display) -> anyhow::Result<()> {
    let default = match (display.is_live(), development) {
        (true, _) => "warn",
        (false, true) => "debug",
        (false, false) => "info",
    };
    let filter = filter(level.unwrap_or(default))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(AboveBars(display.clone()));
    let terminal = io::stderr().is_terminal();
    if development || terminal {
        logs.with_ansi(terminal).try_init().map_err(|e| anyhow::anyhow!(e))
    } else {
        logs.json().try_init().map_err(|e| anyhow::anyhow!(e))
    }
}

/// Writes each log line to standard error, above the bars where there are any.
struct AboveBars(Display);

/// One line on its way.
struct Line<'a>(&'a Display);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspended(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Reads a level of the original (`fatal` among them) or any filter of `tracing`.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let directive = match level {
        "fatal" => "error",
        // What libp2p tells of every address is for who asks for it.
        "info" => "info,libp2p_mdns=warn,libp2p_swarm=warn",
        other => other,
    };
    EnvFilter::try_new(directive).with_context(|| {
        format!(
            "PHALA_LOGGER_LEVEL is {level:?}; it takes trace, debug, info, warn, error, fatal, \
             or a filter such as info,prb_core=debug"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_original_are_known() {
        for level in ["trace", "debug", "info", "warn", "error", "fatal", "info,prb_core=debug"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("prb_core=loud").is_err());
    }
}
