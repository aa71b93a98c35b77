//! [`PRuntimeClient`] over HTTP: `POST {endpoint}/prpc/PhactoryAPI.{Method}`, with protobuf bodies.
//!
//! HTTPS endpoints are verified against Mozilla's root certificates, the system's, and those of
//! [`HttpConfig::root_certificates_pem`]. TLS only authenticates the endpoint; a worker's answers are
//! validated in any case.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use prost::Message;
use reqwest::{Client, Response, StatusCode, Url, redirect};

use names::Names;

use super::{Connect, ConnectError, Error, PRuntimeClient};
use crate::{
    inventory::endpoint,
    prpc::{Method, ServerError},
    text::shorten,
};

mod names;
#[doc(hidden)]
pub mod redirects;
pub mod tls;

/// Default of [`HttpConfig::request_timeout`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Default of [`HttpConfig::sync_timeout`].
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(150);
/// Default of [`HttpConfig::attestation_timeout`]: a new attestation queries Intel's services.
pub const ATTESTATION_TIMEOUT: Duration = Duration::from_secs(150);
/// Default of [`HttpConfig::checkpoint_timeout`].
pub const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(600);
/// Default of [`HttpConfig::connect_timeout`].
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Default of [`HttpConfig::answer_limit_bytes`].
pub const ANSWER_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// Maximum size of an answer without messages for the chain, in bytes.
const SMALL_ANSWER_LIMIT_BYTES: usize = 1024 * 1024;
/// The name of a kick in errors.
const KICK: &str = "kick";
/// Maximum length of an error text, in bytes; longer ones are shortened.
const ERROR_TEXT_LIMIT_BYTES: usize = 1024;
/// Maximum size of an error answer, in bytes.
const ERROR_ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// Timeouts and limits of the workers' HTTP clients.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct HttpConfig {
    /// Timeout of an ordinary call. Default: 8 s.
    pub request_timeout: Duration,
    /// Timeout of a call with chain data (sync, dispatch, init, load). Default: 150 s.
    pub sync_timeout: Duration,
    /// Timeout of `GetRuntimeInfo`, which may attest. Default: 150 s.
    pub attestation_timeout: Duration,
    /// Timeout of `TakeCheckpoint`: pRuntime writes its whole state to its disk, and does not stop if the caller does.
    /// Default: 10 minutes. A peer that is gone is noticed earlier, by TCP keepalive.
    pub checkpoint_timeout: Duration,
    /// Timeout for opening a connection; never longer than the call's own timeout. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept; `None` opens one per call. Default: none.
    pub keep_alive: Option<Duration>,
    /// Maximum size of an answer, in bytes; at most 1 MiB of it for answers other than messages for the chain.
    /// Default: 16 MiB.
    pub answer_limit_bytes: usize,
    /// PEM certificates trusted for HTTPS endpoints in addition to the well-known ones: for workers behind
    /// the operator's own certificate authority. Default: none.
    pub root_certificates_pem: Vec<u8>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            request_timeout: REQUEST_TIMEOUT,
            sync_timeout: SYNC_TIMEOUT,
            attestation_timeout: ATTESTATION_TIMEOUT,
            checkpoint_timeout: CHECKPOINT_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: None,
            answer_limit_bytes: ANSWER_LIMIT_BYTES,
            root_certificates_pem: Vec::new(),
        }
    }
}

/// Why the HTTP client cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configured root certificates are not valid PEM certificates.
    #[error("the root certificates for HTTPS cannot be read: {0}")]
    Certificates(String),
    /// The system does not provide what the client needs.
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// Creates [`HttpClient`]s that share one connection pool.
#[derive(Clone, Debug)]
pub struct HttpConnect {
    http: Client,
    config: Arc<HttpConfig>,
}

impl HttpConnect {
    /// Builds the shared client.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn new(config: HttpConfig) -> Result<Self, BuildError> {
        let http = Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.root_certificates_pem)?)
            .dns_resolver(Arc::new(Names::default()))
            // Workers are reached directly: a proxy of the environment must not see their traffic.
            .no_proxy()
            // pRuntime never redirects; whatever else answers at the endpoint must not receive chain data.
            .redirect(redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(usize::from(config.keep_alive.is_some()))
            .pool_idle_timeout(config.keep_alive)
            .tcp_nodelay(true)
            .build()
            .map_err(BuildError::Client)?;
        Ok(Self { http, config: Arc::new(config) })
    }

    /// Creates a client for the worker at `endpoint`.
    ///
    /// # Errors
    /// [`ConnectError::Endpoint`] if `endpoint` is not an `http` or `https` URL.
    pub fn client(&self, endpoint: &str) -> Result<HttpClient, ConnectError> {
        let text = endpoint.trim();
        let url = endpoint::parse(text).map_err(|reason| ConnectError::endpoint(&origin(text), reason))?;
        Ok(HttpClient {
            http: self.http.clone(),
            config: Arc::clone(&self.config),
            shown: without_password(text.trim_end_matches('/')),
            endpoint: url.as_str().trim_end_matches('/').to_owned(),
        })
    }
}

/// Returns scheme, host and port of an endpoint, which identify it in a message and cannot be secrets.
pub(crate) fn origin(endpoint: &str) -> String {
    match Url::parse(endpoint) {
        Ok(url) if url.has_host() => url.origin().ascii_serialization(),
        _ => "(not shown, it may be a secret)".into(),
    }
}

/// Removes user name and password from an endpoint, for display.
pub(crate) fn without_password(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // The last one: a password may contain '@'.
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => endpoint.to_owned(),
    }
}

impl Connect for HttpConnect {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        Ok(Arc::new(self.client(endpoint)?))
    }
}

/// One worker's API over HTTP.
#[derive(Clone)]
pub struct HttpClient {
    http: Client,
    config: Arc<HttpConfig>,
    /// Without a trailing slash.
    endpoint: String,
    /// The endpoint as shown in errors.
    shown: String,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("endpoint", &self.shown).finish_non_exhaustive()
    }
}

impl HttpClient {
    fn unreachable(&self, source: reqwest::Error) -> Error {
        // Without its URL: the error names the endpoint itself.
        let connected = !(source.is_connect() || source.is_builder());
        Error::Unreachable { endpoint: self.shown.clone(), connected, source: Box::new(source.without_url()) }
    }

    fn limit(&self, method: Method) -> Duration {
        match method {
            Method::GetRuntimeInfo => self.config.attestation_timeout,
            Method::TakeCheckpoint => self.config.checkpoint_timeout,
            _ if carries_chain_data(method) => self.config.sync_timeout,
            _ => self.config.request_timeout,
        }
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let url = format!("{}/prpc/PhactoryAPI.{}", self.endpoint, method.name());
        let answer = self.http.post(url).body(body).send().await.map_err(|e| self.unreachable(e))?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(method.name(), answer).await);
        }
        let limit_bytes = answer_limit_bytes(method).min(self.config.answer_limit_bytes);
        match self.read(answer, limit_bytes).await? {
            (body, true) => Ok(body),
            (_, false) => Err(Error::BadAnswer {
                method: method.name(),
                reason: format!("more than {limit_bytes} bytes"),
            }),
        }
    }

    async fn refusal(&self, method: &'static str, answer: Response) -> Error {
        let status = answer.status();
        if let Some(message) = redirects::describe(&answer) {
            return Error::Refused { method, status: status.as_u16(), message };
        }
        match self.read(answer, ERROR_ANSWER_LIMIT_BYTES).await {
            Ok((body, _)) => {
                Error::Refused { method, status: status.as_u16(), message: error_text(status, &body) }
            }
            Err(error) => error,
        }
    }

    async fn request_exit(&self) -> Result<(), Error> {
        match self.http.post(format!("{}/kick", self.endpoint)).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(self.refusal(KICK, answer).await),
            Err(error) if error.is_connect() || error.is_builder() => Err(self.unreachable(error)),
            // The process exits in the middle of the exchange: a connection that breaks now is success.
            Err(_) => Ok(()),
        }
    }

    /// Reads at most `limit_bytes`; returns whether the answer was complete.
    async fn read(&self, mut answer: Response, limit_bytes: usize) -> Result<(Bytes, bool), Error> {
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
            // Counted while reading: `Content-Length` may be absent or wrong.
            let room = limit_bytes - body.len();
            if chunk.len() > room {
                body.extend_from_slice(&chunk[..room]);
                return Ok((body.freeze(), false));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body.freeze(), true))
    }
}

#[async_trait]
impl PRuntimeClient for HttpClient {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let limit_bytes = method.body_limit_bytes();
        if body.len() > limit_bytes {
            return Err(Error::TooLarge { method: method.name(), size_bytes: body.len(), limit_bytes });
        }
        let limit = self.limit(method);
        tokio::time::timeout(limit, self.exchange(method, body))
            .await
            .unwrap_or(Err(Error::TimedOut { method: method.name(), limit }))
    }

    async fn kick(&self) -> Result<(), Error> {
        // The exit itself takes no time: a worker that neither answers nor exits hangs.
        let limit = self.config.request_timeout;
        tokio::time::timeout(limit, self.request_exit())
            .await
            .unwrap_or(Err(Error::TimedOut { method: KICK, limit }))
    }
}

/// The messages for the chain may be many. Every other answer has a few KiB, or some tens with an attestation: a worker
/// that sends more must not take the memory of all.
const fn answer_limit_bytes(method: Method) -> usize {
    match method {
        Method::GetEgressMessages => usize::MAX,
        _ => SMALL_ANSWER_LIMIT_BYTES,
    }
}

const fn carries_chain_data(method: Method) -> bool {
    matches!(
        method,
        Method::InitRuntime
            | Method::SyncHeader
            | Method::SyncParaHeader
            | Method::SyncCombinedHeaders
            | Method::DispatchBlocks
            | Method::LoadChainState
    )
}

/// Extracts the error text: protobuf from pRuntime itself, plain text from the HTTP layers in front of it.
fn error_text(status: StatusCode, body: &[u8]) -> String {
    let own = match status.as_u16() {
        400 | 404 | 500 => ServerError::decode(body).ok().map(|e| e.message).filter(|m| !m.is_empty()),
        _ => None,
    };
    let mut text = own.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    if text.is_empty() {
        text = status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    shorten(&text, ERROR_TEXT_LIMIT_BYTES)
}
