//! Checks that no log message or field of any crate is formatted with Rust's `Debug`.
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

fn look(path: &Path, found: &mut Vec<String>) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            seen += look(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for level in LEVELS {
            for (at, _) in text.match_indices(level) {
                let arguments = arguments(&text[at + level.len()..]);
                seen += 1;
                if asks_for_debug(arguments) {
                    let line = text[..at].matches('\n').count() + 1;
                    found.push(format!("{}:{line}: {arguments}", path.display()));
                }
            }
        }
    }
    seen
}

#[test]
fn no_log_line_uses_debug() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let seen: usize = CRATES.iter().map(|folder| look(&root.join(folder), &mut found)).sum();
    assert!(seen > 100, "{seen} lines were found: they look otherwise now");
    assert!(found.is_empty(), "use Display (%), a number or a name:\n{}", found.join("\n"));
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
