//! Following a chain's finalised heads.

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

/// A finalised head, as a node tells it: not verified.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FinalizedHead {
    /// Its number.
    pub number: u32,
    /// Its hash, computed from the header.
    pub hash: Hash,
    /// Its SCALE encoded header.
    pub header: Vec<u8>,
    /// The node that told it.
    pub node: Arc<Node>,
    /// Whether it may be lower than the one before: the node that told that one was put aside, or nobody
    /// else knows of such a block.
    pub fell: bool,
}

/// The finalised heads of a chain, going up as long as nodes tell the truth.
///
/// Subscribes at one node and asks it now and then as well, in case the subscription is silent. When the
/// node is lost, or has no new head for [`Config::stall_after`](super::Config::stall_after) while another
/// has, it goes on with another.
///
/// A head is one node's word. Another node's heads count from the last one on, until its teller is put aside
/// (proven wrong, or of another chain), or has told nothing new for `stall_after`: then they count from
/// wherever they are, which [`FinalizedHead::fell`] tells.
#[derive(Debug)]
pub struct FinalizedHeads {
    pool: NodePool,
    /// Whether demoted nodes do where no other is left.
    to_verify: bool,
    source: Option<Source>,
    last: Option<Told>,
    fell: bool,
    /// Where other nodes were when the followed one was last found without progress.
    others: HashMap<Arc<str>, u32>,
    progress: Instant,
    /// Looks around in a row that found no progress anywhere.
    stalls: u32,
    pauses: ExponentialBackoff,
    retry_at: Option<Instant>,
    poll_at: Instant,
}

/// The highest head so far, and who told it.
#[derive(Debug)]
struct Told {
    number: u32,
    node: Arc<Node>,
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
                    self.last = Some(Told { number: head.number, node: Arc::clone(&head.node) });
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
        self.leave_untrusted();
        if self.progress.elapsed() >= self.pool.config().stall_after {
            self.look_around().await;
        }
        let Some(source) = &mut self.source else {
            let node = self.candidates().into_iter().next();
            return self.attach(node.ok_or(Error::NoTrustedNode { chain: self.pool.chain() })?).await;
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

    /// The nodes whose heads count, in order.
    fn candidates(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.pool.trusted();
        if nodes.is_empty() && self.to_verify {
            nodes = self.pool.candidates();
        }
        nodes
    }

    /// Leaves a node that was put aside, and forgets the head that it told.
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
        if self.last.as_ref().is_some_and(|told| !told.node.is_trusted()) {
            self.forget("it was put aside");
        }
    }

    fn forget(&mut self, why: &str) {
        if let Some(Told { number, node }) = self.last.take() {
            let chain = self.pool.chain();
            tracing::warn!(chain, node = %node.name(), number, "finalised head is not believed any more: {why}");
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

    /// There is no progress: looks for a node that has some. The followed node is left for one that is
    /// ahead, or that moved since the last look while it did not itself; a head that its teller does not
    /// follow up is forgotten.
    async fn look_around(&mut self) {
        self.progress = Instant::now();
        let current = self.source.as_ref().map(|source| Arc::clone(&source.node));
        let is_current =
            |node: &Arc<Node>| current.as_ref().is_some_and(|current| Arc::ptr_eq(current, node));
        let last = self.last.as_ref().map(|told| told.number);
        let mut moving = None;
        for node in self.candidates() {
            let Ok(head) = poll(&node).await else { continue };
            let number = head.number();
            let before = self.others.insert(Arc::clone(node.name()), number);
            let is_ahead = last.is_none_or(|last| number > last);
            if is_ahead || before.is_some_and(|before| number > before) {
                moving = Some((node, number, is_ahead));
                break;
            }
        }
        let Some((node, number, is_ahead)) = moving else {
            self.stalls = self.stalls.saturating_add(1);
            // A chain that stands still for hours is told of ever less often.
            if self.stalls.is_power_of_two() {
                tracing::warn!(chain = self.pool.chain(), last, "no new finalised block for a while");
            }
            // Nothing moves, and who told the last head cannot be asked about it any more.
            let teller = self.last.as_ref().map(|told| Arc::clone(&told.node));
            if let Some(teller) = teller.filter(|teller| !is_current(teller))
                && let Err(error) = poll(&teller).await
                // One that is asked too often is still there.
                && error.refusal() != Some(Refusal::Limited)
            {
                self.forget("its node does not answer any more, and no other has such a block");
                self.source = None;
            }
            return;
        };
        if !is_ahead {
            let text = format!("it has told nothing new since, and {} goes on at {number}", node.name());
            self.forget(&text);
        }
        if !is_current(&node) {
            if let Some(current) = current {
                current.defer("stalled: no new finalised block while another node has one");
            }
            self.source = None;
            // It is asked first only if nothing is held against it.
            if let Ok(Some(head)) = self.attach(Arc::clone(&node)).await {
                self.poll_at = Instant::now();
                tracing::debug!(node = %node.name(), number = head.number, "following another node");
            }
        }
    }
}

/// The newest block that was seen final, as one node told it: a floor under what other nodes may tell.
///
/// No longer one once its teller was put aside, or others have been below it for
/// [`Config::stall_after`](super::Config::stall_after) while nobody confirmed it: one node's false head must not
/// shut out all others.
#[derive(Debug, Default)]
pub struct HeadFloor(Mutex<Option<Floor>>);

#[derive(Debug)]
struct Floor {
    number: u32,
    node: Option<Arc<Node>>,
    /// Since when others are below it and nobody has confirmed it.
    doubted: Option<Instant>,
}

impl HeadFloor {
    /// The floor, where a node's head is below it.
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

    /// Notes that a node's answers came from the state of its finalised block of this number.
    /// Without a node where several agree.
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

async fn poll(node: &Node) -> Result<json::Header, Error> {
    let hash: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    // The header may be asked of a node that is behind the one that told the hash.
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
    async fn a_floor_stands_until_its_teller_is_put_aside_or_nobody_confirms_it() {
        let pool = NodePool::new("para", Config::new(["ws://a:1", "ws://b:1"])).unwrap();
        let [a, b] = [0, 1].map(|at| Arc::clone(&pool.nodes()[at]));
        let stall_after = pool.config().stall_after;
        let floor = HeadFloor::default();
        assert_eq!(floor.above(&pool, 0), None);
        floor.raise(Some(&a), 100);
        floor.raise(Some(&b), 90);
        assert_eq!((floor.above(&pool, 99), floor.above(&pool, 100)), (Some(100), None));

        // It stands however long nobody asks, and starts to be doubted when it is in the way.
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
        assert_eq!(floor.above(&pool, 99), None, "its teller was put aside");
    }
}
