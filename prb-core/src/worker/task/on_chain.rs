//! [`OnChain`]: the on-chain state of a worker's key, and the results of its operations.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::failures::FailureTracker;
use crate::{
    chain::{ChainView, ErrorClass, PoolOnChain, Reading, WorkerOnChain, known_error},
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    sync::BackoffConfig,
    worker::{Operation, Reason, Refused, Rules},
};

/// The newest view of one key, with pending confirmations and refusals.
pub(super) struct OnChain {
    backoff: BackoffConfig,
    key: Option<WorkerKey>,
    pub(super) worker: Option<Reading<WorkerOnChain>>,
    pub(super) block: ParaNumber,
    pub(super) rules: Rules,
    /// The block that includes an operation, while the view is older.
    pub(super) awaiting_block: Option<ParaNumber>,
    /// An operation that was included, and must no longer be wanted at this block.
    pub(super) confirming: Option<(Operation, ParaNumber)>,
    benchmark_since: Option<ParaNumber>,
    pub(super) failures: FailureTracker,
    refused: Option<RefusalRecord>,
}

/// A refused operation is retried after this long even if nothing has changed: its cause may be one that
/// views do not show, such as the list of accepted pRuntime versions.
pub(super) const RETRY_REFUSED_AFTER: Duration = Duration::from_secs(6 * 3600);
/// The same for refusals that only time resolves. Much longer than the chain's clock may be off.
const RETRY_TIMED_AFTER: Duration = Duration::from_secs(600);

/// A refused operation, with the state that the refusal was based on.
struct RefusalRecord {
    operation: Operation,
    error: Arc<str>,
    /// The state in the first view that is as new as the refusal. What was known when the operation was submitted says
    /// nothing: something else in it has led to the refusal.
    cause: Option<RefusalState>,
    /// When the operation is retried although nothing has changed.
    until: Instant,
}

/// The state that a refusal depends on: while it is unchanged, the same operation would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RefusalState {
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
            awaiting_block: None,
            confirming: None,
            benchmark_since: None,
            failures: FailureTracker::new(backoff),
            refused: None,
        }
    }

    /// Discards everything about the last key or pool. A block whose outcome is awaited still is: it may show stake of the
    /// last key.
    pub(super) fn reset(&mut self) {
        let Self { backoff, block, awaiting_block, .. } = *self;
        *self = Self { block, awaiting_block, ..Self::new(backoff) };
    }

    /// Lets failed and refused operations be retried at once.
    pub(super) fn forget_failures(&mut self) {
        self.failures.reset();
        self.refused = None;
    }

    /// Applies a view's state of `key`.
    pub(super) fn update(&mut self, view: &ChainView, key: Option<WorkerKey>) {
        if self.key != key {
            self.reset();
            self.key = key;
        }
        self.block = view.block;
        self.rules = Rules::from(view);
        if self.awaiting_block.is_some_and(|awaited| view.block >= awaited) {
            self.awaiting_block = None;
        }
        let Some(found) = key.and_then(|key| view.workers.get(&key)) else { return };
        if let (Some(Ok(before)), Ok(after)) = (&self.worker, found)
            && state_changed(before, after)
        {
            // The situation changed: an operation that failed before may succeed now.
            self.failures.reset();
        }
        if let Ok(found) = found {
            self.note_benchmark(found);
        }
        self.worker = Some(found.clone());
    }

    /// A worker without a sufficient score gets the time of one benchmark before it registers again. Each registration
    /// starts one, also one of unknown outcome, or by somebody else.
    fn note_benchmark(&mut self, found: &WorkerOnChain) {
        let Some(registration) = &found.registration else { return self.benchmark_since = None };
        let known = match &self.worker {
            Some(Ok(before)) => before.registration.as_ref(),
            _ => None,
        };
        // A score updates the time as well, at the end of a benchmark.
        let is_new = known.is_some_and(|known| {
            known.last_updated != registration.last_updated
                && known.initial_score == registration.initial_score
        });
        if is_new || self.benchmark_since.is_none() {
            self.benchmark_since = Some(self.block);
        }
    }

    /// Notes a registration, which starts a benchmark.
    pub(super) const fn registered(&mut self, block: ParaNumber) {
        self.benchmark_since = Some(block);
    }

    pub(super) fn is_benchmark_running(&self) -> bool {
        /// Blocks for the report to reach the chain, and for the score to come back.
        const TRANSIT_BLOCKS: u32 = 20;
        // Twice the nominal duration, as a margin for slow workers.
        let wait = self.rules.benchmark_blocks.saturating_mul(2).saturating_add(TRANSIT_BLOCKS);
        self.benchmark_since.is_none_or(|since| self.block.0 < since.0.saturating_add(wait))
    }

    /// Records that the chain refused an operation.
    pub(super) fn refuse(&mut self, operation: Operation, error: &str) {
        self.failures
            .fail(Reason::OperationFailed { operation: operation.description(), error: error.into() });
        let wait = match known_error(error).class {
            // The call was built from an outdated state: it is rebuilt from the current one, after the
            // backoff alone.
            ErrorClass::Retry => return self.refused = None,
            ErrorClass::AwaitTime => RETRY_TIMED_AFTER,
            _ => RETRY_REFUSED_AFTER,
        };
        let until = Instant::now() + wait;
        self.refused = Some(RefusalRecord { operation, error: error.into(), cause: None, until });
    }

    /// The current refusal, as input of decisions.
    pub(super) fn refused(&mut self, pool: Option<&Reading<Option<PoolOnChain>>>) -> Option<Refused> {
        // While a newer view is awaited, the state seen is older than the refusal and proves no change.
        let awaits = self.awaiting_block.is_some();
        if !awaits {
            self.note_cause(pool);
        }
        let RefusalRecord { operation, error, cause, until } = self.refused.as_ref()?;
        let changed = cause.as_ref().is_some_and(|cause| self.has_changed(cause, pool, *operation, error));
        let is_current = awaits || !(changed || Instant::now() >= *until);
        let remedy = known_error(error).remedy.into();
        Some(Refused { operation: *operation, error: error.clone(), remedy, is_current })
    }

    /// Keeps the state that the refusal was based on, from the first view that is as new.
    fn note_cause(&mut self, pool: Option<&Reading<Option<PoolOnChain>>>) {
        let Some(record) = self.refused.as_ref().filter(|record| record.cause.is_none()) else { return };
        // Once: the chain may count its stake in another way, and each refusal costs a fee.
        let is_first = self.failures.attempts() <= 1;
        if is_first
            && record.operation.is_short_of_stake(&record.error)
            && self.has_enough(pool, record.operation)
        {
            // There was enough again before the view: it is tried once more, after the backoff.
            self.refused = None;
            return;
        }
        let cause = RefusalState { worker: self.worker.clone(), pool: pool.cloned(), rules: self.rules };
        if let Some(record) = &mut self.refused {
            record.cause = Some(cause);
        }
    }

    /// Whether the pool's free stake suffices for an operation.
    fn has_enough(&self, pool: Option<&Reading<Option<PoolOnChain>>>, operation: Operation) -> bool {
        let Some(Ok(pool)) = pool else { return false };
        let at_stake = match &self.worker {
            Some(Ok(worker)) => worker.at_stake(),
            _ => 0,
        };
        let needed = match operation {
            Operation::Start(stake) => stake,
            Operation::RaiseStake(stake) => stake.saturating_sub(at_stake),
            _ => return false,
        };
        pool.as_ref().as_ref().is_some_and(|pool| pool.free_stake >= needed)
    }

    fn has_changed(
        &self,
        cause: &RefusalState,
        pool: Option<&Reading<Option<PoolOnChain>>>,
        operation: Operation,
        error: &str,
    ) -> bool {
        let worker_moved = match (&cause.worker, &self.worker) {
            (Some(Ok(before)), Some(Ok(after))) => state_changed(before, after),
            (before, after) => before.is_some() != after.is_some(),
        };
        // Without the clock, which changes in every view.
        let rules_changed = Rules { now_secs: 0, ..cause.rules } != Rules { now_secs: 0, ..self.rules };
        worker_moved || rules_changed || pool_changed(cause.pool.as_ref(), pool, operation, error)
    }
}

/// Whether a pool has changed in anything that an operation depends on. Rewards and other workers' operations
/// change its numbers with every block: they count only if the refusal was about them, and only if they
/// improved.
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
            let more_stake = operation.is_short_of_stake(error) && after.free_stake > before.free_stake;
            before.owner != after.owner
                || before.is_vault != after.is_vault
                || after.workers.len() < before.workers.len()
                || after.withdrawals.len() < before.withdrawals.len()
                || more_stake
        }
        (before, after) => before.is_some() != after.is_some(),
    }
}

/// Whether the worker's on-chain state has changed in anything that operations depend on; its message
/// sequence and its rewards do not count.
fn state_changed(before: &Arc<WorkerOnChain>, after: &Arc<WorkerOnChain>) -> bool {
    if Arc::ptr_eq(before, after) {
        return false;
    }
    let session = |w: &WorkerOnChain| w.session.as_ref().map(|s| (s.state, s.stake));
    before.registration != after.registration
        || before.pool != after.pool
        || before.endpoints != after.endpoints
        || session(before) != session(after)
}

/// The state of a pool in a view.
pub(super) fn pool_in(view: &ChainView, pool: PoolId) -> Option<Reading<Option<PoolOnChain>>> {
    view.pools.get(&pool).cloned()
}

/// The state of an account in a view.
pub(super) fn account_in(
    view: &ChainView,
    account: Option<AccountId>,
) -> Option<Reading<crate::chain::AccountOnChain>> {
    view.accounts.get(&account?).cloned()
}
