//! Logs to standard error: JSON in production, human lines in development or on a terminal.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Starts logging as `NODE_ENV` and `PHALA_LOGGER_LEVEL` say.
///
/// With `quiet` only warnings are shown unless a level was asked for: a progress display has the terminal.
///
/// # Errors
/// When the level is neither a level's name nor a filter.
pub fn init(level: Option<&str>, development: bool, quiet: bool) -> anyhow::Result<()> {
    let default = match (quiet, development) {
        (true, _) => "warn",
        (false, true) => "debug",
        (false, false) => "info",
    };
    let filter = filter(level.unwrap_or(default))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    if development || terminal {
        logs.with_ansi(terminal).try_init().map_err(|e| anyhow::anyhow!(e))
    } else {
        logs.json().try_init().map_err(|e| anyhow::anyhow!(e))
    }
}

/// Reads a level of the original (`fatal` among them) or any filter of `tracing`.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let directive = match level {
        "fatal" => "error",
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
