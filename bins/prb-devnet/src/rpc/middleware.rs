//! Counts requests, and refuses or delays them according to the faults.

use std::{future::Future, sync::Arc, time::Instant};

use jsonrpsee::{
    MethodResponse, ResponsePayload,
    core::middleware::{Batch, BatchEntry, BatchEntryErr, Notification, RpcServiceT},
    types::{ErrorObject, ErrorObjectOwned, Request},
};
use parking_lot::Mutex;

use super::{connection::Connection, devnet, view::Behind};
use crate::node::Node;

/// Code and text of real nodes' refusal of an unsafe method.
const UNSAFE_CODE: i32 = -32601;
const UNSAFE_TEXT: &str = "RPC call is unsafe to be called externally";
/// Code and text of real nodes' refusal of requests over `--rpc-rate-limit`.
const RATE_CODE: i32 = -32999;
const RATE_TEXT: &str = "RPC rate limit exceeded";

/// Counts requests, and refuses or delays them according to the faults.
#[derive(Clone)]
pub(super) struct Guard<S> {
    inner: S,
    node: Arc<Node>,
    connection: Arc<Connection>,
    requests: Arc<Mutex<Requests>>,
}

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    count: u64,
    /// The used part of a second's allowance, and when it was computed.
    used: Option<(f64, Instant)>,
}

impl Requests {
    /// Counts a request; returns whether it is within the limit, and whether it is an even one, which `alternates` affects.
    ///
    /// The allowance is refilled continuously, as in real nodes.
    fn admit(&mut self, limit: Option<u32>) -> (bool, bool) {
        self.count += 1;
        let is_second = self.count.is_multiple_of(2);
        let Some(limit) = limit.map(f64::from) else { return (true, is_second) };
        let now = Instant::now();
        let used = self
            .used
            .map_or(0.0, |(used, at)| (used - limit * now.duration_since(at).as_secs_f64()).max(0.0));
        let is_admitted = used + 1.0 <= limit;
        self.used = Some((if is_admitted { used + 1.0 } else { used }, now));
        (is_admitted, is_second)
    }
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, node: Arc<Node>, connection: Arc<Connection>) -> Self {
        Self { inner, node, connection, requests: Arc::default() }
    }
}

impl<S> Guard<S> {
    /// Applies the faults to a request: waits, and returns the answer if it does not come from the chain.
    async fn apply_faults(&self, request: &mut Request<'_>) -> Option<MethodResponse> {
        let (faults, method) = (self.node.faults(), request.method_name().to_owned());
        // Otherwise a node that hangs or refuses everything could not be healed.
        if method.starts_with(devnet::PREFIX) {
            return None;
        }
        // A hanging node answers nothing, so this comes before every other fault.
        faults.until_answering().await;
        faults.until_released(&method).await;
        let delay = faults.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let (is_admitted, is_second) = self.requests.lock().admit(faults.rate_limit());
        if !is_admitted {
            let limited = ErrorObject::owned(RATE_CODE, RATE_TEXT, None::<()>);
            return Some(MethodResponse::error(request.id.clone(), limited));
        }
        if let Some(behind) = faults.alternates().filter(|_| is_second) {
            request.extensions_mut().insert(Behind(behind));
        }
        if faults.is_endless(&method) {
            self.connection.send_without_end().await;
        }
        if faults.is_refused(&method) {
            return Some(MethodResponse::error(request.id.clone(), refusal()));
        }
        faults.oversize_of(&method).map(|bytes| {
            let limit = self.node.rpc_limits().answer_bytes as usize;
            let text = ResponsePayload::success("0".repeat(bytes));
            MethodResponse::response(request.id.clone(), text, limit)
        })
    }
}

fn refusal() -> ErrorObjectOwned {
    ErrorObject::owned(UNSAFE_CODE, UNSAFE_TEXT, None::<()>)
}

impl<S> RpcServiceT for Guard<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, mut request: Request<'a>) -> impl Future<Output = Self::MethodResponse> + Send + 'a {
        let guard = self.clone();
        async move {
            guard.node.count_request();
            guard.node.count_method(request.method_name());
            match guard.apply_faults(&mut request).await {
                Some(answer) => answer,
                None => guard.inner.call(request).await,
            }
        }
    }

    fn batch<'a>(&self, requests: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        let Self { inner, node, .. } = self.clone();
        async move {
            node.count_request();
            // Only this fault applies to whole batches; refusals apply to each call.
            node.faults().until_answering().await;
            // Each call of a batch answers for itself; an error for the whole batch would have the id null,
            // which clients cannot assign.
            let entries = requests.into_iter().map(|entry| admit(&node, entry)).collect();
            inner.batch(Batch::from(entries)).await
        }
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        let inner = self.inner.clone();
        async move { inner.notification(notification).await }
    }
}

type Entry<'a> = Result<BatchEntry<'a>, BatchEntryErr<'a>>;

fn admit<'a>(node: &Node, entry: Entry<'a>) -> Entry<'a> {
    let Ok(BatchEntry::Call(request)) = entry else { return entry };
    node.count_method(request.method_name());
    if node.faults().is_refused(request.method_name()) {
        return Err(BatchEntryErr::new(request.id, refusal()));
    }
    Ok(BatchEntry::Call(request))
}
