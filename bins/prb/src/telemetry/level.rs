//! Parses log levels: bunyan's names and numbers, and filters of `tracing`.

use std::str::FromStr;

use tracing_subscriber::filter::Directive;

use crate::redact;

/// Names with their `tracing` level; the last ones are from other loggers.
const NAMES: [(&str, &str); 10] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warn", "warn"),
    ("error", "error"),
    // `tracing` has no level above error.
    ("fatal", "error"),
    ("off", "off"),
    ("warning", "warn"),
    ("verbose", "debug"),
    ("silly", "trace"),
];
/// bunyan's numbers.
const NUMBERS: [(u8, &str); 6] =
    [(10, "trace"), (20, "debug"), (30, "info"), (40, "warn"), (50, "error"), (60, "error")];
/// The crates that a bare level applies to; other libraries log warnings and errors unless the filter names
/// them.
/// A new crate of the workspace must be added here.
const OURS: [&str; 5] = ["prb", "prb_chain", "prb_core", "prb_queue", "prb_walkie"];
/// Libraries that log a line for each stream or frame of any stranger, with the level that they are limited to.
const FLOODED: &str = "yamux=off,multistream_select=error,libp2p_identify=error,libp2p_kad=error,\
                       libp2p_request_response=error,libp2p_mplex=error";
/// Description of the allowed values.
const ALLOWED: &str = "trace, debug, info, warn, error, fatal, bunyan's numbers 10 to 60, or a filter such as \
                       info,prb_core=debug,hyper=trace";

/// A valid log level or filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(Parts);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Parts {
    Level(&'static str),
    Filter(Vec<String>),
}

impl LogLevel {
    /// The default level.
    pub const INFO: Self = Self(Parts::Level("info"));
    /// The default level in development.
    pub const DEBUG: Self = Self(Parts::Level("debug"));
    /// The default level beside bars.
    pub const WARN: Self = Self(Parts::Level("warn"));

    /// Returns the directives for `tracing`.
    pub fn directives(&self) -> String {
        match &self.0 {
            Parts::Level(level) => expand(level),
            Parts::Filter(parts) => parts.join(","),
        }
    }
}

/// Expands a bare level: applies it to our crates, and at least warnings to libraries.
fn expand(level: &str) -> String {
    match level {
        "off" => level.to_owned(),
        "error" | "warn" => format!("{level},{FLOODED}"),
        _ => {
            let ours = OURS.map(|name| format!(",{name}={level}")).concat();
            format!("warn{ours},{FLOODED}")
        }
    }
}

/// Parses a level or a filter. A filter without a bare level adds to the default level: alone, it would silence
/// everything that it does not name.
///
/// # Errors
/// Names the allowed values, and a suggestion for a misspelled one.
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
    let has_base = parts.iter().any(|part| !part.contains(['=', '[']));
    let base = (!has_base).then(|| Ok(expand("info")));
    let read: Result<Vec<_>, String> = base.into_iter().chain(parts.into_iter().map(part)).collect();
    read.map(|parts| LogLevel(Parts::Filter(parts)))
}

/// Parses one part of a filter: a bare word is a level, never the name of a library, because that would
/// silence everything else.
fn part(text: &str) -> Result<String, String> {
    let end = text.find(['=', '[']).unwrap_or_default();
    check_target(&text[..end])?;
    let read = match text.rsplit_once('=') {
        None if !text.contains('[') => return level(text).map(expand),
        Some((target, word)) if is_target(target) => format!("{target}={}", level(word)?),
        _ if text.contains('[') => text.to_owned(),
        _ => return Err(format!("must be {ALLOWED}")),
    };
    Directive::from_str(&read).map(|_| read).map_err(|_| format!("must be {ALLOWED}"))
}

/// Whether a text can be the path of a module.
fn is_target(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
}

/// Refuses targets that no line can have: `tracing` ignores them without a word.
fn check_target(target: &str) -> Result<(), String> {
    let shown = redact::shown(target);
    let path = target.replace('-', "_");
    let name = path.split("::").next().unwrap_or_default();
    if name.starts_with("prb") && !OURS.contains(&name) {
        let near = OURS.iter().find(|ours| distance(ours, name) <= 2);
        let meant = near
            .map_or_else(|| format!("they are {}", OURS.join(", ")), |ours| format!("did you mean {ours}?"));
        return Err(format!("{shown} is none of this program's crates, {meant}"));
    }
    if path != target {
        return Err(format!("{shown} is not the path of a module, did you mean {}?", redact::shown(&path)));
    }
    Ok(())
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
        Some(name) => format!("{shown} is not a level, did you mean {name}? Must be {ALLOWED}"),
        None if number.is_some() => {
            format!("{shown} is not a level: the numbers are 10, 20, 30, 40, 50 and 60")
        }
        None => format!("{shown} is not a level: must be {ALLOWED}"),
    })
}

/// The edit distance of two words; a swap of two letters counts as two.
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
    fn original_names_and_numbers_are_accepted() {
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
    fn bare_level_applies_to_our_crates_and_filters_are_kept() {
        let read = log_level("info, prb_core=20,hyper=TRACE").unwrap().directives();
        assert!(
            read.starts_with("warn,prb=info,") && read.ends_with(",prb_core=debug,hyper=trace"),
            "{read}"
        );
        assert!(log_level("prb_core[{worker}]=debug").is_ok());
        // Unless the filter names them.
        assert!(read.contains(",yamux=off,"), "{read}");
        assert!(log_level("warn,yamux=debug").unwrap().directives().ends_with(",yamux=debug"));
        assert!(log_level("error").unwrap().directives().contains(",yamux=off,"));
        for bad in ["", ",", "loud", "info,loud", "hyper", "hyper=loud", "35", "info,prb core=debug"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filter_without_a_level_keeps_the_default() {
        for text in ["prb_core=debug", "hyper=trace", "prb_core[{worker}]=debug", "[{worker}]=debug"] {
            let read = log_level(text).unwrap().directives();
            assert!(read.starts_with("warn,prb=info,") && read.ends_with(&format!(",{text}")), "{read}");
            assert!(read.contains(",yamux=off,"), "{read}");
        }
        assert_eq!(log_level("off,prb_core=debug").unwrap().directives(), "off,prb_core=debug");
        assert!(log_level("error,prb_core=debug").unwrap().directives().starts_with("error,"));
    }

    #[test]
    fn targets_that_match_nothing_are_refused_with_a_suggestion() {
        for (slip, meant) in [
            ("prb_cor=debug", "did you mean prb_core?"),
            ("prbcore=debug", "did you mean prb_core?"),
            ("info,prb_walky::node=debug", "did you mean prb_walkie?"),
            ("prb_core:sync=debug", "none of this program's crates"),
            ("prb_lifecycle=debug", "they are prb, prb_chain"),
            ("prb_cor[{worker}]=debug", "did you mean prb_core?"),
            ("prb-cor=debug", "did you mean prb_core?"),
            ("prb-core=debug", "did you mean"),
            ("libp2p-kad=debug", "did you mean"),
        ] {
            let error = log_level(slip).unwrap_err();
            assert!(error.contains(meant), "{slip}: {error}");
        }
        assert!(log_level("prb_core::sync=debug,prb=trace,libp2p_kad=debug").is_ok());
    }

    #[test]
    fn misspelled_levels_get_a_suggestion() {
        for (slip, meant) in [("debgu", "debug"), ("warnign", "warning"), ("inof", "info"), ("eror", "error")]
        {
            let error = log_level(slip).unwrap_err();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        assert!(!log_level("loud").unwrap_err().contains("mean"));
    }
}
