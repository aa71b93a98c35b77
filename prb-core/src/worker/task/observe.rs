//! Observes a worker and its on-chain state, and publishes its status.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Grant, Observed, Operation, Task,
    identity::public_key,
    interest,
    on_chain::{account_in, pool_in},
};
use crate::{
    chain::ChainView,
    inventory::FleetRecord,
    primitives::WorkerKey,
    worker::{
        Decision, Failure, Failures, LastKey, Reason,
        decide::{FAILURES_BEFORE_ERROR, stake_needed},
        line_limit::Line,
        record::{self, Observation},
        stakes::Need,
    },
};

impl Task {
    /// Applies the newest view to the on-chain state and the persisted record; returns whether the worker's
    /// on-chain state could be evaluated.
    pub(super) fn apply_view(&mut self) -> bool {
        self.views.borrow_and_update();
        match self.ctx.views.current() {
            Ok(view) => (self.view, self.node_behind) = (view, None),
            Err(behind) => self.node_behind = Some(behind),
        }
        let view = self.view.clone();
        self.identity.claim(&self.ctx.keys, &self.desired.worker, self.saved.key, view.as_deref());
        let mut seen = false;
        if let (Some(view), None) = (&view, self.node_behind) {
            // An unreachable worker still has its on-chain state, under its last known key.
            let key =
                self.identity.claimed().or_else(|| self.saved.key.filter(|_| self.identity.key().is_none()));
            self.on_chain.update(view, key);
            self.renew_sent();
            seen = self.update_goal(view);
        }
        self.ctx.keys.set_interest(self.slot.id(), Some(interest(&self.desired, &self.saved)));
        self.store_saved();
        seen
    }

    /// Updates the goal; returns whether the worker's on-chain state could be evaluated.
    fn update_goal(&mut self, view: &ChainView) -> bool {
        // Not while the block of an included operation is awaited: the older view would pass for its outcome.
        let (Some(key), Some(Ok(chain)), None) =
            (self.key_of_goal(view), &self.on_chain.worker, self.on_chain.awaiting_block)
        else {
            return false;
        };
        let last_is_free = self.last_key(view).is_some_and(|last| last.is_free());
        let after_stop = self.desired.after_stop(self.ctx.settings.after_stop);
        let pool = self.desired.worker.pid;
        let block = self.on_chain.block;
        let seen = Observation { key, chain, pool, after_stop, last_is_free, block };
        let takes_key = record::takes_key(&self.saved, &seen);
        // The entry at which the last key answers now looks for its goal in the inventory.
        if takes_key && self.saved.key.is_some() && self.slot.saved() != self.saved {
            return false;
        }
        let before = if takes_key { self.resumed(key, chain.pool) } else { self.saved };
        let saved = record::saved_after(before, seen);
        // Records of earlier versions have no block, and a chain that was set back is behind theirs.
        let as_of = saved.as_of.filter(|as_of| *as_of <= block).or(Some(block));
        self.set_saved(FleetRecord { as_of, ..saved });
        true
    }

    /// The last known key, if it differs from the one that answers, or none answers.
    pub(super) fn last_key(&self, view: &ChainView) -> Option<LastKey> {
        let key = self.saved.key.filter(|last| self.identity.key() != Some(*last))?;
        let holder = self.ctx.keys.other_holder(key, self.slot.id());
        let may_start = record::may_still_start(&self.saved, self.on_chain.block);
        Some(LastKey { key, chain: view.workers.get(&key).cloned(), holder, may_start })
    }

    /// The key whose on-chain state decides the goal: the one that answers, or the last known one while none does,
    /// unless that answers at another worker.
    fn key_of_goal(&self, view: &ChainView) -> Option<WorkerKey> {
        let absent =
            || self.last_key(view).filter(|last| self.identity.key().is_none() && last.holder.is_none());
        self.identity.claimed().or_else(|| absent().map(|last| last.key))
    }

    pub(super) fn observe(&mut self, now: Instant) -> Observed {
        let heights = *self.heights.borrow_and_update();
        if self.connection.is_initialised() {
            self.sync.note_lag(&heights, &self.ctx.tuning);
        }
        let relay_genesis = self.genesis.borrow_and_update().as_ref().map(|genesis| genesis.relay_hash);
        let step = self.sync.next_step(&heights, &self.ctx.tuning);
        let awaits_data = self.sync.awaits_data(step, now);
        let view = self.view.clone();
        let pool = view.as_ref().and_then(|view| pool_in(view, self.desired.worker.pid));
        let claimed = self.identity.claimed().is_some();
        let mut observed = Observed {
            info: self.connection.info.clone(),
            stale: self.connection.stale,
            position: self.sync.position,
            heights,
            relay_genesis,
            step,
            awaits_data,
            syncing: self.sync.is_running() || self.takes_checkpoint(),
            caught_up: self.sync.caught_up,
            node_behind: self.node_behind,
            chain: self.on_chain.worker.clone().filter(|_| claimed),
            payer: view.as_ref().and_then(|view| account_in(view, self.desired.payer())),
            rules: self.on_chain.rules,
            awaiting_block: self.on_chain.awaiting_block,
            benchmark_running: self.on_chain.is_benchmark_running(),
            job: self.operation.or_else(|| self.jobs.superseded()),
            refused: self.on_chain.refused(pool.as_ref()),
            pool,
            grant: Grant::Granted,
            unsent_messages: self.has_messages(now),
            refresh_ra: self.refresh_ra,
            kicked: self.connection.kicked,
            key_holder: self.identity.holder.clone(),
            last_key: view.as_ref().and_then(|view| self.last_key(view)),
            saved: self.saved,
            unsaved: self.slot.saved() != self.saved,
            failures: self.failures(now),
        };
        observed.grant = self.grant(&observed);
        observed
    }

    fn has_messages(&self, now: Instant) -> bool {
        let pending = self.connection.info.as_ref().is_some_and(|info| info.pending_messages > 0);
        let known = matches!(self.on_chain.worker, Some(Ok(_)));
        pending
            && known
            && self.identity.claimed().is_some()
            && self.relay.wants_messages(now, self.on_chain.block)
    }

    fn failures(&self, now: Instant) -> Failures {
        let heights = *self.heights.borrow();
        let problem = self.sync.problem(&heights, now).map(|(problem, due)| Failure {
            reason: Reason::of_sync(problem),
            attempts: problem.failures,
            due,
        });
        let save = self.ctx.saver.problem().map(|error| Failure {
            reason: Reason::SaveFailing { error },
            attempts: 1,
            due: false,
        });
        Failures {
            connection: self.connection.failures.failure(now),
            sync: if self.connection.is_initialised() { problem } else { self.init_failures.failure(now) },
            chain: self.on_chain.failures.failure(now),
            relay: self.relay.failure(now),
            save,
        }
    }

    /// Reports the worker's need of its pool's free stake, and returns whether that is granted.
    fn grant(&self, observed: &Observed) -> Grant {
        let unreachable = self.connection.failures.attempts() >= FAILURES_BEFORE_ERROR;
        let waits_for_chain = observed.caught_up && observed.chain.is_none() && observed.key_holder.is_none();
        // `Unknown` makes workers behind it wait for a while; an unreachable worker must not block them.
        let need = match stake_needed(&self.desired, observed) {
            Some(stake) if !self.on_the_way => Need::Blocked(stake),
            Some(stake) if is_scored(observed) => Need::Stake(stake),
            Some(stake) => Need::Preparing(stake),
            None if (observed.info.is_none() && !unreachable) || waits_for_chain => Need::Unknown,
            None => Need::Nothing,
        };
        let free = match &observed.pool {
            Some(Ok(pool)) => pool.as_ref().as_ref().map(|pool| (self.on_chain.block, pool.free_stake)),
            _ => None,
        };
        self.ctx.stakes.request(self.slot.id(), need, free)
    }

    /// Checks that an operation that was included is no longer wanted at its block; returns whether that
    /// could be checked.
    pub(super) fn confirm(&mut self, wanted: Option<Operation>) -> bool {
        if self.on_chain.awaiting_block.is_some() {
            return false;
        }
        let Some((done, block)) = self.on_chain.confirming.take() else { return false };
        if wanted == Some(done) {
            let operation = done.description();
            self.operation_failed(done, Reason::OperationWithoutEffect { operation, block });
        } else {
            self.on_chain.failures.reset();
        }
        true
    }

    pub(super) fn publish_status(&self, decision: &Decision, observed: &Observed) {
        // Most iterations change nothing: watchers of the fleet are only woken by a difference.
        let before = self.slot.status();
        let checkpoint = self.must_finish_call() && !self.connection.kicked;
        let (reason, message) = if checkpoint {
            (Reason::TakingCheckpoint, Reason::TakingCheckpoint.to_string().into())
        } else {
            (decision.reason.clone(), Arc::clone(&decision.message))
        };
        let position = self.connection.info.is_some().then_some(self.sync.position);
        let info = self.connection.info.as_ref().or(before.info.as_ref());
        let failures = observed.failures.connection.as_ref().map_or(0, |failure| failure.attempts);
        let failures = failures.max(observed.failures.sync.as_ref().map_or(0, |failure| failure.attempts));
        let lag = position.and_then(|position| position.lag(&observed.heights));
        let chain = self.on_chain.worker.as_ref().and_then(|chain| chain.as_ref().ok());
        // Infos and views are replaced as a whole and never changed, so comparing pointers suffices.
        let same = before.state == decision.state
            && before.message == message
            && before.position == position
            && before.lag == lag
            && before.failures == failures
            && before.saved == self.saved
            && before.runner == Some(self.runner)
            && before.info.as_ref().map(Arc::as_ptr) == info.map(Arc::as_ptr)
            && before.chain.as_ref().map(Arc::as_ptr) == chain.map(Arc::as_ptr);
        if same {
            return;
        }
        if before.state != decision.state {
            let worker = &self.desired.worker.name;
            let (state, before) = (decision.state, before.state);
            if self.ctx.lines.admits(Line::State(state), worker) {
                info!(%worker, %state, %before, "{message}");
            } else {
                debug!(%worker, %state, %before, "{message}");
            }
        }
        let key = info.and_then(|info| public_key(info)).or(self.saved.key);
        self.slot.update(|status| {
            status.runner = Some(self.runner);
            status.state = decision.state;
            status.reason = reason;
            status.message = message;
            status.position = position;
            status.lag = lag;
            status.public_key = key;
            status.info = info.cloned();
            status.chain = chain.cloned();
            status.saved = self.saved;
            status.failures = failures;
        });
    }
}

/// Whether a worker has the score that a start needs.
fn is_scored(observed: &Observed) -> bool {
    let Some(Ok(chain)) = &observed.chain else { return false };
    let registration = chain.registration.as_ref();
    registration.and_then(|registration| registration.initial_score).is_some_and(|score| score > 0)
}
