//! Operations for an entry's last known key while that key does not answer: the machine is gone, or another key answers
//! in its place. A stop and what follows need nothing of the worker, and this is when operators want them most.

use crate::{
    chain::SessionState,
    inventory::Goal,
    worker::{Desired, Observed, Operation, Rules, Settings},
};

/// Returns the operation that the goal demands for the last known key. None if its state is unknown, if it answers at
/// another worker of the fleet, or if the entry's pool is not its pool on chain.
pub(super) fn operation(desired: &Desired, settings: &Settings, observed: &Observed) -> Option<Operation> {
    let last = observed.last_key.as_ref().filter(|last| last.holder.is_none())?;
    let Some(Ok(chain)) = &last.chain else { return None };
    let silent = settings.sync_only || desired.sync_only() || desired.idle_reason().is_some();
    if silent || desired.operator().is_none() || chain.pool != Some(desired.worker.pid) {
        return None;
    }
    let goal = observed.saved.goal;
    match (chain.session.as_ref(), goal) {
        (Some(session), Goal::Stop) if session.state.is_computing() => Some(Operation::Stop),
        (Some(session), Goal::Reclaim | Goal::LeavePool)
            if session.state == SessionState::WorkerCoolingDown =>
        {
            is_over(session.cool_down_start, &observed.rules).then_some(Operation::Reclaim)
        }
        (Some(session), Goal::LeavePool) if session.state == SessionState::Ready => {
            Some(Operation::LeavePool)
        }
        (None, Goal::LeavePool) => Some(Operation::LeavePool),
        _ => None,
    }
}

/// Whether a cool-down is over by the chain's clock; false if that is unknown.
const fn is_over(start: u64, rules: &Rules) -> bool {
    rules.now_secs > 0 && rules.now_secs >= start.saturating_add(rules.cool_down_secs)
}
