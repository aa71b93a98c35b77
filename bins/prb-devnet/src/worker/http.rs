//! The worker's endpoint: `/prpc`, `/bin_api` and `/kick`.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use prb_core::prpc::{self, Method};
use prost::Message;
use serde_json::json;
use tokio::time::Instant;

use super::{
    Refusal, api, json as json_form,
    process::{Exit, Process, Run},
};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/octet-stream";

/// A worker between two restarts, as seen by its requests.
#[derive(Clone)]
struct Context {
    process: Arc<Process>,
    run: Arc<Run>,
}

type Parameters = Query<Vec<(String, String)>>;

pub(crate) fn router(process: Arc<Process>, run: Arc<Run>) -> Router {
    Router::new()
        .route("/prpc/{name}", get(get_info).post(call))
        .route("/bin_api/{name}", post(legacy))
        .route("/kick", post(kick))
        .with_state(Context { process, run })
}

async fn get_info(State(context): State<Context>, Path(name): Path<String>) -> Response {
    let Some(method @ Method::GetInfo) = method(&name) else {
        return refused(&Refusal::NotFound, true);
    };
    match context.carry_out(method, Bytes::new()).await {
        Ok(answer) => reply(StatusCode::OK, JSON, json_form::response(method, &answer)),
        Err(refusal) => refused(&refusal, true),
    }
}

async fn call(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let json = wants_json(&parameters, &headers);
    let Some(method) = method(&name) else { return refused(&Refusal::NotFound, json) };
    let body = match read(body, &headers, method.body_limit_bytes()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let body = if json { json_form::request(method, &body).map(Bytes::from) } else { Ok(body) };
    let result = match body {
        Ok(body) => context.carry_out(method, body).await,
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(answer) if json => reply(StatusCode::OK, JSON, json_form::response(method, &answer)),
        Ok(answer) => reply(StatusCode::OK, PROTOBUF, answer),
        Err(refusal) => refused(&refusal, json),
    }
}

async fn legacy(
    State(context): State<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match read(body, &headers, Method::SyncCombinedHeaders.body_limit_bytes()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let result = match api::from_legacy(&name, &body) {
        Err(Refusal::NotFound) => return refused(&Refusal::NotFound, true),
        Err(refusal) => Err(refusal),
        Ok((method, body)) => {
            context.carry_out(method, body.into()).await.map(|answer| api::legacy_payload(method, &answer))
        }
    };
    let (status, payload) = match result {
        Ok(payload) => ("ok", payload),
        Err(refusal) => ("error", json!({ "message": refusal.to_string() })),
    };
    // In the legacy API errors have status 200, and the payload is JSON in a string.
    let answer = json!({ "status": status, "payload": payload.to_string(), "signature": null });
    reply(StatusCode::OK, JSON, answer.to_string().into_bytes())
}

async fn kick(State(context): State<Context>) -> Response {
    context.process.kicked();
    context.exit(Exit::Kick).await
}

impl Context {
    async fn carry_out(&self, method: Method, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let Self { process, run } = self.clone();
        process.calls.count(method);
        // Counted from the arrival: a delayed answer keeps its call in flight.
        let running = process.calls.start(&run.in_flight, method);
        let delay = process.faults.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(text) = process.faults.take_failure(method) {
            return Err(Refusal::App(text));
        }
        // Read before the call, to see afterwards whether it made a new attestation.
        let attestations = run.core.lock().attestations();
        let remove_checkpoints = method == Method::Stop
            && prpc::StopOptions::decode(body.clone()).is_ok_and(|options| options.remove_checkpoints);
        let work = move || {
            // Held until the work is done, even if the caller has disconnected.
            let _running = running;
            process.record(method, &body);
            let result = api::call(&run.core, method, body.clone());
            if let (Ok(_), Method::TakeCheckpoint) = (&result, method) {
                process.take_checkpoint(&run);
            }
            result
        };
        // If dropped with its connection, the work still finishes: it is finite and owns its data.
        let result = match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Refusal::Abort(error.to_string())),
        };
        if method == Method::GetRuntimeInfo {
            self.attest(attestations).await;
        }
        match (result, method) {
            (Err(Refusal::Abort(reason)), _) => {
                tracing::warn!(worker = self.process.index(), reason, "the worker aborts");
                self.exit(Exit::Abort).await
            }
            (Ok(_), Method::Stop) => self.exit(Exit::Stop { forget: remove_checkpoints }).await,
            (result, _) => result,
        }
    }

    /// Waits until the attestation is finished: as long as a new one takes, counted from its beginning.
    async fn attest(&self, attestations_before: u64) {
        let until = {
            let mut until = self.run.attesting_until.lock();
            if self.run.core.lock().attestations() > attestations_before {
                *until = Some(Instant::now() + self.process.faults.attestation_delay());
            }
            *until
        };
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends the process: the supervisor drops this request as well, so that its caller gets no answer.
    async fn exit<T>(&self, exit: Exit) -> T {
        self.process.exit(exit).await;
        std::future::pending().await
    }
}

fn method(name: &str) -> Option<Method> {
    name.strip_prefix("PhactoryAPI.").and_then(Method::from_name)
}

fn wants_json(parameters: &[(String, String)], headers: &HeaderMap) -> bool {
    let requested = parameters.iter().any(|(name, value)| name == "json" && value == "true");
    let sent = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    requested || sent.is_some_and(|kind| kind.starts_with(JSON))
}

async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Response> {
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, "Payload too large").into_response();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    // Refused by its length before the body is read; a chunked body announces none and is counted below.
    if announced.is_some_and(|len: usize| len > limit) {
        return Err(too_large());
    }
    let mut read = BytesMut::with_capacity(announced.unwrap_or_default());
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())?;
        if read.len() + chunk.len() > limit {
            return Err(too_large());
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

fn refused(refusal: &Refusal, json: bool) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = refusal.to_string();
    if json {
        reply(status, JSON, json!({ "error": message }).to_string().into_bytes())
    } else {
        reply(status, PROTOBUF, prpc::ServerError { message }.encode_to_vec())
    }
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}
