//! [`PRuntimeClient`] over HTTP: `POST {endpoint}/prpc/PhactoryAPI.{Method}`, protobuf both ways.
//!
//! Plain HTTP only: workers live in the operator's own network.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use prost::Message;
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::{Connect, Error, PRuntimeClient};
use crate::prpc::{Method, ServerError};

/// Time that an ordinary call may take (`PHALA_PRPC_REQUEST_TIMEOUT`).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Time that a call with chain data may take (`PHALA_BLOB_REQUEST_TIMEOUT`).
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(150);
/// Time to open a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
pub const ANSWER_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// The longest error text that is kept, in bytes.
const ERROR_TEXT_LIMIT_BYTES: usize = 1024;
/// The largest error answer that is read, in bytes.
const ERROR_ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// How to talk to workers.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Time that an ordinary call may take.
    pub request_timeout: Duration,
    /// Time that a call with chain data (sync, dispatch, init, load) may take.
    pub sync_timeout: Duration,
    /// Time to open a connection; never longer than the call's own time.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept (`WORKER_KEEPALIVE_TIMEOUT`); `None` opens one for each call.
    pub keep_alive: Option<Duration>,
    /// The largest answer that is read, in bytes.
    pub answer_limit_bytes: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            request_timeout: REQUEST_TIMEOUT,
            sync_timeout: SYNC_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: None,
            answer_limit_bytes: ANSWER_LIMIT_BYTES,
        }
    }
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be built")]
pub struct BuildError(#[source] reqwest::Error);

/// Makes [`HttpClient`]s that share one pool of connections.
#[derive(Clone, Debug)]
pub struct HttpConnect {
    http: Client,
    config: Arc<HttpConfig>,
}

impl HttpConnect {
    /// Builds the shared client.
    ///
    /// # Errors
    /// [`BuildError`] where the system refuses what a client needs.
    pub fn new(config: HttpConfig) -> Result<Self, BuildError> {
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(usize::from(config.keep_alive.is_some()))
            .pool_idle_timeout(config.keep_alive)
            .tcp_nodelay(true)
            .build()
            .map_err(BuildError)?;
        Ok(Self { http, config: Arc::new(config) })
    }

    /// A client for the worker at `endpoint`.
    ///
    /// # Errors
    /// A text for people, where `endpoint` is no `http` URL.
    pub fn client(&self, endpoint: &str) -> Result<HttpClient, String> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let url = Url::parse(endpoint).map_err(|e| format!("{endpoint:?} is not a URL: {e}"))?;
        if url.scheme() != "http" {
            return Err(format!("{endpoint:?} is not an http URL: workers are spoken to in plain HTTP"));
        }
        Ok(HttpClient {
            http: self.http.clone(),
            config: Arc::clone(&self.config),
            endpoint: endpoint.to_owned(),
        })
    }
}

impl Connect for HttpConnect {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, String> {
        Ok(Arc::new(self.client(endpoint)?))
    }
}

/// One worker's API over HTTP.
#[derive(Clone)]
pub struct HttpClient {
    http: Client,
    config: Arc<HttpConfig>,
    endpoint: String,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl HttpClient {
    fn unreachable(&self, source: reqwest::Error) -> Error {
        // The URL is named by the error itself.
        Error::Unreachable { endpoint: self.endpoint.clone(), source: Box::new(source.without_url()) }
    }

    fn limit(&self, method: Method) -> Duration {
        if carries_chain_data(method) { self.config.sync_timeout } else { self.config.request_timeout }
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let url = format!("{}/prpc/PhactoryAPI.{}", self.endpoint, method.name());
        let answer = self.http.post(url).body(body).send().await.map_err(|e| self.unreachable(e))?;
        let status = answer.status();
        if status == StatusCode::OK {
            let limit_bytes = self.config.answer_limit_bytes;
            return match self.read(answer, limit_bytes).await? {
                (body, true) => Ok(body),
                (_, false) => Err(Error::BadAnswer {
                    method: method.name(),
                    reason: format!("more than {limit_bytes} bytes"),
                }),
            };
        }
        let (body, _) = self.read(answer, ERROR_ANSWER_LIMIT_BYTES).await?;
        Err(Error::Refused {
            method: method.name(),
            status: status.as_u16(),
            message: error_text(status, &body),
        })
    }

    /// Reads at most `limit_bytes`, and says whether that was all.
    async fn read(&self, mut answer: Response, limit_bytes: usize) -> Result<(Bytes, bool), Error> {
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
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
        let request = self.http.post(format!("{}/kick", self.endpoint)).send();
        match tokio::time::timeout(self.config.request_timeout, request).await {
            Ok(Err(e)) if e.is_connect() => Err(self.unreachable(e)),
            // The process exits in the middle of the exchange: anything after the connection is success.
            _ => Ok(()),
        }
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
            | Method::TakeCheckpoint
    )
}

/// pRuntime's own words: protobuf for its errors, plain text from the layers before it.
fn error_text(status: StatusCode, body: &[u8]) -> String {
    let own = match status.as_u16() {
        400 | 404 | 500 => ServerError::decode(body).ok().map(|e| e.message).filter(|m| !m.is_empty()),
        _ => None,
    };
    let mut text = own.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    if text.is_empty() {
        text = status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    if text.len() > ERROR_TEXT_LIMIT_BYTES {
        let end = (0..=ERROR_TEXT_LIMIT_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
