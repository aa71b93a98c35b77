//! A node's connections: opened on demand, checked against the pool's chain, dropped when lost.

use std::{
    error::Error as StdError,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    Config, Error, Node,
    connect::{self, cause},
    genesis_vote::log_dispute,
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jsonrpsee::{
    core::client::{ClientT, Error as RpcError},
    rpc_params,
    ws_client::{PingConfig, WsClient, WsClientBuilder},
};
use metrics::counter;
use prb_core::{primitives::Hash, text::describe};
use tokio::time::timeout;

/// Consecutive timeouts after which a connection is closed.
pub(super) const MAX_TIMEOUTS: u32 = 3;

/// Largest message of a subscription, in bytes: headers, and the states of transactions.
const MAX_EVENT_BYTES: u32 = 1024 * 1024;
/// Largest answer to a query, in bytes: a little more than nodes send by default (15 MiB, `--rpc-max-response-size`).
const MAX_ANSWER_BYTES: u32 = 16 * 1024 * 1024;
/// How many addresses of a node's name may stay silent, or handshakes take their whole time, in one attempt. The client
/// tries the addresses in turn, in the same order each time.
const MAX_SILENT_STEPS: u32 = 3;
/// Messages that wait for a subscriber. If there are more, the subscription ends, and its subject is polled.
// After a lag of finality, a node announces all blocks that have become final at once.
const BUFFERED_MESSAGES: usize = 256;

/// The purpose of a connection. An oversized answer closes its connection and leaves the others alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Subscriptions, including those for transactions: messages are small.
    Watch,
    /// Queries whose answers are smaller than what nodes send by default.
    Ask,
    /// Queries whose answers may have tens of megabytes, or take minutes.
    Bulk,
}

impl Lane {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "subscriptions",
            Self::Ask => "queries",
            Self::Bulk => "bulk queries",
        }
    }

    pub(super) const ALL: [Self; 3] = [Self::Watch, Self::Ask, Self::Bulk];

    /// Largest message of a node, in bytes. A node that announces this much is given as much memory at once.
    pub(super) fn max_message_bytes(self, config: &Config) -> u32 {
        config.max_response_bytes.min(match self {
            // Messages wait here for a slow subscriber, as many as the buffer holds.
            Self::Watch => MAX_EVENT_BYTES,
            Self::Ask => MAX_ANSWER_BYTES,
            Self::Bulk => u32::MAX,
        })
    }
}

/// One of a node's connections.
#[derive(Debug)]
pub(super) struct Link {
    current: Mutex<Option<Open>>,
    /// Held while connecting, so that concurrent callers make one connection.
    connecting: tokio::sync::Mutex<ExponentialBackoff>,
    /// Consecutive timeouts of its requests.
    // Of this connection alone: a stuck one must not be kept open by answers on the others.
    timeouts: AtomicU32,
}

#[derive(Clone, Debug)]
struct Open {
    client: Arc<WsClient>,
    /// Version of the pool's pins that the connection was checked against.
    checked: u64,
}

impl Link {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(backoff(config)),
            timeouts: AtomicU32::new(0),
        }
    }

    /// Records an answer.
    pub(super) fn answered(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// Records a timeout; returns the number of consecutive ones.
    pub(super) fn timed_out(&self) -> u32 {
        self.timeouts.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn current(&self) -> MutexGuard<'_, Option<Open>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Option<Open> {
        self.current().as_ref().filter(|open| open.client.is_connected()).cloned()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open().is_some()
    }
}

impl Node {
    /// Returns the open connection, or makes one unless the last attempt failed recently.
    pub(super) async fn client(&self, lane: Lane) -> Result<Arc<WsClient>, Error> {
        let link = &self.links[lane as usize];
        let checked = |open: &Open| open.checked == self.pins.version();
        if let Some(open) = link.open().filter(checked) {
            return Ok(open.client);
        }
        let mut pauses = link.connecting.lock().await;
        // Another caller may have connected while this one waited for the lock.
        let open = link.open();
        if let Some(open) = open.clone().filter(checked) {
            return Ok(open.client);
        }
        if let Some((retry_after, cause)) = self.state().backing_off() {
            return Err(Error::BackingOff { node: Arc::clone(self.name()), cause, retry_after });
        }
        let (client, is_new) = match open {
            // It was checked before the pins changed: only the check is repeated.
            Some(open) => (Ok(open.client), false),
            None => (self.connect(lane).await, true),
        };
        let checked = match client {
            Ok(client) => self.check_chain(&client).await.map(|version| (client, version)),
            Err(e) => Err(e),
        };
        match checked {
            Ok((client, checked)) => {
                if is_new {
                    self.connected(lane, &mut pauses);
                }
                *link.current() = Some(Open { client: Arc::clone(&client), checked });
                Ok(client)
            }
            Err(e) => {
                // If the check has failed, there is an open connection, which must not be used.
                *link.current() = None;
                self.failed_to_connect(&e, &mut pauses);
                Err(e)
            }
        }
    }

    async fn connect(&self, lane: Lane) -> Result<Arc<WsClient>, Error> {
        let config = &self.config;
        let builder = WsClientBuilder::new()
            .max_buffer_capacity_per_subscription(BUFFERED_MESSAGES)
            .max_response_size(lane.max_message_bytes(config))
            .max_request_size(config.max_request_bytes)
            .request_timeout(config.request_timeout)
            .connection_timeout(config.connect_timeout)
            .max_concurrent_requests(config.max_concurrent_requests)
            // Proxies close idle WebSockets, and a silent subscription does not show that its connection is
            // dead.
            .enable_ws_ping(PingConfig::new());
        let limit = config.connect_timeout * MAX_SILENT_STEPS;
        let certificates = &config.root_certificates_pem;
        let opening = connect::open(&self.url, certificates, &builder, config.connect_timeout);
        let opened = timeout(limit, opening).await;
        let error = match opened {
            Ok(Ok(client)) => return Ok(Arc::new(client)),
            Ok(Err(e)) => e,
            Err(_) => connect::late(limit),
        };
        Err(Error::Disconnected { node: Arc::clone(self.name()), source: error })
    }

    /// Checks that the node has the pool's blocks; returns the version of the pins that it was checked against.
    /// While the chain is not known, the node's genesis counts as a claim (see `rpc/pins.rs`).
    async fn check_chain(&self, client: &WsClient) -> Result<u64, Error> {
        let mut claimed = None;
        if self.pins.wants_claims() {
            claimed = self.hash_for_check(client, 0).await?;
            if claimed.is_some_and(|hash| self.pins.claim(self.place, self.name(), hash)) {
                log_dispute(self.chain, &self.pins);
            }
        }
        let (version, pins) = self.pins.all();
        for pin in pins {
            let hash = match claimed.filter(|_| pin.number == 0) {
                Some(hash) => Some(hash),
                None => self.hash_for_check(client, pin.number).await?,
            };
            if let Some(hash) = hash.filter(|hash| *hash != pin.hash) {
                return Err(Error::OtherChain {
                    node: Arc::clone(self.name()),
                    number: pin.number,
                    found: hash,
                    expected: pin.hash,
                    witness: pin.witness.to_string(),
                });
            }
        }
        Ok(version)
    }

    /// Returns `None` if the node does not have the block yet.
    async fn hash_for_check(&self, client: &WsClient, number: u32) -> Result<Option<Hash>, Error> {
        const METHOD: &str = "chain_getBlockHash";
        let asked = client.request::<Option<Hash>, _>(METHOD, rpc_params![number]);
        // A node that hangs here is noticed no later than one that cannot be connected.
        let error: Box<dyn StdError + Send + Sync> = match timeout(self.config.connect_timeout, asked).await {
            Ok(Ok(hash)) => return Ok(hash),
            Ok(Err(RpcError::Call(e))) => return Err(self.call_error(METHOD, &e)),
            Ok(Err(e)) => cause(&e),
            Err(timeout) => Box::new(timeout),
        };
        Err(Error::Disconnected { node: Arc::clone(self.name()), source: error })
    }

    fn connected(&self, lane: Lane, pauses: &mut ExponentialBackoff) {
        if self.state().is_loss_logged() {
            tracing::info!(chain = self.chain, node = %self.name(), lane = lane.as_str(), "connected to node");
        }
        counter!("prb_rpc_connections_total", "chain" => self.chain, "node" => self.name().to_string())
            .increment(1);
        *pauses = backoff(&self.config);
        self.state().reconnected();
    }

    fn failed_to_connect(&self, error: &Error, pauses: &mut ExponentialBackoff) {
        let pause = pauses.next().unwrap_or(self.config.reconnect_max);
        let other_chain = matches!(error, Error::OtherChain { .. });
        let text = match error {
            Error::Disconnected { source, .. } => source.to_string(),
            error => describe(error),
        };
        let mut state = self.state();
        // The first failure only: attempts follow each other every few seconds for as long as the node is down.
        if state.last_error.is_none() || other_chain && !state.other_chain {
            tracing::warn!(chain = self.chain, node = %self.name(), error = %text, "cannot use node");
        }
        state.other_chain = other_chain;
        state.back_off(pause, &text);
        state.last_error = Some(text);
    }

    pub(super) fn drop_connection(&self, lane: Lane, client: &Arc<WsClient>, reason: &str, pause: Duration) {
        // Lock order: the connection, then the node's state.
        let mut current = self.links[lane as usize].current();
        // The connection may have been replaced since; the new one is kept.
        if current.as_ref().is_some_and(|open| Arc::ptr_eq(&open.client, client)) {
            *current = None;
            self.links[lane as usize].answered();
            let mut state = self.state();
            if state.lost_connection(self.config.demotion) {
                tracing::warn!(chain = self.chain, node = %self.name(), lane = lane.as_str(), reason, "connection to node lost");
            } else {
                tracing::debug!(chain = self.chain, node = %self.name(), lane = lane.as_str(), reason, "connection to node lost");
            }
            state.last_error = Some(reason.to_owned());
            state.back_off(pause, reason);
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
