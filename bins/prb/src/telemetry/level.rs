//! Log levels as operators write them: bunyan's names and numbers, and filters of `tracing`.

use std::str::FromStr;

use tracing_subscriber::filter::Directive;

use crate::redact;

/// The names, with the level of `tracing` that each stands for. Those of other loggers are the last ones.
const NAMES: [(&str, &str); 10] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warn", "warn"),
    ("error", "error"),
    // There is nothing above errors.
    ("fatal", "error"),
    ("off", "off"),
    ("warning", "warn"),
    ("verbose", "debug"),
    ("silly", "trace"),
];
/// bunyan's numbers.
const NUMBERS: [(u8, &str); 6] =
    [(10, "trace"), (20, "debug"), (30, "info"), (40, "warn"), (50, "error"), (60, "error")];
/// The crates that a level counts for: from libraries, warnings are enough for whoever does not name them.
const OURS: [&str; 5] = ["prb", "prb_chain", "prb_core", "prb_queue", "prb_walkie"];
/// What is allowed.
const ALLOWED: &str = "trace, debug, info, warn, error, fatal, bunyan's numbers 10 to 60, or a filter such as \
                       info,prb_core=debug,hyper=trace";

/// A log level or a filter, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(Parts);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Parts {
    Level(&'static str),
    Filter(Vec<String>),
}

impl LogLevel {
    /// The level where nobody asks for another.
    pub const INFO: Self = Self(Parts::Level("info"));
    /// The level in development.
    pub const DEBUG: Self = Self(Parts::Level("debug"));
    /// The level beside bars.
    pub const WARN: Self = Self(Parts::Level("warn"));

    /// The same for `tracing`.
    pub fn directives(&self) -> String {
        match &self.0 {
            Parts::Level(level) => expand(level),
            Parts::Filter(parts) => parts.join(","),
        }
    }
}

/// A bare level: for our crates, and for the libraries what is at least a warning.
fn expand(level: &str) -> String {
    if matches!(level, "off" | "error" | "warn") {
        return level.to_owned();
    }
    let ours = OURS.map(|name| format!(",{name}={level}")).concat();
    format!("warn{ours}")
}

/// Reads a level or a filter.
///
/// # Errors
/// Says what is allowed, and what was meant if it looks like it.
pub fn log_level(text: &str) -> Result<LogLevel, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if let [one] = parts[..]
        && !one.contains(['=', '['])
    {
        return level(one).map(|level| LogLevel(Parts::Level(level)));
    }
    if parts.is_empty() {
        return Err(format!("must be {ALLOWED}"));
    }
    let read: Result<Vec<_>, String> = parts.into_iter().map(part).collect();
    read.map(|parts| LogLevel(Parts::Filter(parts)))
}

/// One part of a filter: a bare word is a level, and never the name of a library, which would silence all others.
fn part(text: &str) -> Result<String, String> {
    let read = match text.rsplit_once('=') {
        None if !text.contains('[') => return level(text).map(expand),
        Some((target, word)) if is_target(target) => format!("{target}={}", level(word)?),
        _ if text.contains('[') => text.to_owned(),
        _ => return Err(format!("must be {ALLOWED}")),
    };
    Directive::from_str(&read).map(|_| read).map_err(|_| format!("must be {ALLOWED}"))
}

/// Whether it may be the path of a module.
fn is_target(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-:".contains(c))
}

fn level(text: &str) -> Result<&'static str, String> {
    let word = text.to_ascii_lowercase();
    if let Some((_, level)) = NAMES.iter().find(|(name, _)| *name == word) {
        return Ok(level);
    }
    let number = word.parse::<u8>().ok();
    if let Some((_, level)) = NUMBERS.iter().find(|(known, _)| Some(*known) == number) {
        return Ok(level);
    }
    let near = NAMES.iter().map(|(name, _)| *name).find(|name| distance(name, &word) <= 2);
    let shown = redact::shown(text);
    Err(match near {
        Some(name) => format!("{shown} is no level, did you mean {name}? Must be {ALLOWED}"),
        None if number.is_some() => format!("{shown} is no level: the numbers are 10, 20, 30, 40, 50 and 60"),
        None => format!("{shown} is no level: must be {ALLOWED}"),
    })
}

/// How many letters have to change, come or go to make one word of the other; a swap of two counts as two.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(16).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_numbers_of_the_original() {
        for (text, means) in [
            ("trace", "trace"),
            ("FATAL", "error"),
            ("30", "info"),
            ("60", "error"),
            ("warning", "warn"),
            ("silly", "trace"),
        ] {
            let read = log_level(text).unwrap();
            assert_eq!(read, LogLevel(Parts::Level(means)), "{text}");
            assert!(tracing_subscriber::EnvFilter::try_new(read.directives()).is_ok());
        }
        assert_eq!(log_level("off").unwrap().directives(), "off");
    }

    #[test]
    fn filters_keep_what_they_name_and_a_bare_level_is_for_our_crates() {
        let read = log_level("info, prb_core=20,hyper=TRACE").unwrap().directives();
        assert!(
            read.starts_with("warn,prb=info,") && read.ends_with(",prb_core=debug,hyper=trace"),
            "{read}"
        );
        assert!(log_level("prb_core[{worker}]=debug").is_ok());
        for bad in ["", ",", "loud", "info,loud", "hyper", "hyper=loud", "35", "info,prb core=debug"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slips_are_recognised() {
        for (slip, meant) in [("debgu", "debug"), ("warnign", "warning"), ("inof", "info"), ("eror", "error")]
        {
            let error = log_level(slip).unwrap_err();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        assert!(!log_level("loud").unwrap_err().contains("mean"));
    }
}
