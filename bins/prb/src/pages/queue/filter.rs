//! Finds the jobs that match a query.

use std::{collections::HashSet, time::Duration};

use prb_core::queue::{
    Error, JobId,
    admin::{Filter, JobRecord, Page},
};
use tokio::time::Instant;

use super::{
    QueuePages,
    query::{JobQuery, SearchTerm},
    with_timeout,
};

/// Maximum duration of a text search.
pub const SEARCH_BUDGET: Duration = Duration::from_secs(3);
/// Maximum number of jobs in a text search: the newest that match the rest of the filter.
pub const MAX_SEARCHED: usize = 20_000;
/// Number of jobs per request to the queue.
const CHUNK: usize = 1000;

/// The result.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The total number of matches.
    pub(super) total: usize,
    /// The page's jobs, newest first.
    pub(super) jobs: Vec<JobRecord>,
    /// The page's number from 1; the last page if a later one was requested.
    pub(super) page: usize,
    pub(super) size: usize,
    /// If a text search was cut off: how many jobs were searched, of how many.
    pub(super) searched: Option<(usize, usize)>,
}

impl Found {
    pub(super) const fn pages(&self) -> usize {
        let pages = self.total.div_ceil(self.size);
        if pages == 0 { 1 } else { pages }
    }

    /// Returns the index of the page's first job among all matches, from 0.
    pub(super) const fn offset(&self) -> usize {
        (self.page - 1) * self.size
    }
}

impl QueuePages {
    pub(super) async fn find(&self, query: &JobQuery) -> Result<Found, Error> {
        match &query.look_for {
            SearchTerm::All if query.workers.is_none() => self.page(query).await,
            SearchTerm::All => self.search(query, "").await,
            SearchTerm::Job(id) => self.one(query, *id).await,
            SearchTerm::Text(text) => self.search(query, text).await,
        }
    }

    async fn page(&self, query: &JobQuery) -> Result<Found, Error> {
        let JobQuery { filter, page, size, .. } = *query;
        let admin = &self.0.source.admin;
        let offset = (page - 1).saturating_mul(size);
        let answer = with_timeout(admin.list(filter, offset, size)).await?;
        let mut found = Found { total: answer.total, jobs: answer.jobs, page, size, searched: None };
        if offset > 0 && offset >= found.total {
            // Jobs have ended since the link was made: the last page is shown instead of an empty one.
            found.page = found.pages();
            let answer = with_timeout(admin.list(filter, found.offset(), size)).await?;
            (found.total, found.jobs) = (answer.total, answer.jobs);
        }
        Ok(found)
    }

    async fn one(&self, query: &JobQuery, id: JobId) -> Result<Found, Error> {
        let job = self.job(id).await?.map(|detail| detail.record);
        let job = job.filter(|record| matches(query.filter, record) && is_about(query, record));
        Ok(Found {
            total: job.iter().len(),
            jobs: job.into_iter().collect(),
            page: 1,
            size: query.size,
            searched: None,
        })
    }

    /// Checks the jobs one by one, newest first. Keeps only the page in memory.
    async fn search(&self, query: &JobQuery, text: &str) -> Result<Found, Error> {
        // The semaphore is never closed.
        let _turn = self.0.search.acquire().await;
        let until = Instant::now() + SEARCH_BUDGET;
        let mut filter = JobFilter::new(query, text);
        let (mut offset, mut seen) = (0, HashSet::new());
        loop {
            let Page { total, jobs } =
                with_timeout(self.0.source.admin.list(query.filter, offset, CHUNK)).await?;
            offset += CHUNK;
            for job in jobs {
                // New jobs shift jobs that were already seen into the next chunk. Ended jobs are ordered by their end,
                // not by id.
                if seen.insert(job.id) {
                    filter.offer(job);
                }
            }
            if offset >= total {
                return Ok(filter.found(None));
            }
            if offset >= MAX_SEARCHED || Instant::now() >= until {
                return Ok(filter.found(Some((offset, total))));
            }
            // A queue in memory never suspends this task, so other tasks get a chance to run here.
            tokio::task::yield_now().await;
        }
    }
}

/// Returns whether a job is about one of the requested workers.
fn is_about(query: &JobQuery, job: &JobRecord) -> bool {
    query.workers.as_ref().is_none_or(|keys| job.workers.iter().any(|key| keys.contains(key)))
}

/// Collects the requested page, or the last one if the requested page does not exist.
struct JobFilter<'a> {
    text: &'a str,
    query: &'a JobQuery,
    page: usize,
    size: usize,
    total: usize,
    kept: Vec<JobRecord>,
}

impl<'a> JobFilter<'a> {
    const fn new(query: &'a JobQuery, text: &'a str) -> Self {
        Self { text, query, page: query.page, size: query.size, total: 0, kept: Vec::new() }
    }

    fn offer(&mut self, job: JobRecord) {
        if !is_about(self.query, &job) || !(self.text.is_empty() || contains_text(&job, self.text)) {
            return;
        }
        if self.total < self.page.saturating_mul(self.size) {
            // A new page begins. If the requested one does not come, the last one is kept.
            if self.total.is_multiple_of(self.size) {
                self.kept.clear();
            }
            self.kept.push(job);
        }
        self.total += 1;
    }

    fn found(self, searched: Option<(usize, usize)>) -> Found {
        let Self { page, size, total, kept: jobs, .. } = self;
        let mut found = Found { total, jobs, page, size, searched };
        found.page = page.min(found.pages());
        found
    }
}

fn matches(filter: Filter, record: &JobRecord) -> bool {
    filter.state.is_none_or(|state| state == record.state)
        && filter.pool.is_none_or(|pool| Some(pool) == record.pool)
}

/// Returns whether an action, a worker's key, an error or a transaction contains the lower-case text.
fn contains_text(record: &JobRecord, text: &str) -> bool {
    let has = |field: &str| field.to_lowercase().contains(text);
    let outcome = record.outcome.as_ref();
    has(&record.action)
        || record.error.as_deref().is_some_and(has)
        || is_of_key(text) && record.workers.iter().any(|worker| has(&worker.to_string()))
        || outcome.is_some_and(|outcome| outcome.calls.iter().filter_map(|call| call.error()).any(has))
        || outcome.and_then(|outcome| outcome.extrinsic).is_some_and(|hash| has(&hash.to_string()))
}

/// Returns whether a text is the start of a key, long enough not to be a word.
fn is_of_key(text: &str) -> bool {
    const MIN_DIGITS: usize = 6;
    let digits = text.strip_prefix("0x");
    (digits.is_some() || text.len() >= MIN_DIGITS)
        && digits.unwrap_or(text).bytes().all(|byte| byte.is_ascii_hexdigit())
}
