//! Whether a chain's nodes answer, asked by itself: a connection tells of its loss only to whoever uses it.

use std::{sync::Arc, time::Duration};

use prb_chain::rpc::NodePool;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{daemon::Background, ops::Reason, readiness::Code};

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Questions in a row that nobody answers before that counts: a node may be started again.
const MAX_FAILURES: u32 = 2;

/// How the nodes of one chain are doing.
#[derive(Clone, Debug)]
pub(crate) struct NodeWatch {
    chain: &'static str,
    code: Code,
    /// Why none answers; `None` where one does.
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
        let (tell, trouble) = watch::channel(Some("none has answered yet".into()));
        let chain = pool.chain();
        background.spawn(|stop| async move {
            stop.run_until_cancelled(ask(pool, tell)).await;
            anyhow::anyhow!("the watch over the {chain} chain's nodes has ended")
        });
        Self { chain, code, trouble }
    }

    /// Why the nodes do not do, if so.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let trouble = self.trouble.borrow();
        trouble
            .as_ref()
            .map(|why| Reason::new(self.code, format!("no node of the {} chain answers: {why}", self.chain)))
    }
}

async fn ask(pool: NodePool, tell: watch::Sender<Option<Arc<str>>>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        let answer = timeout(ANSWER_WITHIN, pool.request::<Value>("chain_getFinalizedHead", [(); 0])).await;
        let why = match answer {
            Ok(Ok(_)) => {
                failures = 0;
                tell.send_if_modified(|trouble| trouble.take().is_some());
                continue;
            }
            Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
            Err(_) => format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        };
        failures += 1;
        if failures >= MAX_FAILURES || tell.borrow().is_some() {
            tell.send_replace(Some(why.into()));
        }
    }
}
