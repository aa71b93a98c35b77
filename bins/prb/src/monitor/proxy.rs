//! The original monitor's JSON calls: `/ptp/discover` and `/ptp/proxy/{peer}/{method}`, with any HTTP method.
//!
//! | result | status |
//! |---|---|
//! | the peer answered, with data or with an error | 200 |
//! | the request is not JSON, or has an invalid value | 400 |
//! | a change without authorisation | 401, 403 |
//! | unknown peer, unknown method | 404 |
//! | the request is larger than a call may be | 413 |
//! | the peer cannot be reached, or sent a malformed answer | 502 |
//! | the peer did not answer in time | 504 |
//!
//! All answers have the original's envelope; the original answers with 500 and a stack, or `error: {}`, where
//! the status here is not 200.
//!
//! # Authorisation of changes
//! The original accepts changes from everybody who reaches its port. Here a change needs the pages' token if
//! one is configured. Without one it is only accepted if the port is bound to loopback, and neither from a
//! page in a browser nor from a proxy, both of which send identifying headers.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use prb_walkie::{
    node::{Node, PeerId},
    proto::{self, ErrorType, Role},
    rpc::{Error, Method},
};
use prost::Message as _;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroize;

use super::{json, schema};
use crate::{api::guard::is_for_this_machine, pages::Guard};

/// Timeout of a peer's answer, slightly shorter than the port's for a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger answers are converted to JSON on a blocking thread.
const LARGE_BYTES: usize = 64 * 1024;

/// State shared by the handlers.
#[derive(Clone, Debug)]
struct Proxy {
    node: Node,
    /// Whether the port can only be reached from this machine.
    local: bool,
}

/// Routes of the two calls.
pub(super) fn router(node: Node, local: bool) -> Router {
    Router::new()
        .route("/ptp/discover", any(discover))
        .route("/ptp/proxy/{peer}/{method}", any(call))
        .with_state(Proxy { node, local })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    peer_id: String,
    hostname: String,
    role: i32,
    chain_identity: String,
    bridge_identity: String,
    remote_addr: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discovered {
    data_providers: Vec<Found>,
    lifecycle_managers: Vec<Found>,
}

async fn discover(State(proxy): State<Proxy>) -> axum::Json<Discovered> {
    let peers = proxy.node.peers();
    let table = peers.borrow().clone();
    let of = |roles: &[Role]| {
        let peers = table.iter().filter(|peer| roles.contains(&peer.role));
        let found = |peer: &std::sync::Arc<prb_walkie::node::Peer>| Found {
            peer_id: peer.peer_id.to_string(),
            hostname: peer.hostname.clone(),
            role: peer.role.into(),
            chain_identity: peer.chain_identity.clone(),
            bridge_identity: peer.bridge_identity.clone(),
            remote_addr: peer.address.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        peers.map(found).collect()
    };
    axum::Json(Discovered {
        data_providers: of(&[Role::DataProviderInt, Role::DataProviderExt]),
        lifecycle_managers: of(&[Role::LifecycleManager]),
    })
}

async fn call(
    State(proxy): State<Proxy>,
    Extension(guard): Extension<Guard>,
    Path((peer, method)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match proxy.call(&guard, &peer, &method, &headers, &body).await {
        Ok(answer) => answer,
        Err(failure) => failure.into_response(),
    }
}

impl Proxy {
    async fn call(
        &self,
        guard: &Guard,
        peer: &str,
        method: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Failure> {
        let unknown = || Failure::not_found(format!("unknown method {:?}", cut(method)));
        let known = Method::from_name(method).ok_or_else(unknown)?;
        let (request, answer) = schema::messages(known).ok_or_else(unknown)?;
        self.may_call(guard, known, headers)?;
        let peer_id =
            PeerId::from_str(peer).ok().filter(|peer| self.node.peers().borrow().get(peer).is_some());
        let peer_id = peer_id.ok_or_else(|| {
            Failure::not_found(format!("unknown peer {:?}; /ptp/discover lists the known ones", cut(peer)))
        })?;
        let data = read_request(request, body)?;
        let exchange = self.node.exchange(peer_id, known, data.into());
        let response = match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(result) => result.map_err(Failure::of)?,
            Err(_) => return Err(Failure::late(format!("{peer_id} has not answered within {TIMEOUT:?}"))),
        };
        let text = if response.data.len() > LARGE_BYTES {
            let written = tokio::task::spawn_blocking(move || write_answer(answer, response)).await;
            written.unwrap_or_else(|error| Err(error.to_string()))
        } else {
            write_answer(answer, response)
        };
        let malformed = |reason| Failure::bad_gateway(format!("{peer_id} sent a malformed answer: {reason}"));
        Ok(respond(StatusCode::OK, text.map_err(malformed)?))
    }

    /// Queries are allowed, as on the pages. Without a token, programs on this machine may make changes, as with
    /// the original; but a proxy on this machine forwards the requests of others.
    fn may_call(&self, guard: &Guard, method: Method, headers: &HeaderMap) -> Result<(), Failure> {
        // Not `Hello`: its request would tell the peer that this monitor is somebody else.
        if method.is_repeatable() && method != Method::Hello {
            return Ok(());
        }
        if self.local && !guard.is_token_given() {
            let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
            let from_page = headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != b"none");
            return if from_page || !is_for_this_machine(headers) {
                Err(Failure::unauthorized(
                    StatusCode::FORBIDDEN,
                    "without a token, only local programs may make changes: set PRB_API_TOKEN",
                ))
            } else {
                Ok(())
            };
        }
        guard.may_change(headers).map_err(|(status, text)| Failure::unauthorized(status, text))
    }
}

fn read_request(message: &schema::Message, body: &[u8]) -> Result<Vec<u8>, Failure> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut value: Value = serde_json::from_slice(body).map_err(|error| {
        // The error's own text may quote the body, which may contain a secret.
        let (line, column) = (error.line(), error.column());
        Failure::bad_request(format!("the body is not valid JSON: line {line}, column {column}"))
    })?;
    let data = json::from_json(message, &value).map_err(Failure::bad_request);
    // The bytes of the body cannot be wiped: they are shared with the HTTP server.
    wipe(&mut value);
    data
}

/// Overwrites the texts, which may contain a mnemonic.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        _ => {}
    }
}

fn write_answer(message: &schema::Message, mut response: proto::Response) -> Result<String, String> {
    let data = std::mem::take(&mut response.data);
    let meta = json::to_json(&schema::META, response.encode_to_vec().into())?;
    match &response.error {
        None => {
            let data = json::to_json(message, data)?;
            Ok(format!(r#"{{"data":{data},"hasError":false,"meta":{meta}}}"#))
        }
        Some(error) => Ok(failed(error.r#type, &error.message, &meta)),
    }
}

fn failed(kind: i32, message: &str, meta: &str) -> String {
    let message = Value::from(message);
    format!(r#"{{"hasError":true,"error":{{"type":{kind},"message":{message}}},"meta":{meta}}}"#)
}

fn respond(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response()
}

/// Truncates a caller's text for a message.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Why there is no answer from a peer.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    kind: ErrorType,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, kind: ErrorType, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorType::NotFound, message)
    }

    fn bad_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorType::Server, message)
    }

    fn bad_gateway(message: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, ErrorType::Server, message)
    }

    fn late(message: String) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorType::Server, message)
    }

    fn unauthorized(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, ErrorType::Unauthorized, message)
    }

    fn of(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownPeer { .. } => Self::not_found(message),
            Error::TimedOut { .. } => Self::late(message),
            Error::TooLarge { what: "request", .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorType::Server, message)
            }
            Error::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorType::Server, message),
            _ => Self::bad_gateway(message),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let kind = schema::ERROR_TYPES.get(self.kind as usize).copied().unwrap_or("UNKNOWN");
        let meta = json!({
            "createdAt": now.to_string(), "hasError": true, "error": { "type": kind, "message": self.message },
        });
        respond(self.status, failed(self.kind.into(), &self.message, &meta.to_string()))
    }
}
