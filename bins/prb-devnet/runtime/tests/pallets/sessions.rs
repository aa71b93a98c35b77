//! Tests of sessions: stakes, starts and stops, cool-downs and heartbeats.

use crate::world::*;

type E = computation::Error<Runtime>;
type P = stake_pool::Error<Runtime>;

fn rules() -> TokenomicParameters {
    computation::TokenomicParameters::<Runtime>::get().unwrap()
}

fn heartbeat(session_id: u32, sequence: u64) -> Outcome {
    let report = WorkingReportEvent::HeartbeatV2 {
        session_id,
        challenge_block: 1,
        challenge_time: now(),
        iterations: 4000,
        n_clusters: 0,
        n_contracts: 0,
    };
    deliver(signed(WORKING_REPORT_TOPIC, report.encode(), sequence))
}

#[test]
fn start_computing_errors_have_the_real_order() {
    test(|| {
        // Everything is wrong with it; from here on one fault is removed at a time.
        let by = |who: u64, stake| {
            send(&owner(who), stake_pool::Call::start_computing { pid: 1, worker: key(), stake })
        };
        assert_noop!(by(2, 2000 * PHA), P::UnauthorizedPoolOwner);
        assert_noop!(start(2000 * PHA), P::InsufficientFreeStake);
        assert_noop!(start(0), P::WorkerDoesNotExist);
        ready(0);
        let account = session_account(1, &key());
        assert_ok!(act(Action::SetScore { worker: key(), score: None }));
        computation::Stakes::<Runtime>::insert(&account, 1);
        computation::Sessions::<Runtime>::mutate(&account, |info| {
            info.as_mut().unwrap().state = WorkerState::WorkerCoolingDown;
        });
        let bound = computation::SessionBindings::<Runtime>::take(&account).unwrap();
        assert_noop!(start(0), E::SessionNotFound);
        computation::SessionBindings::<Runtime>::insert(&account, bound);
        assert_noop!(start(0), E::WorkerNotReady);
        computation::Sessions::<Runtime>::mutate(&account, |info| {
            info.as_mut().unwrap().state = WorkerState::Ready;
        });
        assert_noop!(start(0), E::InternalErrorCannotStartWithExistingStake);
        computation::Stakes::<Runtime>::remove(&account);
        assert_noop!(start(0), E::BenchmarkMissing);
        assert_ok!(act(Action::SetScore { worker: key(), score: Some(49) }));
        assert_noop!(start(0), E::BenchmarkTooLow);
        assert_ok!(act(Action::SetScore { worker: key(), score: Some(50) }));
        let rules = rules();
        assert_ok!(act(Action::SetTokenomics(TokenomicParameters { v_max: 0, ..rules })));
        let least = rules.minimal_stake(50);
        assert_noop!(start(least - 1), E::InsufficientStake);
        assert_noop!(start(least), E::TooMuchStake);
        assert_ok!(act(Action::SetTokenomics(rules)));
        assert_ok!(start(least));
    });
}

#[test]
fn stake_limits_follow_score_and_tier() {
    test(|| {
        ready(0);
        let rules = TokenomicParameters::PHALA.with_k(10);
        assert_ok!(act(Action::SetTokenomics(rules)));
        // 10 × √2000
        let least = rules.minimal_stake(SCORE);
        assert_eq!(least / PHA, 447);
        assert_noop!(start(least - 1), E::InsufficientStake);
        // Of tier 5 it may stake more: (1 + 0.3 × 0.7) × (stake + 600) up to 1,900 against 1.3 × (stake + 600).
        let v_max = 1_900 << 64;
        assert_ok!(act(Action::SetTokenomics(TokenomicParameters { v_max, ..rules })));
        assert_noop!(start(870 * PHA), E::TooMuchStake);
        assert_ok!(act(Action::SetConfidenceLevel { worker: key(), level: 5 }));
        assert_noop!(start(971 * PHA), E::TooMuchStake);
        assert_ok!(start(970 * PHA));
        assert_eq!(session().ve >> 64, 1_899, "1.21 × 1570 is 1899.7");
        assert_eq!(stakes(1), (30, 970));
    });
}

#[test]
fn sessions_start_stop_and_cool_down() {
    test(|| {
        ready(0);
        assert_noop!(stop(), E::WorkerNotComputing);
        assert_noop!(restart(0), E::WorkerNotComputing);
        assert_noop!(reclaim(), E::CoolDownNotReady);
        next_block();
        assert_ok!(start(100 * PHA));
        let started = WorkerEvent::Started { session_id: 0, init_v: session().v, init_p: SCORE };
        assert_eq!(messages(), [worker_event(started)]);
        assert_eq!(session().ve >> 64, 909, "1.3 × (100 + 0.3 × 2000), rounded down");
        assert_eq!((session().state, stakes(1)), (WorkerState::WorkerIdle, (900, 100)));
        assert_noop!(start(100 * PHA), E::WorkerNotReady);
        assert_noop!(reclaim(), E::CoolDownNotReady);
        assert_ok!(stop());
        assert_eq!(session().state, WorkerState::WorkerCoolingDown);
        assert_eq!((pool(1).cd_workers, pool(1).workers), (vec![key()], vec![key()]));
        assert_noop!(stop(), P::WorkerAlreadyStopped);
        assert_noop!(restart(500 * PHA), P::WorkerAlreadyStopped);
        assert_noop!(start(100 * PHA), E::WorkerNotReady);
        wait(COOL_DOWN_SECS - 1);
        assert_noop!(reclaim(), E::CoolDownNotReady);
        assert_eq!(stakes(1), (900, 100), "releasing");
        wait(1);
        assert_ok!(reclaim());
        assert_eq!((session().state, stakes(1)), (WorkerState::Ready, (1000, 0)));
        assert_eq!(pool(1).cd_workers, []);
        assert_eq!(computation::Stakes::<Runtime>::get(session_account(1, &key())), None);
    });
}

#[test]
fn stop_computing_errors_have_the_real_order() {
    test(|| {
        let by = |who: u64, pid| send(&owner(who), stake_pool::Call::stop_computing { pid, worker: key() });
        assert_noop!(by(1, VAULT), base_pool::Error::<Runtime>::PoolTypeNotMatch);
        assert_noop!(by(2, 1), P::UnauthorizedPoolOwner);
        assert_noop!(by(1, 1), P::WorkerDoesNotExist);
        ready(0);
        assert_noop!(by(1, 1), E::WorkerNotComputing);
    });
}

#[test]
fn restart_raises_the_stake_at_once() {
    test(|| {
        ready(0);
        assert_ok!(start(300 * PHA));
        assert_noop!(restart(300 * PHA), P::CannotRestartWithLessStake);
        assert_noop!(restart(1001 * PHA), P::InsufficientFreeStake);
        assert_eq!(stakes(1), (700, 300), "a refusal changes nothing");
        assert_ok!(restart(1000 * PHA));
        assert_eq!((session().state, stakes(1)), (WorkerState::WorkerIdle, (0, 1000)));
        assert_eq!(pool(1).cd_workers, []);
        let operations = prb_devnet_runtime::para::v1::operations(&System::events().encode());
        use prb_devnet_runtime::para::Operation::{Added, Registered, Restarted, Started};
        assert_eq!(operations, [Registered(key()), Added(key()), Started(key()), Restarted(key())]);
    });
}

#[test]
fn silent_worker_is_unresponsive_until_it_answers() {
    test(|| {
        ready(0);
        assert!(next_block().iter().all(|event| !is_challenge(event)), "nobody computes");
        assert_ok!(start(100 * PHA));
        assert!(next_block().iter().any(is_challenge));
        for _ in 0..WINDOW {
            assert_eq!(session().state, WorkerState::WorkerIdle);
            next_block();
        }
        let entered = worker_event(WorkerEvent::EnterUnresponsive);
        assert!(next_block().contains(&entered));
        assert_eq!(session().state, WorkerState::WorkerUnresponsive);
        assert!(!next_block().contains(&entered), "once");
        assert_ok!(heartbeat(7, 0));
        assert_eq!(session().state, WorkerState::WorkerUnresponsive, "another session's heartbeat");
        let before = session().v_updated_at;
        assert_ok!(heartbeat(0, 1));
        assert_eq!(session().state, WorkerState::WorkerIdle);
        assert!(messages().contains(&worker_event(WorkerEvent::ExitUnresponsive)));
        assert!(session().v_updated_at > before);
        assert!(session().benchmark.p_instant > 0);
        for sequence in 2..12 {
            assert!(!next_block().contains(&entered), "who answers stays responsive");
            assert_ok!(heartbeat(0, sequence));
        }
    });
}

fn is_challenge(event: &SystemEvent) -> bool {
    matches!(event, SystemEvent::HeartbeatChallenge(_))
}

#[test]
fn challenges_select_a_share_of_the_workers() {
    let challenge = |target| HeartbeatChallenge { seed: U256::from(123), online_target: target };
    let keys: Vec<WorkerPublicKey> =
        (0..400u32).map(|n| sr25519::Public::from_raw(sp_io::hashing::blake2_256(&n.encode()))).collect();
    let share = |target| keys.iter().filter(|key| challenge(target).concerns(key)).count();
    assert_eq!(share(U256::MAX), 400);
    assert_eq!(share(U256::zero()), 0);
    let quarter = share(U256::MAX / 4);
    assert!((60..140).contains(&quarter), "{quarter}");
}
