//! Lines of the log are for people and for programs: no field and no message of any crate shows a value in Rust's
//! `Debug`, and neither does an error a duration or a kind; a failure says what it is about and its cause, with the causes of that, in fields.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

const LEVELS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
const CRATES: [&str; 5] =
    ["prb-core/src", "prb-chain/src", "prb-queue/src", "prb-walkie/src", "bins/prb/src"];

/// Returns the arguments of a macro, from the first byte after the opening parenthesis.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// Returns whether they use `Debug`: a field with `?` before its value, or such a placeholder.
fn asks_for_debug(arguments: &str) -> bool {
    let starts_value = |at: usize| arguments[..at].trim_end().ends_with([',', '=', ':', '{']) || at == 0;
    let field = arguments.match_indices('?').any(|(at, _)| {
        let value = arguments[at + 1..].chars().next();
        starts_value(at) && value.is_some_and(|c| c.is_ascii_alphanumeric() || "_&*(".contains(c))
    });
    field || arguments.contains(":?}") || arguments.contains(":#?}")
}

/// Lines about the process itself, which are about nothing else and have no cause to tell.
const ABOUT_THE_PROCESS: [&str; 9] = [
    "a task of the job queue panicked",
    "no data provider f",
    "some calls of peers were not answered in time",
    "some workers' tasks did not end in time",
    "background tasks did not end in time",
    "the shutdown took too long",
    "the fleet did not stop in time",
    "the fleet file names no pools",
    "headers are verified from another genesis",
];

/// Names of what failures are caused by: they belong into fields, where they can be searched.
const CAUSES: [&str; 12] =
    ["e", "err", "error", "cause", "reason", "why", "trouble", "text", "message", "ended", "panic", "source"];

/// What is wrong with the line of a failure.
fn faults(level: &str, arguments: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if level == "debug!(" || level == "trace!(" {
        return faults;
    }
    let (fields, text) = arguments.split_once('"').map_or((arguments, ""), |(fields, text)| {
        (fields, text.rsplit_once('"').map_or(text, |(text, _)| text))
    });
    let names = text.split('{').skip(1).filter_map(|rest| rest.split(['}', ':']).next());
    // A state's own words are the whole message.
    if text != "{message}" && names.into_iter().any(|name| CAUSES.contains(&name)) {
        faults.push("the message quotes a cause: make it a field");
    }
    let field = |name: &str| {
        let words = fields.split([',', '(', ')']).map(str::trim);
        words
            .filter(|word| word.trim_start_matches(['%', '?']).split([' ', '=']).next() == Some(name))
            .count()
            > 0
    };
    if field("message") {
        faults.push("a field `message` takes the place of the message");
    }
    let is_failure = level == "warn!(" || level == "error!(";
    let is_excepted = || ABOUT_THE_PROCESS.iter().any(|known| text.starts_with(known));
    if is_failure && fields.trim().is_empty() && !is_excepted() {
        faults.push("it does not say in a field what it is about");
    }
    if fields.contains("%error") || fields.contains("error = %e,") || fields.contains("error = %error") {
        faults.push("`%error` leaves out its causes: error = %describe(&error), or a text as it is");
    }
    faults
}

/// What texts of errors are made with.
const TEXTS: [&str; 5] = ["#[error(", "format!(", "bail!(", "anyhow!(", "ensure!("];
/// Parts of the names of durations and of kinds, whose `Debug` is no word of the language (`721.40098ms`, `NotFound`).
/// Names of people and texts from outside are quoted with it.
const NO_QUOTES: [&str; 13] = [
    "timeout",
    "limit",
    "wait",
    "elapsed",
    "pause",
    "within",
    "retry_after",
    "duration",
    "kind",
    "age",
    "period",
    "took",
    "state",
];

/// Whether a text of an error shows a duration or a kind with `Debug`. `rest` is what follows the text: the fields
/// of an error.
fn shows_debug_of_value(arguments: &str, rest: &str) -> bool {
    let is_one = |name: &str| {
        let name = name.to_ascii_lowercase();
        let is_duration = || {
            let fields = rest.split("#[error(").next().unwrap_or_default();
            fields.contains(&format!("{name}: Duration"))
                || fields.contains(&format!("{name}: std::time::Duration"))
        };
        NO_QUOTES.iter().any(|part| name.split('_').any(|word| word == *part) || name == *part)
            || is_duration()
    };
    let named = arguments.match_indices(":?}").any(|(end, _)| {
        let name = arguments[..end].rsplit('{').next().unwrap_or_default();
        !name.is_empty() && is_one(name)
    });
    let values = arguments.rsplit_once('"').map_or("", |(_, values)| values);
    let words =
        || values.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    named || arguments.contains("{:?}") && words().any(is_one)
}

/// What a look at the sources has found.
#[derive(Default)]
struct Found {
    lines: usize,
    texts: usize,
    debug: Vec<String>,
    texts_with_debug: Vec<String>,
    faults: Vec<String>,
}

fn look(path: &Path, found: &mut Found) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for start in TEXTS {
            for (at, _) in text.match_indices(start) {
                let rest = &text[at + start.len()..];
                let arguments = arguments(rest);
                found.texts += 1;
                if shows_debug_of_value(
                    arguments,
                    if start == "#[error(" { &rest[arguments.len()..] } else { "" },
                ) {
                    let line = text[..at].matches('\n').count() + 1;
                    found.texts_with_debug.push(format!("{}:{line}: {arguments}", path.display()));
                }
            }
        }
        for level in LEVELS {
            for (at, _) in text.match_indices(level) {
                let arguments = arguments(&text[at + level.len()..]);
                found.lines += 1;
                let line = text[..at].matches('\n').count() + 1;
                let here = format!("{}:{line}: {arguments}", path.display());
                if asks_for_debug(arguments) {
                    found.debug.push(here.clone());
                }
                let faults = faults(level, arguments);
                found.faults.extend(faults.into_iter().map(|fault| format!("{here}\n  {fault}")));
            }
        }
    }
}

fn look_at_all() -> Found {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Found::default();
    CRATES.iter().for_each(|folder| look(&root.join(folder), &mut found));
    found
}

#[test]
fn no_line_of_the_log_shows_debug() {
    let found = look_at_all();
    assert!(found.lines > 100, "{} lines were found: they look otherwise now", found.lines);
    assert!(found.debug.is_empty(), "use Display (%), a number or a name:\n{}", found.debug.join("\n"));
}

#[test]
fn no_error_shows_durations_and_kinds_with_debug() {
    let found = look_at_all();
    assert!(found.texts > 500, "{} texts were found: they look otherwise now", found.texts);
    let bad = found.texts_with_debug;
    assert!(bad.is_empty(), "use prb_core::text::duration, or words:\n{}", bad.join("\n"));
    for (arguments, rest) in [
        ("\"no answer within {timeout:?}\"", ""),
        ("\"no answer within {TIMEOUT:?}\"", ""),
        ("\"next try in {retry_after:?}\"", ""),
        ("\"no answer within {:?}\", self.timeout", ""),
        ("\"{:?}\", e.kind()", ""),
        ("\"{message} ({kind:?})\"", ""),
        ("\"after {since:?}\"", ")]\n Late { since: Duration }"),
    ] {
        assert!(shows_debug_of_value(arguments, rest), "{arguments}");
    }
    for arguments in ["\"{name:?} is taken by {holder:?}\"", "\"{:?} is no name\", name", "\"{limit} bytes\""]
    {
        assert!(!shows_debug_of_value(arguments, ")]\n Taken { name: String }"), "{arguments}");
    }
}

#[test]
fn failures_have_their_subject_and_their_cause_in_fields() {
    let found = look_at_all();
    assert!(found.lines > 100, "{} lines were found: they look otherwise now", found.lines);
    assert!(found.faults.is_empty(), "{} faults:\n{}", found.faults.len(), found.faults.join("\n"));
}

#[test]
fn faults_are_seen_in_every_form() {
    for (level, bad) in [
        ("warn!(", "peer, \"it failed: {error}\""),
        ("info!(", "%worker, \"it failed: {e:#}\""),
        ("error!(", "\"it is broken\""),
        ("warn!(", "message, \"it is broken\""),
        ("warn!(", "worker = %w, %error, \"it is broken\""),
        ("warn!(", "worker = %w, error = %e, \"it is broken\""),
    ] {
        assert_eq!(faults(level, bad).len(), 1, "{bad}: {:?}", faults(level, bad));
    }
    for (level, good) in [
        ("warn!(", "worker = %w, error = %describe(&e), \"{name} is broken\""),
        ("info!(", "\"it has begun\""),
        ("warn!(", "error, \"it is broken\""),
        ("warn!(", "\"the shutdown took too long and is aborted\""),
    ] {
        assert_eq!(faults(level, good), [""; 0], "{good}");
    }
}

#[test]
fn every_form_of_debug_is_detected() {
    for debug in ["?x", "a, ?x, \"m\"", "a = ?x.y()", "\"m {x:?}\"", "\"m {:?}\", x", "peer: ?x"] {
        assert!(asks_for_debug(debug), "{debug}");
    }
    for other in ["%x, \"what now? nothing\"", "a = x?, \"m\"", "\"m\""] {
        assert!(!asks_for_debug(other), "{other}");
    }
}
