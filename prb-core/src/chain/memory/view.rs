//! Publishes the views of a [`MemoryChain`](super::MemoryChain).

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::{Config, State, block_hash, model::Model};
use crate::{
    chain::{AccountOnChain, ChainView, Followed, Reading, Unreadable},
    primitives::{AccountId, Balance, ParaNumber, PoolId, WorkerKey},
    wire::MessageOrigin,
};

impl State {
    /// Publishes the view of the newest final block, or of an older one if views are delayed.
    pub(super) fn publish_view(&mut self, config: &Config) {
        self.delayed.push_back(view(self.finalised(), &self.followed, config));
        let delay = config.view_delay_blocks as usize;
        // The first view is never delayed: readers wait for one before they do anything.
        let is_first = self.views.as_ref().is_some_and(|views| views.borrow().is_none());
        if !is_first && self.delayed.len() <= delay {
            return;
        }
        let Some(mut view) = self.delayed.pop_front() else { return };
        // Subjects that have left the set meanwhile are not shown.
        view.retain(&self.followed);
        if let Some(views) = &self.views {
            views.send_replace(Some(Arc::new(view)));
        }
    }
}

fn view(model: &Model, followed: &Followed, config: &Config) -> ChainView {
    let limit = config.max_tracked;
    let worker = |worker: &WorkerKey| match model.unreadable_workers.get(worker) {
        Some(unreadable) => Err(unreadable.clone()),
        None => Ok(Arc::new(model.workers.get(worker).cloned().unwrap_or_default())),
    };
    let pool = |pool: &PoolId| match model.unreadable_pools.get(pool) {
        Some(unreadable) => Err(unreadable.clone()),
        None => Ok(Arc::new(model.pool_on_chain(*pool))),
    };
    let account = |account: &AccountId| {
        let free = model.funds.get(account).copied().unwrap_or(Balance::MAX);
        Ok(Arc::new(AccountOnChain { free }))
    };
    let sender = |sender: &MessageOrigin| {
        Ok(Arc::new(match sender {
            MessageOrigin::Worker(worker) => model.workers.get(worker).map_or(0, |w| w.ingress_sequence),
            other => model.ingress.get(other).copied().unwrap_or(0),
        }))
    };
    ChainView {
        block: ParaNumber(model.block),
        hash: block_hash(model.block),
        time_ms: model.now_secs().saturating_mul(1_000),
        cool_down_period_secs: config.cool_down_secs,
        benchmark_blocks: config.benchmark_blocks,
        max_pool_workers: Some(config.max_pool_workers),
        withdrawal_grace_secs: Some(config.withdrawal_grace_secs),
        stake_rules: config.stake_rules,
        unreadable: Vec::new(),
        workers: read(&followed.workers, limit, "workers", worker),
        pools: read(&followed.pools, limit, "pools", pool),
        accounts: read(&followed.accounts, limit, "accounts", account),
        senders: read(&followed.senders, limit, "senders of messages", sender),
    }
}

/// Reads the first `limit` subjects; the others are unreadable because of the limit.
fn read<'f, K: Clone + Eq + Hash + 'f, T>(
    followed: impl IntoIterator<Item = &'f K>,
    limit: usize,
    what: &str,
    read: impl Fn(&K) -> Reading<T>,
) -> HashMap<K, Reading<T>> {
    let reading = |(index, key): (usize, &K)| match index < limit {
        true => (key.clone(), read(key)),
        false => {
            let reason = format!("the reader follows at most {limit} {what}");
            (key.clone(), Err(Unreadable::new(reason)))
        }
    };
    followed.into_iter().enumerate().map(reading).collect()
}
