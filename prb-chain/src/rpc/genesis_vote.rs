//! Finds out which chain a pool's nodes serve, before anything unverified is believed.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{Error, NodePool, link::Lane, pins::Pins};

/// Logs that the pool's nodes differ, which stops all use of unverified data.
pub(super) fn log_dispute(chain: &'static str, pins: &Pins) {
    if let Some(claims) = pins.dispute() {
        tracing::warn!(chain, "{}", Error::GenesisDisputed { chain, claims });
    }
}

/// When nodes were asked for their genesis.
#[derive(Debug, Default)]
pub(super) struct QueryTimes {
    /// When the first round began. Nodes that do not answer soon after are not waited for.
    since: Option<Instant>,
    /// The earliest time of the next round in a dispute.
    again_at: Option<Instant>,
}

impl NodePool {
    /// Waits until it is known which chain this is: by a [known block](NodePool::pin), or by the genesis hashes of
    /// the nodes, which are all asked, once. Returns at once afterwards.
    ///
    /// More than half of the configured nodes decide at once. Otherwise the answers that have come within
    /// [`Config::connect_timeout`](super::Config::connect_timeout) decide, if they agree; should another node
    /// later claim another genesis, the pool is in dispute again.
    ///
    /// # Errors
    /// [`Error::GenesisDisputed`] if nodes differ, until a block is known or a node corrects itself; a node's error
    /// if none answers.
    ///
    /// # Cancel safety
    /// Cancel safe: what was answered counts, and so does the time.
    pub async fn wait_for_chain(&self) -> Result<(), Error> {
        let pins = &self.inner.pins;
        if pins.is_decided() {
            return Ok(());
        }
        let mut times = self.inner.genesis.lock().await;
        let now = Instant::now();
        let disputed_error = |claims| Error::GenesisDisputed { chain: self.chain(), claims };
        if let Some(claims) = pins.dispute()
            && times.again_at.is_some_and(|at| now < at)
        {
            return Err(disputed_error(claims));
        }
        // In a dispute all have had their time; now they may correct themselves.
        let since = if pins.dispute().is_some() { now } else { *times.since.get_or_insert(now) };
        let deadline = (since + self.config().connect_timeout).max(now + self.config().reconnect_min);
        let last_error = self.ask_all_until(deadline).await;
        if !pins.is_decided() && pins.end_wait() {
            log_dispute(self.chain(), pins);
        }
        match pins.dispute() {
            _ if pins.is_decided() => Ok(()),
            Some(claims) => {
                times.again_at = Some(Instant::now() + self.config().reconnect_max);
                Err(disputed_error(claims))
            }
            // Nobody has answered: all have their time again.
            None => {
                times.since = None;
                Err(last_error.unwrap_or(Error::NoTrustedNode { chain: self.chain() }))
            }
        }
    }

    /// Connects to all nodes; each reports its genesis as it connects. Ends early once that decides.
    async fn ask_all_until(&self, deadline: Instant) -> Option<Error> {
        let ask = |node: &Arc<super::Node>| {
            let node = Arc::clone(node);
            async move { node.client(Lane::Ask).await.map(drop) }
        };
        let mut answers: FuturesUnordered<_> = self.nodes().iter().map(ask).collect();
        let mut last_error = None;
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            last_error = answer.err().or(last_error);
            if self.inner.pins.is_decided() {
                break;
            }
        }
        last_error
    }
}
