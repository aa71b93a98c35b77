//! Following a chain's finalised heads.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jsonrpsee::core::client::Subscription;
use metrics::gauge;
use prb_core::primitives::Hash;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Error, NO_PARAMS, Node, NodePool, json};

/// A finalised head, as a node tells it: not verified.
#[derive(Clone, Debug)]
pub struct FinalizedHead {
    /// Its number.
    pub number: u32,
    /// Its hash, computed from the header.
    pub hash: Hash,
    /// Its SCALE encoded header.
    pub header: Vec<u8>,
    /// The node that told it.
    pub node: Arc<Node>,
}

/// The finalised heads of a chain, always going up.
///
/// Subscribes at one node and asks it now and then as well, in case the subscription is silent. When the
/// node is lost, or has no new head for [`Config::stall_after`](super::Config::stall_after) while another
/// has, it goes on with another.
#[derive(Debug)]
pub struct FinalizedHeads {
    pool: NodePool,
    source: Option<Source>,
    last: Option<u32>,
    progress: Instant,
    pauses: ExponentialBackoff,
    retry_at: Option<Instant>,
    poll_at: Instant,
}

#[derive(Debug)]
struct Source {
    node: Arc<Node>,
    subscription: Option<Subscription<Box<RawValue>>>,
}

enum Event {
    Head(json::Header),
    Closed,
    Poll,
}

impl FinalizedHeads {
    pub(super) fn new(pool: NodePool) -> Self {
        let now = Instant::now();
        let pauses = pauses(&pool);
        Self { pool, source: None, last: None, progress: now, pauses, retry_at: None, poll_at: now }
    }

    /// The next head above the last one. Waits as long as it takes: failures are logged, and tried again.
    ///
    /// # Cancel safety
    /// No head is lost that a later one would not cover.
    pub async fn next(&mut self) -> FinalizedHead {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match self.step().await {
                Ok(Some(head)) => {
                    self.last = Some(head.number);
                    self.progress = Instant::now();
                    self.pauses = pauses(&self.pool);
                    gauge!("prb_chain_finalized", "chain" => self.pool.chain()).set(head.number);
                    return head;
                }
                Ok(None) => {}
                Err(e) => {
                    tracing::debug!(chain = self.pool.chain(), error = %e, "cannot follow finalised heads");
                    self.source = None;
                    let pause = self.pauses.next().unwrap_or(self.pool.config().reconnect_max);
                    self.retry_at = Some(Instant::now() + pause);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<FinalizedHead>, Error> {
        if self.progress.elapsed() >= self.pool.config().stall_after {
            self.leave_stalled().await;
        }
        let Some(source) = &mut self.source else {
            return self.attach(self.pool.pick()).await;
        };
        let node = Arc::clone(&source.node);
        match next_event(source, self.poll_at).await {
            Event::Head(header) => Ok(self.newer(node, &header)),
            Event::Closed => {
                source.subscription = None;
                // The poll tells whether the node is still there; it subscribes again where it is.
                let head = poll(&node).await?;
                self.source = None;
                Ok(self.newer(node, &head))
            }
            Event::Poll => {
                self.poll_at = Instant::now() + self.pool.config().poll_interval;
                let head = poll(&node).await?;
                Ok(self.newer(node, &head))
            }
        }
    }

    /// Starts to follow a node; its head of now comes first.
    async fn attach(&mut self, node: Arc<Node>) -> Result<Option<FinalizedHead>, Error> {
        let subscription = match node
            .subscribe("chain_subscribeFinalizedHeads", None, "chain_unsubscribeFinalizedHeads")
            .await
        {
            Ok(subscription) => Some(subscription),
            Err(e) if e.is_retryable() => return Err(e),
            // A node without subscriptions is polled.
            Err(_) => None,
        };
        self.poll_at = Instant::now() + self.pool.config().poll_interval;
        let head = poll(&node).await?;
        self.source = Some(Source { node: Arc::clone(&node), subscription });
        Ok(self.newer(node, &head))
    }

    fn newer(&self, node: Arc<Node>, header: &json::Header) -> Option<FinalizedHead> {
        let number = header.number();
        if self.last.is_some_and(|last| number <= last) {
            return None;
        }
        let header = header.encode();
        Some(FinalizedHead { number, hash: Hash::of(&header), header, node })
    }

    /// Demotes the node without progress if another one has a newer head.
    async fn leave_stalled(&mut self) {
        self.progress = Instant::now();
        let Some(current) = self.source.as_ref().map(|source| Arc::clone(&source.node)) else { return };
        for node in self.pool.candidates() {
            if Arc::ptr_eq(&node, &current) {
                continue;
            }
            let ahead = poll(&node).await.is_ok_and(|head| self.last.is_none_or(|last| head.number() > last));
            if ahead {
                current.demote("stalled: no new finalised block while another node has one");
                self.source = None;
                return;
            }
        }
        tracing::warn!(chain = self.pool.chain(), last = self.last, "no new finalised block for a while");
    }
}

async fn next_event(source: &mut Source, poll_at: Instant) -> Event {
    let Some(subscription) = &mut source.subscription else {
        tokio::time::sleep_until(poll_at).await;
        return Event::Poll;
    };
    match tokio::time::timeout_at(poll_at, subscription.next()).await {
        Err(_) => Event::Poll,
        Ok(Some(Ok(raw))) => match json::parse(raw.get()) {
            Ok(header) => Event::Head(header),
            Err(_) => Event::Closed,
        },
        Ok(Some(Err(_)) | None) => Event::Closed,
    }
}

async fn poll(node: &Node) -> Result<json::Header, Error> {
    let hash: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    node.request("chain_getHeader", [hash]).await
}

fn pauses(pool: &NodePool) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(pool.config().reconnect_min.max(Duration::from_millis(1)))
        .with_max_delay(pool.config().reconnect_max)
        .with_jitter()
        .without_max_times()
        .build()
}
