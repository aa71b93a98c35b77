//! [`Context`]: the fleet of a request, and the page layout.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use super::{
    Console,
    backend::{Backend, Error},
    format,
    history::History,
    live::Part,
};
use crate::pages::{TokenLocation, layout::Shell};

/// The subject of a request.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) console: Console,
    /// Prefix of the paths of the fleet's pages; empty for the fleet of this process.
    pub(super) base: String,
    backend: Option<Arc<dyn Backend>>,
    history: Option<Arc<History>>,
    token: TokenLocation,
}

impl FromRequestParts<Console> for Context {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Infallible> {
        let params = RawPathParams::from_request_parts(parts, console).await.ok();
        let manager = params.as_ref().and_then(|params| params.iter().find(|(name, _)| *name == "manager"));
        let inner = &console.0;
        let (base, backend, history) = match (manager, &inner.managers, &inner.node) {
            (Some((_, name)), Some(managers), Some(node)) => {
                let (backend, history) = managers.get(node, name).unzip();
                (format!("/managers/{name}"), backend, history)
            }
            _ => (String::new(), inner.fleet.clone(), Some(Arc::clone(&inner.history))),
        };
        // Cannot fail: its rejection has no values.
        let Ok(token) = TokenLocation::from_request_parts(parts, console).await;
        Ok(Self { console: console.clone(), base, backend, history, token })
    }
}

impl Context {
    /// Returns the fleet.
    pub(super) fn fleet(&self) -> Result<&Arc<dyn Backend>, Error> {
        self.backend
            .as_ref()
            .ok_or_else(|| Error::not_found("there is no such lifecycle manager among the peers"))
    }

    /// Returns the fleet's recent measurements, if they are recorded.
    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    /// Returns whether this is a page of one fleet, not of all peers.
    pub(super) fn is_of_fleet(&self) -> bool {
        !self.base.is_empty() || self.console.0.fleet.is_some()
    }

    /// Returns whether the fleet is a peer's.
    pub(super) fn is_of_peer(&self) -> bool {
        !self.base.is_empty()
    }

    /// Returns the path of the fleet's first page.
    pub(super) fn home(&self) -> &str {
        if self.base.is_empty() { "/" } else { &self.base }
    }

    /// Renders a page of this console. `here` is the path of its navigation entry, `live` that of its parts.
    pub(super) fn page(&self, title: &str, here: &str, live: Option<&str>, content: &Markup) -> Markup {
        let entries = self.console.entries(&self.base);
        let entries: Vec<_> = entries.iter().map(|(path, name)| (path.as_str(), *name)).collect();
        let here = format!("{}{here}", self.base);
        let here = if here.is_empty() { "/" } else { &here };
        Shell { title, entries: &entries, here, live, is_stream: live.is_some(), token: Some(&self.token) }
            .wrap(content)
    }

    /// Renders an error page.
    pub(super) fn failed(&self, error: &Error) -> Response {
        let content = html! { (notice(Some(error)).markup()) p { a href=(self.home()) { "Overview" } } };
        (error.status, self.page("Message", "/message", None, &content)).into_response()
    }
}

/// Returns the notice that the content may be old or missing, with the reason.
pub(super) fn notice(error: Option<&Error>) -> Part {
    Part::new(
        "notice",
        html! {
            @if let Some(error) = error {
                p.notice.bad role="alert" {
                    (format::sentence(&error.message))
                    @if error.is_retryable() { " The content below may be old; it will be requested again." }
                }
            }
        },
    )
}

/// Returns the status of a page with that error.
pub(super) fn status(error: Option<&Error>) -> StatusCode {
    error.map_or(StatusCode::OK, |error| error.status)
}
