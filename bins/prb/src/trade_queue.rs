//! The trade queue of this process and, if it has one, its trader.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prb_chain::{
    rpc::NodePool,
    signer::VaultSigners,
    submit::{self, Submitter},
};
use prb_core::{
    chain::ChainView,
    primitives::ParaNumber,
    queue::{JobQueue, Stats, admin::QueueAdmin},
    trade::{
        self, Trader,
        accounts::{AccountLeases, MemoryAccounts},
    },
    vault::Vault,
};
use prb_queue::{
    memory::MemoryQueue,
    redis::{self, RedisQueue},
};
use tokio::{sync::watch, time::MissedTickBehavior};
use uuid::Uuid;

use crate::{
    config::{PageArgs, SendingArgs},
    daemon::{Background, Failure, stop},
    ops::Reason,
    pages,
    readiness::Code,
    token::Access,
};

/// Interval at which the queue is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Parachain blocks by which another trader's node may be ahead of ours: the effects of its jobs are expected
/// this many blocks after our newest final one.
const OTHERS_AHEAD: u32 = 4;

/// A queue with this process's trader, if it has one.
#[derive(Debug)]
pub(crate) struct TradeQueue {
    queue: Arc<dyn JobQueue>,
    admin: Arc<dyn QueueAdmin>,
    trader: Option<Trader>,
    /// The queue, if it is in Redis.
    redis: Option<RedisQueue>,
    /// The result of the last poll.
    state: watch::Receiver<QueueState>,
    /// The address of the queue page, if there is one.
    page: Option<SocketAddr>,
    background: Background,
}

impl TradeQueue {
    /// A queue in memory, and a trader that works on it.
    pub(crate) fn built_in(
        para: NodePool,
        vault: Arc<dyn Vault>,
        sending: &SendingArgs,
    ) -> anyhow::Result<Self> {
        let queue = MemoryQueue::new(sending.memory_config());
        // No other process can lease jobs from this queue, so leases within the process suffice.
        let accounts = Arc::new(MemoryAccounts::default());
        let trader = trader(Arc::new(queue.clone()), para, vault, accounts, sending.submit_config())?;
        Ok(Self::of(queue, Some(trader)))
    }

    /// Connects to a queue in Redis whose trader is another process: possibly the original's, which does not
    /// report the block of a job's effects. Redis does not have to be reachable yet.
    pub(crate) fn queue_only(config: redis::Config) -> anyhow::Result<Self> {
        let queue = RedisQueue::start(config)?;
        Ok(Self { redis: Some(queue.clone()), ..Self::polled(queue.clone(), None, Some(queue)) })
    }

    /// Connects to a queue in Redis and starts a trader. Redis does not have to be reachable yet.
    pub(crate) fn trading(
        config: redis::Config,
        para: NodePool,
        vault: Arc<dyn Vault>,
        sending: &SendingArgs,
    ) -> anyhow::Result<Self> {
        let queue = RedisQueue::start(config.with_max_age(sending.job_max_age))?;
        // In Redis: another trader may have jobs of the same account (docs/adr/0003-account-leases.md).
        let accounts = Arc::new(queue.accounts());
        let trader = trader(Arc::new(queue.clone()), para, vault, accounts, sending.submit_config())?;
        Ok(Self { redis: Some(queue.clone()), ..Self::polled(queue.clone(), Some(trader), Some(queue)) })
    }

    fn of<Q: JobQueue + QueueAdmin + Clone + 'static>(queue: Q, trader: Option<Trader>) -> Self {
        Self::polled(queue, trader, None)
    }

    fn polled<Q: JobQueue + QueueAdmin + Clone + 'static>(
        queue: Q,
        trader: Option<Trader>,
        redis: Option<RedisQueue>,
    ) -> Self {
        let admin = Arc::new(queue.clone());
        let queue: Arc<dyn JobQueue> = Arc::new(queue);
        let (sender, state) = watch::channel(QueueState::NotPolled);
        let mut background = Background::default();
        let asked = Arc::clone(&queue);
        background.spawn(|stop| async move {
            stop.run_until_cancelled(poll(&*asked, redis.as_ref(), &sender)).await;
            anyhow::anyhow!("polling the queue has ended")
        });
        Self { queue, admin, trader, redis: None, state, page: None, background }
    }

    /// Adds the queue page. If another process trades, only at a configured address, because that process has the
    /// page.
    pub(crate) async fn with_page(mut self, args: &PageArgs, access: &Access) -> Result<Self, Failure> {
        if self.trader.is_none() && args.queue_page_listen.is_none() {
            return Ok(self);
        }
        let opened = pages::queue::open(args, access, self.source()).await;
        if let Some(site) = opened.map_err(Failure::Configuration)? {
            self.page = Some(site.address());
            self.background.spawn(|stop| async move {
                stop.run_until_cancelled(site.serve()).await;
                anyhow::anyhow!("the queue page has ended")
            });
        }
        Ok(self)
    }

    /// The source of the queue page.
    pub(crate) fn source(&self) -> pages::queue::Source {
        pages::queue::Source { queue: Arc::clone(&self.queue), admin: Arc::clone(&self.admin) }
    }

    /// The queue.
    pub(crate) fn queue(&self) -> Arc<dyn JobQueue> {
        Arc::clone(&self.queue)
    }

    /// The address of the queue page, if there is one.
    pub(crate) const fn page(&self) -> Option<SocketAddr> {
        self.page
    }

    /// The number of jobs at the last poll.
    pub(crate) fn stats(&self) -> Stats {
        self.state.borrow().stats().unwrap_or_default()
    }

    /// Watches the results of polling the queue.
    pub(crate) fn watch(&self) -> watch::Receiver<QueueState> {
        self.state.clone()
    }

    /// Waits for an essential part to end. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let trader = async {
            let Some(trader) = &mut self.trader else { return std::future::pending().await };
            match trader.ended().await {
                Ok(_) => anyhow::anyhow!("the trader has ended"),
                Err(error) => anyhow::Error::new(error).context("the trader failed"),
            }
        };
        let redis = async {
            let Some(queue) = &self.redis else { return std::future::pending().await };
            queue.ended().await;
            anyhow::anyhow!("the connection to the queue in Redis has ended")
        };
        tokio::select! {
            error = trader => error,
            error = redis => error,
            error = self.background.ended() => error,
        }
    }

    /// Shuts down: no more jobs are leased, and batches end or their jobs are handed back.
    pub(crate) async fn stop(self) {
        // First: it leases no more jobs, and the queue still takes back those that it has not finished.
        if let Some(trader) = self.trader {
            match trader.stop(stop::TRADER).await {
                Ok(report) => tracing::info!(
                    jobs_released = report.jobs_released,
                    jobs_left = report.jobs_left,
                    accounts_left = report.accounts_left,
                    "trader stopped"
                ),
                Err(error) => tracing::warn!(error = %prb_core::text::describe(&error), "the trader failed"),
            }
        }
        // After the trader, which hands its jobs back over this connection.
        let redis = async {
            if let Some(queue) = &self.redis {
                // After the limit it goes on in the background.
                let _ = tokio::time::timeout(stop::QUEUE, queue.shutdown()).await;
            }
        };
        tokio::join!(self.background.stop(stop::HELPERS), redis);
    }
}

fn trader(
    queue: Arc<dyn JobQueue>,
    para: NodePool,
    vault: Arc<dyn Vault>,
    accounts: Arc<dyn AccountLeases>,
    sending: submit::Config,
) -> anyhow::Result<Trader> {
    let submitter = Arc::new(Submitter::new(para, sending)?);
    let parts = trade::Parts { queue, submitter, signers: Arc::new(VaultSigners::new(vault)), accounts };
    Ok(Trader::start(trade::Config::default(), parts)?)
}

/// The configuration of a Redis queue whose submitters wait for an on-chain view with their jobs' effects. `inventory` is
/// the id of the manager's inventory.
pub(crate) fn submitters(
    url: &str,
    inventory: Uuid,
    chain: watch::Receiver<Option<Arc<ChainView>>>,
) -> redis::Config {
    let hint = move || {
        let newest = chain.borrow().as_ref().map(|view| view.block);
        // Before the first view, every view is newer.
        newest.map_or(ParaNumber(0), |block| ParaNumber(block.0.saturating_add(OTHERS_AHEAD)))
    };
    // Not the peer id: managers that share a queue may have the same identity.
    let submitter = Some(inventory.to_string());
    redis::Config::new(url).with_block_hint(Some(Arc::new(hint))).with_submitter(submitter)
}

/// The result of polling the queue.
#[derive(Clone, Debug)]
pub(crate) enum QueueState {
    /// Not polled yet.
    NotPolled,
    /// It works.
    Answering(Stats),
    /// It does not work, with the reason.
    Failing(Arc<str>),
}

impl QueueState {
    /// The number of jobs, if it answered.
    pub(crate) const fn stats(&self) -> Option<Stats> {
        match self {
            Self::Answering(stats) => Some(*stats),
            Self::NotPolled | Self::Failing(_) => None,
        }
    }
}

/// Polls the queue at intervals, so that readers of its state never wait. For a queue in Redis it also checks
/// whether jobs can be leased, which needs more permissions than counting them.
async fn poll(queue: &dyn JobQueue, redis: Option<&RedisQueue>, sender: &watch::Sender<QueueState>) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = async {
            if let Some(redis) = redis {
                redis.ready().await?;
            }
            queue.stats().await
        };
        let state = match answer.await {
            Ok(stats) => QueueState::Answering(stats),
            Err(error) => QueueState::Failing(format!("{:#}", anyhow::Error::new(error)).into()),
        };
        match (&*sender.borrow(), &state) {
            (QueueState::Failing(old), QueueState::Failing(new)) if old == new => {}
            (_, QueueState::Failing(why)) => tracing::warn!(error = &**why, "the trade queue does not work"),
            (QueueState::Failing(_), QueueState::Answering(_)) => {
                tracing::info!("the trade queue works again")
            }
            _ => {}
        }
        sender.send_replace(state);
    }
}

/// Whether the queue works.
pub(crate) fn readiness(state: &watch::Receiver<QueueState>) -> Option<Reason> {
    match &*state.borrow() {
        QueueState::Answering(_) => None,
        QueueState::NotPolled => {
            Some(Reason::new(Code::QueueUnreachable, "the trade queue has not answered yet"))
        }
        QueueState::Failing(why) => Some(Reason::new(Code::QueueUnreachable, why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn effects_of_other_traders_are_expected_after_the_newest_view() {
        let (views, chain) = watch::channel(None);
        let config = submitters("redis://127.0.0.1", Uuid::nil(), chain);
        let hint = config.block_hint.unwrap();
        assert_eq!(hint(), ParaNumber(0));
        for block in [ParaNumber(10), ParaNumber(12), ParaNumber(u32::MAX)] {
            let mut view = ChainView::default();
            view.block = block;
            views.send_replace(Some(Arc::new(view)));
            assert_eq!(hint().0, block.0.saturating_add(4));
        }
    }
}
