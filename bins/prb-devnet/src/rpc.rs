//! JSON-RPC over WebSocket and HTTP, in the formats of real nodes.

mod author;
mod chain;
mod connection;
mod devnet;
mod middleware;
mod pha;
mod state;
mod system;
mod view;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonrpsee::{
    RpcModule,
    core::RegisterMethodError,
    server::{BatchRequestConfig, ServerConfig, ServerHandle},
    types::{ErrorObjectOwned, Params},
};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

use self::view::View;
use crate::{
    node::{Node, Status},
    port::ReservedPort,
};

/// Maximum size of a request or answer: whole states must pass.
const MAX_MESSAGE_BYTES: u32 = 512 * 1024 * 1024;
/// Maximum number of connections.
const MAX_CONNECTIONS: u32 = 1024;
/// Maximum number of subscriptions of one connection.
const MAX_SUBSCRIPTIONS: u32 = 1024;
/// How long a stopping server waits for its connections.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of swallowed transactions with a watcher.
const MAX_KEPT_OPEN: usize = 1024;

/// Limits of a node's server, as set by real nodes' flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcLimits {
    /// Maximum size of an answer (`--rpc-max-response-size`), in bytes. Default: 512 MiB.
    pub answer_bytes: u32,
    /// Maximum number of calls in a batch (`--rpc-max-batch-request-len`); 0 disables batches
    /// (`--rpc-disable-batch-requests`). Default: unlimited.
    pub batch_calls: u32,
    /// Maximum number of connections (`--rpc-max-connections`); further ones get HTTP 429. Default: 1,024.
    pub connections: u32,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self { answer_bytes: MAX_MESSAGE_BYTES, batch_calls: u32::MAX, connections: MAX_CONNECTIONS }
    }
}

impl RpcLimits {
    const fn batches(self) -> BatchRequestConfig {
        match self.batch_calls {
            0 => BatchRequestConfig::Disabled,
            u32::MAX => BatchRequestConfig::Unlimited,
            calls => BatchRequestConfig::Limit(calls),
        }
    }
}

/// Request counters of a node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    methods: Mutex<BTreeMap<String, u64>>,
    requests: AtomicU64,
}

impl Counters {
    fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn method(&self, name: &str) {
        *self.methods.lock().entry(name.to_owned()).or_default() += 1;
    }
}

/// A node's RPC server, which can stop and restart on the same port.
#[derive(Debug)]
pub(crate) struct Server {
    port: AtomicU16,
    running: tokio::sync::Mutex<Option<ServerHandle>>,
    /// While the server is stopped.
    reserved_port: Mutex<Option<ReservedPort>>,
    restarts: Mutex<JoinSet<()>>,
    limits: Mutex<RpcLimits>,
    counters: Counters,
    kept_open: Mutex<Vec<mpsc::Sender<Status>>>,
}

impl Server {
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port: AtomicU16::new(port),
            running: tokio::sync::Mutex::new(None),
            reserved_port: Mutex::default(),
            restarts: Mutex::default(),
            limits: Mutex::default(),
            counters: Counters::default(),
            kept_open: Mutex::default(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// Keeps a stream of statuses open without sending anything.
    pub(crate) fn keep_open(&self, sender: mpsc::Sender<Status>) {
        let mut kept = self.kept_open.lock();
        kept.retain(|sender| !sender.is_closed());
        // Beyond it the stream ends, which a client takes for a lost transaction as well.
        if kept.len() < MAX_KEPT_OPEN {
            kept.push(sender);
        }
    }
}

/// The RPC server.
impl Node {
    /// Sets the RPC server's limits from its next start on.
    pub fn set_rpc_limits(&self, limits: RpcLimits) {
        *self.server.limits.lock() = limits;
    }

    /// Returns the RPC server's limits.
    #[must_use]
    pub fn rpc_limits(&self) -> RpcLimits {
        *self.server.limits.lock()
    }

    /// Starts the RPC server, on its previous port if it had one. Does nothing while it runs.
    ///
    /// # Errors
    /// The port is not available.
    pub async fn start_rpc(self: &Arc<Self>) -> io::Result<()> {
        let mut running = self.server.running.lock().await;
        if running.is_some() {
            return Ok(());
        }
        let limits = *self.server.limits.lock();
        let config = ServerConfig::builder()
            .max_request_body_size(MAX_MESSAGE_BYTES)
            .max_response_body_size(limits.answer_bytes)
            .max_connections(limits.connections)
            .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
            .set_batch_request_config(limits.batches())
            .build();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.port()));
        let module = module(self.clone()).map_err(io::Error::other)?;
        drop(self.server.reserved_port.lock().take());
        let listener = TcpListener::bind(address).await?;
        self.server.port.store(listener.local_addr()?.port(), Ordering::Relaxed);
        *running = Some(connection::serve(listener, self.clone(), module.into(), config));
        Ok(())
    }

    /// Stops the RPC server: all connections end, new ones are refused.
    pub async fn stop_rpc(&self) {
        // Locked until the end: a start in the meantime would find its port reserved.
        let mut running = self.server.running.lock().await;
        let Some(handle) = running.take() else { return };
        // It may have stopped already.
        let _ = handle.stop();
        if tokio::time::timeout(STOP_TIMEOUT, handle.stopped()).await.is_err() {
            tracing::debug!("rpc connections outlive their server");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.port()));
        *self.server.reserved_port.lock() = ReservedPort::new(address);
    }

    /// Stops the RPC server and starts it again after a while, in the background.
    pub(crate) fn restart_rpc(self: &Arc<Self>, downtime: Duration) {
        let node = self.clone();
        let mut restarts = self.server.restarts.lock();
        // Drops those that have ended.
        while restarts.try_join_next().is_some() {}
        restarts.spawn(async move {
            node.stop_rpc().await;
            tokio::time::sleep(downtime).await;
            if let Err(error) = node.start_rpc().await {
                tracing::error!(%error, "cannot start a node's server again");
            }
        });
    }

    /// Stops the RPC server for good.
    pub(crate) async fn end_rpc(&self) {
        // First, or a restart that sleeps would start the server again.
        self.server.restarts.lock().abort_all();
        self.stop_rpc().await;
        drop(self.server.reserved_port.lock().take());
    }

    /// Returns how often each method was called, calls in batches included.
    #[must_use]
    pub fn rpc_counters(&self) -> BTreeMap<String, u64> {
        self.server.counters.methods.lock().clone()
    }

    /// Returns how many requests came in; a batch counts as one.
    #[must_use]
    pub fn rpc_requests(&self) -> u64 {
        self.server.counters.requests.load(Ordering::Relaxed)
    }

    /// Sets the counters to zero.
    pub fn reset_rpc_counters(&self) {
        self.server.counters.methods.lock().clear();
        self.server.counters.requests.store(0, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self) {
        self.server.counters.request();
    }

    pub(crate) fn count_method(&self, name: &str) {
        self.server.counters.method(name);
    }
}

type Module = RpcModule<Node>;
type Answer<T> = Result<T, ErrorObjectOwned>;
type Registered = Result<(), RegisterMethodError>;

fn module(node: Arc<Node>) -> Result<Module, RegisterMethodError> {
    let kind = node.kind();
    let mut module = RpcModule::from_arc(node);
    chain::register(&mut module)?;
    state::register(&mut module)?;
    author::register(&mut module)?;
    system::register(&mut module)?;
    pha::register(&mut module, kind)?;
    devnet::register(&mut module)?;
    // subxt's default client reads `rpc_methods`, and uses the legacy methods because no `chainHead_v1_*` or
    // `archive_v1_*` is listed.
    let mut methods: Vec<&'static str> = module.method_names().collect();
    methods.push("rpc_methods");
    methods.sort_unstable();
    module.register_method("rpc_methods", move |_, _, _| serde_json::json!({ "methods": methods }))?;
    Ok(module)
}

fn method<T>(
    module: &mut Module,
    name: &'static str,
    answer: impl Fn(Params<'_>, &View<'_>) -> Answer<T> + Clone + Send + Sync + 'static,
) -> Registered
where
    T: Serialize + Clone + Send + 'static,
{
    // Answers execute the runtime or walk tries, some for seconds.
    module.register_blocking_method(name, move |params, node, extensions| {
        answer(params, &View::of(&node, &extensions))
    })?;
    Ok(())
}

fn aliases(module: &mut Module, aliases: &[(&'static str, &'static str)]) -> Registered {
    aliases.iter().try_for_each(|(alias, name)| module.register_alias(alias, name))
}

fn error(code: i32, message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message.into(), None::<()>)
}
