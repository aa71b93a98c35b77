//! Nodes and pools as subxt RPC clients.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use jsonrpsee::{
    core::client::{Subscription, SubscriptionKind},
    types::SubscriptionId,
};
use prb_core::text::describe;
use serde_json::value::RawValue;
use subxt_rpcs::{
    UserError,
    client::{RawRpcFuture, RawRpcSubscription, RpcClient, RpcClientT},
};

use super::{Error, Node, NodePool};

impl From<Error> for subxt_rpcs::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Call { code, message, .. } => Self::User(UserError { code, message, data: None }),
            // The next request reopens the connection, which is what this variant promises.
            Error::Disconnected { .. } | Error::BackingOff { .. } => {
                Self::DisconnectedWillReconnect(describe(&e))
            }
            e => Self::Client(Box::new(e)),
        }
    }
}

fn raw_subscription(sub: Subscription<Box<RawValue>>) -> RawRpcSubscription {
    // Substrate gives subscriptions text ids; subxt only needs them for methods that name a subscription.
    let id = match sub.kind() {
        SubscriptionKind::Subscription(SubscriptionId::Str(id)) => Some(id.clone().into_owned()),
        _ => None,
    };
    RawRpcSubscription { stream: sub.map_err(|e| subxt_rpcs::Error::Client(Box::new(e))).boxed(), id }
}

impl RpcClientT for Node {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move { Ok(Self::request_raw(self, method, params).await?) })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move { Ok(raw_subscription(self.subscribe(sub, params, unsub).await?)) })
    }
}

impl RpcClientT for NodePool {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move {
            match params {
                Some(params) => Ok(self.request(method, params).await?),
                None => Ok(self.request(method, super::NO_PARAMS).await?),
            }
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move {
            self.wait_for_chain().await?;
            let mut last = None;
            for node in self.trusted() {
                match node.subscribe(sub, params.clone(), unsub).await {
                    Ok(sub) => return Ok(raw_subscription(sub)),
                    Err(e) if e.is_of_this_node() => last = Some(e),
                    Err(e) => return Err(e.into()),
                }
            }
            Err(last.unwrap_or(Error::NoTrustedNode { chain: self.chain() }).into())
        })
    }
}

impl NodePool {
    /// Returns the pool as a subxt RPC client: each request goes to the first fit node.
    pub fn rpc_client(&self) -> RpcClient {
        RpcClient::new(self.clone())
    }
}

impl Node {
    /// Returns this node as a subxt RPC client.
    pub fn rpc_client(self: &Arc<Self>) -> RpcClient {
        RpcClient::new(Arc::clone(self))
    }
}
