//! The list of workers: the query, and the workers that match it.

use std::cmp::Ordering;

use prb_core::worker::State;
use url::form_urlencoded::Serializer;

use super::{
    columns::{COLUMNS, Set},
    fields::Fields,
    view::{FleetView, WorkerView},
};

/// Default number of workers per page.
const SIZE: usize = 100;
/// The page sizes that the form offers.
pub(super) const SIZES: [usize; 4] = [50, SIZE, 300, 500];
/// Maximum length of a search text, in characters.
pub(super) const MAX_TEXT: usize = 200;

/// The parsed query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub(super) state: Option<State>,
    pub(super) reason: String,
    pub(super) pool: String,
    pub(super) text: String,
    /// Only workers that need attention.
    pub(super) attention: bool,
    /// A column's name.
    pub(super) sort: String,
    pub(super) descending: bool,
    pub(super) set: Set,
    pub(super) page: usize,
    pub(super) size: usize,
}

impl ListQuery {
    pub(super) fn read(fields: &Fields) -> Self {
        let size = fields.get("size").parse().ok().filter(|size| SIZES.contains(size)).unwrap_or(SIZE);
        Self {
            state: State::ALL.into_iter().find(|state| state.as_str() == fields.get("state")),
            reason: fields.get("reason").to_owned(),
            pool: fields.get("pool").to_owned(),
            text: fields.get("text").chars().take(MAX_TEXT).collect(),
            attention: fields.is_on("attention"),
            sort: fields.get("sort").to_owned(),
            descending: fields.get("order") == "down",
            set: Set::named(fields.get("columns")),
            page: fields.get("page").parse().unwrap_or(1).max(1),
            size,
        }
    }

    /// Returns the fields that filter the list, without order and page.
    pub(super) fn filter_fields(&self) -> Vec<(&'static str, String)> {
        let state = self.state.map(State::as_str).unwrap_or_default();
        let attention = if self.attention { "1" } else { "" };
        [
            ("state", state.to_owned()),
            ("reason", self.reason.clone()),
            ("pool", self.pool.clone()),
            ("text", self.text.clone()),
            ("attention", attention.to_owned()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }

    /// Returns the URL of this list below a path.
    pub(super) fn link(&self, path: &str) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(self.filter_fields());
        if !self.sort.is_empty() {
            query.append_pair("sort", &self.sort);
        }
        if self.descending {
            query.append_pair("order", "down");
        }
        if self.set != Set::default() {
            query.append_pair("columns", self.set.name());
        }
        if self.size != SIZE && self.size > 0 {
            query.append_pair("size", &self.size.to_string());
        }
        if self.page > 1 {
            query.append_pair("page", &self.page.to_string());
        }
        match query.finish() {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }

    fn matches(&self, worker: &WorkerView, text: &str) -> bool {
        self.state.is_none_or(|state| worker.state == state)
            && (self.reason.is_empty() || worker.reason == Some(&*self.reason))
            && (self.pool.is_empty() || self.pool == worker.entry.pid.to_string())
            && (!self.attention || worker.needs_attention())
            && (text.is_empty() || contains_text(worker, text))
    }

    /// Returns the workers that match, in the requested order.
    pub(super) fn find<'a>(&self, fleet: &'a FleetView) -> Vec<&'a WorkerView> {
        let text = self.text.to_lowercase();
        let mut found: Vec<_> = fleet.workers.iter().filter(|worker| self.matches(worker, &text)).collect();
        let column = COLUMNS.iter().find(|column| column.name == self.sort);
        // They are sorted by name already; a stable sort keeps that order among equals.
        match column.and_then(|column| column.order) {
            Some(order) if self.descending => found.sort_by(|a, b| order(b, a)),
            Some(order) => found.sort_by(|a, b| order(a, b)),
            None => {}
        }
        found
    }
}

/// Returns whether a lower-case text occurs in the shown fields of a worker.
fn contains_text(worker: &WorkerView, text: &str) -> bool {
    let entry = &worker.entry;
    let has = |value: &str| has(value, text);
    // Ids and keys are formatted only if the text could occur in them.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'x');
    has(&entry.name)
        || has(&entry.endpoint)
        || has(&worker.message)
        || worker.reason.is_some_and(has)
        || is_hex && has(&entry.id.to_string())
        || is_hex && worker.key.is_some_and(|key| has(&key.to_string()))
}

/// Returns whether a value contains a lower-case text, ignoring the value's case.
fn has(value: &str, text: &str) -> bool {
    if !(value.is_ascii() && text.is_ascii()) {
        return value.to_lowercase().contains(text);
    }
    let (value, text) = (value.as_bytes(), text.as_bytes());
    let Some(first) = text.first() else { return true };
    let begins = |at: &usize| value[*at].to_ascii_lowercase() == *first;
    let ends = value.len().saturating_sub(text.len() - 1);
    (0..ends).filter(begins).any(|at| value[at..at + text.len()].eq_ignore_ascii_case(text))
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) workers: &'a [&'a WorkerView],
    pub(super) total: usize,
    /// The page's number from 1; the last page if a later one was requested.
    pub(super) number: usize,
    pub(super) of: usize,
    pub(super) first: usize,
}

impl<'a> Page<'a> {
    pub(super) fn of(found: &'a [&'a WorkerView], query: &ListQuery) -> Self {
        let size = query.size.max(1);
        let of = found.len().div_ceil(size).max(1);
        let number = query.page.clamp(1, of);
        let first = (number - 1) * size;
        let workers = &found[first..found.len().min(first + size)];
        Self { workers, total: found.len(), number, of, first }
    }
}

/// Unknown values count as the smallest.
pub(super) fn by<K: Ord>(a: K, b: K) -> Ordering {
    a.cmp(&b)
}

#[cfg(test)]
mod tests {
    use super::{Fields, ListQuery, MAX_TEXT, has};

    #[test]
    fn search_text_is_limited() {
        let text = |typed: &str| ListQuery::read(&Fields::read(format!("text={typed}").as_bytes())).text;
        let most = "ä".repeat(MAX_TEXT);
        assert_eq!(text(&most), most);
        assert_eq!(text(&format!("{most}b")), most);
        assert_eq!(text("rack"), "rack");
    }

    #[test]
    fn search_ignores_case() {
        for (value, text) in [
            ("Rack-07", "rack"),
            ("Rack-07", "07"),
            ("abc", ""),
            ("Größe ÄB", "äb"),
            ("aab", "ab"),
            ("A", "a"),
        ] {
            assert!(has(value, text), "{value} {text}");
        }
        for (value, text) in [("", "a"), ("ab", "abc"), ("rack", "k-"), ("größe", "o")] {
            assert!(!has(value, text), "{value} {text}");
        }
    }
}
