//! Access control: checks of the requested host name, the origin and the token, and limits on requests.
//!
//! A request is local if this port listens on loopback, the host name is a loopback name and no proxy
//! forwarded it. Only local requests may read without the token; no request may change anything without it.

use std::{sync::Arc, time::Duration};

use super::problem::Problem;
use crate::{
    listen::{self, Limits, Shares},
    pages::guard::Guard,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Requests worked on at once from this machine, with shares for others ([`Limits::of`]); more are asked to come again.
pub(crate) const MAX_REQUESTS: usize = 16;
/// Maximum duration of a request. An import of many pools reads and seals a key for each.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers that proxies add to forwarded requests.
/// A proxy on this machine connects from loopback, so that the connection's address says nothing about the
/// client.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Checks requests before they are handled.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    guard: Guard,
    on_loopback: bool,
    /// Where the token is, for refusals.
    token_place: String,
    slots: Shares,
    /// Maximum duration of a request.
    limit: Duration,
}

impl Gate {
    pub(super) fn new(guard: Guard, on_loopback: bool, token_place: String) -> Self {
        let slots = Shares::new(Limits::of(MAX_REQUESTS));
        Self(Arc::new(Inner { guard, on_loopback, token_place, slots, limit: REQUEST_TIMEOUT }))
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        if !self.0.guard.is_known(headers, request.uri()) {
            let text = "this machine is not known by that name: use its IP address or localhost, or let \
                        PRB_PAGE_HOSTS name the host";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", text));
        }
        if !self.is_of_this_host(headers) {
            let text = "a page of another origin may not use this API";
            return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", text));
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if (reads && self.is_local(headers)) || self.0.guard.may_change(headers).is_ok() {
            return Ok(());
        }
        let what = if reads { "requests that are not local" } else { "changes" };
        let place = &self.0.token_place;
        let text = format!("{what} need the token as `Authorization: Bearer …`; it is in {place}");
        Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", text))
    }

    /// Returns whether the request comes from no page, or from one of the requested host.
    fn is_of_this_host(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        // Programs send no such header, and browsers send it with every request that can change something.
        let Some(origin) = origins.next() else { return true };
        let Some(uri) = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok()) else { return false };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let same = uri.authority().is_some_and(|origin| origin.as_str().eq_ignore_ascii_case(host));
        same && origins.next().is_none()
    }

    fn is_local(&self, headers: &HeaderMap) -> bool {
        self.0.on_loopback && is_for_this_machine(headers)
    }
}

/// Returns whether a request asks for a loopback name of this machine and has no header of a forwarding
/// proxy.
pub(crate) fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    let name = name.unwrap_or_default();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    loopback && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// Maximum length of a logged path, in characters.
const MAX_LOGGED_PATH: usize = 200;

/// Checks a request, and refuses it with the reason.
pub(super) async fn enter(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut is_let_in = false;
    let answered = async {
        let _slot = gate.0.slots.take(listen::peer_of(request.extensions())).ok_or_else(|| {
            let text = "too many requests at once: try again in a moment";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", text)
        })?;
        gate.check(&request)?;
        is_let_in = true;
        tokio::time::timeout(gate.0.limit, next.run(request)).await.map_err(|_| {
            let text = "no answer in time; a change may have been made nevertheless: read again";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "late", text)
        })
    };
    let mut response = answered.await.unwrap_or_else(Problem::into_response);
    if !matches!(method, Method::GET | Method::HEAD) {
        let status = response.status().as_u16();
        let path: String = path.chars().take(MAX_LOGGED_PATH).collect();
        // Anybody can cause refusals at any rate, so they are logged at debug level.
        if is_let_in {
            tracing::info!(%method, path, status, "management call");
        } else {
            tracing::debug!(%method, path, status, "management call refused");
        }
    }
    let headers = response.headers_mut();
    // A browser must neither take an answer for something other than its declared type, nor show an old one
    // from its cache.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::{
        future::pending,
        io::{self, Write},
        net::SocketAddr,
        sync::Mutex,
    };

    use axum::{Router, body::Body, extract::ConnectInfo, middleware, routing::get};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    const TOKEN: &str = "0123456789abcdef";

    fn gate(on_loopback: bool) -> Gate {
        let rules = crate::pages::guard::Rules { max_body_bytes: usize::MAX, checked_below: None };
        let guard = Guard::new(vec!["fleet.example.org".into()], crate::token::Access::of_test(TOKEN), rules);
        Gate::new(guard, on_loopback, "the file x".into())
    }

    fn status(gate: &Gate, method: Method, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = gate.check(&request.body(Body::empty()).unwrap());
        checked.map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn reads_are_free_on_loopback_only() {
        let local = gate(true);
        for host in ["127.0.0.1:3001", "localhost", "[::1]:3001", "LOCALHOST:1"] {
            assert_eq!(status(&local, Method::GET, &[("host", host)]), 200, "{host}");
            assert_eq!(status(&gate(false), Method::GET, &[("host", host)]), 401, "{host}");
        }
        let bearer = format!("Bearer {TOKEN}");
        for host in ["10.0.0.1", "fleet.example.org"] {
            assert_eq!(status(&local, Method::GET, &[("host", host)]), 401, "{host}");
            assert_eq!(status(&local, Method::GET, &[("host", host), ("authorization", &bearer)]), 200);
        }
        let passed_on = [("host", "localhost"), ("x-forwarded-for", "10.9.8.7")];
        assert_eq!(status(&local, Method::GET, &passed_on), 401);
        assert_eq!(status(&local, Method::GET, &[("host", "evil.example")]), 421);
        assert_eq!(status(&local, Method::GET, &[]), 421);
    }

    #[test]
    fn changes_need_the_token_and_no_foreign_page() {
        let local = gate(true);
        let bearer = format!("Bearer {TOKEN}");
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            assert_eq!(status(&local, method.clone(), &[("host", "localhost")]), 401, "{method}");
            let right = [("host", "localhost"), ("authorization", &bearer)];
            assert_eq!(status(&local, method, &right), 200);
        }
        for (origin, expected) in [
            ("http://localhost:3001", 200),
            ("http://evil.example", 403),
            ("null", 403),
            ("http://localhost", 403),
        ] {
            let headers = [("host", "localhost:3001"), ("authorization", &*bearer), ("origin", origin)];
            assert_eq!(status(&local, Method::POST, &headers), expected, "{origin}");
        }
    }

    /// A gate before a handler that never answers.
    fn endless(limit: Duration) -> TowerToHyperService<Router> {
        let mut gate = gate(true);
        Arc::get_mut(&mut gate.0).unwrap().limit = limit;
        let router = Router::new().route("/", get(pending::<&'static str>).post(pending::<&'static str>));
        TowerToHyperService::new(router.layer(middleware::from_fn_with_state(gate, enter)))
    }

    fn request(method: Method, from: [u8; 4]) -> Request {
        let bearer = format!("Bearer {TOKEN}");
        let request = Request::builder().method(method).uri("/").header("host", "localhost");
        let mut request = request.header("authorization", bearer).body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((from, 1))));
        request
    }

    async fn code(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        (status, body["code"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn requests_have_shares_by_address_and_a_time_limit() {
        let service = endless(Duration::from_millis(500));
        let mut held = Vec::new();
        for from in [[10, 0, 0, 1], [10, 0, 0, 2]] {
            for _ in 0..MAX_REQUESTS / 4 {
                let mut answer = Box::pin(service.call(request(Method::POST, from)));
                // It has its slot once it is polled.
                assert!(timeout(Duration::ZERO, &mut answer).await.is_err());
                held.push(answer);
            }
            let refused = timeout(LONG, service.call(request(Method::GET, from))).await;
            assert_eq!(code(refused.unwrap().unwrap()).await, (503, "busy".into()), "{from:?}");
        }
        for answer in held {
            let answer = timeout(LONG, answer).await.expect("a request has no time limit").unwrap();
            assert_eq!(code(answer).await, (504, "late".into()));
        }
        // Every slot is free again.
        let again = timeout(LONG, service.call(request(Method::GET, [10, 0, 0, 1]))).await;
        assert_eq!(code(again.unwrap().unwrap()).await.1, "late");
        assert_eq!(gate(true).0.limit, REQUEST_TIMEOUT);
    }

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn only_calls_that_are_let_in_are_logged() {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
        let _log = tracing::subscriber::set_default(lines.with_writer(move || writer.clone()).finish());
        let service = endless(Duration::ZERO);
        for (name, value) in
            [("host", "evil.example"), ("origin", "http://evil.example"), ("authorization", "Bearer wrong")]
        {
            let mut request = request(Method::POST, [10, 0, 0, 1]);
            request.headers_mut().insert(name, value.parse().unwrap());
            let refused = timeout(LONG, service.call(request)).await.unwrap().unwrap();
            assert!([401, 403, 421].contains(&refused.status().as_u16()), "{name}: {}", refused.status());
        }
        assert_eq!(String::from_utf8_lossy(&log.0.lock().unwrap()), "");
        let late = timeout(LONG, service.call(request(Method::POST, [10, 0, 0, 1]))).await;
        assert_eq!(code(late.unwrap().unwrap()).await.1, "late");
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(logged.contains("management call") && logged.contains("504"), "{logged}");
    }
}
