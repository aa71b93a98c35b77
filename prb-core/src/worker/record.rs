//! Updates a worker's persisted record (key, goal, operation sent) from its observed state on chain.

use crate::{
    chain::{SessionState, WorkerOnChain},
    inventory::{AfterExternalStop, FleetRecord, Goal, PendingOperation, PendingOperationKind},
    primitives::{ParaNumber, PoolId, WorkerKey},
};

/// Parachain blocks (two days at twelve seconds each) after which a submitted start or stop without an effect
/// counts as lost. A start or stop observed later is treated as external.
const SENT_EXPIRY_BLOCKS: u32 = 14_400;
/// Parachain blocks (two hours at twelve seconds each) after which a submitted start whose outcome is not known will not
/// be included any more: several times the age limit of jobs and the mortality of transactions together.
const START_LOST_BLOCKS: u32 = 600;
/// Parachain blocks (twelve minutes at twelve seconds each) after which the record of an operation is renewed while it is
/// in flight, and before it is sent again: the limits above count from when it was last on its way. Not at every block,
/// since each change of a record is a write.
const RENEWAL_BLOCKS: u32 = 60;

/// Whether `operation` is recorded as sent, recently enough for it to be sent now.
pub(super) fn is_recorded(saved: &FleetRecord, operation: PendingOperationKind, block: ParaNumber) -> bool {
    let renewed_after = |sent: PendingOperation| sent.at.0.saturating_add(RENEWAL_BLOCKS);
    saved.sent.is_some_and(|sent| sent.operation == operation && block.0 < renewed_after(sent))
}

/// Returns the record of a worker whose `operation` is in flight at `block`. A record whose effect was observed, or that
/// is of another operation, stays as it is.
pub(super) fn renewed(saved: FleetRecord, operation: PendingOperationKind, block: ParaNumber) -> FleetRecord {
    let is_of = saved.sent.is_some_and(|sent| sent.operation == operation);
    if !is_of || is_recorded(&saved, operation, block) {
        return saved;
    }
    FleetRecord { sent: Some(PendingOperation::new(operation, block)), ..saved }
}

/// Whether a start that was submitted for the recorded key may still lock stake, though no view up to `block` shows it.
pub(super) fn may_still_start(saved: &FleetRecord, block: ParaNumber) -> bool {
    let lost_after = |sent: PendingOperation| sent.at.0.saturating_add(START_LOST_BLOCKS);
    saved.sent.is_some_and(|sent| sent.operation == PendingOperationKind::Start && block.0 < lost_after(sent))
}

/// The observation of a worker in one chain view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation<'a> {
    /// The key that answers.
    pub(super) key: WorkerKey,
    /// Its on-chain state.
    pub(super) chain: &'a WorkerOnChain,
    /// The pool that the inventory names.
    pub(super) pool: PoolId,
    /// What happens after an external stop.
    pub(super) after_stop: AfterExternalStop,
    /// Whether another key is the last known one, and has nothing to lose.
    pub(super) last_is_free: bool,
    /// The parachain block of the view.
    pub(super) block: ParaNumber,
}

/// Returns the record with another key: what is known of the last one's session does not concern it.
pub(super) fn with_key(saved: FleetRecord, key: WorkerKey) -> FleetRecord {
    FleetRecord { key: Some(key), was_computing: false, sent: None, ..saved }
}

/// Whether the key that answers becomes the entry's: it has none, or nothing is at stake for its last one. Otherwise an
/// operator has to decide.
pub(super) fn takes_key(saved: &FleetRecord, seen: &Observation<'_>) -> bool {
    match saved.key {
        None => true,
        Some(key) => key != seen.key && seen.last_is_free,
    }
}

/// Returns the record to persist after an observation.
pub(super) fn saved_after(saved: FleetRecord, seen: Observation<'_>) -> FleetRecord {
    let mut saved = saved;
    if takes_key(&saved, &seen) {
        saved = with_key(saved, seen.key);
    }
    if saved.key != Some(seen.key) {
        return saved;
    }
    // Without an expiry, a start that was lost would make every later start count as this fleet's.
    saved.sent = saved.sent.filter(|sent| seen.block.0 < sent.at.0.saturating_add(SENT_EXPIRY_BLOCKS));
    let sent = saved.sent.map(|sent| sent.operation);
    let starting = sent == Some(PendingOperationKind::Start);
    let ours = seen.chain.pool == Some(seen.pool);
    match seen.chain.session.as_ref().map(|session| session.state) {
        Some(state) if state.is_computing() => {
            // Even without an assignment: a deleted assignment is not a stop.
            saved.was_computing |= ours;
            if ours {
                saved.goal = goal_while_computing(saved.goal, starting);
            }
            saved.sent = saved.sent.filter(|_| !starting);
        }
        Some(SessionState::WorkerCoolingDown) => {
            saved.goal = goal_while_cooling_down(saved.goal, sent, seen.after_stop);
            saved.was_computing = false;
            saved.sent = None;
        }
        // Ready, or without a session: no stake is locked.
        state => {
            let out = state.is_none() && seen.chain.pool.is_none();
            let stopped_unseen = saved.was_computing && seen.after_stop != AfterExternalStop::StartAgain;
            saved.goal = goal_without_locked_stake(saved.goal, starting, out, stopped_unseen);
            saved.was_computing = false;
            saved.sent = saved.sent.filter(|_| starting);
        }
    }
    saved
}

const fn goal_while_cooling_down(
    goal: Goal,
    sent: Option<PendingOperationKind>,
    after_stop: AfterExternalStop,
) -> Goal {
    match goal {
        Goal::Stop => Goal::StayStopped,
        // It was commanded to start when its stop had already been submitted and could not be cancelled.
        Goal::Compute if matches!(sent, Some(PendingOperationKind::Stop)) => Goal::StartAgain,
        Goal::Compute => stopped_elsewhere(after_stop),
        goal => goal,
    }
}

/// `out`: it is in no pool. `stopped_unseen`: it was stopped and reclaimed, or removed, while it was not observed, and is
/// not to start again.
const fn goal_without_locked_stake(goal: Goal, starting: bool, out: bool, stopped_unseen: bool) -> Goal {
    match goal {
        // Its start is in flight: it may compute in a moment.
        Goal::Stop if starting => Goal::Stop,
        Goal::Stop | Goal::Reclaim => Goal::StayStopped,
        Goal::LeavePool if out => Goal::StayStopped,
        Goal::StartAgain => Goal::Compute,
        Goal::Compute if stopped_unseen => Goal::StayStopped,
        goal => goal,
    }
}

const fn goal_while_computing(goal: Goal, starting: bool) -> Goal {
    match goal {
        // The goal changed when its start had already been submitted and could not be cancelled.
        Goal::StayStopped | Goal::Reclaim | Goal::LeavePool if starting => Goal::Stop,
        // Started externally, by its owner.
        Goal::StayStopped | Goal::Reclaim | Goal::LeavePool | Goal::StartAgain => Goal::Compute,
        Goal::Compute | Goal::Stop => goal,
    }
}

const fn stopped_elsewhere(after_stop: AfterExternalStop) -> Goal {
    match after_stop {
        AfterExternalStop::StayStopped => Goal::StayStopped,
        AfterExternalStop::Reclaim => Goal::Reclaim,
        AfterExternalStop::StartAgain => Goal::StartAgain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain::Session, primitives::AccountId};

    const KEY: WorkerKey = WorkerKey([1; 32]);
    const OTHER: WorkerKey = WorkerKey([2; 32]);
    const POOL: PoolId = PoolId(7);
    const NOW: ParaNumber = ParaNumber(100);

    fn session(state: SessionState) -> Session {
        Session {
            account: AccountId([5; 32]),
            state,
            ve: 0,
            v: 0,
            v_updated_at: 0,
            p_init: 0,
            p_instant: 0,
            iterations: 0,
            working_start_time: 0,
            challenge_time_last: 0,
            cool_down_start: 0,
            total_reward: 0,
            stake: Some(1),
        }
    }

    fn chain(word: &str) -> WorkerOnChain {
        let mut chain = WorkerOnChain { pool: Some(POOL), ..WorkerOnChain::default() };
        let state = match word {
            "idle" | "elsewhere" | "unassigned" => SessionState::WorkerIdle,
            "unresponsive" => SessionState::WorkerUnresponsive,
            "cooling" => SessionState::WorkerCoolingDown,
            "ready" => SessionState::Ready,
            "none" => return WorkerOnChain::default(),
            other => panic!("{other}"),
        };
        chain.session = Some(session(state));
        match word {
            "elsewhere" => chain.pool = Some(PoolId(8)),
            "unassigned" => chain.pool = None,
            _ => {}
        }
        chain
    }

    #[test]
    fn goals_follow_what_is_seen() {
        use AfterExternalStop as A;
        use Goal as G;
        // goal, was computing, seen, after a stop -> goal, was computing
        let table = [
            // A fresh worker on its way up.
            (G::Compute, false, "none", A::StayStopped, G::Compute, false),
            (G::Compute, false, "ready", A::StayStopped, G::Compute, false),
            (G::Compute, false, "idle", A::StayStopped, G::Compute, true),
            (G::Compute, true, "unresponsive", A::StayStopped, G::Compute, true),
            (G::Compute, false, "elsewhere", A::StayStopped, G::Compute, false),
            // Its assignment was deleted: no stop.
            (G::Compute, true, "unassigned", A::StayStopped, G::Compute, true),
            // Stopped elsewhere, seen cooling down, also at first sight.
            (G::Compute, true, "cooling", A::StayStopped, G::StayStopped, false),
            (G::Compute, false, "cooling", A::StayStopped, G::StayStopped, false),
            (G::Compute, true, "cooling", A::Reclaim, G::Reclaim, false),
            (G::Compute, true, "cooling", A::StartAgain, G::StartAgain, false),
            // Stopped and reclaimed, or removed, while it was not observed.
            (G::Compute, true, "ready", A::StayStopped, G::StayStopped, false),
            (G::Compute, true, "ready", A::Reclaim, G::StayStopped, false),
            (G::Compute, true, "ready", A::StartAgain, G::Compute, false),
            (G::Compute, true, "none", A::StayStopped, G::StayStopped, false),
            // Stopped by command.
            (G::Stop, true, "idle", A::StartAgain, G::Stop, true),
            (G::Stop, true, "cooling", A::StartAgain, G::StayStopped, false),
            (G::Stop, true, "ready", A::StartAgain, G::StayStopped, false),
            (G::StayStopped, false, "cooling", A::StartAgain, G::StayStopped, false),
            (G::StayStopped, false, "ready", A::StartAgain, G::StayStopped, false),
            // Its owner started it again.
            (G::StayStopped, false, "idle", A::StayStopped, G::Compute, true),
            (G::Reclaim, false, "idle", A::StayStopped, G::Compute, true),
            (G::StayStopped, false, "elsewhere", A::StayStopped, G::StayStopped, false),
            // Reclaiming, starting again, leaving.
            (G::Reclaim, false, "cooling", A::StayStopped, G::Reclaim, false),
            (G::Reclaim, false, "ready", A::StartAgain, G::StayStopped, false),
            (G::StartAgain, false, "cooling", A::StayStopped, G::StartAgain, false),
            (G::StartAgain, false, "ready", A::StayStopped, G::Compute, false),
            (G::LeavePool, false, "cooling", A::StayStopped, G::LeavePool, false),
            (G::LeavePool, false, "ready", A::StayStopped, G::LeavePool, false),
            (G::LeavePool, false, "none", A::StayStopped, G::StayStopped, false),
        ];
        for (goal, was_computing, word, after_stop, goal_after, was_after) in table {
            let saved = FleetRecord { key: Some(KEY), goal, was_computing, ..FleetRecord::default() };
            let chain = chain(word);
            let seen = Observation {
                key: KEY,
                chain: &chain,
                pool: POOL,
                after_stop,
                last_is_free: false,
                block: NOW,
            };
            let after = saved_after(saved, seen);
            let case = format!("{goal:?} {was_computing} {word} {after_stop:?}");
            assert_eq!((after.goal, after.was_computing), (goal_after, was_after), "{case}");
            assert_eq!(saved_after(after, seen), after, "settles at once: {case}");
        }
    }

    #[test]
    fn what_could_not_be_taken_back_is_not_from_elsewhere() {
        let (computes, cools, ready) = (chain("idle"), chain("cooling"), chain("ready"));
        let at = |saved: FleetRecord, chain, block| {
            let after_stop = AfterExternalStop::StayStopped;
            let seen = Observation { key: KEY, chain, pool: POOL, after_stop, last_is_free: false, block };
            saved_after(saved, seen)
        };
        let after = |saved, chain| at(saved, chain, NOW);
        // Commanded to start while its stop is in flight.
        let sent = Some(PendingOperation::new(PendingOperationKind::Stop, NOW));
        let told_to_start =
            FleetRecord { key: Some(KEY), was_computing: true, sent, ..FleetRecord::default() };
        assert_eq!(after(told_to_start, &computes), told_to_start);
        let landed = after(told_to_start, &cools);
        assert_eq!((landed.goal, landed.sent), (Goal::StartAgain, None));
        assert_eq!(after(landed, &cools), landed);
        let not_sent = FleetRecord { sent: None, ..told_to_start };
        assert_eq!(after(not_sent, &cools).goal, Goal::StayStopped);
        let (last, lost) =
            (ParaNumber(NOW.0 + SENT_EXPIRY_BLOCKS - 1), ParaNumber(NOW.0 + SENT_EXPIRY_BLOCKS));
        assert_eq!(at(told_to_start, &cools, last).goal, Goal::StartAgain);
        assert_eq!(at(told_to_start, &computes, lost), not_sent);
        assert_eq!(at(told_to_start, &cools, lost).goal, Goal::StayStopped);
        assert_eq!(after(told_to_start, &ready).sent, None, "landed, and reclaimed");
        // Commanded to stop while its start is in flight.
        let sent = Some(PendingOperation::new(PendingOperationKind::Start, NOW));
        let told_to_stop = FleetRecord { key: Some(KEY), goal: Goal::Stop, sent, ..FleetRecord::default() };
        assert_eq!(after(told_to_stop, &ready), told_to_stop);
        let landed = after(told_to_stop, &computes);
        assert_eq!((landed.goal, landed.sent), (Goal::Stop, None));
        assert_eq!(after(FleetRecord { sent: None, ..told_to_stop }, &ready).goal, Goal::StayStopped);
        assert_eq!(after(told_to_stop, &cools).sent, None, "landed, and stopped since");
        for goal in [Goal::Reclaim, Goal::LeavePool, Goal::StayStopped] {
            assert_eq!(after(FleetRecord { goal, ..told_to_stop }, &computes).goal, Goal::Stop, "{goal:?}");
        }
    }

    #[test]
    fn what_is_in_flight_or_sent_again_is_remembered_for_longer() {
        use PendingOperationKind as K;
        let sent = |at| Some(PendingOperation::new(K::Start, at));
        let saved = FleetRecord { sent: sent(NOW), ..FleetRecord::default() };
        let later = |blocks| ParaNumber(NOW.0 + blocks);
        let (last, due) = (later(RENEWAL_BLOCKS - 1), later(RENEWAL_BLOCKS));
        assert!(is_recorded(&saved, K::Start, last));
        assert!(!is_recorded(&saved, K::Start, due));
        assert!(!is_recorded(&saved, K::Stop, NOW));
        assert!(!is_recorded(&FleetRecord::default(), K::Start, NOW));
        assert_eq!(renewed(saved, K::Start, last), saved);
        assert_eq!(renewed(saved, K::Start, due).sent, sent(due));
        assert_eq!(renewed(saved, K::Stop, due), saved, "another operation");
        let observed = FleetRecord::default();
        assert_eq!(renewed(observed, K::Start, due), observed, "its effect was observed");
        assert!(!may_still_start(&saved, later(START_LOST_BLOCKS)));
        assert!(may_still_start(&renewed(saved, K::Start, due), later(START_LOST_BLOCKS)));
    }

    #[test]
    fn another_key_is_taken_only_where_the_last_has_nothing_at_stake() {
        let sent = Some(PendingOperation::new(PendingOperationKind::Stop, NOW));
        let saved = FleetRecord { key: Some(KEY), was_computing: true, sent, ..FleetRecord::default() };
        let chain = chain("none");
        let seen = |last_is_free| Observation {
            key: OTHER,
            chain: &chain,
            pool: POOL,
            after_stop: AfterExternalStop::StayStopped,
            last_is_free,
            block: NOW,
        };
        assert_eq!(saved_after(saved, seen(false)), saved);
        let after = saved_after(saved, seen(true));
        assert_eq!((after.key, after.goal, after.was_computing), (Some(OTHER), Goal::Compute, false));
        assert_eq!(after.sent, None, "it was for the last key");
        let fresh = saved_after(FleetRecord::default(), seen(false));
        assert_eq!(fresh.key, Some(OTHER));
    }
}
