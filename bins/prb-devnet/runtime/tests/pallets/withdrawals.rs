//! Tests of withdrawals: paid from free stake, queued otherwise, and enforced after the grace period.

use crate::world::*;

fn withdraw(shares: u128) -> Outcome {
    act(Action::Withdraw { pid: 1, who: owner(1), shares: shares * PHA })
}

fn paid() -> u128 {
    wrapped_balances::Pallet::<Runtime>::balance(&owner(1)) / PHA
}

fn queue() -> Vec<WithdrawInfo> {
    pool(1).basepool.withdraw_queue
}

#[test]
fn withdrawal_is_paid_partially_and_queued() {
    test(|| {
        ready(0);
        assert_ok!(start(700 * PHA));
        assert_noop!(withdraw(1001), stake_pool::Error::<Runtime>::InvalidWithdrawalAmount);
        assert_ok!(withdraw(200));
        assert_eq!((paid(), stakes(1), queue().len()), (200, (100, 700), 0));
        assert_ok!(withdraw(400));
        assert_eq!((paid(), stakes(1)), (300, (0, 700)));
        let waiting = queue();
        assert_eq!((waiting.len(), &waiting[0].user), (1, &owner(1)));
        assert_eq!(waiting[0].start_time, now() / 1000);
        // It only prevents a restart, with precedence over all other errors.
        let error = stake_pool::Error::<Runtime>::WithdrawQueueNotEmpty;
        let by =
            |who| send(&owner(who), stake_pool::Call::restart_computing { pid: 1, worker: key(), stake: 0 });
        assert_noop!(by(1), error);
        assert_noop!(by(2), stake_pool::Error::<Runtime>::WithdrawQueueNotEmpty);
        // A contribution pays it.
        assert_ok!(act(Action::Contribute { pid: 1, who: owner(5), amount: 350 * PHA }));
        assert_eq!((paid(), stakes(1), queue().len()), (600, (50, 700), 0));
        assert_eq!(pool(1).basepool.total_value, 750 * PHA);
    });
}

#[test]
fn overdue_withdrawal_lets_anybody_stop_the_workers() {
    test(|| {
        let (first, second) = (ready(0), ready(1));
        assert_ok!(call(1, PoolCall::Start(first, 500 * PHA)));
        assert_ok!(call(1, PoolCall::Start(second, 500 * PHA)));
        assert_ok!(withdraw(600));
        wait(GRACE_SECS);
        assert_ok!(force_withdraw(1));
        assert_eq!(session().state, WorkerState::WorkerIdle, "it may wait that long");
        wait(1);
        assert_noop!(force_withdraw(VAULT), base_pool::Error::<Runtime>::PoolTypeNotMatch);
        assert_ok!(force_withdraw(1));
        assert_eq!(pool(1).cd_workers, [first, second]);
        assert_eq!(session().state, WorkerState::WorkerCoolingDown);
        wait(COOL_DOWN_SECS);
        assert_ok!(call(1, PoolCall::Reclaim(first)));
        assert_eq!((paid(), stakes(1), queue().len()), (500, (0, 500), 1));
        assert_ok!(call(1, PoolCall::Reclaim(second)));
        assert_eq!((paid(), stakes(1), queue().len()), (600, (400, 0), 0));
    });
}

#[test]
fn releasing_stake_prevents_the_forced_stop() {
    test(|| {
        let (first, second) = (ready(0), ready(1));
        assert_ok!(call(1, PoolCall::Start(first, 500 * PHA)));
        assert_ok!(call(1, PoolCall::Start(second, 500 * PHA)));
        assert_ok!(withdraw(500));
        assert_ok!(call(1, PoolCall::Stop(second)));
        wait(GRACE_SECS + 1);
        assert_ok!(force_withdraw(1));
        assert_eq!(session().state, WorkerState::WorkerIdle);
        assert_ok!(withdraw(501));
        wait(GRACE_SECS + 1);
        assert_ok!(force_withdraw(1));
        assert_eq!(session().state, WorkerState::WorkerCoolingDown);
    });
}
