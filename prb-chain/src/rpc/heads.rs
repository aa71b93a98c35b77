//! Follows a chain's finalised heads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jsonrpsee::core::client::Subscription;
use metrics::gauge;
use prb_core::primitives::Hash;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Error, NO_PARAMS, Node, NodePool, Refusal, json, node::ASK_AGAIN};

/// A finalised head as announced by a node; not verified.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FinalizedHead {
    /// Its number.
    pub number: u32,
    /// Its hash, computed from the header.
    pub hash: Hash,
    /// Its SCALE encoded header.
    pub header: Vec<u8>,
    /// The node that announced it.
    pub node: Arc<Node>,
    /// Whether it may be lower than the previous one, because the node that announced that one is no longer
    /// trusted, or no other node has such a block.
    pub fell: bool,
}

/// The finalised heads of a chain, increasing as long as nodes are honest.
///
/// Subscribes at one node, and polls it at intervals in case the subscription is silent. If the node is lost,
/// or has no new head for [`Config::stall_after`](super::Config::stall_after) while another has, it switches
/// to another.
///
/// A head is only one node's claim. Other nodes' heads must be above it, until the node that announced it is
/// no longer trusted (proven wrong, or of another chain) or has announced nothing new for `stall_after`: then
/// heads continue at any height, which [`FinalizedHead::fell`] marks.
#[derive(Debug)]
pub struct FinalizedHeads {
    pool: NodePool,
    /// Whether demoted nodes are followed if no other is left.
    to_verify: bool,
    source: Option<Source>,
    last: Option<Announced>,
    fell: bool,
    /// Heights of other nodes when the followed one was last found without progress.
    others: HashMap<Arc<str>, u32>,
    progress: Instant,
    /// Consecutive checks without progress anywhere.
    stalls: u32,
    pauses: ExponentialBackoff,
    retry_at: Option<Instant>,
    poll_at: Instant,
}

/// The highest head so far, and the node that announced it.
#[derive(Debug)]
struct Announced {
    number: u32,
    node: Arc<Node>,
}

#[derive(Debug)]
struct Source {
    node: Arc<Node>,
    subscription: Option<Subscription<Box<RawValue>>>,
    since: Instant,
    /// Whether the subscription ended early, and is opened again after the next poll.
    is_closed: bool,
}

enum Event {
    Head(json::Header),
    Closed,
    Poll,
}

impl FinalizedHeads {
    pub(super) fn new(pool: NodePool, to_verify: bool) -> Self {
        let now = Instant::now();
        Self {
            pauses: pauses(&pool),
            pool,
            to_verify,
            source: None,
            last: None,
            fell: false,
            others: HashMap::new(),
            progress: now,
            stalls: 0,
            retry_at: None,
            poll_at: now,
        }
    }

    /// Returns the next head above the last one. Waits as long as necessary: failures are logged and retried.
    ///
    /// # Cancel safety
    /// Cancel safe: a missed head is superseded by a later one.
    pub async fn next(&mut self) -> FinalizedHead {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match self.step().await {
                Ok(Some(head)) => {
                    self.last = Some(Announced { number: head.number, node: Arc::clone(&head.node) });
                    (self.fell, self.others) = (false, HashMap::new());
                    (self.progress, self.stalls) = (Instant::now(), 0);
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
        if !self.to_verify {
            self.pool.wait_for_chain().await?;
        }
        self.leave_untrusted();
        if self.progress.elapsed() >= self.pool.config().stall_after {
            self.find_moving_node().await;
        }
        let Some(source) = &mut self.source else {
            let node = self.candidates().into_iter().next();
            return self.attach(node.ok_or(Error::NoTrustedNode { chain: self.pool.chain() })?).await;
        };
        let node = Arc::clone(&source.node);
        match next_event(source, self.poll_at).await {
            Event::Head(header) => Ok(self.newer(node, &header)),
            Event::Closed => {
                // Not opened again at once if it was short: a node that ends each subscription at its first
                // message would be asked without a pause.
                let is_early = source.since.elapsed() < self.pool.config().poll_interval;
                (source.subscription, source.is_closed) = (None, is_early);
                // Shows whether the node is still there.
                let head = poll(&node).await?;
                if !is_early {
                    self.source = None;
                }
                Ok(self.newer(node, &head))
            }
            Event::Poll => {
                self.poll_at = Instant::now() + self.pool.config().poll_interval;
                let is_closed = source.is_closed;
                let head = newest(&node).await?;
                if is_closed {
                    self.source = None;
                }
                Ok(self.newer(node, &head))
            }
        }
    }

    /// Starts to follow a node; returns its current head.
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
        let since = Instant::now();
        self.source = Some(Source { node: Arc::clone(&node), subscription, since, is_closed: false });
        Ok(self.newer(node, &head))
    }

    /// The nodes that may be followed, in order.
    fn candidates(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.pool.trusted();
        if nodes.is_empty() && self.to_verify {
            nodes = self.pool.candidates();
        }
        nodes
    }

    /// Stops following a node that is no longer trusted, and forgets its head.
    fn leave_untrusted(&mut self) {
        let others = self.pool.trusted();
        if others.is_empty() {
            if !self.to_verify {
                self.source = None;
            }
            return;
        }
        if self.source.as_ref().is_some_and(|source| !source.node.is_trusted()) {
            self.source = None;
        }
        if self.last.as_ref().is_some_and(|last| !last.node.is_trusted()) {
            self.forget("its node is no longer trusted");
        }
    }

    fn forget(&mut self, why: &str) {
        if let Some(Announced { number, node }) = self.last.take() {
            let chain = self.pool.chain();
            tracing::warn!(chain, node = %node.name(), number, reason = why, "finalised head withdrawn");
            self.fell = true;
        }
    }

    fn newer(&self, node: Arc<Node>, header: &json::Header) -> Option<FinalizedHead> {
        let number = header.number();
        if self.last.as_ref().is_some_and(|last| number <= last.number) {
            return None;
        }
        let header = header.encode();
        Some(FinalizedHead { number, hash: Hash::of(&header), header, node, fell: self.fell })
    }

    /// Handles a lack of progress: looks for a node that progresses. Switches to a node that is ahead, or that
    /// moved since the last check while the followed one did not; forgets a head that its node does not follow
    /// up.
    async fn find_moving_node(&mut self) {
        self.progress = Instant::now();
        let current = self.source.as_ref().map(|source| Arc::clone(&source.node));
        let is_current =
            |node: &Arc<Node>| current.as_ref().is_some_and(|current| Arc::ptr_eq(current, node));
        let last = self.last.as_ref().map(|last| last.number);
        let mut moving = None;
        for node in self.candidates() {
            let Ok(head) = poll(&node).await else { continue };
            let number = head.number();
            let before = self.others.insert(Arc::clone(node.name()), number);
            let is_ahead = last.is_none_or(|last| number > last);
            // One that is back at the last head confirms it.
            let is_below = last.is_some_and(|last| number < last);
            if is_ahead || is_below && before.is_some_and(|before| number > before) {
                moving = Some((node, number, is_ahead));
                break;
            }
        }
        let Some((node, number, is_ahead)) = moving else {
            let announcer = self.last.as_ref().map(|last| Arc::clone(&last.node));
            return self.no_node_moves(announcer.filter(|announcer| !is_current(announcer))).await;
        };
        if !is_ahead {
            let text =
                format!("it has announced nothing new since, and {} continues at {number}", node.name());
            self.forget(&text);
        }
        if !is_current(&node) {
            if let Some(current) = current {
                current.defer("stalled: no new finalised block while another node has one");
            }
            self.source = None;
            // It is preferred only if no failure is recorded against it.
            if let Ok(Some(head)) = self.attach(Arc::clone(&node)).await {
                self.poll_at = Instant::now();
                tracing::debug!(node = %node.name(), number = head.number, "following another node");
            }
        }
    }

    /// Handles a stall of all nodes. `announcer` is the node that announced the last head, if it is not followed.
    async fn no_node_moves(&mut self, announcer: Option<Arc<Node>>) {
        self.stalls = self.stalls.saturating_add(1);
        // A chain without finality for hours is logged at growing intervals.
        if self.stalls.is_power_of_two() {
            let last = self.last.as_ref().map(|last| last.number);
            tracing::warn!(chain = self.pool.chain(), last, "no new finalised block for a while");
        }
        if let Some(announcer) = announcer
            && let Err(error) = poll(&announcer).await
            // A node that limits the rate of requests is still there.
            && error.refusal() != Some(Refusal::Limited)
        {
            self.forget("its node does not answer any more, and no other node has such a block");
            self.source = None;
        }
    }
}

/// The newest block known to be final, as announced by one node: a lower bound for other nodes' states.
///
/// The bound ends once its node is no longer trusted, or once others have been below it for
/// [`Config::stall_after`](super::Config::stall_after) without any confirmation: one node's false head must
/// not exclude all others.
#[derive(Debug, Default)]
pub struct HeadFloor(Mutex<Option<Floor>>);

#[derive(Debug)]
struct Floor {
    number: u32,
    node: Option<Arc<Node>>,
    /// Since when others have been below it without a confirmation.
    doubted: Option<Instant>,
}

impl HeadFloor {
    /// Returns the bound if a node's head is below it.
    pub fn above(&self, pool: &NodePool, number: u32) -> Option<u32> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = guard.as_mut().filter(|floor| number < floor.number)?;
        let doubted = *floor.doubted.get_or_insert_with(Instant::now);
        let is_trusted = floor.node.as_ref().is_none_or(|node| node.is_trusted());
        if is_trusted && doubted.elapsed() < pool.config().stall_after {
            return Some(floor.number);
        }
        *guard = None;
        None
    }

    /// Records that a node answered from the state of its finalised block of this number. `None` if several nodes
    /// agree.
    pub fn raise(&self, node: Option<&Arc<Node>>, number: u32) {
        let mut floor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if floor.as_ref().is_none_or(|floor| number >= floor.number) {
            *floor = Some(Floor { number, node: node.cloned(), doubted: None });
        }
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

/// Returns the higher one of two finalised heads that the node announces. Two nodes behind one address may answer in
/// turn: with an even number of requests each time, a single request would always reach the same one.
async fn newest(node: &Node) -> Result<json::Header, Error> {
    let first: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    let second: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    let head = header(node, second).await?;
    if first == second {
        return Ok(head);
    }
    let other = header(node, first).await?;
    Ok(if other.number() > head.number() { other } else { head })
}

async fn poll(node: &Node) -> Result<json::Header, Error> {
    let hash: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    header(node, hash).await
}

async fn header(node: &Node, hash: Hash) -> Result<json::Header, Error> {
    // Behind one address, this request may reach a node that lags behind the one that announced the hash.
    for _ in 0..ASK_AGAIN {
        if let Some(header) = node.request("chain_getHeader", [hash]).await? {
            return Ok(header);
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rpc::Config;

    #[tokio::test(start_paused = true)]
    async fn floor_ends_when_its_node_is_untrusted_or_nobody_confirms_it() {
        let pool = NodePool::new("para", Config::new(["ws://a:1", "ws://b:1"])).unwrap();
        let [a, b] = [0, 1].map(|at| Arc::clone(&pool.nodes()[at]));
        let stall_after = pool.config().stall_after;
        let floor = HeadFloor::default();
        assert_eq!(floor.above(&pool, 0), None);
        floor.raise(Some(&a), 100);
        floor.raise(Some(&b), 90);
        assert_eq!((floor.above(&pool, 99), floor.above(&pool, 100)), (Some(100), None));

        // It is kept as long as no lower head is used, and its time limit starts with the first one.
        tokio::time::advance(stall_after / 2).await;
        assert_eq!(floor.above(&pool, 99), Some(100));
        floor.raise(Some(&a), 100);
        tokio::time::advance(stall_after * 3).await;
        assert_eq!(floor.above(&pool, 99), Some(100), "it was confirmed since");
        tokio::time::advance(stall_after).await;
        assert_eq!(floor.above(&pool, 99), None, "nobody confirms it");

        floor.raise(Some(&a), 100);
        assert_eq!(floor.above(&pool, 99), Some(100));
        a.demote("a wrong header");
        assert_eq!(floor.above(&pool, 99), None, "its node is no longer trusted");
    }
}
