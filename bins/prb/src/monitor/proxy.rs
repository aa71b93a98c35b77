//! The original monitor's JSON calls: `/ptp/discover` and `/ptp/proxy/{peer}/{method}`, any verb.
//!
//! | what happened | status |
//! |---|---|
//! | the peer answered, with data or with an error of its own | 200 |
//! | the request is no JSON, or a value in it cannot be | 400 |
//! | a change without the right to make it | 401, 403 |
//! | no such peer, no such method | 404 |
//! | the request is larger than a call may be | 413 |
//! | the peer cannot be reached, or its answer makes no sense | 502 |
//! | the peer did not answer in time | 504 |
//!
//! All of them come in the original's envelope; the original answers 500 with a stack, or `error: {}`, for what
//! is not 200 here.
//!
//! # Who may change something
//!
//! The original lets in whoever reaches its port. Here a change needs the pages' token where one is configured.
//! Without one it is taken only where the port is open to this machine alone, and neither from a page in a browser
//! nor from a proxy: those say where they come from.

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
use crate::{api::guard::asks_this_machine, pages::Guard};

/// How long a peer may take: a little less than the port gives a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers beyond this are turned into JSON on a thread for that.
const LARGE_BYTES: usize = 64 * 1024;

/// What handlers share.
#[derive(Clone, Debug)]
struct Proxy {
    node: Node,
    /// Whether the port can be reached from this machine only.
    local: bool,
}

/// The two calls.
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
        let unknown = || Failure::not_found(format!("there is no method {:?}", cut(method)));
        let known = Method::from_name(method).ok_or_else(unknown)?;
        let (request, answer) = schema::messages(known).ok_or_else(unknown)?;
        self.may_call(guard, known, headers)?;
        let peer_id =
            PeerId::from_str(peer).ok().filter(|peer| self.node.peers().borrow().get(peer).is_some());
        let peer_id = peer_id.ok_or_else(|| {
            Failure::not_found(format!(
                "no peer {:?} is known; /ptp/discover lists those that are",
                cut(peer)
            ))
        })?;
        let data = read_request(request, body)?;
        let exchange = self.node.exchange(peer_id, known, data.into());
        let response = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(result) => result.map_err(Failure::of)?,
            Err(_) => return Err(Failure::late(format!("{peer_id} has not answered within {PATIENCE:?}"))),
        };
        let text = if response.data.len() > LARGE_BYTES {
            let written = tokio::task::spawn_blocking(move || write_answer(answer, response)).await;
            written.unwrap_or_else(|error| Err(error.to_string()))
        } else {
            write_answer(answer, response)
        };
        let malformed =
            |reason| Failure::bad_gateway(format!("the answer of {peer_id} makes no sense: {reason}"));
        Ok(respond(StatusCode::OK, text.map_err(malformed)?))
    }

    /// Questions are free, as they are on the pages. Programs on this machine change things without a token where
    /// there is none, as with the original; a proxy on this machine passes on what comes from others.
    fn may_call(&self, guard: &Guard, method: Method, headers: &HeaderMap) -> Result<(), Failure> {
        if method.is_repeatable() && method != Method::Hello {
            return Ok(());
        }
        if self.local && !guard.is_token_given() {
            let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
            let from_page = headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != b"none");
            return if from_page || !asks_this_machine(headers) {
                Err(Failure::unauthorized(
                    StatusCode::FORBIDDEN,
                    "without a token, only programs on this machine itself change something: set PRB_API_TOKEN",
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
        // The error's own text may quote the body, and the body may hold a secret.
        let (line, column) = (error.line(), error.column());
        Failure::bad_request(format!("the body is no JSON: line {line}, column {column}"))
    })?;
    let data = json::from_json(message, &value).map_err(Failure::bad_request);
    wipe(&mut value);
    data
}

/// Overwrites the texts: a mnemonic may be among them.
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

/// The start of what a caller sent.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Why no peer has answered.
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
