//! Node pools: several JSON-RPC nodes of one chain, used as one.
//!
//! A [`NodePool`] holds three WebSockets per node (subscriptions, questions, bulk), opened on first use and
//! opened again, after a jittered and growing pause, when they are lost. [`NodePool::request`] asks the first
//! node that is fit and goes on to the next where one fails; [`NodePool::pick`] gives a [`Node`] to those who
//! need one node for several questions (a nonce and the submission that uses it).
//!
//! A node that was proven to answer wrongly is [demoted](Node::demote): it is asked only when no other is left,
//! and only for what is verified ([`NodePool::trusted`] leaves it out). What a node does not offer is
//! remembered as a [`MissingCapability`] with a reason. A node must be of the pool's chain: its genesis block, and whatever
//! was [pinned](NodePool::pin), are checked at each connect, and another chain's node is refused.
//!
//! Pools run no tasks of their own: connections are made by those who ask.
//!
//! Not for: deciding whether an answer is true (`crate::verify`), or what to ask (`crate::ingest`).

use std::{fmt, sync::Arc, time::Duration};

use prb_core::primitives::Hash;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

mod client;
pub(crate) mod counters;
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

/// Parameters of a method that takes none.
#[doc(hidden)]
pub const NO_PARAMS: [(); 0] = [];

/// How a pool talks to its nodes.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// WebSocket URLs (`ws://` or `wss://`), in order of preference.
    pub endpoints: Vec<String>,
    /// Longest wait for an answer.
    pub request_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Largest answer taken, in bytes; a larger one ends the connection that it came on.
    pub max_response_bytes: u32,
    /// Largest request sent, in bytes. Nodes take 15 MiB (`--rpc-max-request-size`).
    pub max_request_bytes: u32,
    /// Requests that one connection may have unanswered at once.
    pub max_concurrent_requests: usize,
    /// Single requests under way at once where many are asked together.
    pub pipelined_requests: usize,
    /// Shortest pause before a lost connection is opened again.
    pub reconnect_min: Duration,
    /// Longest such pause.
    pub reconnect_max: Duration,
    /// How long a node that answered wrongly is asked only when no other is left; doubles each time.
    pub demotion: Duration,
    /// Longest such time.
    pub demotion_max: Duration,
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
            max_request_bytes: 15 * 1024 * 1024,
            max_concurrent_requests: 256,
            pipelined_requests: 64,
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
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
    /// The configuration cannot work.
    #[error("endpoint {endpoint:?} is not usable: {reason}")]
    BadEndpoint {
        /// The endpoint, without credentials, path or query.
        endpoint: String,
        /// What is wrong with it.
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
    /// The node serves another chain than the pool's.
    #[error(
        "{node} serves another chain: its block {number} is {found}, but {witness} says {expected}: check the \
         endpoints"
    )]
    OtherChain {
        /// The node.
        node: Arc<str>,
        /// The block that was compared.
        number: u32,
        /// The node's hash of it.
        found: Hash,
        /// The hash that it should have.
        expected: Hash,
        /// Who says so.
        witness: String,
    },
    /// The request is larger than may be sent.
    #[error("{method} for {node} takes {bytes} bytes, and at most {max_bytes} are sent")]
    RequestTooLarge {
        /// The node.
        node: Arc<str>,
        /// The method.
        method: String,
        /// Bytes of its parameters.
        bytes: usize,
        /// Most bytes of a request.
        max_bytes: u32,
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
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. }
            | Self::Disconnected { .. }
            | Self::BackingOff { .. }
            | Self::OtherChain { .. }
            | Self::NoTrustedNode { .. }
            | Self::BadAnswer { .. } => true,
            Self::Call { .. } => self.refusal() == Some(Refusal::Limited),
            _ => false,
        }
    }

    /// Whether the node does not offer the method, at least not to us.
    pub fn is_refused_method(&self) -> bool {
        self.refusal() == Some(Refusal::NoMethod)
    }

    /// Whether another node may well answer what this one does not.
    pub fn is_of_this_node(&self) -> bool {
        self.is_retryable() || self.refusal().is_some()
    }

    /// The node that failed, by name.
    pub const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Call { node, .. }
            | Self::Timeout { node, .. }
            | Self::Disconnected { node, .. }
            | Self::BackingOff { node, .. }
            | Self::OtherChain { node, .. }
            | Self::RequestTooLarge { node, .. }
            | Self::BadAnswer { node, .. } => Some(node),
            Self::BadEndpoint { .. } | Self::NoTrustedNode { .. } | Self::Params { .. } => None,
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
    pins: Arc<Pins>,
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
        let pins = Arc::new(Pins::default());
        let node = |url: &String| Node::new(chain, url, &config, Arc::clone(&counters), Arc::clone(&pins));
        let nodes = config.endpoints.iter().map(|url| node(url).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { inner: Arc::new(Inner { chain, config, nodes, counters, pins }) })
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
    #[doc(hidden)]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.inner.nodes.iter().find(|node| &**node.name() == name)
    }

    /// Pins a block: from now on a node that has another one of that number is refused as another chain's,
    /// connected ones included.
    pub fn pin(&self, number: u32, hash: Hash) {
        self.inner.pins.know(number, hash);
    }

    /// The nodes in the order in which to ask them for what is verified: fit ones, then deferred ones, then
    /// demoted ones, then those whose connection failed a moment ago.
    pub fn candidates(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.inner.nodes.clone();
        nodes.sort_by_key(|node| node.rank(&[]));
        nodes
    }

    /// The nodes to ask for what cannot be verified, in order: as [`NodePool::candidates`], but without those
    /// that were proven to answer wrongly. May be empty: then no answer is better than theirs.
    pub fn trusted(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.candidates();
        nodes.retain(|node| node.is_trusted());
        nodes
    }

    /// The node to ask first.
    pub fn pick(&self) -> Arc<Node> {
        self.best(&[])
    }

    /// The node to ask first for something that not all may offer.
    pub(crate) fn pick_for(&self, needed: &[Capability]) -> Arc<Node> {
        self.best(needed)
    }

    fn best(&self, needed: &[Capability]) -> Arc<Node> {
        let nodes = &self.inner.nodes;
        // `min_by_key` gives the first of equals, so that the configured order is kept.
        let best = nodes.iter().min_by_key(|node| node.rank(needed)).unwrap_or(&nodes[0]);
        Arc::clone(best)
    }

    /// Asks the pool: the first fit node that is [trusted](NodePool::trusted), and the next one wherever a node
    /// fails or does not offer the method.
    ///
    /// # Errors
    /// The last node's error, [`Error::NoTrustedNode`] where none is left.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, Error> {
        let params = raw_params(method, &params)?;
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

    /// Follows the finalised heads that trusted nodes tell, over lost connections and stalled nodes.
    pub fn finalized_heads(&self) -> FinalizedHeads {
        FinalizedHeads::new(self.clone(), false)
    }

    /// As [`NodePool::finalized_heads`], but where no trusted node is left a demoted one is followed: for those
    /// who verify what they build on it.
    pub(crate) fn finalized_heads_to_verify(&self) -> FinalizedHeads {
        FinalizedHeads::new(self.clone(), true)
    }
}

fn raw_params(method: &str, params: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(params).map_err(|source| Error::Params { method: method.into(), source })
}
