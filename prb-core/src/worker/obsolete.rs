//! Whether an operation that was submitted is still wanted.

use super::{Desired, Operation, Settings};
use crate::inventory::Goal;

/// Whether the configuration and the goal no longer ask for an operation. Independent of what is observed: a lost
/// connection, a stake that is short for a while or an outdated view do not make an operation obsolete.
pub(super) fn is_obsolete(operation: Operation, desired: &Desired, settings: &Settings, goal: Goal) -> bool {
    if settings.sync_only || desired.sync_only() || desired.operator().is_none() {
        return true;
    }
    let computes = matches!(goal, Goal::Compute | Goal::StartAgain);
    let (wanted, worker) = match operation {
        Operation::Register | Operation::AnnounceEndpoints => return !computes,
        Operation::Stop => return goal != Goal::Stop,
        Operation::Reclaim => return !matches!(goal, Goal::StartAgain | Goal::Reclaim | Goal::LeavePool),
        Operation::LeavePool => return goal != Goal::LeavePool,
        Operation::AddToPool => (None, &desired.worker),
        Operation::Start(stake) | Operation::RaiseStake(stake) => (Some(stake), &desired.worker),
    };
    // Gatekeepers neither join a pool nor compute.
    let starts = !worker.gatekeeper || matches!(operation, Operation::RaiseStake(_));
    !computes || !starts || wanted.is_some_and(|stake| stake != worker.stake)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{
        inventory::{Operator, Pool, Worker},
        primitives::{AccountId, PoolId},
        vault::Sealed,
    };

    const OPERATIONS: [Operation; 8] = [
        Operation::Register,
        Operation::AnnounceEndpoints,
        Operation::AddToPool,
        Operation::Start(100),
        Operation::RaiseStake(100),
        Operation::Stop,
        Operation::Reclaim,
        Operation::LeavePool,
    ];

    fn desired(change: impl FnOnce(&mut Worker, &mut Pool)) -> Desired {
        let mut pool = Pool::new(Uuid::nil(), PoolId(1), "pool");
        pool.operator = Some(Operator { account: AccountId([1; 32]), key: Sealed(vec![1]) });
        let mut worker = Worker::new(Uuid::nil(), PoolId(1), "w", "http://w", 100);
        change(&mut worker, &mut pool);
        Desired { worker: Arc::new(worker), pool: Some(Arc::new(pool)) }
    }

    /// The operations that are wanted, by their names.
    fn wanted(desired: &Desired, goal: Goal) -> String {
        let settings = Settings::default();
        let wanted =
            OPERATIONS.iter().filter(|operation| !is_obsolete(**operation, desired, &settings, goal));
        wanted.map(|operation| operation.name()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn goals_say_what_is_wanted() {
        let desired = desired(|_, _| {});
        for (goal, operations) in [
            (Goal::Compute, "register announce add start restart"),
            (Goal::StartAgain, "register announce add start restart reclaim"),
            (Goal::Stop, "stop"),
            (Goal::StayStopped, ""),
            (Goal::Reclaim, "reclaim"),
            (Goal::LeavePool, "reclaim remove"),
        ] {
            assert_eq!(wanted(&desired, goal), operations, "{goal}");
        }
    }

    #[test]
    fn edits_change_what_is_wanted() {
        for (edited, operations) in [
            (desired(|worker, _| worker.stake = 99), "register announce add"),
            (desired(|worker, _| worker.stake = 101), "register announce add"),
            (desired(|worker, _| worker.gatekeeper = true), "register announce restart"),
            (desired(|worker, _| worker.sync_only = true), ""),
            (desired(|_, pool| pool.sync_only = true), ""),
            (desired(|_, pool| pool.operator = None), ""),
        ] {
            assert_eq!(wanted(&edited, Goal::Compute), operations, "{edited:?}");
        }
        let settings = Settings::default().with_sync_only(true);
        let desired = desired(|_, _| {});
        assert!(OPERATIONS.iter().all(|operation| is_obsolete(
            *operation,
            &desired,
            &settings,
            Goal::Compute
        )));
    }
}
