//! Assesses a worker by its on-chain state, as if it were at the tip.

use super::{Assessment, blocked, key_changed, recorded};
use crate::{
    chain::{Registration, Session, SessionState, WorkerOnChain},
    inventory::Goal,
    primitives::AccountId,
    prpc::PhactoryInfo,
    worker::{Desired, Observed, Operation, Reason, Settings, State, reason::AfterCoolDown},
};

pub(super) fn assess(
    desired: &Desired,
    settings: &Settings,
    observed: &Observed,
    info: &PhactoryInfo,
) -> Assessment {
    if let Some(holder) = &observed.key_holder {
        // One pRuntime accepts one sync at a time, and the other entry syncs it.
        let mut duplicate =
            Assessment::new(State::Error, Reason::KeyInUse { holder: holder.clone() }).without_relay();
        duplicate.syncs = false;
        return duplicate;
    }
    // Before the on-chain state is examined: without operations, none of it matters.
    if settings.sync_only || desired.sync_only() {
        return Assessment::new(State::Synched, Reason::SyncOnly).without_relay();
    }
    let pool = desired.worker.pid;
    let Some(operator) = desired.operator() else {
        return Assessment::new(State::Synched, Reason::NoOperator { pool }).without_relay();
    };
    let chain = match &observed.chain {
        Some(Ok(chain)) => chain,
        Some(Err(problem)) => {
            let reason = Reason::ChainStateUnreadable { reason: problem.reason.clone() };
            return Assessment::new(State::Error, reason).without_relay();
        }
        None => return Assessment::new(State::Synched, Reason::AwaitingChainState).without_relay(),
    };
    let computing = chain.session.as_ref().is_some_and(|s| s.state.is_computing());
    if let Some(reason) = observed.last_key.as_ref().and_then(|last| key_changed(observed, last)) {
        let mut assessment = Assessment::new(State::Error, reason);
        assessment.wanted = recorded::operation(desired, settings, observed);
        // Its messages are relayed if it computes: without heartbeats the new key would be slashed as well.
        return if computing { assessment } else { assessment.without_relay() };
    }
    match chain.pool {
        Some(on_chain) if on_chain != pool => {
            let assessment = Assessment::new(State::Error, Reason::InOtherPool { on_chain, ours: pool });
            // As above: a pool's number that was edited by mistake must not cost the worker its stake.
            if computing { assessment } else { assessment.without_relay() }
        }
        None if chain.session.as_ref().is_some_and(|s| s.state != SessionState::Ready) => {
            let state = if computing { State::Active } else { State::Synched };
            Assessment::new(state, Reason::AssignmentGone { computing })
        }
        in_pool => {
            Candidate { desired, settings, observed, info, chain, operator, ours: in_pool.is_some() }.assess()
        }
    }
}

/// A worker that is in its configured pool, or in none.
struct Candidate<'a> {
    desired: &'a Desired,
    settings: &'a Settings,
    observed: &'a Observed,
    info: &'a PhactoryInfo,
    chain: &'a WorkerOnChain,
    operator: AccountId,
    ours: bool,
}

impl Candidate<'_> {
    fn assess(&self) -> Assessment {
        let session = self.chain.session.as_ref().filter(|_| self.ours);
        let goal = self.observed.saved.goal;
        match session {
            Some(session) if session.state == SessionState::WorkerCoolingDown => {
                return self.cooling_down(session);
            }
            Some(session) if session.state.is_computing() && goal == Goal::Stop => {
                return Assessment::new(State::Active, Reason::Stopping).wants(Operation::Stop);
            }
            _ => {}
        }
        if let Some(stopped) = self.stopped(session) {
            return stopped;
        }
        let Some(registration) = &self.chain.registration else {
            let assessment = Assessment::new(State::PreActive, Reason::Registering).without_relay();
            return self.registers(assessment);
        };
        if let Some(reason) = self.outdated(registration) {
            // Registering again does not end a session, so the worker continues to compute.
            let computing = session.is_some_and(|s| s.state.is_computing());
            let state = if computing { State::Active } else { State::PreActive };
            return self.registers(Assessment::new(state, reason));
        }
        let assessment = match session.filter(|s| s.state.is_computing()) {
            Some(session) => self.computing(session),
            None if self.desired.worker.gatekeeper => self.gatekeeper(),
            None => return self.starting(session, registration),
        };
        if assessment.wanted.is_none() && self.must_announce() {
            let state = assessment.state;
            return Assessment::new(state, Reason::AnnouncingEndpoints).wants(Operation::AnnounceEndpoints);
        }
        assessment
    }

    /// Assesses a worker that must not compute, and does not.
    fn stopped(&self, session: Option<&Session>) -> Option<Assessment> {
        if session.is_some_and(|s| s.state.is_computing()) {
            return None;
        }
        match self.observed.saved.goal {
            Goal::Compute | Goal::StartAgain => None,
            Goal::LeavePool if self.ours => {
                let pool = self.desired.worker.pid;
                let leaving = Assessment::new(State::Synched, Reason::LeavingPool { pool });
                Some(leaving.wants(Operation::LeavePool))
            }
            _ => Some(Assessment::new(State::Synched, Reason::Stopped { in_pool: self.ours })),
        }
    }

    fn outdated(&self, registration: &Registration) -> Option<Reason> {
        if registration.operator != Some(self.operator) {
            return Some(Reason::OperatorDiffers { on_chain: registration.operator, ours: self.operator });
        }
        self.observed.refresh_ra.then_some(Reason::RegisteringAgain)
    }

    fn gatekeeper(&self) -> Assessment {
        /// `GatekeeperRole::Active` of pRuntime.
        const ACTIVE: i32 = 2;
        let role = self.info.gatekeeper.as_ref().map_or(0, |gatekeeper| gatekeeper.role);
        let active = role == ACTIVE;
        let state = if active { State::Active } else { State::Synched };
        Assessment::new(state, Reason::Gatekeeper { active })
    }

    fn must_announce(&self) -> bool {
        let wanted = &self.desired.worker.endpoints;
        // If the announced endpoints cannot be read, they cannot be compared: announcing repeatedly would
        // cost fees.
        let readable = self.chain.endpoints_unreadable.is_none();
        readable && !wanted.is_empty() && *wanted != self.chain.endpoints
    }

    /// Assesses a worker that should compute and does not yet.
    fn starting(&self, session: Option<&Session>, registration: &Registration) -> Assessment {
        if let Some(waits) = self.unscored(registration) {
            return waits;
        }
        let pool = self.desired.worker.pid;
        let (reason, operation) = match session {
            _ if !self.ours => (Reason::AddingToPool { pool }, Operation::AddToPool),
            None => return Assessment::new(State::PreActive, Reason::AwaitingSession),
            Some(_) => (Reason::StartingComputing, Operation::Start(self.desired.worker.stake)),
        };
        self.unless_blocked(Assessment::new(State::PreActive, reason), operation)
    }

    /// Registers, unless the operator does not own the pool: it could do nothing with the worker, and would take it from
    /// an operator that can. Gatekeepers need no pool.
    fn registers(&self, assessment: Assessment) -> Assessment {
        if self.desired.worker.gatekeeper || matches!(assessment.reason, Reason::RegisteringAgain) {
            return assessment.wants(Operation::Register);
        }
        self.unless_blocked(assessment, Operation::Register)
    }

    fn unless_blocked(&self, assessment: Assessment, operation: Operation) -> Assessment {
        let blocked = blocked::reason(self.desired, self.observed, operation, self.chain);
        match blocked {
            None => assessment.wants(operation),
            Some(reason) => {
                let state = match reason {
                    // Not an error: workers before it are served first.
                    Reason::AwaitingTurn { .. } => assessment.state,
                    // A computing worker continues with its current stake.
                    _ if assessment.state == State::Active => State::Active,
                    _ => State::Error,
                };
                Assessment { state, reason, ..assessment }
            }
        }
    }

    /// Assesses a worker without a sufficient score; `None` if its score suffices.
    fn unscored(&self, registration: &Registration) -> Option<Assessment> {
        let (settings, score) = (self.settings, registration.initial_score.unwrap_or(0));
        // A score of 0 counts as none, whatever the setting.
        let min = if settings.enforce_min_bench_score { settings.min_bench_score.max(1) } else { 1 };
        if score >= min {
            return None;
        }
        let reason = match score {
            0 if self.observed.benchmark_running => Reason::AwaitingScore,
            0 => Reason::ScoreOverdue,
            _ => Reason::ScoreTooLow { score, min },
        };
        let waits = Assessment::new(State::PreActive, reason);
        // Each registration starts a new benchmark and costs a fee: not before the last one has ended.
        let again = settings.enforce_min_bench_score && !self.observed.benchmark_running;
        Some(if again { waits.wants(Operation::Register) } else { waits })
    }

    fn cooling_down(&self, session: &Session) -> Assessment {
        let rules = &self.observed.rules;
        // The chain's clock; if unknown, the worker's as of the last block that it dispatched.
        let now_secs = match rules.now_secs {
            0 => self.info.current_block_time / 1000,
            now => now,
        };
        let goal = self.observed.saved.goal;
        let forced = self.was_forced(session);
        let end = session.cool_down_start.saturating_add(rules.cool_down_secs);
        if now_secs < end {
            let left_secs = (now_secs > 0).then(|| end - now_secs);
            let then = match goal {
                Goal::StartAgain => AfterCoolDown::StartsAgain,
                Goal::Reclaim => AfterCoolDown::Reclaims,
                Goal::LeavePool => AfterCoolDown::LeavesPool,
                _ => AfterCoolDown::StaysStopped,
            };
            return Assessment::new(State::Synched, Reason::CoolingDown { left_secs, then, forced });
        }
        match goal {
            Goal::StartAgain | Goal::Reclaim | Goal::LeavePool => {
                Assessment::new(State::Synched, Reason::Reclaiming).wants(Operation::Reclaim)
            }
            _ => Assessment::new(State::Synched, Reason::CooledDown { forced }),
        }
    }

    /// Whether a withdrawal had passed its grace period when the worker stopped, so that anybody could stop
    /// it.
    fn was_forced(&self, session: &Session) -> bool {
        let (Some(Ok(pool)), Some(grace)) = (&self.observed.pool, self.observed.rules.withdrawal_grace_secs)
        else {
            return false;
        };
        let oldest = pool.as_ref().as_ref().and_then(|pool| pool.withdrawals.first());
        oldest.is_some_and(|w| w.start_time.saturating_add(grace) <= session.cool_down_start)
    }

    fn computing(&self, session: &Session) -> Assessment {
        if session.state == SessionState::WorkerUnresponsive {
            // Its stake is not changed before it responds again: a restart would hide why it does not.
            return Assessment::new(State::Active, Reason::Unresponsive);
        }
        let wanted = self.desired.worker.stake;
        match session.stake {
            Some(stake) if stake < wanted => {
                let assessment =
                    Assessment::new(State::Active, Reason::RaisingStake { from: stake, to: wanted });
                self.unless_blocked(assessment, Operation::RaiseStake(wanted))
            }
            _ => Assessment::new(State::Active, Reason::Computing),
        }
    }
}
