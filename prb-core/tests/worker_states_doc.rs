//! `docs/worker-states.md` has every reason that a worker can show, with a cause and a remedy, and no other.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use prb_core::worker::{Reason, State};

/// The rows that begin with a code: code → (cause, remedy).
fn rows(text: &str) -> BTreeMap<String, (String, String)> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [code, cause, remedy] = cells[..] else { panic!("three cells: {line}") };
        let code = code.trim_matches('`').to_owned();
        let known = rows.insert(code.clone(), (cause.to_owned(), remedy.to_owned()));
        assert!(known.is_none(), "{code} has two rows");
    }
    rows
}

#[test]
fn every_reason_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/worker-states.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not beside the crate", path.display());
        return;
    };
    let (text, _) = text.split_once("## In trouble").unwrap();
    let mut rows = rows(text);
    for code in Reason::CODES {
        let (cause, remedy) = rows.remove(*code).unwrap_or_else(|| panic!("no row for {code}"));
        assert!(cause.len() > 10 && remedy.len() >= 5, "{code}: {cause:?}, {remedy:?}");
    }
    assert!(rows.is_empty(), "rows of no reason: {:?}", rows.keys());
    for state in [State::Idle, State::Error, State::Active, State::PreActive] {
        assert!(text.contains(state.as_str()));
    }
}
