//! Node pools: several JSON-RPC nodes of one chain, used as one.
//!
//! A [`NodePool`] keeps three WebSockets for each node (subscriptions, queries, bulk), opened on first use
//! and reopened with jittered backoff when they are lost. [`NodePool::request`] asks the first fit node and
//! fails over to the next; [`NodePool::pick`] returns one [`Node`] for callers that need the same node for
//! several calls (a nonce and the submission that uses it).
//!
//! A node that was proven to answer wrongly is [demoted](Node::demote): it is asked after all others that can
//! answer, and only for verifiable data ([`NodePool::trusted`] excludes it). What a node does not support is
//! recorded as a [`MissingCapability`] with the reason.
//!
//! A node must be of the pool's chain. Blocks that are known (the [configured genesis](Config::genesis), and those
//! [pinned](NodePool::pin) from a store) are checked at each connection, and another chain's node is refused. As
//! long as nothing is known, the nodes' genesis hashes decide together ([`NodePool::wait_for_chain`]): more than half of
//! all nodes, or all that answer in time if they agree. Votes count endpoints: one endpoint cannot be listed twice, but
//! a node that is reached under two names has two votes. If they differ, no node of the pool is trusted until a
//! block is known: data that is verified may still be requested of each [`Node`].
//!
//! Pools run no tasks: connections are made by callers.
//!
//! Not for: verifying answers, or deciding what to ask (both are [`ingest`](crate::ingest)'s).

use std::{fmt, sync::Arc, time::Duration};

use prb_core::{primitives::Hash, text::duration};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

mod client;
mod connect;
pub(crate) mod counters;
mod endpoint;
mod genesis_vote;
pub(crate) mod heads;
#[doc(hidden)]
pub mod json;
mod link;
mod many;
mod node;
mod pins;
mod problems;
mod refusal;
mod standing;

pub(crate) use counters::Counters;
pub(crate) use heads::HeadFloor;
pub use heads::{FinalizedHead, FinalizedHeads};
pub(crate) use node::ASK_AGAIN;
pub use node::Node;
pub use problems::Problem;
#[doc(hidden)]
pub use refusal::Refusal;
pub use standing::{Capability, Health, MissingCapability};

use pins::Pins;
use refusal::advice;

/// Parameters of a method without parameters.
#[doc(hidden)]
pub const NO_PARAMS: [(); 0] = [];

/// Connection settings and limits of a pool.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// WebSocket URLs (`ws://` or `wss://`), in order of preference, each once. Default: none.
    pub endpoints: Vec<String>,
    /// The chain's genesis hash, if known: nodes with another one are refused from the start.
    /// Default: none.
    pub genesis: Option<Hash>,
    /// Additional trusted root certificates of `wss://` endpoints, as PEM. Default: none.
    pub root_certificates_pem: Vec<u8>,
    /// Timeout of a request. Default: 60 s.
    pub request_timeout: Duration,
    /// Timeout of connecting to one address of a node's name, and of each handshake; all of it together may take three
    /// times as long. Default: 10 s.
    pub connect_timeout: Duration,
    /// Largest answer that is accepted, in bytes; a larger one closes its connection. Default: 256 MiB. Of answers
    /// that are not requested as [large ones](Node::request_bulk), 16 MiB at most; of subscriptions' messages, 1 MiB.
    pub max_response_bytes: u32,
    /// Largest request that is sent, in bytes. Nodes accept 15 MiB (`--rpc-max-request-size`). Default: 15 MiB.
    pub max_request_bytes: u32,
    /// Most requests in flight on one connection. Default: 256.
    pub max_concurrent_requests: usize,
    /// Most single requests in flight when many are sent together. Default: 64.
    pub pipelined_requests: usize,
    /// Shortest pause before a lost connection is reopened. Default: 200 ms.
    pub reconnect_min: Duration,
    /// Longest such pause. Default: 10 s.
    pub reconnect_max: Duration,
    /// How long a demoted node is asked after fit and deferred ones; doubles with each demotion. Default: 5 minutes.
    pub demotion: Duration,
    /// Longest demotion. Default: 24 hours.
    pub demotion_max: Duration,
    /// A node without a new finalised block for this long counts as stalled. Default: 60 s.
    pub stall_after: Duration,
    /// Interval at which the finalised head is polled while the subscription is silent. Default: 6 s.
    pub poll_interval: Duration,
}

impl Config {
    /// Returns the default configuration for these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            genesis: None,
            root_certificates_pem: Vec::new(),
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            max_response_bytes: 256 * 1024 * 1024,
            max_request_bytes: 15 * 1024 * 1024,
            max_concurrent_requests: 256,
            // Sent one by one: a JSON-RPC batch that a node refuses, or answers with too much, is answered
            // without ids, which ends the connection with all that is in flight on it.
            pipelined_requests: 64,
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
            // Demoted rather than dropped: a node may be repaired, and its data can still be verified when no
            // other is left.
            demotion: Duration::from_secs(300),
            demotion_max: Duration::from_secs(24 * 3600),
            // Ten blocks of a relay chain.
            stall_after: Duration::from_secs(60),
            poll_interval: Duration::from_secs(6),
        }
    }
}

/// Why a node or a pool gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is invalid.
    #[error("endpoint {endpoint:?} is not usable: {reason}")]
    BadEndpoint {
        /// The endpoint, without credentials, path or query.
        endpoint: String,
        /// The reason.
        reason: &'static str,
    },
    /// Every node was proven to answer wrongly, or is of another chain.
    #[error(
        "no {chain} node is trusted: each answered wrongly or serves another chain; add another endpoint"
    )]
    NoTrustedNode {
        /// The pool's chain.
        chain: &'static str,
    },
    /// Nodes of the pool have different genesis blocks, and nothing tells which is the chain's.
    #[error(
        "the {chain} nodes serve different chains: {claims}; none is trusted until the wrong endpoints are removed, \
         or the chain's genesis hash is set (prb: PRB_CHAIN_GENESIS for the parachain, PRB_PARENT_CHAIN_GENESIS \
         for the relay chain)"
    )]
    GenesisDisputed {
        /// The pool's chain.
        chain: &'static str,
        /// Each node and its genesis.
        claims: String,
    },
    /// The node answered with an error.
    #[error("{node} refused {method}: {message} ({code}){}", advice(*code, message))]
    Call {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// JSON-RPC error code.
        code: i32,
        /// The node's message and data.
        message: String,
    },
    /// The request timed out.
    #[error("{node} did not answer {method} in time")]
    Timeout {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
    },
    /// There is no connection, or it was lost before the answer.
    #[error("{node} is not connected")]
    Disconnected {
        /// The node.
        node: Arc<str>,
        /// The transport's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection ended with an answer that exceeds its limit: to this call, or to another one in flight.
    #[error(
        "{node} did not answer {method}: the connection for {connection} ended with an answer of more than {max_bytes} \
         bytes, its limit"
    )]
    AnswerTooLarge {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// The purpose of the connection.
        connection: &'static str,
        /// The limit, in bytes.
        max_bytes: u32,
    },
    /// The node serves another chain than the pool's.
    #[error(
        "{node} serves another chain: its block {number} is {found}, not {expected} as {witness}: check the \
         endpoints"
    )]
    OtherChain {
        /// The node.
        node: Arc<str>,
        /// The block that was compared.
        number: u32,
        /// The node's hash of the block.
        found: Hash,
        /// The expected hash.
        expected: Hash,
        /// The source of the expected hash.
        witness: String,
    },
    /// The request exceeds the limit.
    #[error("the request {method} to {node} has {bytes} bytes, more than the limit of {max_bytes}")]
    RequestTooLarge {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// Length of its parameters, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        max_bytes: u32,
    },
    /// The node's last connection failed recently.
    #[error("{node} is not connected ({cause}), next try in {}", duration(*retry_after))]
    BackingOff {
        /// The node.
        node: Arc<str>,
        /// Why the last attempt failed, or the connection was closed.
        cause: Arc<str>,
        /// Time until it is tried again.
        retry_after: Duration,
    },
    /// The answer does not have the method's format.
    #[error("{node} returned an undecodable answer to {method}")]
    BadAnswer {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The parameters cannot be encoded as JSON.
    #[error("the parameters of {method} cannot be encoded")]
    Params {
        /// The method.
        method: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether the same request may be answered later, or by another node.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. }
            | Self::Disconnected { .. }
            | Self::AnswerTooLarge { .. }
            | Self::BackingOff { .. }
            | Self::OtherChain { .. }
            | Self::NoTrustedNode { .. }
            | Self::GenesisDisputed { .. }
            | Self::BadAnswer { .. } => true,
            Self::Call { .. } => self.refusal() == Some(Refusal::Limited),
            _ => false,
        }
    }

    /// Whether the node does not offer the method, or not to this caller.
    pub fn is_refused_method(&self) -> bool {
        self.refusal() == Some(Refusal::NoMethod)
    }

    /// Whether another node may answer what this one does not.
    pub fn is_of_this_node(&self) -> bool {
        self.is_retryable() || self.refusal().is_some()
    }

    /// The name of the node that failed.
    pub const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Call { node, .. }
            | Self::Timeout { node, .. }
            | Self::Disconnected { node, .. }
            | Self::AnswerTooLarge { node, .. }
            | Self::BackingOff { node, .. }
            | Self::OtherChain { node, .. }
            | Self::RequestTooLarge { node, .. }
            | Self::BadAnswer { node, .. } => Some(node),
            Self::BadEndpoint { .. }
            | Self::NoTrustedNode { .. }
            | Self::GenesisDisputed { .. }
            | Self::Params { .. } => None,
        }
    }

    /// How long the node is in backoff, if it is.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BackingOff { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// The nodes of one chain. Cheap to clone; clones share connections, health and counters.
#[derive(Clone)]
pub struct NodePool {
    inner: Arc<Inner>,
}

struct Inner {
    chain: &'static str,
    config: Config,
    nodes: Vec<Arc<Node>>,
    counters: Arc<Counters>,
    pins: Arc<Pins>,
    /// Held while all nodes are asked for their genesis.
    genesis: tokio::sync::Mutex<genesis_vote::QueryTimes>,
}

impl fmt::Debug for NodePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePool")
            .field("chain", &self.inner.chain)
            .field("nodes", &self.inner.nodes)
            .finish_non_exhaustive()
    }
}

impl NodePool {
    /// Whether two endpoints are spellings of one: case of scheme and host, default port, trailing slash, credentials.
    pub fn is_same_endpoint(one: &str, other: &str) -> bool {
        endpoint::is_same(one, other)
    }

    /// Creates a pool of the configured nodes. `chain` names it in logs and metrics (`relay`, `para`). Opens no
    /// connection yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`] for an empty list, a URL that is not a WebSocket's, or one that is listed twice: also in
    /// another spelling (case of scheme and host, default port, trailing slash, credentials).
    pub fn new(chain: &'static str, config: Config) -> Result<Self, Error> {
        if config.endpoints.is_empty() {
            return Err(Error::BadEndpoint { endpoint: String::new(), reason: "no endpoint is configured" });
        }
        endpoint::check(&config.endpoints)?;
        crate::metric_help::describe();
        let counters = Arc::new(Counters::new(chain));
        let pins = Arc::new(Pins::new(config.endpoints.len()));
        if let Some(hash) = config.genesis {
            pins.pin(0, hash);
        }
        let node = |(place, url): (usize, &String)| {
            Arc::new(Node::new(chain, (place, url), &config, Arc::clone(&counters), Arc::clone(&pins)))
        };
        let nodes = config.endpoints.iter().enumerate().map(node).collect();
        let genesis = tokio::sync::Mutex::default();
        Ok(Self { inner: Arc::new(Inner { chain, config, nodes, counters, pins, genesis }) })
    }

    /// Name of the chain, as given to [`NodePool::new`].
    pub fn chain(&self) -> &'static str {
        self.inner.chain
    }

    /// The pool's configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// All nodes, in order of preference.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.inner.nodes
    }

    /// Counters of requests.
    #[doc(hidden)]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Returns the node of that name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.inner.nodes.iter().find(|node| &**node.name() == name)
    }

    /// Pins a block: from now on a node that has another block of that number is refused as another chain's,
    /// including connected nodes.
    pub fn pin(&self, number: u32, hash: Hash) {
        self.inner.pins.pin(number, hash);
    }

    /// The nodes in the order to ask them for verifiable data: fit ones, then deferred, then demoted ones, then
    /// those whose connection failed recently.
    pub fn candidates(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.inner.nodes.clone();
        nodes.sort_by_key(|node| node.rank(&[]));
        nodes
    }

    /// The nodes to ask for data that cannot be verified, in order: [`NodePool::candidates`] without those proven
    /// to answer wrongly. May be empty: no answer is better than a false one.
    ///
    /// Callers first wait for [`NodePool::wait_for_chain`]. Empty as long as nodes differ about the genesis.
    pub fn trusted(&self) -> Vec<Arc<Node>> {
        if self.inner.pins.dispute().is_some() {
            return Vec::new();
        }
        let mut nodes = self.candidates();
        nodes.retain(|node| node.is_trusted());
        nodes
    }

    /// The node to ask first.
    pub fn pick(&self) -> Arc<Node> {
        self.best(&[])
    }

    /// The node to ask first for something that not all nodes offer.
    pub(crate) fn pick_for(&self, needed: &[Capability]) -> Arc<Node> {
        self.best(needed)
    }

    fn best(&self, needed: &[Capability]) -> Arc<Node> {
        let nodes = &self.inner.nodes;
        // `min_by_key` returns the first of equals, which keeps the configured order.
        let best = nodes.iter().min_by_key(|node| node.rank(needed)).unwrap_or(&nodes[0]);
        Arc::clone(best)
    }

    /// Sends a request to the first fit node that is [trusted](NodePool::trusted), and to the next one if a node
    /// fails or does not offer the method.
    ///
    /// # Errors
    /// The last node's error, or [`Error::NoTrustedNode`] if none is left.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let params = raw_params(method, &params)?;
        self.wait_for_chain().await?;
        let mut last = None;
        for node in self.trusted() {
            match node.request_raw(method, Some(params.clone())).await.and_then(|raw| node.read(method, &raw))
            {
                Ok(answer) => return Ok(answer),
                Err(e) if e.is_of_this_node() => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or(Error::NoTrustedNode { chain: self.chain() }))
    }

    /// Follows the finalised heads of trusted nodes, across lost connections and stalled nodes.
    pub fn finalized_heads(&self) -> FinalizedHeads {
        FinalizedHeads::new(self.clone(), false)
    }

    /// As [`NodePool::finalized_heads`], but follows a demoted node if no trusted one is left: for callers that
    /// verify what they build on a head.
    pub(crate) fn finalized_heads_to_verify(&self) -> FinalizedHeads {
        FinalizedHeads::new(self.clone(), true)
    }
}

fn raw_params(method: &str, params: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(params).map_err(|source| Error::Params { method: method.into(), source })
}
