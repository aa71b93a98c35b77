//! Parses the query of the list's URL.

use std::collections::HashSet;

use prb_core::{
    inventory::Worker,
    primitives::{PoolId, WorkerKey},
    queue::{JobId, admin::Filter},
};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::{STATES, format, host::Directory};

/// Default number of jobs per page.
const SIZE: usize = 50;
/// The page sizes that the form offers.
pub(super) const SIZES: [usize; 4] = [25, SIZE, 100, 200];
/// Maximum length of a search text, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// The raw fields of the URL. Forms send empty ones, too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueryParams {
    pub(super) state: String,
    pub(super) pool: String,
    /// A worker's name or a part of it, its id or its key.
    pub(super) worker: String,
    pub(super) text: String,
    pub(super) page: String,
    pub(super) size: String,
}

/// The parsed query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JobQuery {
    pub(super) filter: Filter,
    /// Only jobs about one of these workers.
    pub(super) workers: Option<HashSet<WorkerKey>>,
    pub(super) look_for: SearchTerm,
    /// The page's number, from 1.
    pub(super) page: usize,
    pub(super) size: usize,
}

/// The search term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SearchTerm {
    /// No term: all jobs are shown.
    #[default]
    All,
    /// One job.
    Job(JobId),
    /// A text, in lower case.
    Text(String),
}

impl JobQuery {
    /// Parses the fields.
    ///
    /// # Errors
    /// The invalid field, as a message for people.
    pub(super) fn read(asked: &QueryParams, known: &Directory) -> Result<Self, String> {
        let state = match asked.state.trim() {
            "" => None,
            name => match STATES.into_iter().find(|state| format::state(*state) == name) {
                Some(state) => Some(state),
                None => return Err("There is no such state.".into()),
            },
        };
        let pool = match asked.pool.trim() {
            "" => None,
            text => match text.parse() {
                Ok(pid) => Some(PoolId(pid)),
                Err(_) => return Err("The number of a pool must be a whole number.".into()),
            },
        };
        let workers = match asked.worker.trim() {
            "" => None,
            name => Some(keys_of(name, known)?),
        };
        let text = asked.text.trim();
        if text.len() > MAX_TEXT_BYTES {
            return Err(format!("The text has more than {MAX_TEXT_BYTES} bytes."));
        }
        let look_for = match (text, number(text.trim_start_matches('#'))) {
            ("", _) => SearchTerm::All,
            // Digits alone are always the number of a job.
            (_, Some(id)) => SearchTerm::Job(id),
            _ => SearchTerm::Text(text.to_lowercase()),
        };
        // Not an error: such a URL is from another version of the page, or was edited.
        let size = asked.size.parse().ok().filter(|size| SIZES.contains(size)).unwrap_or(SIZE);
        let page = asked.page.parse().unwrap_or(1).max(1);
        Ok(Self {
            filter: Filter::default().with_state(state).with_pool(pool),
            workers,
            look_for,
            page,
            size,
        })
    }
}

/// Returns the keys of the workers that a text means: the worker of that name, id or key, otherwise those
/// whose name contains it.
fn keys_of(name: &str, known: &Directory) -> Result<HashSet<WorkerKey>, String> {
    if let Ok(key) = name.parse::<WorkerKey>() {
        return Ok([key].into());
    }
    let keys = |fits: &dyn Fn(&Worker) -> bool| -> HashSet<WorkerKey> {
        known.iter().filter(|(_, worker)| fits(worker)).map(|(key, _)| *key).collect()
    };
    // First: `worker-1` must not select `worker-10` as well.
    let exact = keys(&|worker| worker.name == name || worker.id.to_string() == name);
    let lower = name.to_lowercase();
    let found =
        if exact.is_empty() { keys(&|worker| worker.name.to_lowercase().contains(&lower)) } else { exact };
    if found.is_empty() {
        return Err("No worker with that name, id or key has a known key.".into());
    }
    Ok(found)
}

/// Parses a job's number. No sign, no spaces.
pub(super) fn number(text: &str) -> Option<JobId> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok().map(JobId) } else { None }
}

/// Returns a URL with the fields that are not empty.
pub(super) fn link(path: &str, asked: &QueryParams) -> String {
    let QueryParams { state, pool, worker, text, page, size } = asked;
    let fields = [
        ("state", state),
        ("pool", pool),
        ("worker", worker),
        ("text", text),
        ("page", page),
        ("size", size),
    ];
    let mut query = Serializer::new(String::new());
    query.extend_pairs(fields.into_iter().filter(|(_, value)| !value.is_empty()));
    match query.finish().as_str() {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::queue::JobState;

    use super::*;

    fn asked(state: &str, pool: &str, text: &str, page: &str, size: &str) -> QueryParams {
        let [state, pool, text, page, size] = [state, pool, text, page, size].map(str::to_owned);
        QueryParams { state, pool, text, page, size, worker: String::new() }
    }

    fn read(asked: &QueryParams) -> Result<JobQuery, String> {
        JobQuery::read(asked, &Directory::new())
    }

    #[test]
    fn workers_are_found_by_name_id_or_key() {
        let worker = |n: u8, name: &str| {
            let worker = Worker::new(uuid::Uuid::from_u128(n.into()), PoolId(1), name, "http://w", 1);
            (WorkerKey([n; 32]), std::sync::Arc::new(worker))
        };
        let known: Directory = [worker(1, "rack-1"), worker(2, "rack-10"), worker(3, "shelf")].into();
        let keys = |text: &str| {
            let asked = QueryParams { worker: text.into(), ..QueryParams::default() };
            JobQuery::read(&asked, &known).map(|query| {
                let mut keys: Vec<_> = query.workers.unwrap().iter().map(|key| key.0[0]).collect();
                keys.sort_unstable();
                keys
            })
        };
        assert_eq!(keys("rack-1"), Ok(vec![1]), "the whole name before a part of it");
        assert_eq!(keys("RACK"), Ok(vec![1, 2]));
        assert_eq!(keys(&uuid::Uuid::from_u128(3).to_string()), Ok(vec![3]));
        assert_eq!(
            keys(&WorkerKey([9; 32]).to_string()),
            Ok(vec![9]),
            "one that is not of the fleet any more"
        );
        assert!(keys("nobody").unwrap_err().contains("No worker"));
    }

    #[test]
    fn url_fields_are_parsed() {
        let query = read(&asked("failed", " 7 ", "#12", "3", "100")).unwrap();
        let filter = Filter::default().with_state(Some(JobState::Failed)).with_pool(Some(PoolId(7)));
        assert_eq!(
            query,
            JobQuery { filter, workers: None, look_for: SearchTerm::Job(JobId(12)), page: 3, size: 100 }
        );
        let query = read(&asked("", "", " BadOrigin ", "0", "1000000")).unwrap();
        let look_for = SearchTerm::Text("badorigin".into());
        assert_eq!(query, JobQuery { filter: Filter::default(), workers: None, look_for, page: 1, size: 50 });
        assert_eq!(read(&QueryParams::default()).unwrap().look_for, SearchTerm::All);
    }

    #[test]
    fn invalid_fields_are_reported() {
        assert!(read(&asked("lost", "", "", "", "")).is_err());
        assert!(read(&asked("", "-1", "", "", "")).is_err());
        assert!(read(&asked("", "", &"x".repeat(201), "", "")).is_err());
        assert_eq!(number("+1"), None);
        assert_eq!(number("18446744073709551616"), None);
    }

    #[test]
    fn links_have_the_fields_that_are_not_empty() {
        assert_eq!(link("/", &QueryParams::default()), "/");
        assert_eq!(link("/live", &asked("", "1", "a&b=\"c", "", "")), "/live?pool=1&text=a%26b%3D%22c");
    }
}
