//! The queue page: counts by state, the list of jobs, single jobs, and an operator's actions on them.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use maud::{Markup, html};
use prb_core::{
    queue::{
        Error, JobId, JobQueue, JobState, Stats,
        admin::{JobDetail, QueueAdmin, now_ms},
    },
    text::duration,
};
use tokio::sync::Semaphore;

use self::query::{JobQuery, QueryParams};
use super::{
    Rules, Site, TokenLocation,
    guard::SMALL_BODY_BYTES,
    layout::{self, part},
};
use crate::{config::PageArgs, listen::Port, token::Access};

mod actions;
mod filter;
pub(crate) mod format;
mod host;
mod job;
mod list;
mod query;
mod recent;

pub use filter::{MAX_SEARCHED, SEARCH_BUDGET};
pub(crate) use host::{Directory, PageHost, Workers};
pub(crate) use recent::Recent;

/// The default port, the original's.
pub const PORT: u16 = 4567;
/// Time limit for the queue's answers to a viewer. Changes in Redis have a longer limit.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A body names at most a page of jobs.
const RULES: Rules = Rules { max_body_bytes: SMALL_BODY_BYTES, checked_below: None };

/// The data source of the pages.
#[derive(Clone, Debug)]
pub struct Source {
    /// The queue.
    pub queue: Arc<dyn JobQueue>,
    /// The operator's interface of the same queue.
    pub admin: Arc<dyn QueueAdmin>,
}

/// Opens the port, or returns `None` if it is off or its default port is in use.
///
/// # Errors
///
/// If a configured address cannot be bound.
pub async fn open(args: &PageArgs, access: &Access, source: Source) -> anyhow::Result<Option<Site>> {
    let port = Port {
        name: "queue page",
        variable: "PRB_QUEUE_PAGE_LISTEN",
        default: (Ipv4Addr::LOCALHOST, PORT).into(),
    };
    match port.open(args.queue_page_listen).await? {
        Some(listener) => {
            Site::new(port, listener, args, access, RULES, router(PageHost::standalone(), source)).map(Some)
        }
        None => Ok(None),
    }
}

/// What handlers share.
#[derive(Clone)]
struct QueuePages(Arc<Inner>);

struct Inner {
    source: Source,
    host: PageHost,
    /// The last counts from the queue, and their time.
    counts: Mutex<Option<(Stats, u64)>>,
    /// Limits searches to one at a time: a search may read the whole queue.
    search: Semaphore,
}

impl fmt::Debug for QueuePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueuePages").field(&self.0.source).finish()
    }
}

/// Returns the routes of the pages.
pub(crate) fn router(host: PageHost, source: Source) -> Router {
    let pages = QueuePages::new(host, source);
    Router::new()
        .route("/", get(list_page))
        .route("/live", get(list_parts))
        .route("/confirm", get(actions::confirm))
        .route("/act", post(actions::act))
        .route("/jobs/{id}", get(job_page))
        .route("/live/jobs/{id}", get(job_parts))
        .route("/jobs/{id}/retry", post(actions::retry))
        .route("/jobs/{id}/remove", post(actions::remove))
        .with_state(pages)
}

async fn list_page(
    State(pages): State<QueuePages>,
    token: TokenLocation,
    Query(asked): Query<QueryParams>,
) -> Response {
    let host = &pages.0.host;
    let (parts, there) = pages.list(&asked).await;
    let live = query::link(&format!("{}/live", host.base), &asked);
    let content = html! {
        h1 { (host.title) }
        (parts.head)
        (list::filter(host, &asked))
        (list::bulk(host))
        (parts.body.unwrap_or_else(|| part("jobs", &html! {
            p.empty { "The jobs are shown as soon as the queue answers." }
        })))
    };
    let page = host.page(&token, host.title, Some(&live), &content);
    (if there { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, page).into_response()
}

async fn list_parts(State(pages): State<QueuePages>, Query(asked): Query<QueryParams>) -> Markup {
    let (parts, _) = pages.list(&asked).await;
    html! { (parts.head) (parts.body.unwrap_or_default()) }
}

async fn job_page(State(pages): State<QueuePages>, token: TokenLocation, Path(id): Path<String>) -> Response {
    let Some(id) = query::number(&id) else { return layout::not_found_page("A job has a number.") };
    let host = &pages.0.host;
    let (title, live) = (format!("Job {id}"), format!("{}/live/jobs/{id}", host.base));
    let page = |content: &Markup| host.page(&token, &title, Some(&live), content);
    match pages.job(id).await {
        Ok(Some(detail)) => {
            let known = host.directory().await;
            let content = html! {
                (notice(None))
                (part("job", &job::state(host, &detail.record, &known)))
                (job::content(&detail))
            };
            page(&content).into_response()
        }
        Ok(None) => {
            let content = html! { (notice(None)) (part("job", &job::unknown_job(id))) };
            (StatusCode::NOT_FOUND, page(&content)).into_response()
        }
        Err(error) => {
            let content = html! {
                (notice(Some(&error)))
                (part("job", &html! { p.empty { "The job is shown as soon as the queue answers." } }))
            };
            (StatusCode::SERVICE_UNAVAILABLE, page(&content)).into_response()
        }
    }
}

async fn job_parts(State(pages): State<QueuePages>, Path(id): Path<String>) -> Response {
    let host = &pages.0.host;
    let Some(id) = query::number(&id) else { return StatusCode::NOT_FOUND.into_response() };
    match pages.job(id).await {
        Ok(Some(detail)) => {
            let known = host.directory().await;
            html! { (notice(None)) (part("job", &job::state(host, &detail.record, &known))) }
        }
        Ok(None) => html! { (notice(None)) (part("job", &job::unknown_job(id))) },
        // The rest of the page keeps its content.
        Err(error) => notice(Some(&error)),
    }
    .into_response()
}

/// Parts of the list's page; `body` is `None` if the queue does not answer, which keeps the shown content.
struct Parts {
    head: Markup,
    body: Option<Markup>,
}

impl QueuePages {
    fn new(host: PageHost, source: Source) -> Self {
        Self(Arc::new(Inner { source, host, counts: Mutex::default(), search: Semaphore::new(1) }))
    }

    /// Returns the parts, and whether the queue answered.
    async fn list(&self, asked: &QueryParams) -> (Parts, bool) {
        let host = &self.0.host;
        let known = host.directory().await;
        let query = &JobQuery::read(asked, &known);
        let (stats, found) = tokio::join!(self.stats(), async {
            match query {
                Ok(query) => self.find(query).await.map(Ok),
                Err(refusal) => Ok(Err(refusal.as_str())),
            }
        });
        let (body, refused) = match found {
            Ok(found) => (
                Some(part("jobs", &list::jobs(host, asked, found.as_ref().map_err(|text| *text), &known))),
                None,
            ),
            Err(error) => (None, Some(error)),
        };
        let error = refused.or(stats.err());
        // After the queries: the new counts, or the last known ones if the queue does not answer.
        let last = *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = query.as_ref().ok().and_then(|query| query.filter.state);
        let head = html! {
            (notice(error.as_ref()))
            (part("counts", &list::counts(host, last, error.is_some(), state)))
        };
        (Parts { head, body }, error.is_none())
    }

    /// Requests the counts, and stores them.
    async fn stats(&self) -> Result<(), Error> {
        let stats = with_timeout(self.0.source.queue.stats()).await?;
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner) = Some((stats, now_ms()));
        Ok(())
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        with_timeout(self.0.source.admin.job(id)).await
    }
}

/// Applies the viewers' time limit to a question.
async fn with_timeout<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, question).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Unavailable(format!("no answer within {}", duration(TIMEOUT)).into())),
    }
}

/// Shows a notice if the queue does not answer.
fn notice(error: Option<&Error>) -> Markup {
    part(
        "notice",
        &html! {
            @if let Some(error) = error {
                p.notice.bad role="alert" {
                    "The queue does not answer; the content below may be old. " (format::sentence(&format::chain(error)))
                }
            }
        },
    )
}

/// The states in the order of a job's lifecycle.
const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Delayed, JobState::Active, JobState::Succeeded, JobState::Failed];
