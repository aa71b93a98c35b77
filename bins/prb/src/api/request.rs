//! Parses requests: bodies, queries and the condition of an edit, with [`Problem`]s as rejections.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{problem::Problem, unique_fields::UniqueFields};
use crate::redact;

/// A query string.
pub(super) struct QueryString<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| Problem::bad_request(redact::scrubbed(&error.body_text())))
    }
}

/// A body in JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // For other types, browsers do not ask first (CORS) whether a page of another origin may send them.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.trim_start().starts_with("application/json")) {
            let text = "send the body as JSON, with the header Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", text));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            let status = error.status();
            let code = if status == StatusCode::PAYLOAD_TOO_LARGE { "too-large" } else { "bad-request" };
            Problem::new(status, code, format!("the body cannot be read: {}", error.body_text()))
        })?;
        let unique = serde_json::from_slice::<UniqueFields>(&bytes);
        unique.and_then(|_| serde_json::from_slice(&bytes)).map(Self).map_err(|error| refused(&error))
    }
}

/// Explains why a body is refused, without quoting a value: serde's message may quote a secret.
fn refused(error: &serde_json::Error) -> Problem {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = error.to_string();
    let field = |start| message.strip_prefix(start).and_then(|rest: &str| rest.split('`').next());
    let what = if error.classify() != serde_json::error::Category::Data {
        "is not JSON".into()
    } else if let Some(name) = field("duplicate field `") {
        // A name that no field has may be a secret, too.
        if redact::is_harmless(name) {
            format!("has the field {name} twice")
        } else {
            "has a field twice".into()
        }
    } else if let Some(name) = field("missing field `") {
        // One of ours.
        format!("lacks the field {name}")
    } else {
        "does not have the required fields".into()
    };
    Problem::bad_request(format!("the body {what} ({place})"))
}

/// The condition of an edit (`If-Match`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// No condition.
    Any,
    /// The entry or list has this version.
    Version(String),
}

impl IfMatch {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Self::Any) };
        let text = value.to_str().map(str::trim).unwrap_or_default();
        if text == "*" {
            return Ok(Self::Any);
        }
        // A list of tags is refused: an edit has one base.
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(version) if !version.contains('"') => Ok(Self::Version(version.to_owned())),
            _ => {
                Err(Problem::bad_request("If-Match must be one entity tag in quotes, as ETag gave it, or *"))
            }
        }
    }
}

/// Returns the header with a version.
pub(super) fn etag(version: &str) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{version}\""))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Entry {
        pid: u64,
    }

    #[tokio::test]
    async fn refusals_name_the_missing_field_and_quote_nothing() {
        for (body, words) in [
            ("{}", "the body lacks the field pid (line 1, column 2)"),
            (r#"{"pid": "hunter2"}"#, "does not have the required fields (line 1"),
            ("{", "is not JSON"),
            (r#"{"pid": 1, "pid": 2}"#, "the body has the field pid twice (line 1, column 16)"),
            (
                r#"{"pid": 1, "more": [{"stake": 1.5, "b": [null, true, -1, "x"], "stake": 2}]}"#,
                "stake twice",
            ),
            (r#"{"hunter2 hunter2": 1, "hunter2 hunter2": 1}"#, "has a field twice"),
        ] {
            let request = Request::post("/").header("content-type", "application/json").body(body.into());
            let refused = Body::<Entry>::from_request(request.unwrap(), &()).await.map(|body| body.0.pid);
            let text = format!("{:?}", refused.unwrap_err());
            assert!(text.contains(words) && !text.contains("hunter2"), "{text}");
        }
    }
}
