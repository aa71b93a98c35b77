//! The queue page: counts by state, the list of jobs, one job, and what an operator may do with it.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use maud::{Markup, html};
use prb_core::queue::{
    Error, JobId, JobQueue, JobState, Stats,
    admin::{JobDetail, QueueAdmin, now_ms},
};
use tokio::sync::Semaphore;

use self::wish::{Asked, Wish};
use super::{
    Rules, Site,
    guard::NO_BODY_BYTES,
    layout::{self, Shell, part},
};
use crate::{config::PageArgs, listen::Port};

mod find;
mod job;
mod list;
mod wish;
pub(crate) mod words;

pub use find::{MAX_SEARCHED, SEARCH_BUDGET};

/// The port that operators know.
pub const PORT: u16 = 4567;
/// Where it is among the console's pages.
pub(crate) const BELOW_PATH: &str = "/queue";
/// How long the queue may take for an answer to somebody who looks. Redis is given longer for changes.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// No request has a body.
const RULES: Rules = Rules { max_body_bytes: NO_BODY_BYTES, checked_below: None };

/// What is shown.
#[derive(Clone, Debug)]
pub struct Source {
    /// The queue.
    pub queue: Arc<dyn JobQueue>,
    /// The same, as its operator sees it.
    pub admin: Arc<dyn QueueAdmin>,
}

/// Opens the port, or gives `None` where it is off or its default is taken by another.
///
/// # Errors
/// Where an address that was asked for cannot be had, or the token cannot be read.
pub async fn open(args: &PageArgs, source: Source) -> anyhow::Result<Option<Site>> {
    let port = Port {
        name: "queue page",
        variable: "PRB_QUEUE_PAGE_LISTEN",
        default: (Ipv4Addr::LOCALHOST, PORT).into(),
    };
    match port.open(args.queue_page_listen).await? {
        Some(listener) => Site::new(port, listener, args, RULES, router(source)).map(Some),
        None => Ok(None),
    }
}

/// What handlers share.
#[derive(Clone)]
struct Desk(Arc<Inner>);

struct Inner {
    source: Source,
    /// What stands before its paths; empty on a port of its own.
    base: &'static str,
    /// What the queue said when it last answered, and when.
    counts: Mutex<Option<(Stats, u64)>>,
    /// One search at a time: it may read the whole queue.
    search: Semaphore,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.0.source).finish()
    }
}

fn router(source: Source) -> Router {
    below("", source)
}

/// The same pages below a path of another port's pages.
pub(crate) fn below(base: &'static str, source: Source) -> Router {
    let desk = Desk(Arc::new(Inner { source, base, counts: Mutex::default(), search: Semaphore::new(1) }));
    Router::new()
        .route("/", get(list_page))
        .route("/live", get(list_parts))
        .route("/jobs/{id}", get(job_page))
        .route("/live/jobs/{id}", get(job_parts))
        .route("/jobs/{id}/retry", post(retry))
        .route("/jobs/{id}/remove", post(remove))
        .with_state(desk)
}

const fn shell<'a>(title: &'a str, live: &'a str, base: &str) -> Shell<'a> {
    const ALONE: [(&str, &str); 1] = [("/", "Trade queue")];
    const BELOW: [(&str, &str); 4] =
        [("/", "Overview"), ("/workers", "Workers"), ("/pools", "Pools"), (BELOW_PATH, "Trade queue")];
    if base.is_empty() {
        Shell { title, entries: &ALONE, here: "/", live: Some(live), is_stream: false }
    } else {
        Shell { title, entries: &BELOW, here: BELOW_PATH, live: Some(live), is_stream: false }
    }
}

async fn list_page(State(desk): State<Desk>, Query(asked): Query<Asked>) -> Response {
    let wish = Wish::read(&asked);
    let (parts, there) = desk.list(&wish, &asked).await;
    let base = desk.0.base;
    let live = wish::link(&format!("{base}/live"), &asked);
    let page = shell("Trade queue", &live, base).around(&html! {
        (parts.head)
        (list::filter(base, &asked))
        (parts.body.unwrap_or_else(|| part("jobs", &html! {
            p.empty { "The jobs are shown as soon as the queue answers." }
        })))
    });
    (if there { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, page).into_response()
}

async fn list_parts(State(desk): State<Desk>, Query(asked): Query<Asked>) -> Markup {
    let wish = Wish::read(&asked);
    let (parts, _) = desk.list(&wish, &asked).await;
    html! { (parts.head) (parts.body.unwrap_or_default()) }
}

async fn job_page(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    let Some(id) = wish::number(&id) else { return layout::nothing_here("A job has a number.") };
    let (title, live) = (format!("Job {id}"), format!("{}/live/jobs/{id}", desk.0.base));
    let base = desk.0.base;
    let shell = shell(&title, &live, base);
    match desk.job(id).await {
        Ok(Some(detail)) => shell
            .around(&html! {
                (notice(None))
                (part("job", &job::state(base, &detail.record)))
                (job::content(&detail))
            })
            .into_response(),
        Ok(None) => (
            StatusCode::NOT_FOUND,
            shell.around(&html! {
                (notice(None))
                (part("job", &job::gone(id)))
            }),
        )
            .into_response(),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            shell.around(&html! {
                (notice(Some(&error)))
                (part("job", &html! { p.empty { "The job is shown as soon as the queue answers." } }))
            }),
        )
            .into_response(),
    }
}

async fn job_parts(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    let base = desk.0.base;
    let Some(id) = wish::number(&id) else { return StatusCode::NOT_FOUND.into_response() };
    match desk.job(id).await {
        Ok(Some(detail)) => html! { (notice(None)) (part("job", &job::state(base, &detail.record))) },
        Ok(None) => html! { (notice(None)) (part("job", &job::gone(id))) },
        // The rest of the page stays as it was.
        Err(error) => notice(Some(&error)),
    }
    .into_response()
}

async fn retry(State(desk): State<Desk>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Some(id) = wish::number(&id) else { return no_such_job(&headers) };
    match desk.0.source.admin.retry(id).await {
        Ok(true) => {
            tracing::info!(job = %id, "put in line again by hand");
            layout::said(&headers, StatusCode::OK, &format!("Job {id} is in line again."))
        }
        Ok(false) => match desk.job(id).await {
            Ok(Some(JobDetail { record, .. })) => {
                let state = words::state(record.state);
                let text = format!("Job {id} is {state}: only a failed job can be put in line again.");
                layout::said(&headers, StatusCode::CONFLICT, &text)
            }
            Ok(None) => no_such_job(&headers),
            Err(error) => refused(&headers, &error),
        },
        Err(error) => refused(&headers, &error),
    }
}

async fn remove(State(desk): State<Desk>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Some(id) = wish::number(&id) else { return no_such_job(&headers) };
    match desk.0.source.admin.remove(id).await {
        Ok(true) => {
            tracing::info!(job = %id, "removed by hand");
            layout::said(&headers, StatusCode::OK, &format!("Job {id} is removed."))
        }
        Ok(false) => no_such_job(&headers),
        Err(error) => refused(&headers, &error),
    }
}

fn no_such_job(headers: &HeaderMap) -> Response {
    layout::said(headers, StatusCode::NOT_FOUND, "There is no job of that number (any more).")
}

fn refused(headers: &HeaderMap, error: &Error) -> Response {
    let text = format!("The queue refuses: {}.", words::chain(error));
    layout::said(headers, StatusCode::SERVICE_UNAVAILABLE, &text)
}

/// Parts of the list's page; `body` is `None` where the queue does not answer: what was shown stays.
struct Parts {
    head: Markup,
    body: Option<Markup>,
}

impl Desk {
    /// The parts, and whether the queue is there.
    async fn list(&self, wish: &Result<Wish, String>, asked: &Asked) -> (Parts, bool) {
        let (stats, found) = tokio::join!(self.stats(), async {
            match wish {
                Ok(wish) => self.find(wish).await.map(Ok),
                Err(refusal) => Ok(Err(refusal.as_str())),
            }
        });
        let (body, refused) = match found {
            Ok(found) => (
                Some(part("jobs", &list::jobs(self.0.base, asked, found.as_ref().map_err(|text| *text)))),
                None,
            ),
            Err(error) => (None, Some(error)),
        };
        let error = refused.or(stats.err());
        let last = *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = wish.as_ref().ok().and_then(|wish| wish.filter.state);
        let head = html! {
            (notice(error.as_ref()))
            (part("counts", &list::counts(self.0.base, last, error.is_some(), state)))
        };
        (Parts { head, body }, error.is_none())
    }

    /// Asks the queue, and remembers what it says.
    async fn stats(&self) -> Result<(), Error> {
        let stats = patient(self.0.source.queue.stats()).await?;
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner) = Some((stats, now_ms()));
        Ok(())
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        patient(self.0.source.admin.job(id)).await
    }
}

/// Gives a question up that takes too long: somebody looks, and is to be told.
async fn patient<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Unavailable(format!("no answer within {PATIENCE:?}").into())),
    }
}

/// Says where the queue does not answer.
fn notice(error: Option<&Error>) -> Markup {
    part(
        "notice",
        &html! {
            @if let Some(error) = error {
                p.notice.bad role="alert" {
                    "The queue does not answer; what is below may be old. " (words::sentence(&words::chain(error)))
                }
            }
        },
    )
}

/// The states in the order of a job's life.
const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Delayed, JobState::Active, JobState::Succeeded, JobState::Failed];
