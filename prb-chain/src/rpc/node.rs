//! One node: its connection, its health.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jsonrpsee::{
    core::{
        client::{ClientT, Error as RpcError, Subscription, SubscriptionClientT},
        params::BatchRequestBuilder,
        traits::ToRpcParams,
    },
    ws_client::{PingConfig, WsClient, WsClientBuilder},
};
use metrics::{counter, histogram};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Config, Counters, Error, raw_params};

/// A connection that left this many requests in a row unanswered is closed.
const MAX_TIMEOUTS: u32 = 3;

/// A node of a chain, with one WebSocket that is opened when it is needed.
pub struct Node {
    chain: &'static str,
    name: Arc<str>,
    url: String,
    config: Config,
    counters: Arc<Counters>,
    current: Mutex<Option<Arc<WsClient>>>,
    /// Held while connecting, so that many askers make one connection.
    connecting: tokio::sync::Mutex<ExponentialBackoff>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    retry_at: Option<Instant>,
    demoted_until: Option<Instant>,
    deferred_until: Option<Instant>,
    deferrals: u32,
    timeouts: u32,
    refuses_batches: bool,
    last_error: Option<String>,
}

impl State {
    fn defer(&mut self, least: Duration, most: Duration, reason: &str) {
        let now = Instant::now();
        let recent = self.deferred_until.is_some_and(|until| now < until + most);
        self.deferrals = if recent { self.deferrals.saturating_add(1) } else { 0 };
        let pause = least.saturating_mul(1 << self.deferrals.min(16)).min(most.max(least));
        self.deferred_until = Some(now + pause);
        self.last_error = Some(reason.to_owned());
    }
}

/// How a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The node's host and port.
    pub name: Arc<str>,
    /// A connection is open.
    pub connected: bool,
    /// It answered wrongly a while ago and is asked only when no other is left.
    pub demoted: bool,
    /// Its last connection failed or was lost a moment ago.
    pub backing_off: bool,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("state", &*self.state())
            .finish_non_exhaustive()
    }
}

struct Params(Option<Box<RawValue>>);

impl ToRpcParams for Params {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(self.0)
    }
}

impl Node {
    pub(super) fn new(
        chain: &'static str,
        url: &str,
        config: &Config,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let name = public_name(url);
        if !(url.starts_with("ws://") || url.starts_with("wss://")) || name.is_empty() {
            return Err(Error::BadEndpoint {
                endpoint: name,
                reason: "it must be ws:// or wss:// and a host",
            });
        }
        Ok(Self {
            chain,
            name: name.into(),
            url: url.to_owned(),
            config: config.clone(),
            counters,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(backoff(config)),
            state: Mutex::default(),
        })
    }

    /// Host and port: what logs and metrics show (a URL's path or query may hold a key).
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the node is doing.
    pub fn health(&self) -> Health {
        let connected = self.live().is_some();
        let (state, now) = (self.state(), Instant::now());
        Health {
            name: Arc::clone(&self.name),
            connected,
            demoted: state.demoted_until.is_some_and(|until| until > now),
            backing_off: state.retry_at.is_some_and(|at| at > now),
            last_error: state.last_error.clone(),
        }
    }

    /// Marks the node as one that answered wrongly: for a while it is asked only when no other is left.
    pub fn demote(&self, reason: &str) {
        tracing::warn!(chain = self.chain, node = %self.name, reason, "node answered wrongly, demoted");
        counter!("prb_rpc_node_demotions_total", "chain" => self.chain, "node" => self.name.to_string())
            .increment(1);
        let mut state = self.state();
        state.demoted_until = Some(Instant::now() + self.config.demotion);
        state.last_error = Some(reason.to_owned());
    }

    /// Lets other nodes go first for a while: this one is slow, or lacks what it was asked for. The while
    /// doubles each time that it happens soon again.
    pub fn defer(&self, reason: &str) {
        tracing::debug!(chain = self.chain, node = %self.name, reason, "node deferred");
        self.state().defer(self.config.reconnect_max, self.config.demotion, reason);
    }

    /// Lower is better: fit, deferred, demoted, just failed.
    pub(super) fn rank(&self) -> u8 {
        let (state, now) = (self.state(), Instant::now());
        let lasts = |until: Option<Instant>| u8::from(until.is_some_and(|until| until > now));
        lasts(state.deferred_until) + 2 * lasts(state.demoted_until) + 4 * lasts(state.retry_at)
    }

    /// Asks one question.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_retryable`] tells which may pass.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let raw = self.request_raw(method, Some(raw_params(method, &params)?)).await?;
        self.read(method, &raw)
    }

    /// Asks one question; gives the answer's JSON.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_raw(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Error> {
        let client = self.client().await?;
        self.counters.record(method, 1);
        let start = Instant::now();
        let answer = client.request(method, Params(params)).await;
        self.settle(&client, method, start, answer)
    }

    /// Asks the same method with several parameters in one JSON-RPC batch. Answers keep the order.
    ///
    /// A node that takes no batches is asked one by one.
    ///
    /// # Errors
    /// As [`Node::request`]; one refused call fails the batch.
    pub async fn batch<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[impl Serialize],
    ) -> Result<Vec<T>, Error> {
        if params.is_empty() {
            return Ok(Vec::new());
        }
        if !self.state().refuses_batches {
            match self.batch_once(method, params).await {
                Err(Error::Call { code, message, .. }) if refuses_batches(code, &message) => {
                    tracing::info!(chain = self.chain, node = %self.name, "node takes no batches");
                    self.state().refuses_batches = true;
                }
                answer => return answer,
            }
        }
        let mut answers = Vec::with_capacity(params.len());
        for params in params {
            answers.push(self.request(method, params).await?);
        }
        Ok(answers)
    }

    async fn batch_once<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[impl Serialize],
    ) -> Result<Vec<T>, Error> {
        let mut batch = BatchRequestBuilder::new();
        for params in params {
            batch
                .insert(method, Params(Some(raw_params(method, params)?)))
                .map_err(|source| Error::Params { method: method.into(), source })?;
        }
        let client = self.client().await?;
        self.counters.record(method, params.len() as u64);
        let start = Instant::now();
        let answer = client.batch_request::<Box<RawValue>>(batch).await;
        let answers = self.settle(&client, method, start, answer)?;
        if answers.len() != params.len() {
            let source = format!("{} answers to {} calls", answers.len(), params.len()).into();
            return Err(Error::BadAnswer { node: self.name().clone(), method: method.into(), source });
        }
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(raw) => self.read(method, &raw),
                Err(e) => Err(self.call_error(method, &e)),
            })
            .collect()
    }

    /// Subscribes; the subscription ends with the connection.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn subscribe(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
        unsubscribe: &str,
    ) -> Result<Subscription<Box<RawValue>>, Error> {
        let client = self.client().await?;
        self.counters.record(method, 1);
        let start = Instant::now();
        let answer = client.subscribe(method, Params(params), unsubscribe).await;
        self.settle(&client, method, start, answer)
    }

    pub(super) fn read<T: DeserializeOwned>(&self, method: &str, raw: &RawValue) -> Result<T, Error> {
        serde_json::from_str(raw.get()).map_err(|e| Error::BadAnswer {
            node: Arc::clone(&self.name),
            method: method.into(),
            source: Box::new(e),
        })
    }

    fn live(&self) -> Option<Arc<WsClient>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|client| client.is_connected()).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, or a new one unless the last try failed a moment ago.
    async fn client(&self) -> Result<Arc<WsClient>, Error> {
        if let Some(client) = self.live() {
            return Ok(client);
        }
        let mut pauses = self.connecting.lock().await;
        if let Some(client) = self.live() {
            return Ok(client);
        }
        let retry_at = self.state().retry_at;
        if let Some(wait) = retry_at.and_then(|at| at.checked_duration_since(Instant::now()))
            && !wait.is_zero()
        {
            return Err(Error::BackingOff { node: Arc::clone(&self.name), retry_after: wait });
        }
        let built = tokio::time::timeout(self.config.connect_timeout, self.builder().build(&self.url)).await;
        let error: Box<dyn std::error::Error + Send + Sync> = match built {
            Ok(Ok(client)) => return Ok(self.connected(client, &mut pauses)),
            Ok(Err(e)) => Box::new(e),
            Err(timeout) => Box::new(timeout),
        };
        let pause = pauses.next().unwrap_or(self.config.reconnect_max);
        let mut state = self.state();
        if state.last_error.is_none() {
            tracing::warn!(chain = self.chain, node = %self.name, error = %error, "cannot connect to node");
        }
        state.retry_at = Some(Instant::now() + pause);
        state.last_error = Some(error.to_string());
        Err(Error::Disconnected { node: Arc::clone(&self.name), source: error })
    }

    fn builder(&self) -> WsClientBuilder {
        WsClientBuilder::new()
            .max_response_size(self.config.max_response_bytes)
            .max_request_size(self.config.max_response_bytes)
            .request_timeout(self.config.request_timeout)
            .connection_timeout(self.config.connect_timeout)
            .max_concurrent_requests(self.config.max_concurrent_requests)
            .enable_ws_ping(PingConfig::new())
    }

    fn connected(&self, client: WsClient, pauses: &mut ExponentialBackoff) -> Arc<WsClient> {
        tracing::info!(chain = self.chain, node = %self.name, "connected to node");
        counter!("prb_rpc_connections_total", "chain" => self.chain, "node" => self.name.to_string())
            .increment(1);
        *pauses = backoff(&self.config);
        let mut state = self.state();
        state.retry_at = None;
        state.timeouts = 0;
        state.last_error = None;
        let client = Arc::new(client);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
        client
    }

    /// Turns the library's outcome into ours, and draws the conclusions about the connection.
    fn settle<T>(
        &self,
        client: &Arc<WsClient>,
        method: &str,
        start: Instant,
        outcome: Result<T, RpcError>,
    ) -> Result<T, Error> {
        histogram!("prb_rpc_request_seconds", "chain" => self.chain).record(start.elapsed().as_secs_f64());
        let error = match outcome {
            Ok(answer) => {
                self.state().timeouts = 0;
                return Ok(answer);
            }
            Err(e) => e,
        };
        let node = Arc::clone(&self.name);
        match error {
            RpcError::Call(e) => {
                self.state().timeouts = 0;
                Err(self.call_error(method, &e))
            }
            RpcError::RequestTimeout => {
                self.timed_out(client);
                Err(Error::Timeout { node, method: method.into() })
            }
            RpcError::ParseError(e) => {
                Err(Error::BadAnswer { node, method: method.into(), source: Box::new(e) })
            }
            e => {
                self.drop_connection(client, &e.to_string(), Duration::ZERO);
                Err(Error::Disconnected { node, source: Box::new(e) })
            }
        }
    }

    fn call_error(&self, method: &str, e: &jsonrpsee::types::ErrorObject<'_>) -> Error {
        let message = match e.data() {
            Some(data) => format!("{}: {}", e.message(), data.get()),
            None => e.message().to_owned(),
        };
        Error::Call { node: Arc::clone(&self.name), method: method.into(), code: e.code(), message }
    }

    /// A node that hangs is asked last for a while, and gets a new connection after some silence.
    fn timed_out(&self, client: &Arc<WsClient>) {
        let timeouts = {
            let mut state = self.state();
            state.timeouts += 1;
            // Longer than the others need for what they are asked while this one is waited for.
            let least = self.config.reconnect_max.max(2 * self.config.request_timeout);
            state.defer(least, self.config.demotion, "no answer in time");
            state.timeouts
        };
        if timeouts >= MAX_TIMEOUTS {
            self.drop_connection(client, "no answers", self.config.reconnect_max);
        }
    }

    fn drop_connection(&self, client: &Arc<WsClient>, reason: &str, pause: Duration) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, client)) {
            *current = None;
            tracing::warn!(chain = self.chain, node = %self.name, reason, "connection to node lost");
            let mut state = self.state();
            state.timeouts = 0;
            state.last_error = Some(reason.to_owned());
            state.retry_at = (!pause.is_zero()).then(|| Instant::now() + pause);
        }
    }
}

fn backoff(config: &Config) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(config.reconnect_min)
        .with_max_delay(config.reconnect_max)
        .with_jitter()
        .without_max_times()
        .build()
}

fn refuses_batches(code: i32, message: &str) -> bool {
    // jsonrpsee's server: -32005 "Batched requests are not supported by this server".
    code == -32005 || message.to_ascii_lowercase().contains("batched requests are not supported")
}

/// Host and port of a URL.
fn public_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_no_secrets() {
        assert_eq!(public_name("wss://user:pw@node.example:443/key?token=x"), "node.example:443");
        assert_eq!(public_name("ws://127.0.0.1:9944"), "127.0.0.1:9944");
    }

    #[test]
    fn only_websockets_are_taken() {
        let counters = Arc::new(Counters::new("relay"));
        for url in ["http://a:1", "ws://", "a:1", ""] {
            assert!(Node::new("relay", url, &Config::default(), Arc::clone(&counters)).is_err(), "{url}");
        }
        assert!(Node::new("relay", "ws://a:1", &Config::default(), counters).is_ok());
    }
}
