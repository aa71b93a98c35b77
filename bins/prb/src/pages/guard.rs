//! Checks of every request: limits, the requested host name, headers, and the token for changes.

use std::{convert::Infallible, fmt, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts, uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::layout;
use crate::{
    listen::{self, Limits, Shares},
    token::Access,
};

/// Requests worked on at once from this machine, with shares for others (`Limits::of`); more are asked to come again.
pub const MAX_REQUESTS: usize = 16;
/// Maximum duration of a request; slightly longer than Redis' time limit.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum duration of all waits within a request, so that an answer about a timeout is still sent in time.
const WAITS_WITHIN: Duration = Duration::from_secs(10);
/// Maximum size of a request body on the queue page, in bytes.
pub(crate) const SMALL_BODY_BYTES: usize = 8192;

tokio::task_local! {
    /// When the waits of the current request must end.
    static DEADLINE: Instant;
}

/// Returns the time limit for a wait: the rest of the current request's time, or all of it outside of a
/// request.
pub(crate) fn time_left() -> Duration {
    DEADLINE.try_with(|end| end.saturating_duration_since(Instant::now())).unwrap_or(WAITS_WITHIN)
}

/// Only content of this port, no framing, and no forms to other origins.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Paths contain ids and search texts, which are not for other sites.
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // No other origin may embed an answer, or keep a handle to a window with a page.
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Checks every request of a port.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Inner>);

struct Inner {
    /// Accepted host names besides IP addresses and localhost, in lower case.
    names: Vec<String>,
    access: Access,
    rules: Rules,
    slots: Shares,
    /// Maximum duration of a request.
    limit: Duration,
}

/// Where the token is, as text for refusals; `None` if there is no token.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenLocation(pub(crate) Option<Arc<str>>);

impl<S: Sync> FromRequestParts<S> for TokenLocation {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let guard = parts.extensions.get::<Guard>();
        Ok(Self(guard.and_then(|guard| guard.0.access.location().cloned())))
    }
}

/// Rules that differ between ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Maximum size of a request body, in bytes.
    pub(crate) max_body_bytes: usize,
    /// Handlers below this prefix check the token themselves.
    pub(crate) checked_below: Option<&'static str>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("names", &self.0.names).finish_non_exhaustive()
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Busy,
    Host,
    TooLarge,
    NoToken,
    BadToken,
    Late,
}

impl Guard {
    pub(crate) fn new(mut names: Vec<String>, access: Access, rules: Rules) -> Self {
        names.push(own_name());
        let slots = Shares::new(Limits::of(MAX_REQUESTS));
        Self(Arc::new(Inner { names, access, rules, slots, limit: REQUEST_TIMEOUT }))
    }

    /// Returns whether a token is configured.
    pub(crate) fn is_token_given(&self) -> bool {
        self.0.access.is_given()
    }

    /// Returns whether a request with these headers may make changes; otherwise the status and the text of the
    /// refusal.
    pub(crate) fn may_change(&self, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        self.shows_token(headers).map_err(|refusal| self.status_and_text(refusal, &Method::POST))
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let headers = request.headers();
        if !self.is_known(headers, request.uri()) {
            return Err(Refusal::Host);
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.0.rules.max_body_bytes) {
            return Err(Refusal::TooLarge);
        }
        let checked_later =
            self.0.rules.checked_below.is_some_and(|prefix| request.uri().path().starts_with(prefix));
        if checked_later || reads(request.method()) { Ok(()) } else { self.shows_token(headers) }
    }

    /// Returns whether the requested host is a name of this machine ([`is_known_host`]).
    pub(crate) fn is_known(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        is_known_host(headers, uri, &self.0.names)
    }

    fn shows_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = self.0.access.token() else { return Err(Refusal::NoToken) };
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let shown = match shown.split_at_checked("Bearer ".len()) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"Bearer ") => shown,
            _ => return Err(Refusal::BadToken),
        };
        // Constant-time comparison: only the length can leak.
        let same: bool = shown.ct_eq(token.expose_secret().as_bytes()).into();
        if same { Ok(()) } else { Err(Refusal::BadToken) }
    }
}

/// Returns whether the requested host is an IP address, localhost, or one of the names, which are in lower case. IP
/// addresses cannot be rebound; a foreign name can resolve to this machine, and its pages could then read this port's
/// content as their own origin.
pub(crate) fn is_known_host(headers: &HeaderMap, uri: &Uri, names: &[String]) -> bool {
    // Exactly one: with two, a proxy could check the one and this program the other.
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let Some(authority) = authority.filter(|authority| !authority.as_str().contains('@')) else {
        return false;
    };
    let same = |other: &Authority| other.as_str().eq_ignore_ascii_case(authority.as_str());
    let host = authority.host().to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let known = bare.parse::<IpAddr>().is_ok() || host == "localhost" || names.contains(&host);
    // In absolute form, the request line names the host, too.
    known && uri.authority().is_none_or(same)
}

/// This machine's name in lower case.
pub(crate) fn own_name() -> String {
    gethostname::gethostname().to_string_lossy().to_ascii_lowercase()
}

/// Checks a request, and refuses it with the reason.
pub(super) async fn enter(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    // For handlers that check the token themselves, and for pages that name where it is.
    request.extensions_mut().insert(guard.clone());
    let answered = async {
        let _slot = guard.0.slots.take(listen::peer_of(request.extensions())).ok_or(Refusal::Busy)?;
        guard.check(&request)?;
        let answer = DEADLINE.scope(Instant::now() + WAITS_WITHIN, next.run(request));
        tokio::time::timeout(guard.0.limit, answer).await.map_err(|_| Refusal::Late)
    };
    let mut response = answered.await.unwrap_or_else(|refusal| guard.answer(refusal, &method, &headers));
    response.headers_mut().extend(HEADERS);
    // Except for the assets, which set it themselves: an old state must not come from a cache.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Guard {
    /// Returns the status and the text of a refusal.
    fn status_and_text(&self, refusal: Refusal, method: &Method) -> (StatusCode, String) {
        let (status, text) = match refusal {
            Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Too many requests at once. Try again later."),
            Refusal::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "This page is not known by that name. Use its IP address or localhost, or let the variable \
                 PRB_PAGE_HOSTS name the host.",
            ),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request is too large."),
            Refusal::NoToken => (
                StatusCode::FORBIDDEN,
                "Nothing can be changed here: no token is configured. Set the variable PRB_API_TOKEN (or \
                 PRB_API_TOKEN_FILE) to at least 16 characters and start the daemon again.",
            ),
            Refusal::BadToken => {
                let location = self.0.access.location().map(AsRef::as_ref).unwrap_or_default();
                let text = format!(
                    "Changes need the token that is in {location}. The token that was sent is wrong."
                );
                return (StatusCode::UNAUTHORIZED, text);
            }
            Refusal::Late if reads(method) => (StatusCode::GATEWAY_TIMEOUT, "No answer came in time."),
            Refusal::Late => (
                StatusCode::GATEWAY_TIMEOUT,
                "No answer came in time. The change may have been made nevertheless: check before you repeat it.",
            ),
        };
        (status, text.to_owned())
    }

    fn answer(&self, refusal: Refusal, method: &Method, headers: &HeaderMap) -> Response {
        let (status, text) = self.status_and_text(refusal, method);
        let mut response = layout::message_response(headers, status, &text).into_response();
        match refusal {
            Refusal::BadToken => {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"prb\""));
            }
            Refusal::Busy => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

const fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use axum::{Router, body::Body, middleware, routing::get};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        let rules = Rules { max_body_bytes: SMALL_BODY_BYTES, checked_below: Some("/ptp/") };
        let access = token.map(Access::of_test).unwrap_or_default();
        Guard::new(vec!["queue.example.org".into()], access, rules)
    }

    fn request(method: Method, host: &str, authorization: Option<&str>) -> Request {
        let mut request = Request::builder().method(method).uri("/").header(header::HOST, host);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn requests_for_unknown_host_names_are_refused() {
        let guard = guard(None);
        let own = gethostname::gethostname().to_string_lossy().into_owned();
        for host in [
            "127.0.0.1:4567",
            "[::1]:4567",
            "localhost",
            "LOCALHOST:1",
            "10.1.2.3",
            "queue.example.org:80",
            &own,
        ] {
            assert_eq!(guard.check(&request(Method::GET, host, None)), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "x@localhost",
            "localhost:1:2",
        ] {
            assert_eq!(guard.check(&request(Method::GET, host, None)), Err(Refusal::Host), "{host:?}");
        }
        let mut none = request(Method::GET, "localhost", None);
        none.headers_mut().remove(header::HOST);
        assert_eq!(guard.check(&none), Err(Refusal::Host));
        let mut two = request(Method::GET, "localhost", None);
        two.headers_mut().append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(guard.check(&two), Err(Refusal::Host));
    }

    fn ask(guard: &Guard, method: Method, authorization: Option<&str>) -> Result<(), Refusal> {
        guard.check(&request(method, "localhost", authorization))
    }

    #[test]
    fn changes_need_the_token() {
        let token = "0123456789abcdef";
        let with = guard(Some(token));
        let right = format!("Bearer {token}");
        assert_eq!(ask(&with, Method::POST, Some(&right)), Ok(()));
        assert_eq!(ask(&with, Method::DELETE, Some(&format!("bearer {token}"))), Ok(()));
        assert_eq!(ask(&with, Method::GET, None), Ok(()));
        for wrong in [
            None,
            Some(token),
            Some("Bearer "),
            Some("Bearer 0123456789abcdeF"),
            Some("Basic 0123456789abcdef"),
        ] {
            assert_eq!(ask(&with, Method::POST, wrong), Err(Refusal::BadToken), "{wrong:?}");
        }
        assert_eq!(ask(&with, Method::POST, Some(&format!("{right}x"))), Err(Refusal::BadToken));
        assert_eq!(ask(&guard(None), Method::POST, Some("Bearer ")), Err(Refusal::NoToken));
        assert_eq!(ask(&guard(None), Method::OPTIONS, None), Err(Refusal::NoToken));
        // Handlers below the prefix check the token; the host name is checked nevertheless.
        let mut below = request(Method::POST, "localhost", None);
        *below.uri_mut() = "/ptp/discover".parse().unwrap();
        assert_eq!(guard(None).check(&below), Ok(()));
        below.headers_mut().insert(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(guard(None).check(&below), Err(Refusal::Host));
    }

    #[test]
    fn a_timeout_of_a_change_warns_that_it_may_have_been_made() {
        let guard = guard(None);
        assert!(guard.status_and_text(Refusal::Late, &Method::POST).1.contains("may have been made"));
        assert!(!guard.status_and_text(Refusal::Late, &Method::GET).1.contains("may have been made"));
    }

    #[tokio::test]
    async fn requests_have_a_time_limit() {
        const LONG: Duration = Duration::from_secs(60);
        let mut guard = guard(None);
        assert_eq!(guard.0.limit, REQUEST_TIMEOUT);
        Arc::get_mut(&mut guard.0).unwrap().limit = Duration::from_millis(50);
        let endless = Router::new().route("/", get(std::future::pending::<&'static str>));
        let service = TowerToHyperService::new(endless.layer(middleware::from_fn_with_state(guard, enter)));
        let answer = tokio::time::timeout(LONG, service.call(request(Method::GET, "localhost", None))).await;
        assert_eq!(answer.expect("a request has no time limit").unwrap().status(), 504);
    }

    #[tokio::test]
    async fn waits_of_a_request_share_its_time_limit() {
        assert_eq!(time_left(), WAITS_WITHIN, "outside of a request");
        assert!(WAITS_WITHIN < REQUEST_TIMEOUT);
        let end = Instant::now() + Duration::from_secs(3);
        DEADLINE
            .scope(end, async {
                let first = time_left();
                assert!(first <= Duration::from_secs(3), "{first:?}");
                while time_left() == first {
                    tokio::task::yield_now().await;
                }
                assert!(time_left() < first);
            })
            .await;
        assert_eq!(DEADLINE.scope(Instant::now(), async { time_left() }).await, Duration::ZERO);
    }
}
