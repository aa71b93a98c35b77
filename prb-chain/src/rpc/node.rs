//! One node: its requests and its health.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonrpsee::{
    core::{
        client::{ClientT, Error as RpcError, Subscription, SubscriptionClientT},
        traits::ToRpcParams,
    },
    ws_client::WsClient,
};
use metrics::{Counter, counter, gauge, histogram};
use prb_core::text::shorten;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Capability, Config, Counters, Error, Health, Refusal,
    connect::{cause, is_too_large},
    endpoint::public_name,
    link::{Lane, Link, MAX_TIMEOUTS},
    many,
    pins::Pins,
    raw_params,
    standing::Standing,
};

/// Size from which an answer is decoded on a blocking thread.
const LARGE_ANSWER: usize = 256 * 1024;
/// Maximum size of what is quoted of an answer, in bytes.
pub(super) const MAX_CAUSE_BYTES: usize = 1024;
/// Retries for data that a node does not have.
// Several nodes may answer in turn at one address, behind a load balancer.
pub(crate) const ASK_AGAIN: usize = 3;
/// Upper bound of a request's size apart from its parameters.
const ENVELOPE_BYTES: usize = 256;

/// A node of a chain. Its WebSockets (for subscriptions, for queries, and for queries with large answers) are
/// opened on demand.
pub struct Node {
    pub(super) chain: &'static str,
    name: Arc<str>,
    /// Its place in the configuration: two URLs may have the same host and port.
    pub(super) place: usize,
    pub(super) url: String,
    pub(super) config: Config,
    pub(super) counters: Arc<Counters>,
    pub(super) links: [Link; 3],
    pub(super) pins: Arc<Pins>,
    state: Mutex<Standing>,
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
        (place, url): (usize, &str),
        config: &Config,
        counters: Arc<Counters>,
        pins: Arc<Pins>,
    ) -> Self {
        let name = public_name(url);
        // From the start: `increase` does not see a series that begins with 1.
        demotions(chain, &name).increment(0);
        Self {
            chain,
            name: name.into(),
            place,
            url: url.to_owned(),
            config: config.clone(),
            counters,
            links: Lane::ALL.map(|_| Link::new(config)),
            pins,
            state: Mutex::default(),
        }
    }

    /// Host and port, for logs and metrics (a URL's path or query may contain a key).
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The node's health.
    pub fn health(&self) -> Health {
        let connected = self.links.iter().any(Link::is_open);
        self.state().health(Arc::clone(&self.name), connected)
    }

    /// Records a proven wrong answer. For a while, which doubles each time, the node is asked after
    /// others that can answer, and only for verifiable data.
    pub fn demote(&self, reason: &str) {
        demotions(self.chain, &self.name).increment(1);
        if let Some(term) = self.state().demote(&self.config, reason) {
            tracing::warn!(chain = self.chain, node = %self.name, reason, seconds = term.as_secs(), "node answered wrongly, demoted");
        }
    }

    /// Prefers other nodes for a while, because this one is slow or lacks requested data. The time doubles if it
    /// happens again soon.
    pub(crate) fn defer(&self, reason: &str) {
        tracing::debug!(chain = self.chain, node = %self.name, reason, "node deferred");
        self.state().defer(self.config.reconnect_max, self.config.demotion, reason);
    }

    /// Records that the node does not offer a capability. It is tried again after a while, which doubles each
    /// time, or after a reconnection.
    pub fn lacks(&self, capability: Capability, reason: &str) {
        if self.state().lacks(&self.config, capability, reason) {
            let (name, remedy) = (capability.name(), capability.remedy());
            tracing::warn!(chain = self.chain, node = %self.name, lacks = name, reason, "node is limited: {remedy}");
        }
        self.show(capability, 1.0);
    }

    /// Records that the node does offer a capability.
    pub fn has_offered(&self, capability: Capability) {
        if self.state().offers(capability) {
            tracing::info!(chain = self.chain, node = %self.name, offers = capability.name(), "node is no longer limited");
            self.show(capability, 0.0);
        }
    }

    /// Whether the node may be asked for it: it is not known to lack it.
    pub(crate) fn offers(&self, capability: Capability) -> bool {
        !self.state().is_lacking(capability)
    }

    /// Whether no failure is recorded against the node at the moment, and it is not known to lack these.
    pub(crate) fn is_fit_for(&self, capabilities: &[Capability]) -> bool {
        self.rank(capabilities) == 0
    }

    fn show(&self, capability: Capability, lacks: f64) {
        let (chain, node) = (self.chain, self.name.to_string());
        gauge!("prb_rpc_node_lacks", "chain" => chain, "node" => node, "capability" => capability.name())
            .set(lacks);
    }

    pub(super) fn rank(&self, needed: &[Capability]) -> u8 {
        self.state().rank(needed)
    }

    /// Whether it is trusted for data that cannot be verified.
    pub fn is_trusted(&self) -> bool {
        let state = self.state();
        !state.is_demoted() && !state.other_chain
    }

    /// Sends one request.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_retryable`] is true for temporary ones.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let raw = self.request_raw(method, Some(raw_params(method, &params)?)).await?;
        self.read(method, &raw)
    }

    /// Sends one request whose answer may be large or slow, on a separate connection, so that other requests
    /// neither wait behind it nor fail with it.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_bulk<T: DeserializeOwned + Send + 'static>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let params = Some(raw_params(method, &params)?);
        self.counters.record(method, 1);
        let raw = self.ask(Lane::Bulk, method, params).await?;
        // A thread switch costs more than decoding a short answer.
        if raw.get().len() < LARGE_ANSWER {
            return self.read(method, &raw);
        }
        // Decoding tens of megabytes would block other tasks of this thread.
        let read = tokio::task::spawn_blocking(move || serde_json::from_str::<T>(raw.get())).await;
        match read {
            Ok(answer) => answer.map_err(|e| self.unreadable(method, &e)),
            Err(e) => Err(self.unreadable(method, &e)),
        }
    }

    /// Sends one request and returns the answer's JSON.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_raw(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Error> {
        self.counters.record(method, 1);
        self.ask(Lane::Ask, method, params).await
    }

    /// Calls one method with several parameters at once. Answers keep the order.
    ///
    /// A node that limits the rate of requests is deferred; if no other is better, it is asked as fast as it
    /// answers.
    ///
    /// These are single requests, [`Config::pipelined_requests`] in flight at a time, and no JSON-RPC batch: for
    /// a batch that a node refuses, or whose answer is too large, the node returns an error without an id, on
    /// which the client closes the connection with everything in flight.
    ///
    /// # Errors
    /// As [`Node::request`]; one refused call fails all.
    pub async fn request_many<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[impl Serialize],
    ) -> Result<Vec<T>, Error> {
        let encoded: Vec<_> = params.iter().map(|one| raw_params(method, one)).collect::<Result<_, _>>()?;
        many::Many::new(self, method, encoded).answers().await
    }

    /// As [`Node::request_many`], for data that a node may not have: null answers are requested again a few
    /// times, because several nodes may answer at one address, some of which lag.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn request_some<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &[impl Serialize],
    ) -> Result<Vec<Option<T>>, Error> {
        let mut answers: Vec<Option<T>> = self.request_many(method, params).await?;
        for _ in 0..ASK_AGAIN {
            let missing: Vec<usize> = (0..params.len()).filter(|at| answers[*at].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let again: Vec<_> = missing.iter().map(|at| &params[*at]).collect();
            let found: Vec<Option<T>> = self.request_many(method, &again).await?;
            missing.into_iter().zip(found).for_each(|(at, answer)| answers[at] = answer);
        }
        Ok(answers)
    }

    pub(super) async fn ask(
        &self,
        lane: Lane,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Error> {
        // The transport answers an oversized request by closing the connection, so it is not sent.
        let bytes = params.as_ref().map_or(0, |params| params.get().len());
        if bytes.saturating_add(ENVELOPE_BYTES) > self.config.max_request_bytes as usize {
            return Err(Error::RequestTooLarge {
                node: Arc::clone(&self.name),
                method: method.into(),
                bytes,
                max_bytes: self.config.max_request_bytes,
            });
        }
        let client = self.client(lane).await?;
        let start = Instant::now();
        let answer = client.request(method, Params(params)).await;
        self.record_outcome(lane, &client, method, start, answer)
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
        let client = self.client(Lane::Watch).await?;
        self.counters.record(method, 1);
        let start = Instant::now();
        let answer = client.subscribe(method, Params(params), unsubscribe).await;
        self.record_outcome(Lane::Watch, &client, method, start, answer)
    }

    pub(super) fn read<T: DeserializeOwned>(&self, method: &str, raw: &RawValue) -> Result<T, Error> {
        serde_json::from_str(raw.get()).map_err(|e| self.unreadable(method, &e))
    }

    /// The cause is shortened: it quotes values of the answer, and the node chooses their length.
    fn unreadable(&self, method: &str, cause: &(impl std::fmt::Display + ?Sized)) -> Error {
        let source = shorten(&cause.to_string(), MAX_CAUSE_BYTES).into();
        Error::BadAnswer { node: Arc::clone(&self.name), method: method.into(), source }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Standing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Converts the client's result, and updates the connection's state by it.
    fn record_outcome<T>(
        &self,
        lane: Lane,
        client: &Arc<WsClient>,
        method: &str,
        start: Instant,
        outcome: Result<T, RpcError>,
    ) -> Result<T, Error> {
        histogram!("prb_rpc_request_seconds", "chain" => self.chain).record(start.elapsed().as_secs_f64());
        let error = match outcome {
            Ok(answer) => {
                self.links[lane as usize].answered();
                return Ok(answer);
            }
            Err(e) => e,
        };
        let node = Arc::clone(&self.name);
        match error {
            // An error answer is an answer: the node is there.
            RpcError::Call(e) => {
                self.links[lane as usize].answered();
                let error = self.call_error(method, &e);
                self.learn(method, &error);
                Err(error)
            }
            RpcError::RequestTimeout => {
                self.timed_out(lane, client);
                Err(Error::Timeout { node, method: method.into() })
            }
            RpcError::ParseError(e) => Err(self.unreadable(method, &e)),
            e => {
                // Without a pause: an answer that exceeds the limit closes its connection, and the node is
                // still there.
                let error = match is_too_large(&e) {
                    true => self.too_large(lane, method),
                    false => Error::Disconnected { node, source: cause(&e) },
                };
                let reason = match &error {
                    Error::Disconnected { source, .. } => source.to_string(),
                    error => error.to_string(),
                };
                self.drop_connection(lane, client, &reason, Duration::ZERO);
                Err(error)
            }
        }
    }

    /// The error of a call whose connection ended with an answer that exceeds its limit.
    fn too_large(&self, lane: Lane, method: &str) -> Error {
        Error::AnswerTooLarge {
            node: Arc::clone(&self.name),
            method: method.into(),
            connection: lane.as_str(),
            max_bytes: lane.max_message_bytes(&self.config),
        }
    }

    pub(super) fn call_error(&self, method: &str, e: &jsonrpsee::types::ErrorObject<'_>) -> Error {
        let message = match e.data() {
            Some(data) => format!("{}: {}", e.message(), data.get()),
            None => e.message().to_owned(),
        };
        let message = shorten(&message, MAX_CAUSE_BYTES);
        Error::Call { node: Arc::clone(&self.name), method: method.into(), code: e.code(), message }
    }

    /// Records what a refusal says about the node.
    fn learn(&self, method: &str, error: &Error) {
        let capability = match (error.refusal(), method) {
            // Other methods have no substitute, so nothing is learned from their refusal.
            (Some(Refusal::NoMethod), "pha_getStorageChanges") => Capability::StorageChanges,
            (Some(Refusal::NoMethod), "grandpa_proveFinality") => Capability::FinalityProofs,
            _ => return,
        };
        self.lacks(capability, &error.to_string());
    }

    /// Handles a timeout: a node that hangs is asked last for a while, and gets a new connection after repeated
    /// ones.
    fn timed_out(&self, lane: Lane, client: &Arc<WsClient>) {
        // Longer than the other nodes need for what they are asked while this one is waited for.
        let least = self.config.reconnect_max.max(2 * self.config.request_timeout);
        self.state().defer(least, self.config.demotion, "no answer in time");
        if self.links[lane as usize].timed_out() >= MAX_TIMEOUTS {
            self.drop_connection(lane, client, "no answers", self.config.reconnect_max);
        }
    }
}

fn demotions(chain: &'static str, node: &str) -> Counter {
    counter!("prb_rpc_node_demotions_total", "chain" => chain, "node" => node.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_answers_is_quoted_to_a_bounded_length() {
        let node = Node::new(
            "relay",
            (0, "ws://a:1"),
            &Config::default(),
            Arc::new(Counters::new("relay")),
            Arc::new(Pins::new(1)),
        );
        let long = format!("\"{}\"", "é0".repeat(100_000));
        let raw: Box<RawValue> = serde_json::from_str(&long).unwrap();
        let error = node.read::<u32>("chain_getHeader", &raw).unwrap_err();
        let text = prb_core::text::describe(&error);
        assert!(text.len() < 2 * MAX_CAUSE_BYTES && text.contains("expected u32"), "{} bytes", text.len());
        let error = jsonrpsee::types::ErrorObject::owned(-32000, "State pruned", Some(raw));
        let text = node.call_error("state_getStorage", &error).to_string();
        assert!(text.len() < 2 * MAX_CAUSE_BYTES && text.contains("State pruned"), "{} bytes", text.len());
    }
}
