//! `/stream/workers`: changes of workers, as server-sent events.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::State,
    http::{Extensions, HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use prb_core::worker::WorkerStatus;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::listen::{self, Slot};

use super::{Api, problem::Problem, query::WorkerQuery, request::QueryString, view::WorkerSummary};

/// Streams at once from this machine, with shares for others ([`Limits::of`](listen::Limits::of)).
pub(super) const MAX_STREAMS: usize = 16;
/// Interval between two checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Duration of a stream; shorter than the maximum duration of a connection.
const STREAM_DURATION: Duration = Duration::from_secs(50);
/// How soon a client opens the next stream.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(workers))
}

/// Streams workers and their status when they change.
///
/// The first event has all workers that match the query; each later one has those that changed within a
/// second. Its data is `{"all": …, "workers": […], "gone": […]}`, with workers in the form of the list and
/// the ids of those that do not match any more. A stream ends within a minute; the next one starts with all
/// workers again.
#[utoipa::path(get, path = "/stream/workers", tag = "workers", params(WorkerQuery), responses(
    (status = 200, description = "events named `workers`", content_type = "text/event-stream", body = String),
    (status = 400, body = Problem), (status = 406, body = Problem),
    (status = 503, description = "too many streams", body = Problem)))]
async fn workers(
    State(api): State<Api>,
    QueryString(query): QueryString<WorkerQuery>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepted.is_some_and(|kinds| !kinds.contains("text/event-stream") && !kinds.contains("*/*")) {
        let text = "this address streams events: ask for text/event-stream";
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", text));
    }
    query.page()?;
    if query.is_paged() {
        return Err(Problem::bad_request("a stream has no pages: omit offset and limit"));
    }
    let slot = api.0.streams.take(listen::peer_of(&extensions)).ok_or_else(|| {
        let text = "too many streams are open already: close one, or poll the list instead";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", text)
    })?;
    Ok(stream(slot, api, query))
}

fn stream(slot: Slot, api: Api, query: WorkerQuery) -> Response {
    let mut ticks = interval(CHECK_INTERVAL);
    // A burst of ticks after a slow check would only check for the same changes again.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The slot moves with the stream, and is released when it ends or its client disconnects.
    let start = (slot, api, query, ticks, Sent::default());
    // Ends by itself: otherwise the port would cut the connection off in the middle of an event.
    let end = Instant::now() + STREAM_DURATION;
    let events = futures::stream::unfold(start, move |(slot, api, query, mut ticks, mut sent)| async move {
        let event = timeout_at(end, next(&mut ticks, &mut sent, &api, &query)).await.ok()??;
        Some((Ok::<_, Infallible>(event), (slot, api, query, ticks, sent)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

/// Waits for a change; `None` ends the stream.
async fn next(ticks: &mut Interval, sent: &mut Sent, api: &Api, query: &WorkerQuery) -> Option<Event> {
    loop {
        ticks.tick().await;
        let mut all = api.manager().status(&[]).ok()?;
        all.retain(|one| query.fits_entry(&one.worker) && query.fits_status(one));
        if let Some(changes) = sent.changes(all) {
            return Event::default().event("workers").retry(RECONNECT_DELAY).json_data(&changes).ok();
        }
    }
}

/// The state last sent to a client.
#[derive(Default)]
struct Sent {
    began: bool,
    workers: HashMap<Uuid, (Arc<WorkerStatus>, u64)>,
}

impl Sent {
    /// Returns the changes since the last call, if any.
    fn changes(&mut self, all: Vec<Arc<WorkerStatus>>) -> Option<Value> {
        let mut before = std::mem::replace(&mut self.workers, HashMap::with_capacity(all.len()));
        let mut changed = Vec::new();
        for status in all {
            let id = status.worker.id;
            let old = before.remove(&id);
            let hash = match &old {
                // The fleet replaces a status that changes, so the same pointer needs no formatting.
                Some((old, hash)) if Arc::ptr_eq(old, &status) => *hash,
                _ => {
                    let shown = json!(WorkerSummary::of(&status));
                    let hash = hash(&shown);
                    if old.is_none_or(|(_, old)| old != hash) {
                        changed.push(shown);
                    }
                    hash
                }
            };
            self.workers.insert(id, (status, hash));
        }
        let all = !std::mem::replace(&mut self.began, true);
        let gone: Vec<_> = before.into_keys().collect();
        (all || !changed.is_empty() || !gone.is_empty())
            .then(|| json!({ "all": all, "workers": changed, "gone": gone }))
    }
}

fn hash(shown: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    shown.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use prb_core::{
        inventory::Worker,
        primitives::PoolId,
        worker::{Desired, Reason},
    };

    use super::*;

    fn status(n: u128, name: &str) -> Arc<WorkerStatus> {
        let worker = Worker::new(Uuid::from_u128(n), PoolId(1), name, "http://w", 1).into();
        let desired = Desired { worker, pool: None };
        Arc::new(WorkerStatus::idle(&desired, Reason::NoFleet, SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn first_event_has_all_workers_later_ones_the_changed() {
        let mut sent = Sent::default();
        let (one, two) = (status(1, "a"), status(2, "b"));
        let first = sent.changes(vec![one.clone(), two.clone()]).unwrap();
        assert_eq!((&first["all"], first["workers"].as_array().unwrap().len()), (&json!(true), 2));
        // The same workers, and one that was rebuilt with equal content.
        assert_eq!(sent.changes(vec![one.clone(), two]), None);
        assert_eq!(sent.changes(vec![status(1, "a"), status(2, "b")]), None);
        let second = sent.changes(vec![one, status(2, "c")]).unwrap();
        assert_eq!((&second["all"], &second["workers"][0]["name"]), (&json!(false), &json!("c")));
        assert_eq!(second["workers"].as_array().unwrap().len(), 1);
        let third = sent.changes(vec![status(2, "c")]).unwrap();
        assert_eq!(third, json!({ "all": false, "workers": [], "gone": [Uuid::from_u128(1)] }));
        assert_eq!(Sent::default().changes(Vec::new()).unwrap()["all"], true, "an empty list is sent, too");
    }
}
