//! Tests of workers in pools, and of external actions on pools.

use frame_support::weights::Weight;

use crate::world::*;

type E = stake_pool::Error<Runtime>;
type B = base_pool::Error<Runtime>;
type C = computation::Error<Runtime>;

fn assignment() -> Option<u64> {
    stake_pool::WorkerAssignments::<Runtime>::get(key())
}

#[test]
fn add_worker_errors_have_the_real_order() {
    test(|| {
        // A vault of another owner, called by a stranger, with an unknown worker; from here on one fault is removed
        // at a time.
        assert_noop!(add(2, VAULT), E::WorkerNotRegistered);
        assert_ok!(register(info(Some(owner(1))), None));
        assert_noop!(add(2, VAULT), E::UnauthorizedOperator);
        assert_noop!(add(1, 7), E::BenchmarkMissing);
        assert_ok!(report_benchmark(REGISTRY_EVENT_TOPIC, 0, 2000));
        assert_noop!(add(1, 7), B::PoolDoesNotExist);
        assert_noop!(add(1, VAULT), B::PoolTypeNotMatch);
        assert_noop!(add(1, 2), E::UnauthorizedPoolOwner);
        (1..=MAX_POOL_WORKERS as u8).for_each(|n| {
            ready(n);
        });
        assert_noop!(add(1, 1), E::WorkersExceedLimit);
        assert_noop!(call(1, PoolCall::Add(worker(1).public())), E::WorkerExists);
        assert_ok!(call(1, PoolCall::Remove(worker(1).public())));
        assert_ok!(add(1, 1));
        assert_noop!(add(1, 1), E::WorkerExists);
        assert_eq!(assignment(), Some(1));
        assert_eq!(session().state, WorkerState::Ready);
        assert_eq!(pool(1).workers.last(), Some(&key()));
        // A worker bound in one pool cannot be bound in another, and the error hides the cause.
        assert_ok!(act(Action::SetPoolOwner { pid: 2, owner: owner(1) }));
        assert_noop!(add(1, 2), E::FailedToBindSessionAndWorker);
    });
}

#[test]
fn remove_worker_errors_have_the_real_order() {
    test(|| {
        assert_noop!(remove(7), B::PoolDoesNotExist);
        ready(0);
        assert_ok!(start(100 * PHA));
        let by = |who: u64, pid| send(&owner(who), stake_pool::Call::remove_worker { pid, worker: key() });
        assert_noop!(by(2, 1), E::UnauthorizedPoolOwner);
        assert_noop!(call(1, PoolCall::Remove(worker(1).public())), E::WorkerDoesNotExist);
        assert_noop!(remove(2), E::WorkerInAnotherPool);
        assert_noop!(remove(1), E::WorkerIsNotReady);
        assert_ok!(stop());
        assert_noop!(remove(1), E::WorkerIsNotReady);
        wait(COOL_DOWN_SECS);
        assert_ok!(reclaim());
        assert_ok!(remove(1));
        assert_eq!(computation::WorkerBindings::<Runtime>::get(key()), None);
        assert_eq!((assignment(), pool(1).workers), (None, vec![]));
        assert_ok!(add(1, 1));
    });
}

#[test]
fn deleted_assignment_keeps_the_session() {
    test(|| {
        ready(0);
        assert_ok!(start(100 * PHA));
        assert_ok!(act(Action::DeleteAssignment { worker: None }));
        assert_eq!(assignment(), None);
        assert_eq!(session().state, WorkerState::WorkerIdle);
        assert_eq!(pool(1).workers, [key()]);
        // Its owner can stop it, but not remove it.
        assert_ok!(stop());
        wait(COOL_DOWN_SECS);
        assert_ok!(reclaim());
        assert_noop!(remove(1), E::WorkerDoesNotExist);
        assert_noop!(add(1, 1), E::WorkerExists);
    });
}

#[test]
fn operator_can_force_unbind_a_computing_worker() {
    test(|| {
        ready(0);
        assert_ok!(start(100 * PHA));
        let unbind =
            |who| send(&owner(who), computation::Call::unbind { session: session_account(1, &key()) });
        assert_noop!(unbind(2), C::BadSender);
        assert_ok!(unbind(1));
        assert_noop!(unbind(1), C::SessionNotBound);
        assert_eq!(session().state, WorkerState::WorkerCoolingDown);
        assert_eq!((assignment(), pool(1).workers), (None, vec![]));
        assert_noop!(add(1, 1), E::FailedToBindSessionAndWorker);
        assert_eq!(stakes(1), (900, 100), "the stake stays locked");
        wait(COOL_DOWN_SECS);
        assert_ok!(reclaim());
        assert_eq!(stakes(1), (1000, 0));
        assert_ok!(add(1, 1));
    });
}

#[test]
fn contributions_raise_the_free_stake_up_to_the_cap() {
    test(|| {
        let contribute = |amount| act(Action::Contribute { pid: 1, who: owner(5), amount: amount * PHA });
        assert_ok!(call(1, PoolCall::SetCap(1200 * PHA)));
        assert_noop!(call(1, PoolCall::SetCap(999 * PHA)), E::InadequateCapacity);
        assert_ok!(contribute(200));
        assert_noop!(contribute(1), E::StakeExceedsCapacity);
        assert_eq!(stakes(1), (1200, 0));
        assert_eq!(pool(1).basepool.total_value, 1200 * PHA);
        let vault = stake_pool::Call::contribute { pid: VAULT, amount: PHA, as_vault: None };
        assert_noop!(send(&owner(5), vault), B::PoolTypeNotMatch);
        let poor = stake_pool::Call::contribute { pid: 2, amount: PHA, as_vault: None };
        assert_noop!(send(&owner(6), poor), E::InsufficientBalance);
        let little = stake_pool::Call::contribute { pid: 2, amount: 1, as_vault: None };
        assert_noop!(send(&owner(6), little), E::InsufficientContribution);
    });
}

#[test]
fn pools_are_created_and_change_owners() {
    test(|| {
        assert_ok!(act(Action::CreateStakePool { pid: 3, owner: owner(3), free_stake: 5 * PHA }));
        assert_ok!(act(Action::CreateVault { pid: 4, owner: owner(3) }));
        assert_eq!(stakes(3), (5, 0));
        assert_eq!(base_pool::PoolCount::<Runtime>::get(), VAULT + 1);
        let vault = base_pool::Pools::<Runtime>::get(4);
        assert!(matches!(vault, Some(PoolProxy::Vault(vault)) if vault.basepool.owner == owner(3)));
        ready(0);
        assert_ok!(act(Action::SetPoolOwner { pid: 1, owner: owner(8) }));
        assert_noop!(start(100 * PHA), E::UnauthorizedPoolOwner);
        let start = PoolCall::Start(key(), 100 * PHA);
        assert_ok!(act(Action::Call { who: owner(8), pid: 1, call: start }));
    });
}

#[test]
fn calls_declare_real_or_realistic_weights() {
    use frame_support::dispatch::GetDispatchInfo;
    let weight = |call: RuntimeCall| call.get_dispatch_info().call_weight;
    let (pid, stake) = (1, PHA);
    let start = || stake_pool::Call::start_computing { pid, worker: key(), stake }.into();
    let restart = || stake_pool::Call::restart_computing { pid, worker: key(), stake }.into();
    let signed_message = || signed(b"^x", vec![], 0);
    let message = || mq::Call::sync_offchain_message { signed_message: signed_message() }.into();
    test(|| {
        assert_eq!(weight(start()), Weight::zero());
        assert_eq!(weight(restart()), Weight::from_parts(195_000_000, 0));
        assert_eq!(weight(message()), Weight::from_parts(100_000_000, 0));
        prb_devnet_runtime::para::v1::WeighCalls::set(&true);
        assert_eq!(weight(start()), Weight::from_parts(200_000_000, 0));
    });
}
