//! Node pools: several JSON-RPC nodes of one chain, used as one.
//!
//! A [`NodePool`] holds one WebSocket per node, opened on first use and opened again, after a jittered
//! and growing pause, when it is lost. [`NodePool::request`] asks the first node that is fit and goes on to
//! the next where one fails; [`NodePool::pick`] gives a [`Node`] to those who need one node for several
//! questions (a nonce and the submission that uses it). A node that was caught answering wrongly is
//! [demoted](Node::demote): it is asked only when no other is left.
//!
//! Pools run no tasks of their own: connections are made by those who ask.
//!
//! Not for: deciding whether an answer is true (`crate::verify`), or what to ask (`crate::ingest`).

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

mod client;
mod counters;
mod heads;
pub mod json;
mod node;

pub use counters::{Counters, Snapshot};
pub use heads::{FinalizedHead, FinalizedHeads};
pub use node::{Health, Node};

/// Parameters of a method that takes none.
pub const NO_PARAMS: [(); 0] = [];

/// JSON-RPC's code for a method that does not exist; nodes use it for unsafe methods from outside too.
const METHOD_NOT_FOUND: i32 = -32601;

/// How a pool talks to its nodes.
#[derive(Clone, Debug)]
pub struct Config {
    /// WebSocket URLs (`ws://` or `wss://`), in order of preference.
    pub endpoints: Vec<String>,
    /// Longest wait for an answer.
    pub request_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Largest answer taken, in bytes; a larger one ends the connection.
    pub max_response_bytes: u32,
    /// Requests that one node may have unanswered at once.
    pub max_concurrent_requests: usize,
    /// Shortest pause before a lost connection is opened again.
    pub reconnect_min: Duration,
    /// Longest such pause.
    pub reconnect_max: Duration,
    /// How long a node that answered wrongly is asked only when no other is left.
    pub demotion: Duration,
    /// A node without a new finalised block for this long counts as stalled.
    pub stall_after: Duration,
    /// How often the finalised head is asked for while the subscription is silent.
    pub poll_interval: Duration,
}

impl Config {
    /// The defaults, for these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            max_response_bytes: 256 * 1024 * 1024,
            max_concurrent_requests: 256,
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
            demotion: Duration::from_secs(300),
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
    /// The configuration cannot work.
    #[error("endpoint {endpoint:?} is not usable: {reason}")]
    BadEndpoint {
        /// The endpoint, without credentials, path or query.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The node answered with an error.
    #[error("{node} refused {method}: {message} ({code})")]
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
    /// No answer in time.
    #[error("{node} did not answer {method} in time")]
    Timeout {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
    },
    /// No connection, or it was lost before the answer.
    #[error("{node} is not connected")]
    Disconnected {
        /// The node.
        node: Arc<str>,
        /// What the transport said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node's last connection failed a moment ago.
    #[error("{node} is not connected, next try in {retry_after:?}")]
    BackingOff {
        /// The node.
        node: Arc<str>,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The answer is not what the method gives.
    #[error("{node} gave an unreadable answer to {method}")]
    BadAnswer {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The parameters cannot be written as JSON.
    #[error("the parameters of {method} cannot be encoded")]
    Params {
        /// The method.
        method: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether the same question may be answered later, or by another node.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Disconnected { .. }
                | Self::BackingOff { .. }
                | Self::BadAnswer { .. }
        )
    }

    /// Whether the node does not offer the method, at least not to us.
    pub fn is_refused_method(&self) -> bool {
        match self {
            Self::Call { code, message, .. } => {
                *code == METHOD_NOT_FOUND || message.to_ascii_lowercase().contains("unsafe")
            }
            _ => false,
        }
    }

    /// The node that failed, by name.
    pub const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Call { node, .. }
            | Self::Timeout { node, .. }
            | Self::Disconnected { node, .. }
            | Self::BackingOff { node, .. }
            | Self::BadAnswer { node, .. } => Some(node),
            Self::BadEndpoint { .. } | Self::Params { .. } => None,
        }
    }

    /// How long the node asks to be left alone, if it does.
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
    /// A pool of the configured nodes. `chain` names it in logs and metrics (`relay`, `para`).
    ///
    /// Opens no connection yet.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`] for a list without endpoints or a URL that is not a WebSocket's.
    pub fn new(chain: &'static str, config: Config) -> Result<Self, Error> {
        if config.endpoints.is_empty() {
            return Err(Error::BadEndpoint { endpoint: String::new(), reason: "no endpoint is configured" });
        }
        let counters = Arc::new(Counters::new(chain));
        let nodes = config
            .endpoints
            .iter()
            .map(|url| Node::new(chain, url, &config, Arc::clone(&counters)).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { inner: Arc::new(Inner { chain, config, nodes, counters }) })
    }

    /// Name of the chain, as given to [`NodePool::new`].
    pub fn chain(&self) -> &'static str {
        self.inner.chain
    }

    /// How the pool talks to its nodes.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Every node, in order of preference.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.inner.nodes
    }

    /// What was asked so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.inner.nodes.iter().find(|node| &**node.name() == name)
    }

    /// The nodes in the order in which to ask them: fit ones, then deferred ones, then demoted ones, then
    /// those whose connection failed a moment ago.
    pub fn candidates(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.inner.nodes.clone();
        nodes.sort_by_key(|node| node.rank());
        nodes
    }

    /// The node to ask first.
    pub fn pick(&self) -> Arc<Node> {
        let nodes = &self.inner.nodes;
        // `min_by_key` gives the first of equals, so that the configured order is kept.
        let best = nodes.iter().min_by_key(|node| node.rank()).unwrap_or(&nodes[0]);
        Arc::clone(best)
    }

    /// Asks the pool: the first fit node, and the next one wherever a node fails or does not offer the
    /// method.
    ///
    /// # Errors
    /// The last node's error.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let params = raw_params(method, &params)?;
        let mut last = None;
        for node in self.candidates() {
            match node.request_raw(method, Some(params.clone())).await.and_then(|raw| node.read(method, &raw))
            {
                Ok(answer) => return Ok(answer),
                Err(e) if e.is_retryable() || e.is_refused_method() => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or(Error::BadEndpoint { endpoint: String::new(), reason: "the pool is empty" }))
    }

    /// Follows the finalised heads, over lost connections and stalled nodes.
    pub fn finalized_heads(&self) -> FinalizedHeads {
        FinalizedHeads::new(self.clone())
    }
}

fn raw_params(method: &str, params: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(params).map_err(|source| Error::Params { method: method.into(), source })
}
