//! [`OnChain`]: what the chain says of the key that a worker's entry is known by.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::failures::FailureTracker;
use crate::{
    chain::{ChainView, PoolOnChain, Reading, RefusalClass, WorkerOnChain, refusal},
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    sync::BackoffConfig,
    worker::{Operation, Reason, Refused, Rules},
};

/// The newest view of one key, and what its operations have come to.
pub(super) struct OnChain {
    backoff: BackoffConfig,
    key: Option<WorkerKey>,
    pub(super) worker: Option<Reading<WorkerOnChain>>,
    pub(super) block: ParaNumber,
    pub(super) rules: Rules,
    /// An operation is final at this block, and the view is older.
    pub(super) settling: Option<ParaNumber>,
    /// An operation that was carried out, and must not be wanted any more at this block.
    pub(super) confirming: Option<(Operation, ParaNumber)>,
    benchmark_since: Option<ParaNumber>,
    pub(super) failures: FailureTracker,
    refused: Option<RefusedWhen>,
}

/// A refused operation is tried again after this long, whatever is seen: its cause may be one that views do not
/// show, such as a list of accepted pRuntimes.
const RETRY_REFUSED_AFTER: Duration = Duration::from_secs(6 * 3600);
/// The same for refusals that wait for time alone. Far longer than the chain's clock may be off.
const RETRY_TIMED_AFTER: Duration = Duration::from_secs(600);

/// A refusal, with the state that it was decided on.
struct RefusedWhen {
    operation: Operation,
    error: Arc<str>,
    cause: Cause,
    /// When it is tried again although nothing has changed.
    until: Instant,
}

/// What a refusal depends on: while it is the same, the same operation would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    worker: Option<Reading<WorkerOnChain>>,
    pool: Option<Reading<Option<PoolOnChain>>>,
    rules: Rules,
}

impl OnChain {
    pub(super) fn new(backoff: BackoffConfig) -> Self {
        Self {
            backoff,
            key: None,
            worker: None,
            block: ParaNumber(0),
            rules: Rules::default(),
            settling: None,
            confirming: None,
            benchmark_since: None,
            failures: FailureTracker::new(backoff),
            refused: None,
        }
    }

    /// Another key, or another pool: nothing of the last one counts.
    pub(super) fn reset(&mut self) {
        *self = Self { block: self.block, ..Self::new(self.backoff) };
    }

    /// What failed may be tried again at once.
    pub(super) fn forget_failures(&mut self) {
        self.failures.reset();
        self.refused = None;
    }

    /// Takes in a view's word on `key`.
    pub(super) fn look(&mut self, view: &ChainView, key: Option<WorkerKey>) {
        if self.key != key {
            self.reset();
            self.key = key;
        }
        self.block = view.block;
        self.rules = Rules::from(view);
        if self.settling.is_some_and(|settling| view.block >= settling) {
            self.settling = None;
        }
        let Some(found) = key.and_then(|key| view.workers.get(&key)) else { return };
        if let (Some(Ok(before)), Ok(after)) = (&self.worker, found)
            && has_moved(before, after)
        {
            // Another situation: what failed in the last one may succeed in this.
            self.failures.reset();
        }
        if let Ok(found) = found {
            self.note_benchmark(found);
        }
        self.worker = Some(found.clone());
    }

    /// A worker without a sufficient score is given one benchmark's time before it registers again.
    fn note_benchmark(&mut self, found: &WorkerOnChain) {
        if found.registration.is_none() {
            self.benchmark_since = None;
        } else if self.benchmark_since.is_none() {
            self.benchmark_since = Some(self.block);
        }
    }

    /// A registration starts a benchmark.
    pub(super) const fn registered(&mut self, block: ParaNumber) {
        self.benchmark_since = Some(block);
    }

    pub(super) fn benchmark_runs(&self) -> bool {
        /// For the report's way to the chain, and its score's way back.
        const ON_THE_WAY: u32 = 20;
        let wait = self.rules.benchmark_blocks.saturating_mul(2).saturating_add(ON_THE_WAY);
        self.benchmark_since.is_none_or(|since| self.block.0 < since.0.saturating_add(wait))
    }

    /// The chain has refused an operation.
    pub(super) fn refuse(
        &mut self,
        operation: Operation,
        error: &str,
        pool: Option<Reading<Option<PoolOnChain>>>,
    ) {
        self.failures.fail(Reason::OperationFailed { operation: operation.in_words(), error: error.into() });
        let wait = match refusal(error).class {
            // Made from what was on chain: made again from what is there now, after the pause alone.
            RefusalClass::Retry => return self.refused = None,
            RefusalClass::AwaitTime => RETRY_TIMED_AFTER,
            _ => RETRY_REFUSED_AFTER,
        };
        let cause = Cause { worker: self.worker.clone(), pool, rules: self.rules };
        let until = Instant::now() + wait;
        self.refused = Some(RefusedWhen { operation, error: error.into(), cause, until });
    }

    /// The refusal that still holds, as decisions see it.
    pub(super) fn refused(&self, pool: Option<&Reading<Option<PoolOnChain>>>) -> Option<Refused> {
        let RefusedWhen { operation, error, cause, until } = self.refused.as_ref()?;
        let changed = self.has_changed(cause, pool, *operation, error);
        let holds = self.settling.is_some() || !(changed || Instant::now() >= *until);
        let cure = refusal(error).cure.into();
        Some(Refused { operation: *operation, error: error.clone(), cure, holds })
    }

    fn has_changed(
        &self,
        cause: &Cause,
        pool: Option<&Reading<Option<PoolOnChain>>>,
        operation: Operation,
        error: &str,
    ) -> bool {
        let worker_moved = match (&cause.worker, &self.worker) {
            (Some(Ok(before)), Some(Ok(after))) => has_moved(before, after),
            (before, after) => before.is_some() != after.is_some(),
        };
        let rules_changed = Rules { now_secs: 0, ..cause.rules } != Rules { now_secs: 0, ..self.rules };
        worker_moved || rules_changed || pool_changed(cause.pool.as_ref(), pool, operation, error)
    }
}

/// Whether a pool has changed in what an operation depends on. Rewards and other workers' moves change its
/// numbers with every block: they count only where the refusal was about them, and only for the better.
fn pool_changed(
    before: Option<&Reading<Option<PoolOnChain>>>,
    after: Option<&Reading<Option<PoolOnChain>>>,
    operation: Operation,
    error: &str,
) -> bool {
    let of = |reading: Option<&Reading<Option<PoolOnChain>>>| match reading {
        Some(Ok(pool)) => pool.as_ref().clone(),
        _ => None,
    };
    match (of(before), of(after)) {
        (Some(before), Some(after)) => {
            let more_stake = error.ends_with("InsufficientFreeStake")
                && matches!(operation, Operation::Start(_) | Operation::RaiseStake(_))
                && after.free_stake > before.free_stake;
            before.owner != after.owner
                || before.is_vault != after.is_vault
                || after.workers.len() < before.workers.len()
                || after.withdrawals.len() < before.withdrawals.len()
                || more_stake
        }
        (before, after) => before.is_some() != after.is_some(),
    }
}

/// Whether the worker's standing on chain has changed; its sequence and its rewards do not count.
fn has_moved(before: &Arc<WorkerOnChain>, after: &Arc<WorkerOnChain>) -> bool {
    if Arc::ptr_eq(before, after) {
        return false;
    }
    let session = |w: &WorkerOnChain| w.session.as_ref().map(|s| (s.state, s.stake));
    before.registration != after.registration
        || before.pool != after.pool
        || before.endpoints != after.endpoints
        || session(before) != session(after)
}

/// What a view says of a pool.
pub(super) fn pool_in(view: &ChainView, pool: PoolId) -> Option<Reading<Option<PoolOnChain>>> {
    view.pools.get(&pool).cloned()
}

/// What a view says of an account.
pub(super) fn account_in(
    view: &ChainView,
    account: Option<AccountId>,
) -> Option<Reading<crate::chain::AccountOnChain>> {
    view.accounts.get(&account?).cloned()
}
