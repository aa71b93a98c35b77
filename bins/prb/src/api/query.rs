//! Query strings, and patterns of names.

use prb_core::{
    inventory::{Snapshot, Worker},
    worker::State,
};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::problem::Problem;

/// Number of entries per page if the request has no limit.
const PAGE: usize = 100;
/// Maximum number of entries per page.
pub(super) const MAX_PAGE: usize = 1000;

/// Which workers to list.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WorkerQuery {
    /// Number of entries to skip.
    offset: usize,
    /// Number of entries per page: 1 to 1000, 100 by default.
    limit: Option<usize>,
    /// A name, or a pattern with `*` and `?`.
    name: Option<String>,
    /// Only workers of this pool.
    pid: Option<u64>,
    /// Only workers in this state, such as `S_ERROR`.
    state: Option<String>,
    /// Only workers with this reason code.
    reason: Option<String>,
    /// Only workers that are stalled, or that are not.
    stalled: Option<bool>,
}

/// Which pools to list.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PoolQuery {
    /// Number of entries to skip.
    offset: usize,
    /// Number of entries per page: 1 to 1000, 100 by default.
    limit: Option<usize>,
    /// A name, or a pattern with `*` and `?`.
    name: Option<String>,
}

/// Options of an edit.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EditQuery {
    /// Check everything, and change nothing.
    pub(super) dry_run: bool,
    /// Delete a pool, or change its number, although workers belong to it: they are not operated until a pool has
    /// their number again, and the heartbeats of those that compute end. Or delete a worker although it computes.
    pub(super) force: bool,
}

impl WorkerQuery {
    pub(super) fn page(&self) -> Result<(usize, usize), Problem> {
        if let Some(state) = &self.state
            && !State::ALL.iter().any(|known| known.as_str() == state)
        {
            let known: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
            return Err(Problem::bad_request(format!("state must be one of {}", known.join(", "))));
        }
        page(self.offset, self.limit)
    }

    /// Returns whether a page was requested.
    pub(super) const fn is_paged(&self) -> bool {
        self.offset > 0 || self.limit.is_some()
    }

    /// Returns whether a worker's name and pool match. Needs no status.
    pub(super) fn fits_entry(&self, worker: &Worker) -> bool {
        self.name.as_ref().is_none_or(|pattern| fits(pattern, &worker.name))
            && self.pid.is_none_or(|pid| pid == worker.pid.0)
    }

    pub(super) fn fits_status(&self, status: &prb_core::worker::WorkerStatus) -> bool {
        self.state.as_ref().is_none_or(|state| state == status.state.as_str())
            && self.reason.as_ref().is_none_or(|reason| reason == status.reason.code())
            && self.stalled.is_none_or(|stalled| stalled == status.stalled)
    }
}

impl PoolQuery {
    pub(super) fn page(&self) -> Result<(usize, usize), Problem> {
        page(self.offset, self.limit)
    }

    pub(super) fn fits(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|pattern| fits(pattern, name))
    }
}

pub(super) fn page(offset: usize, limit: Option<usize>) -> Result<(usize, usize), Problem> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=MAX_PAGE => Ok((offset, limit)),
        _ => Err(Problem::bad_request(format!("limit must be from 1 to {MAX_PAGE}"))),
    }
}

/// Returns whether a text matches a pattern, in which `*` matches any characters and `?` one character.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    // A loop that only goes back to the last star: a recursive match would take exponential time for a pattern
    // with many stars.
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to continue after the last star if the rest does not match.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    (p, t) = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Returns the workers that a text names: an id, a name, or a pattern.
pub(super) fn named<'a>(snapshot: &'a Snapshot, text: &str) -> Vec<&'a Worker> {
    let workers = || snapshot.workers.iter().map(AsRef::as_ref);
    // As at the address of one worker: another one may be named like its id.
    let id = text.parse::<Uuid>().ok();
    if let Some(worker) = id.and_then(|id| workers().find(|worker: &&Worker| worker.id == id)) {
        return vec![worker];
    }
    // Before patterns, because a name may itself contain a star.
    let exact: Vec<&Worker> = workers().filter(|worker| worker.name == text).collect();
    if exact.is_empty() && text.contains(['*', '?']) {
        return workers().filter(|worker| fits(text, &worker.name)).collect();
    }
    exact
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prb_core::primitives::PoolId;

    use super::*;

    #[test]
    fn patterns_match_stars_and_question_marks() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "x"),
            ("rack-?-*", "rack-1-a"),
            ("a*b*c", "a-b-b-c"),
            ("ü?", "üß"),
            ("**x", "x"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "x"), ("?", ""), ("rack-?", "rack-10"), ("a*b", "a-b-c"), ("A", "a")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        // Backtracks only to the last star, so that no pattern is slow.
        assert!(!fits(&"*a".repeat(2000), &"a".repeat(1999)));
    }

    #[test]
    fn ids_come_before_names() {
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let worker = |id, name: &str| Arc::new(Worker::new(id, PoolId(1), name, format!("http://{name}"), 5));
        let workers = [worker(other, &id.to_string()), worker(id, "a*")].into();
        let snapshot = Snapshot { workers, ..Snapshot::default() };
        let named = |text: &str| named(&snapshot, text).iter().map(|worker| worker.id).collect::<Vec<_>>();
        assert_eq!((named(&id.to_string()), named("a*"), named("a?")), (vec![id], vec![id], vec![id]));
    }
}
