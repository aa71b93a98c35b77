//! Jobs that a wish lets through.

use std::{collections::HashSet, time::Duration};

use prb_core::queue::{
    Error, JobId,
    admin::{Filter, JobRecord, Page},
};
use tokio::time::Instant;

use super::{
    Desk, patient,
    wish::{LookFor, Wish},
};

/// How long a text is looked for.
pub const SEARCH_BUDGET: Duration = Duration::from_secs(3);
/// In how many jobs a text is looked for: the newest of those that the rest of the filter lets through.
pub const MAX_SEARCHED: usize = 20_000;
/// Jobs asked for at once.
const CHUNK: usize = 1000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// How many there are.
    pub(super) total: usize,
    /// The page's jobs, newest first.
    pub(super) jobs: Vec<JobRecord>,
    /// Which page it is, from 1: the last where the wish was for one behind it.
    pub(super) page: usize,
    pub(super) size: usize,
    /// Where a text was looked for in some jobs only: in how many, and of how many.
    pub(super) searched: Option<(usize, usize)>,
}

impl Found {
    pub(super) const fn pages(&self) -> usize {
        let pages = self.total.div_ceil(self.size);
        if pages == 0 { 1 } else { pages }
    }

    /// Where the page's jobs are among all, from 0.
    pub(super) const fn offset(&self) -> usize {
        (self.page - 1) * self.size
    }
}

impl Desk {
    pub(super) async fn find(&self, wish: &Wish) -> Result<Found, Error> {
        match &wish.look_for {
            LookFor::All if wish.workers.is_none() => self.page(wish).await,
            LookFor::All => self.search(wish, "").await,
            LookFor::Job(id) => self.one(wish, *id).await,
            LookFor::Text(text) => self.search(wish, text).await,
        }
    }

    async fn page(&self, wish: &Wish) -> Result<Found, Error> {
        let Wish { filter, page, size, .. } = *wish;
        let admin = &self.0.source.admin;
        let offset = (page - 1).saturating_mul(size);
        let answer = patient(admin.list(filter, offset, size)).await?;
        let mut found = Found { total: answer.total, jobs: answer.jobs, page, size, searched: None };
        if offset > 0 && offset >= found.total {
            found.page = found.pages();
            let answer = patient(admin.list(filter, found.offset(), size)).await?;
            (found.total, found.jobs) = (answer.total, answer.jobs);
        }
        Ok(found)
    }

    async fn one(&self, wish: &Wish, id: JobId) -> Result<Found, Error> {
        let job = self.job(id).await?.map(|detail| detail.record);
        let job = job.filter(|record| lets_through(wish.filter, record) && is_about(wish, record));
        Ok(Found {
            total: job.iter().len(),
            jobs: job.into_iter().collect(),
            page: 1,
            size: wish.size,
            searched: None,
        })
    }

    /// Looks at job after job, newest first. Only the page is kept.
    async fn search(&self, wish: &Wish, text: &str) -> Result<Found, Error> {
        // Never closed.
        let _turn = self.0.search.acquire().await;
        let until = Instant::now() + SEARCH_BUDGET;
        let mut sieve = Sieve::new(wish, text);
        let (mut offset, mut seen) = (0, HashSet::new());
        loop {
            let Page { total, jobs } = patient(self.0.source.admin.list(wish.filter, offset, CHUNK)).await?;
            offset += CHUNK;
            for job in jobs {
                // New jobs push those that were seen before into the next chunk. Jobs that ended have the order
                // of their ends, not of their ids.
                if seen.insert(job.id) {
                    sieve.look(job);
                }
            }
            if offset >= total {
                return Ok(sieve.found(None));
            }
            if offset >= MAX_SEARCHED || Instant::now() >= until {
                return Ok(sieve.found(Some((offset, total))));
            }
            // A queue in memory never waits; others have work to do as well.
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a job is about one of the workers that are asked for.
fn is_about(wish: &Wish, job: &JobRecord) -> bool {
    wish.workers.as_ref().is_none_or(|keys| job.workers.iter().any(|key| keys.contains(key)))
}

/// Keeps the page that is wished for, and the last one should there be none such.
struct Sieve<'a> {
    text: &'a str,
    wish: &'a Wish,
    page: usize,
    size: usize,
    total: usize,
    kept: Vec<JobRecord>,
}

impl<'a> Sieve<'a> {
    const fn new(wish: &'a Wish, text: &'a str) -> Self {
        Self { text, wish, page: wish.page, size: wish.size, total: 0, kept: Vec::new() }
    }

    fn look(&mut self, job: JobRecord) {
        if !is_about(self.wish, &job) || !(self.text.is_empty() || mentions(&job, self.text)) {
            return;
        }
        if self.total < self.page.saturating_mul(self.size) {
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

fn lets_through(filter: Filter, record: &JobRecord) -> bool {
    filter.state.is_none_or(|state| state == record.state)
        && filter.pool.is_none_or(|pool| Some(pool) == record.pool)
}

/// Whether an action, a worker's key, an error or a transaction has the text, which is in lower case.
fn mentions(record: &JobRecord, text: &str) -> bool {
    let has = |field: &str| field.to_lowercase().contains(text);
    let outcome = record.outcome.as_ref();
    has(&record.action)
        || record.error.as_deref().is_some_and(has)
        || is_of_key(text) && record.workers.iter().any(|worker| has(&worker.to_string()))
        || outcome.is_some_and(|outcome| outcome.calls.iter().filter_map(|call| call.error()).any(has))
        || outcome.and_then(|outcome| outcome.extrinsic).is_some_and(|hash| has(&hash.to_string()))
}

/// Whether a key is meant: its beginning, or so much of it that no word is taken for it.
fn is_of_key(text: &str) -> bool {
    const MIN_DIGITS: usize = 6;
    let digits = text.strip_prefix("0x");
    (digits.is_some() || text.len() >= MIN_DIGITS)
        && digits.unwrap_or(text).bytes().all(|byte| byte.is_ascii_hexdigit())
}
