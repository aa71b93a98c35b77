//! [`Problem`]: why a request is refused, as JSON.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prb_core::{fleet::CommandError, manage, queue};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request is refused. None of it was applied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    /// For programs; stable.
    #[schema(value_type = String, example = "invalid")]
    code: &'static str,
    /// For people.
    message: String,
    /// The faulty entries, if the request has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entries: Vec<Fault>,
}

/// A fault of one entry of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// Its index in the request's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    /// Its name, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The faulty field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// `invalid`, `missing`, `duplicate`, `not-found`, `changed`, `in-use` or `full`.
    #[schema(value_type = String)]
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { index: None, name: None, field: None, code, message: message.into() }
    }

    pub(crate) fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn at(mut self, index: usize, name: Option<&str>) -> Self {
        self.index = Some(index);
        self.name = name.map(str::to_owned).or(self.name);
        self
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), entries: Vec::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub(crate) fn changed() -> Self {
        let text = "it has changed since it was read: read it again and repeat the edit if it still applies";
        Self::new(StatusCode::PRECONDITION_FAILED, "changed", text)
    }

    /// Returns whether the edit was rejected because its base has changed.
    pub(crate) fn is_change(&self) -> bool {
        self.code == "changed"
    }

    /// Creates the problem of a list with faulty entries.
    pub(crate) fn of_entries(mut faults: Vec<Fault>) -> Self {
        // The manager reports its faults after those of the fields, so they are not in the request's order.
        faults.sort_by_key(|fault| fault.index);
        let status = match &*faults {
            [one] if one.code == "not-found" && one.index.is_none() => StatusCode::NOT_FOUND,
            all if all.iter().all(|fault| fault.code == "changed") => StatusCode::PRECONDITION_FAILED,
            all if all.iter().all(|fault| matches!(fault.code, "duplicate" | "in-use")) => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let code = faults.first().map_or("invalid", |fault| fault.code);
        let message = match &*faults {
            [one] => one.message.clone(),
            all => format!("{} entries are faulty; nothing was changed", all.len()),
        };
        Self { status, code, message, entries: faults }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 requires the header with this status.
            let scheme = HeaderValue::from_static("Bearer realm=\"prb\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<manage::Error> for Problem {
    fn from(error: manage::Error) -> Self {
        use manage::Error;
        match error {
            Error::Changed => Self::changed(),
            Error::TooMany { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many", error.to_string()),
            Error::NoFleet { .. } => Self::new(StatusCode::CONFLICT, "no-fleet", error.to_string()),
            Error::NotCommanded(cause) => {
                Self::new(StatusCode::CONFLICT, command_code(&cause), cause.to_string())
            }
            error if error.is_caller_fault() => Self::of_entries(vec![fault(&error)]),
            error => {
                tracing::error!(error = %prb_core::text::describe(&error), "a management call failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", prb_core::text::describe(&error))
            }
        }
    }
}

impl From<queue::Error> for Problem {
    fn from(error: queue::Error) -> Self {
        let text = format!("the trade queue refuses: {}", prb_core::text::describe(&error));
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue-unavailable", text)
    }
}

/// Returns the code of a command's refusal.
pub(crate) const fn command_code(error: &CommandError) -> &'static str {
    match error {
        CommandError::Unknown { .. } => "not-found",
        CommandError::NotRunning { .. } => "not-running",
        CommandError::Stopped => "stopped",
        // `NotNow` and future variants: the command does not fit the worker's current state.
        _ => "not-now",
    }
}

/// Converts the manager's refusal of an entry, without the entry's index.
pub(crate) fn fault(error: &manage::Error) -> Fault {
    use manage::Error;
    match error {
        Error::Duplicate { field, value, holder, .. } => {
            Fault::new("duplicate", format!("{field} {value:?} is taken by {holder:?}"))
                .with_field(field_name(field))
        }
        // The pool of a new worker, not the entry itself: the fault is in its field `pid`.
        Error::NotFound { what: "pool", id, .. } if id.starts_with("with pid") => {
            Fault::new("not-found", format!("there is no pool {id}: add it first")).with_field("pid")
        }
        Error::NotFound { what, id, .. } => Fault::new("not-found", format!("there is no {what} {id}")),
        Error::Invalid { field, reason, .. } => {
            Fault::new("invalid", format!("the {field} is not valid: {reason}")).with_field(field_name(field))
        }
        Error::Full { .. } => Fault::new("full", error.to_string()),
        Error::Changed => Fault::new("changed", error.to_string()),
        error => Fault::new("invalid", error.to_string()),
    }
}

/// Returns the JSON name of a field that the manager names.
fn field_name(field: &str) -> String {
    match field {
        "pool name" | "worker name" => "name",
        "worker endpoint" => "endpoint",
        "endpoint to announce" => "endpoints",
        "operator's secret" => "secret",
        "proxied account" => "proxied",
        other => other,
    }
    .to_owned()
}
