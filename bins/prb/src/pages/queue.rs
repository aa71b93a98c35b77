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
    http::StatusCode,
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
    Rules, Site, TokenPlace,
    guard::SMALL_BODY_BYTES,
    layout::{self, part},
};
use crate::{config::PageArgs, listen::Port, token::Access};

mod act;
mod find;
mod job;
mod list;
mod recent;
mod setting;
mod wish;
pub(crate) mod words;

pub use find::{MAX_SEARCHED, SEARCH_BUDGET};
pub(crate) use recent::Recent;
pub(crate) use setting::{Directory, Setting, Workers};

/// The port that operators know.
pub const PORT: u16 = 4567;
/// How long the queue may take for an answer to somebody who looks. Redis is given longer for changes.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A body names at most a page of jobs.
const RULES: Rules = Rules { max_body_bytes: SMALL_BODY_BYTES, checked_below: None };

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
/// Where an address that was asked for cannot be had.
pub async fn open(args: &PageArgs, access: &Access, source: Source) -> anyhow::Result<Option<Site>> {
    let port = Port {
        name: "queue page",
        variable: "PRB_QUEUE_PAGE_LISTEN",
        default: (Ipv4Addr::LOCALHOST, PORT).into(),
    };
    match port.open(args.queue_page_listen).await? {
        Some(listener) => {
            Site::new(port, listener, args, access, RULES, router(Setting::alone(), source)).map(Some)
        }
        None => Ok(None),
    }
}

/// What handlers share.
#[derive(Clone)]
struct Desk(Arc<Inner>);

struct Inner {
    source: Source,
    setting: Setting,
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

/// The pages where they stand.
pub(crate) fn router(setting: Setting, source: Source) -> Router {
    let desk = Desk::new(setting, source);
    Router::new()
        .route("/", get(list_page))
        .route("/live", get(list_parts))
        .route("/confirm", get(act::confirm))
        .route("/act", post(act::act))
        .route("/jobs/{id}", get(job_page))
        .route("/live/jobs/{id}", get(job_parts))
        .route("/jobs/{id}/retry", post(act::retry))
        .route("/jobs/{id}/remove", post(act::remove))
        .with_state(desk)
}

async fn list_page(State(desk): State<Desk>, place: TokenPlace, Query(asked): Query<Asked>) -> Response {
    let setting = &desk.0.setting;
    let (parts, there) = desk.list(&asked).await;
    let live = wish::link(&format!("{}/live", setting.base), &asked);
    let content = html! {
        h1 { (setting.title) }
        (parts.head)
        (list::filter(setting, &asked))
        (list::bulk(setting))
        (parts.body.unwrap_or_else(|| part("jobs", &html! {
            p.empty { "The jobs are shown as soon as the queue answers." }
        })))
    };
    let page = setting.page(&place, setting.title, Some(&live), &content);
    (if there { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, page).into_response()
}

async fn list_parts(State(desk): State<Desk>, Query(asked): Query<Asked>) -> Markup {
    let (parts, _) = desk.list(&asked).await;
    html! { (parts.head) (parts.body.unwrap_or_default()) }
}

async fn job_page(State(desk): State<Desk>, place: TokenPlace, Path(id): Path<String>) -> Response {
    let Some(id) = wish::number(&id) else { return layout::nothing_here("A job has a number.") };
    let setting = &desk.0.setting;
    let (title, live) = (format!("Job {id}"), format!("{}/live/jobs/{id}", setting.base));
    let page = |content: &Markup| setting.page(&place, &title, Some(&live), content);
    match desk.job(id).await {
        Ok(Some(detail)) => {
            let known = setting.directory().await;
            let content = html! {
                (notice(None))
                (part("job", &job::state(setting, &detail.record, &known)))
                (job::content(&detail))
            };
            page(&content).into_response()
        }
        Ok(None) => {
            let content = html! { (notice(None)) (part("job", &job::gone(id))) };
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

async fn job_parts(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    let setting = &desk.0.setting;
    let Some(id) = wish::number(&id) else { return StatusCode::NOT_FOUND.into_response() };
    match desk.job(id).await {
        Ok(Some(detail)) => {
            let known = setting.directory().await;
            html! { (notice(None)) (part("job", &job::state(setting, &detail.record, &known))) }
        }
        Ok(None) => html! { (notice(None)) (part("job", &job::gone(id))) },
        // The rest of the page stays as it was.
        Err(error) => notice(Some(&error)),
    }
    .into_response()
}

/// Parts of the list's page; `body` is `None` where the queue does not answer: what was shown stays.
struct Parts {
    head: Markup,
    body: Option<Markup>,
}

impl Desk {
    fn new(setting: Setting, source: Source) -> Self {
        Self(Arc::new(Inner { source, setting, counts: Mutex::default(), search: Semaphore::new(1) }))
    }

    /// The parts, and whether the queue is there.
    async fn list(&self, asked: &Asked) -> (Parts, bool) {
        let setting = &self.0.setting;
        let known = setting.directory().await;
        let wish = &Wish::read(asked, &known);
        let (stats, found) = tokio::join!(self.stats(), async {
            match wish {
                Ok(wish) => self.find(wish).await.map(Ok),
                Err(refusal) => Ok(Err(refusal.as_str())),
            }
        });
        let (body, refused) = match found {
            Ok(found) => (
                Some(part("jobs", &list::jobs(setting, asked, found.as_ref().map_err(|text| *text), &known))),
                None,
            ),
            Err(error) => (None, Some(error)),
        };
        let error = refused.or(stats.err());
        let last = *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = wish.as_ref().ok().and_then(|wish| wish.filter.state);
        let head = html! {
            (notice(error.as_ref()))
            (part("counts", &list::counts(setting, last, error.is_some(), state)))
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
