//! Watches whether a chain's nodes answer and have the required capabilities. It polls, because a connection
//! reports its loss only to its users.

use std::{sync::Arc, time::Duration};

use prb_chain::rpc::NodePool;
use prb_core::text::duration;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{daemon::Background, ops::Reason, readiness::Code};

/// Interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Consecutive failed polls that are tolerated: a node may be restarting.
const MAX_FAILURES: u32 = 2;

/// The state of one chain's nodes.
#[derive(Clone, Debug)]
pub(crate) struct NodeWatch {
    pool: NodePool,
    code: Code,
    /// Why no node answers; `None` if one does.
    trouble: watch::Receiver<Option<Arc<str>>>,
}

impl NodeWatch {
    /// Watches the nodes of the relay chain.
    pub(crate) fn relay(pool: NodePool, background: &mut Background) -> Self {
        Self::of(pool, Code::NoRelayNode, background)
    }

    /// Watches the nodes of the parachain.
    pub(crate) fn para(pool: NodePool, background: &mut Background) -> Self {
        Self::of(pool, Code::NoParaNode, background)
    }

    fn of(pool: NodePool, code: Code, background: &mut Background) -> Self {
        // In trouble until a node answers: a daemon must not be ready before.
        let (sender, trouble) = watch::channel(Some("none has answered yet".into()));
        let (chain, watched) = (pool.chain(), pool.clone());
        background.spawn(|stop| async move {
            stop.run_until_cancelled(poll(watched, sender)).await;
            anyhow::anyhow!("the watch over the {chain} chain's nodes has ended")
        });
        Self { pool, code, trouble }
    }

    /// Returns why the nodes are insufficient for a user that does not need storage changes, or could do without them.
    pub(crate) fn reasons(&self) -> Vec<Reason> {
        self.reasons_if(false)
    }

    /// Returns why the nodes are insufficient: a capability that all of them lack, or that none answers.
    pub(crate) fn reasons_if(&self, needs_storage_changes: bool) -> Vec<Reason> {
        let blocking = self.pool.problems().into_iter().filter(|problem| problem.is_blocking);
        let mut reasons: Vec<_> = blocking
            .filter_map(|problem| Some((code(problem.code)?, problem.message)))
            .filter(|(code, _)| needs_storage_changes || *code != Code::StorageChangesMissing)
            .map(|(code, message)| Reason::new(code, message))
            .collect();
        let trouble = self.trouble.borrow();
        // If all are of another chain or demoted, that is why none answers.
        if let Some(why) = trouble.as_ref().filter(|_| reasons.is_empty()) {
            let text = format!("no node of the {} chain answers: {why}", self.pool.chain());
            reasons.push(Reason::new(self.code, text));
        }
        reasons
    }
}

/// Maps a pool's problem to its readiness code.
fn code(problem: &str) -> Option<Code> {
    let codes = [
        Code::StatesMissing,
        Code::StorageChangesMissing,
        Code::OtherChain,
        Code::GenesisDisputed,
        Code::NoTrustedNode,
    ];
    codes.into_iter().find(|code| code.as_str() == problem)
}

async fn poll(pool: NodePool, sender: watch::Sender<Option<Arc<str>>>) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        let answer = timeout(ANSWER_TIMEOUT, pool.request::<Value>("chain_getFinalizedHead", [(); 0])).await;
        let why = match answer {
            Ok(Ok(_)) => {
                failures = 0;
                sender.send_if_modified(|trouble| trouble.take().is_some());
                continue;
            }
            Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
            Err(_) => format!("no answer within {}", duration(ANSWER_TIMEOUT)),
        };
        failures += 1;
        // After the first reported failure, each further one only replaces the reason.
        if failures >= MAX_FAILURES || sender.borrow().is_some() {
            sender.send_replace(Some(why.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_chain::rpc::{Capability, Config};

    use super::*;

    #[tokio::test]
    async fn missing_capability_is_a_reason_with_its_code() {
        let pool = NodePool::new("para", Config::new(["ws://127.0.0.1:1", "ws://127.0.0.1:2"])).unwrap();
        let mut background = Background::default();
        let watch = NodeWatch::para(pool.clone(), &mut background);
        let codes = || watch.reasons_if(true).iter().map(|reason| reason.code).collect::<Vec<_>>();
        assert_eq!(codes(), ["no_para_node"], "none has answered yet");
        for (capability, code) in
            [(Capability::States, "states_missing"), (Capability::StorageChanges, "storage_changes_missing")]
        {
            let [one, other] = [0, 1].map(|at| &pool.nodes()[at]);
            one.lacks(capability, "it said no");
            assert_eq!(codes(), ["no_para_node"], "the other one may offer it");
            other.lacks(capability, "it said no");
            assert_eq!(codes(), [code]);
            let message = watch.reasons_if(true).remove(0).message;
            assert!(message.contains("it said no") && message.contains("add a"), "{message}");
            let is_needed_by_all = capability == Capability::States;
            assert_eq!(watch.reasons()[0].code == code, is_needed_by_all);
            one.has_offered(capability);
            other.has_offered(capability);
        }
        // It only slows things down.
        pool.nodes().iter().for_each(|node| node.lacks(Capability::FinalityProofs, "null"));
        assert_eq!(codes(), ["no_para_node"]);
        pool.nodes().iter().for_each(|node| node.demote("a wrong header"));
        assert_eq!(codes(), ["no_trusted_node"]);
    }
}
