//! An operator's actions on jobs: a preview for each job, then, with the token, the change.

use std::{collections::HashSet, time::Duration};

use axum::{
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt, stream};
use maud::{Markup, html};
use prb_core::{
    queue::{
        Error, JobId, JobState,
        admin::{JobDetail, JobRecord},
    },
    text::duration,
};
use url::form_urlencoded;

use super::{QueuePages, format, host, query::number, with_timeout};
use crate::pages::{TokenLocation, layout};

/// Maximum number of jobs per action: one page of the list.
pub(super) const MAX_CHOSEN: usize = 200;
/// Maximum number of a job's calls shown before an action.
const MAX_CALLS: usize = 5;
/// Number of jobs requested concurrently.
const AT_ONCE: usize = 8;
/// Time limit for all jobs of a request; shorter than the port's limit.
const ALL_WITHIN: Duration = Duration::from_secs(9);

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Retry,
    Remove,
}

impl Action {
    fn named(name: &str) -> Option<Self> {
        [Self::Retry, Self::Remove].into_iter().find(|action| action.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Remove => "remove",
        }
    }

    /// Returns the action's effect on a job, or why it cannot be done.
    fn effect(self, record: &JobRecord) -> Result<&'static str, String> {
        match (self, record.state) {
            (Self::Retry, JobState::Failed) => Ok(
                "It is queued again. Calls that already took effect on chain are not sent. Its submitter was told of \
                 the failure and gets no further result.",
            ),
            (Self::Retry, state) => {
                Err(format!("It is {}: only a failed job can be queued again.", format::state(state)))
            }
            (Self::Remove, JobState::Succeeded | JobState::Failed) => Ok("It is removed."),
            (Self::Remove, JobState::Active) => Ok(
                "Transactions that were already sent may take effect; its submitter is told that the job is gone.",
            ),
            (Self::Remove, _) => {
                Ok("It is not sent; its submitter is told that the job is gone, and may submit it again.")
            }
        }
    }
}

/// The parsed request.
struct Chosen {
    action: Action,
    ids: Vec<JobId>,
}

impl Chosen {
    /// Parses the fields `do` and `id`; a value can have several ids, separated by commas.
    ///
    /// # Errors
    ///
    /// The fault, as a message for people.
    fn read(text: &[u8]) -> Result<Self, String> {
        let fields: Vec<_> = form_urlencoded::parse(text).collect();
        let action = fields.iter().find(|(name, _)| name == "do").and_then(|(_, value)| Action::named(value));
        let action = action.ok_or("There is no such action.")?;
        let values = fields.iter().filter(|(name, _)| name == "id").flat_map(|(_, value)| value.split(','));
        let ids = values
            .filter(|text| !text.is_empty())
            .map(|text| number(text).ok_or("The number of a job must be a whole number."));
        let mut ids: Vec<_> = ids.take(MAX_CHOSEN + 1).collect::<Result<_, _>>()?;
        if ids.len() > MAX_CHOSEN {
            return Err(format!("At most {MAX_CHOSEN} jobs can be chosen at once."));
        }
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(Self { action, ids })
    }
}

/// Shows what an action would do to the chosen jobs.
pub(super) async fn confirm(
    State(pages): State<QueuePages>,
    token: TokenLocation,
    RawQuery(query): RawQuery,
) -> Response {
    let host = &pages.0.host;
    let chosen = match Chosen::read(query.unwrap_or_default().as_bytes()) {
        Ok(chosen) => chosen,
        Err(text) => {
            let content = html! { p.notice.bad role="alert" { (text) } (back(host.home())) };
            return (StatusCode::BAD_REQUEST, host.page(&token, "Message", None, &content)).into_response();
        }
    };
    let title = format!("{}: what will happen", chosen.action.name());
    match pages.details(&chosen.ids).await {
        Ok(jobs) => {
            let known = host.directory().await;
            let content = preview(host, &chosen, &jobs, &known);
            host.page(&token, &title, None, &content).into_response()
        }
        Err(error) => {
            let content = html! { (super::notice(Some(&error))) (back(host.home())) };
            (StatusCode::SERVICE_UNAVAILABLE, host.page(&token, &title, None, &content)).into_response()
        }
    }
}

fn back(to: &str) -> Markup {
    html! { p { a.button href=(to) { "Back" } } }
}

fn preview(
    host: &host::PageHost,
    chosen: &Chosen,
    jobs: &[(JobId, Option<JobDetail>)],
    known: &host::Directory,
) -> Markup {
    let (action, base) = (chosen.action, host.base);
    let effect = |detail: &Option<JobDetail>| match detail {
        Some(detail) => action.effect(&detail.record),
        None => Err("The queue has no job with that number.".to_owned()),
    };
    let taken: Vec<_> =
        jobs.iter().filter(|(_, detail)| effect(detail).is_ok()).map(|(id, _)| id.to_string()).collect();
    let back_to = match chosen.ids[..] {
        [id] if action == Action::Retry => format!("{base}/jobs/{id}"),
        _ => host.home().to_owned(),
    };
    html! {
        div.title { h1 { (action.name()) ": " (count(taken.len())) } }
        @if jobs.is_empty() {
            p.empty { "No job was chosen." }
        } @else if taken.len() < jobs.len() {
            p.notice { (count(jobs.len() - taken.len())) " of those chosen will be left out; the reasons are below." }
        }
        @if taken.is_empty() {
            (back(&back_to))
        } @else {
            form.acts method="post" action={ (base) "/act" } data-act data-then=(back_to) {
                input type="hidden" name="do" value=(action.name());
                // By number, not by filter or state: the action is for the jobs that were shown.
                input type="hidden" name="id" value=(taken.join(","));
                button.main #give type="submit" { (action.name()) " " (count(taken.len())) }
                a.button href=(back_to) { "Back" }
            }
            p.error role="alert" data-error hidden {}
        }
        table.preview {
            thead { tr { @for name in ["Job", "State", "Pool", "Worker", "Calls", "What will happen"] { th scope="col" { (name) } } } }
            tbody {
                @for (id, detail) in jobs {
                    tr {
                        td.name data-label="Job" { a href={ (base) "/jobs/" (id) } { (id) } }
                        @if let Some(detail) = detail { (cells(detail, known)) }
                        @else { td data-label="State" { "–" } td data-label="Pool" { "–" } td data-label="Worker" { "–" } td data-label="Calls" { "–" } }
                        td.result {
                            @match effect(detail) {
                                Ok(text) => (text),
                                Err(text) => { span.bad { "Left out: " (text) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cells(detail: &JobDetail, known: &host::Directory) -> Markup {
    let JobDetail { record, calls, .. } = detail;
    html! {
        td data-label="State" { (format::badge(record.state)) }
        td data-label="Pool" { @if let Some(pool) = record.pool { (pool) } @else { "–" } }
        td.of-worker data-label="Worker" { (host::workers(&record.workers, known)) }
        td.result data-label="Calls" {
            @for call in calls.iter().take(MAX_CALLS) { (call) br; }
            @if calls.len() > MAX_CALLS { "and " (calls.len() - MAX_CALLS) " more" }
            @if calls.is_empty() { (format::action(&record.action)) }
        }
    }
}

fn count(number: usize) -> String {
    if number == 1 { "1 job".to_owned() } else { format!("{number} jobs") }
}

/// Applies an action to the chosen jobs.
pub(super) async fn act(State(pages): State<QueuePages>, headers: HeaderMap, body: Bytes) -> Response {
    let Chosen { action, ids } = match Chosen::read(&body) {
        Ok(chosen) => chosen,
        Err(text) => return layout::message_response(&headers, StatusCode::BAD_REQUEST, &text),
    };
    if let [id] = ids[..] {
        return match action {
            Action::Retry => retry_job(&pages, id, &headers).await,
            Action::Remove => forget(&pages, id, &headers).await,
        };
    }
    let admin = &pages.0.source.admin;
    let mut done = 0;
    // One after the other, so that an error says how many were done before it.
    for &id in &ids {
        let answer = match action {
            // Without the viewers' time limit: a change that is given up may take effect nevertheless.
            Action::Retry => admin.retry(id).await,
            Action::Remove => admin.remove(id).await,
        };
        match answer {
            Ok(is_done) => done += usize::from(is_done),
            Err(error) => {
                let text =
                    format!("{} done, then the queue refuses: {}.", count(done), format::chain(&error));
                return layout::message_response(&headers, StatusCode::SERVICE_UNAVAILABLE, &text);
            }
        }
    }
    // The log is the record of what operators did; the page shows no history of it.
    tracing::info!(action = action.name(), jobs = ids.len(), done, "jobs changed by an operator");
    let what = match action {
        Action::Retry => "queued again",
        Action::Remove => "removed",
    };
    let mut text = format!("{}: {what}.", count(done));
    if done < ids.len() {
        text.push_str(&format!(" {} left out: gone, or not failed.", count(ids.len() - done)));
    }
    layout::message_response(&headers, StatusCode::OK, &text)
}

/// Queues a job again.
pub(super) async fn retry(
    State(pages): State<QueuePages>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match number(&id) {
        Some(id) => retry_job(&pages, id, &headers).await,
        None => no_such_job(&headers),
    }
}

/// Removes a job.
pub(super) async fn remove(
    State(pages): State<QueuePages>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match number(&id) {
        Some(id) => forget(&pages, id, &headers).await,
        None => no_such_job(&headers),
    }
}

async fn retry_job(pages: &QueuePages, id: JobId, headers: &HeaderMap) -> Response {
    match pages.0.source.admin.retry(id).await {
        Ok(true) => {
            tracing::info!(job = %id, "job queued again by an operator");
            layout::message_response(headers, StatusCode::OK, &format!("Job {id} is queued again."))
        }
        // Read only now: the state could change between a check and the retry.
        Ok(false) => match pages.job(id).await {
            Ok(Some(JobDetail { record, .. })) => {
                let state = format::state(record.state);
                let text = format!("Job {id} is {state}: only a failed job can be queued again.");
                layout::message_response(headers, StatusCode::CONFLICT, &text)
            }
            Ok(None) => no_such_job(headers),
            Err(error) => refused(headers, &error),
        },
        Err(error) => refused(headers, &error),
    }
}

async fn forget(pages: &QueuePages, id: JobId, headers: &HeaderMap) -> Response {
    match pages.0.source.admin.remove(id).await {
        Ok(true) => {
            tracing::info!(job = %id, "job removed by an operator");
            layout::message_response(headers, StatusCode::OK, &format!("Job {id} is removed."))
        }
        Ok(false) => no_such_job(headers),
        Err(error) => refused(headers, &error),
    }
}

fn no_such_job(headers: &HeaderMap) -> Response {
    layout::message_response(headers, StatusCode::NOT_FOUND, "There is no job with that number.")
}

fn refused(headers: &HeaderMap, error: &Error) -> Response {
    let text = format!("The queue refuses: {}.", format::chain(error));
    layout::message_response(headers, StatusCode::SERVICE_UNAVAILABLE, &text)
}

impl QueuePages {
    /// Returns jobs with their calls, in the order of the ids.
    async fn details(&self, ids: &[JobId]) -> Result<Vec<(JobId, Option<JobDetail>)>, Error> {
        let asked = stream::iter(ids.to_vec())
            .map(|id| async move { Ok((id, with_timeout(self.0.source.admin.job(id)).await?)) })
            .buffered(AT_ONCE)
            .try_collect();
        match tokio::time::timeout(ALL_WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable(format!("no answer within {}", duration(ALL_WITHIN)).into())),
        }
    }
}
