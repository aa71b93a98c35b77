//! Counts requests, and refuses or delays them where the node is told to.

use std::{future::Future, sync::Arc};

use jsonrpsee::{
    MethodResponse,
    core::middleware::{Batch, BatchEntry, BatchEntryErr, Notification, RpcServiceT},
    types::{ErrorObject, ErrorObjectOwned, Request},
};

use crate::node::Node;

/// The code and text with which real nodes refuse a method that is not for the public.
const UNSAFE_CODE: i32 = -32601;
const UNSAFE_TEXT: &str = "RPC call is unsafe to be called externally";

/// Counts requests, and refuses or delays them where the node is told to.
#[derive(Clone)]
pub(super) struct Guard<S> {
    inner: S,
    node: Arc<Node>,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, node: Arc<Node>) -> Self {
        Self { inner, node }
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

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = Self::MethodResponse> + Send + 'a {
        let Self { inner, node } = self.clone();
        async move {
            node.count_request();
            node.count_method(request.method_name());
            node.faults().until_answering().await;
            node.faults().until_released(request.method_name()).await;
            if node.faults().is_refused(request.method_name()) {
                return MethodResponse::error(request.id, refusal());
            }
            inner.call(request).await
        }
    }

    fn batch<'a>(&self, requests: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        let Self { inner, node } = self.clone();
        async move {
            node.count_request();
            node.faults().until_answering().await;
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
