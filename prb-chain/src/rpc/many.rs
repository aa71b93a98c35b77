//! Sends many requests to one node, as fast as it answers.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Error, Node, Refusal, link::Lane};

/// Requests of one method.
pub(super) struct Many<'a> {
    node: &'a Node,
    method: &'a str,
    params: Vec<Box<RawValue>>,
    /// Whether to continue although the node limits the rate of requests, because no other node is better.
    is_patient: bool,
}

/// The results of the requests that were sent together.
struct Round {
    /// Requests that were refused, or not sent after a refusal.
    refused: Vec<usize>,
    refusal: Option<Error>,
}

impl<'a> Many<'a> {
    pub(super) fn new(node: &'a Node, method: &'a str, params: Vec<Box<RawValue>>) -> Self {
        node.counters.record(method, params.len() as u64);
        let is_patient = node.state().is_deferred();
        Self { node, method, params, is_patient }
    }

    /// Returns the answers in order.
    pub(super) async fn answers<T: DeserializeOwned>(self) -> Result<Vec<T>, Error> {
        let config = &self.node.config;
        let mut answers: Vec<Option<T>> = self.params.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..self.params.len()).collect();
        let mut at_once = config.pipelined_requests.max(1);
        let (mut pause, mut progress) = (config.reconnect_min, Instant::now());
        while !open.is_empty() {
            let asked = open.len();
            let round = self.round(&open, at_once, &mut answers).await?;
            open = round.refused;
            let Some(refusal) = round.refusal else { continue };
            self.node.defer(&refusal.to_string());
            let answered = asked - open.len();
            if answered > 0 {
                (progress, pause) = (Instant::now(), config.reconnect_min);
            }
            if !self.is_patient || progress.elapsed() >= config.request_timeout {
                return Err(refusal);
            }
            // The node has answered this many before it refused, so that is about what its limit allows at
            // once.
            at_once = at_once.min(answered.max(1));
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(config.reconnect_max.max(Duration::from_millis(1)));
        }
        // Every request was answered, or an error was returned above.
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends the open requests, and no further ones once the node refuses one because of its rate limit.
    async fn round<T: DeserializeOwned>(
        &self,
        open: &[usize],
        at_once: usize,
        answers: &mut [Option<T>],
    ) -> Result<Round, Error> {
        let is_limited = &AtomicBool::new(false);
        let asked = open.iter().copied().map(|at| async move {
            // The node would refuse these as well.
            if is_limited.load(Ordering::Relaxed) {
                return (at, None);
            }
            let raw = self.node.ask(Lane::Ask, self.method, Some(self.params[at].clone())).await;
            let answer = raw.and_then(|raw| self.node.read::<T>(self.method, &raw));
            if matches!(&answer, Err(e) if e.refusal() == Some(Refusal::Limited)) {
                is_limited.store(true, Ordering::Relaxed);
            }
            (at, Some(answer))
        });
        let mut asked = stream::iter(asked).buffer_unordered(at_once);
        let mut round = Round { refused: Vec::new(), refusal: None };
        while let Some((at, answer)) = asked.next().await {
            match answer {
                Some(Ok(answer)) => answers[at] = Some(answer),
                Some(Err(e)) if e.refusal() == Some(Refusal::Limited) => {
                    round.refused.push(at);
                    round.refusal = Some(e);
                }
                // Requests in flight are dropped with the stream; their answers are discarded by the
                // client.
                Some(Err(e)) => return Err(e),
                None => round.refused.push(at),
            }
        }
        round.refused.sort_unstable();
        Ok(round)
    }
}
