//! `/jobs`: the jobs of the trade queue.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use prb_core::{
    primitives::PoolId,
    queue::{
        Error, JobId, JobState,
        admin::{Filter, QueueAdmin},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, problem::Problem, query::page, request::QueryString};

/// Time limit for the queue's answers.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, remove)).routes(routes!(retry))
}

/// Which jobs to list.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct JobQuery {
    /// Number of entries to skip.
    offset: usize,
    /// Number of entries per page: 1 to 1000, 100 by default.
    limit: Option<usize>,
    /// Only jobs in this state: `waiting`, `delayed`, `active`, `succeeded` or `failed`.
    #[param(value_type = Option<String>)]
    state: Option<JobState>,
    /// Only jobs of this pool.
    pool: Option<u64>,
}

/// A page of jobs, newest first.
#[derive(Serialize, ToSchema)]
struct JobList {
    /// How many jobs match the query.
    total: usize,
    offset: usize,
    /// Each has `id`, `state`, `pool`, `action`, `workers`, `created_ms`, `ended_ms`, `error`, `outcome` and `history`.
    #[schema(value_type = Vec<Object>)]
    jobs: Value,
}

/// Lists jobs, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(JobQuery), responses((status = 200, body = JobList),
    (status = 404, description = "this daemon has no queue", body = Problem), (status = 503, body = Problem)))]
async fn list(
    State(api): State<Api>,
    QueryString(query): QueryString<JobQuery>,
) -> Result<Json<JobList>, Problem> {
    let (offset, limit) = page(query.offset, query.limit)?;
    let filter = Filter::default().with_state(query.state).with_pool(query.pool.map(PoolId));
    let page = with_timeout(admin(&api)?.list(filter, offset, limit)).await?;
    Ok(Json(JobList { total: page.total, offset, jobs: json!(page.jobs) }))
}

/// Shows a job with its calls, without its sealed key.
#[utoipa::path(get, path = "/jobs/{job}", tag = "jobs", params(("job" = u64, Path)), responses(
    (status = 200, body = Object), (status = 404, body = Problem), (status = 503, body = Problem)))]
async fn show(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<Value>, Problem> {
    let id = number(&job)?;
    let detail = with_timeout(admin(&api)?.job(id)).await?.ok_or_else(|| no_job(&job))?;
    let mut shown = json!(detail.record);
    shown["calls"] = json!(detail.calls);
    shown["data"] = detail.data;
    Ok(Json(shown))
}

/// Queues a failed job again.
#[utoipa::path(post, path = "/jobs/{job}/retry", tag = "jobs", params(("job" = u64, Path)), responses(
    (status = 200, body = Object), (status = 401, body = Problem), (status = 404, body = Problem),
    (status = 409, description = "it has not failed", body = Problem), (status = 503, body = Problem)),
    security(("token" = [])))]
async fn retry(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<Value>, Problem> {
    let id = number(&job)?;
    let admin = admin(&api)?;
    // False if the job does not exist or has not failed; which of them is found out below.
    if with_timeout(admin.retry(id)).await? {
        tracing::info!(job = %id, "job queued again by an operator");
        return Ok(Json(json!({ "id": id, "state": "waiting" })));
    }
    // Read after the refusal: the job may have moved on, and the message is about its state now.
    let detail = with_timeout(admin.job(id)).await?.ok_or_else(|| no_job(&job))?;
    let state = json!(detail.record.state);
    let text =
        format!("job {id} is {}: only a failed job can be queued again", state.as_str().unwrap_or("there"));
    Err(Problem::new(StatusCode::CONFLICT, "not-failed", text))
}

/// Removes a job in any state. Transactions that were sent for it are not undone.
#[utoipa::path(delete, path = "/jobs/{job}", tag = "jobs", params(("job" = u64, Path)), responses(
    (status = 200, body = Object), (status = 401, body = Problem), (status = 404, body = Problem),
    (status = 503, body = Problem)), security(("token" = [])))]
async fn remove(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<Value>, Problem> {
    let id = number(&job)?;
    if !with_timeout(admin(&api)?.remove(id)).await? {
        return Err(no_job(&job));
    }
    tracing::info!(job = %id, "job removed by an operator");
    Ok(Json(json!({ "id": id, "removed": true })))
}

fn admin(api: &Api) -> Result<&dyn QueueAdmin, Problem> {
    let queue = api.queue().ok_or_else(|| {
        let text = "this daemon has no trade queue: it only takes edits (PHALA_LIFECYCLE_CONFIG_MODE)";
        Problem::new(StatusCode::NOT_FOUND, "no-queue", text)
    })?;
    Ok(&*queue.admin)
}

fn number(text: &str) -> Result<JobId, Problem> {
    text.parse().map(JobId).map_err(|_| no_job(text))
}

fn no_job(id: &str) -> Problem {
    Problem::not_found(format!("there is no job {id:?} (any more)"))
}

async fn with_timeout<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Problem> {
    match tokio::time::timeout(TIMEOUT, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Unavailable(format!("no answer within {TIMEOUT:?}").into()).into()),
    }
}
