//! What is seen of a worker, in itself and on chain, and what is shown of it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Task;
use crate::{
    blob::Heights,
    chain::WorkerOnChain,
    primitives::WorkerKey,
    prpc::PhactoryInfo,
    sync::{Step, plan},
    worker::{Decision, Observed, Troubles, keys::KeyClaim},
};

impl Task {
    pub(super) fn look_at_chain(&mut self) {
        let Some(key) = self.claim.as_ref().map(KeyClaim::key) else {
            self.claim_key();
            return;
        };
        let (block, found) = {
            let view = self.views.borrow_and_update();
            let Some(view) = view.as_ref() else { return };
            (view.block, view.workers.get(&key).cloned())
        };
        self.view_block = block;
        if self.settling.is_some_and(|settling| block >= settling) {
            self.settling = None;
        }
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(problem)) => {
                self.chain_problem = Some(problem.reason);
                self.on_chain = None;
                return;
            }
            None => return,
        };
        self.chain_problem = None;
        if self.on_chain.as_ref().is_some_and(|known| has_moved(known, &found)) {
            // Another situation: what failed in the last one may succeed in this.
            self.chain.heal();
        }
        self.note_benchmark(&found);
        self.on_chain = Some(found);
    }

    /// A worker without a sufficient score is given one benchmark's time before it registers again.
    fn note_benchmark(&mut self, found: &WorkerOnChain) {
        if found.registration.is_none() {
            self.benchmark_since = None;
        } else if self.benchmark_since.is_none() {
            self.benchmark_since = Some(self.view_block);
        }
    }

    pub(super) fn claim_key(&mut self) {
        let Some(key) = self.info.as_deref().and_then(public_key) else { return };
        let worker = &self.desired.worker;
        match self.ctx.keys.claim(key, worker.id, &worker.name) {
            Ok(claim) => {
                self.claim = Some(claim);
                self.twin = None;
            }
            Err(holder) => {
                if self.twin.is_none() {
                    warn!(worker = %worker.name, %holder, %key, "two workers have the same public key");
                }
                self.twin = Some(holder);
            }
        }
    }

    pub(super) fn observe(&mut self, now: Instant) -> Observed {
        let heights = *self.heights.borrow_and_update();
        let lag = self.position.lag(&heights);
        if self.info.as_ref().is_some_and(|info| info.initialized) {
            let tuning = &self.ctx.tuning;
            let within = if self.caught_up { tuning.behind_after } else { tuning.caught_up_within };
            self.caught_up = lag.is_some_and(|lag| lag <= within);
        }
        let (cool_down_period_secs, benchmark_blocks) =
            self.views.borrow().as_ref().map_or((0, 0), |v| (v.cool_down_period_secs, v.benchmark_blocks));
        let relay_genesis = self.genesis.borrow_and_update().as_ref().map(|g| g.relay_hash);
        let unsent = self.info.as_ref().is_some_and(|info| info.pending_messages > 0);
        Observed {
            info: self.info.clone(),
            stale: self.stale,
            position: self.position,
            heights,
            relay_genesis,
            step: self.next_step(&heights),
            caught_up: self.caught_up,
            chain: self.on_chain.clone(),
            chain_problem: self.chain_problem.clone(),
            settling: self.settling,
            cool_down_period_secs,
            benchmark_running: self.benchmark_runs(benchmark_blocks),
            job: self.operation,
            unsent_messages: unsent && self.on_chain.is_some() && self.egress.is_open(self.view_block),
            refresh_ra: self.refresh_ra,
            kicked: self.kicked,
            twin: self.twin.clone(),
            troubles: Troubles {
                connection: self.connection.trouble(now),
                sync: self.sync.trouble(now),
                chain: self.chain.trouble(now),
                relay: self.relay.trouble(now),
            },
        }
    }

    pub(super) fn next_step(&self, heights: &Heights) -> Step {
        let step = plan(self.position, heights, &self.ctx.tuning.limits);
        if self.empty == Some((step, *heights)) { Step::Wait } else { step }
    }

    fn benchmark_runs(&self, benchmark_blocks: u32) -> bool {
        /// For the report's way to the chain, and its score's way back.
        const ON_THE_WAY: u32 = 20;
        let wait = benchmark_blocks.saturating_mul(2).saturating_add(ON_THE_WAY);
        self.benchmark_since.is_none_or(|since| self.view_block.0 < since.0.saturating_add(wait))
    }

    pub(super) fn show(&self, decision: &Decision, observed: &Observed) {
        let before = self.slot.status();
        let position = self.info.is_some().then_some(self.position);
        let info = self.info.as_ref().or(before.info.as_ref());
        let failures = self.connection.backoff.attempts().max(self.sync.backoff.attempts());
        let lag = position.and_then(|p| p.lag(&observed.heights));
        let same = before.state == decision.state
            && before.message == decision.message
            && before.position == position
            && before.lag == lag
            && before.failures == failures
            && before.runner == Some(self.runner)
            && before.info.as_ref().map(Arc::as_ptr) == info.map(Arc::as_ptr)
            && before.chain.as_ref().map(Arc::as_ptr) == self.on_chain.as_ref().map(Arc::as_ptr);
        if same {
            return;
        }
        if before.state != decision.state {
            let worker = &self.desired.worker.name;
            info!(%worker, state = %decision.state, before = %before.state, "{}", decision.message);
        }
        self.slot.update(|status| {
            status.runner = Some(self.runner);
            status.state = decision.state;
            status.message = Arc::clone(&decision.message);
            status.position = position;
            status.lag = lag;
            status.public_key = info.and_then(|i| public_key(i));
            status.info = info.cloned();
            status.chain = self.on_chain.clone();
            status.failures = failures;
        });
    }
}

pub(super) fn public_key(info: &PhactoryInfo) -> Option<WorkerKey> {
    info.public_key.as_ref().filter(|_| info.initialized)?.parse().ok()
}

/// Whether the worker's standing on chain has changed; its sequence and its rewards do not count.
fn has_moved(before: &Arc<WorkerOnChain>, after: &Arc<WorkerOnChain>) -> bool {
    if Arc::ptr_eq(before, after) {
        return false;
    }
    let session = |w: &WorkerOnChain| w.session.as_ref().map(|s| (s.state, s.stake));
    before.registration != after.registration
        || before.pool != after.pool
        || session(before) != session(after)
}
