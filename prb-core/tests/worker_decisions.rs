//! What a worker does in single situations, and what people are told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use prb_core::{
    blob::HeaderCursor,
    chain::{SessionState, Unreadable, Withdrawal, WorkerOnChain},
    inventory::{AfterExternalStop, Goal},
    primitives::{AccountId, Hash, ParaNumber, RelayNumber, WorkerKey},
    prpc::{GatekeeperStatus, PhactoryInfo},
    sync::Step,
    worker::{
        Action, Desired, Failure, Grant, LastKey, Observed, Operation, Reason, Refused, Settings, State,
        decide,
    },
};

#[path = "worker_rig/rig.rs"]
mod rig;
use rig::{
    COOL_DOWN_SECS, GENESIS, KEY, NOW_SECS, OTHER, STAKE, STRANGER, computing, desired, info, on_chain, pool,
    ready, session, with_pool,
};

const START: Action = Action::Operate(Operation::Start(STAKE));

struct Told {
    action: Action,
    sync: Step,
    state: State,
    code: &'static str,
    message: String,
}

fn told_for(desired: &Desired, settings: &Settings, observed: &Observed) -> Told {
    let decision = decide(desired, settings, observed);
    assert_eq!(*decision.message, *decision.reason.to_string());
    Told {
        action: decision.action,
        sync: decision.sync,
        state: decision.state,
        code: decision.reason.code(),
        message: decision.message.to_string(),
    }
}

fn told(observed: &Observed) -> Told {
    told_for(&desired(true, false), &Settings::default(), observed)
}

fn decided(observed: &Observed) -> (Action, State, String) {
    let told = told(observed);
    (told.action, told.state, told.message)
}

fn failure(attempts: u32, due: bool) -> Option<Failure> {
    Some(Failure { reason: Reason::Unreachable { error: "it fails".into() }, attempts, due })
}

fn headers() -> Step {
    Step::Headers(HeaderCursor { relay: RelayNumber(101), para: ParaNumber(51) })
}

#[test]
fn a_worker_is_looked_for_until_it_is_found() {
    let mut observed = Observed::default();
    assert_eq!(decided(&observed), (Action::Observe, State::Starting, "Connecting to the worker".into()));
    observed.failures.connection = failure(1, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Starting, "it fails".into()));
    observed.failures.connection = failure(50, true);
    assert_eq!(decided(&observed), (Action::Observe, State::Error, "it fails".into()));
    observed.kicked = true;
    assert_eq!(decided(&observed).1, State::Kicked);
}

#[test]
fn a_worker_that_is_not_to_run_is_idle() {
    let settings = Settings::default();
    let enabled = desired(true, false);
    let mut disabled = enabled.clone();
    Arc::make_mut(&mut disabled.worker).enabled = false;
    let mut disabled_pool = enabled.clone();
    Arc::make_mut(disabled_pool.pool.as_mut().unwrap()).enabled = false;
    let homeless = Desired { pool: None, ..enabled };
    let cases =
        [(disabled, "disabled"), (disabled_pool, "pool-disabled"), (homeless, "pool-not-in-inventory")];
    for (desired, code) in cases {
        let told = told_for(&desired, &settings, &ready());
        assert_eq!((told.action, told.state, told.code), (Action::Wait, State::Idle, code));
    }
}

#[test]
fn a_worker_of_another_chain_is_told_of_and_left_alone() {
    for mut observed in [ready(), computing()] {
        observed.relay_genesis = Some(Hash([8; 32]));
        observed.step = headers();
        observed.unsent_messages = true;
        let told = told(&observed);
        assert_eq!((told.action, told.sync, told.state), (Action::Recheck, Step::Wait, State::Error));
        assert!(told.message.contains("another chain"), "{}", told.message);
        observed.stale = true;
        assert_eq!(decided(&observed).0, Action::Observe);
    }
}

#[test]
fn initialisation_waits_for_the_chain_and_backs_off() {
    let mut observed = Observed { info: Some(Arc::new(PhactoryInfo::default())), ..Observed::default() };
    assert_eq!(
        decided(&observed),
        (Action::Wait, State::Starting, "Waiting for the chain's genesis from the data source".into())
    );
    observed.relay_genesis = Some(GENESIS);
    assert_eq!(decided(&observed).0, Action::Init);
    observed.failures.sync = failure(1, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Starting, "it fails".into()));
    observed.failures.sync = failure(9, true);
    assert_eq!(decided(&observed), (Action::Init, State::Error, "it fails".into()));
    observed.stale = true;
    assert_eq!(decided(&observed).0, Action::Observe);
}

#[test]
fn a_worker_that_is_behind_only_syncs_and_relays() {
    for mut observed in [ready(), computing()] {
        observed.caught_up = false;
        observed.step = headers();
        let told = told(&observed);
        assert_eq!((told.action, told.sync, told.state), (Action::Wait, headers(), State::Synching));
        observed.unsent_messages = true;
        assert_eq!(decided(&observed).0, Action::Relay);
    }
    // One that belongs to another pool is told of at once.
    let mut observed = ready();
    on_chain(&mut observed, |chain| chain.pool = Some(OTHER));
    observed.caught_up = false;
    observed.step = headers();
    observed.unsent_messages = true;
    let told = told(&observed);
    assert_eq!((told.action, told.sync, told.state), (Action::Wait, headers(), State::Error));
    assert!(told.message.contains("pool 7"), "{}", told.message);
    // A stop does not wait for the tip.
    let mut observed = computing();
    observed.caught_up = false;
    observed.saved.goal = Goal::Stop;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Stop));
}

#[test]
fn syncing_goes_on_beside_operations_and_messages() {
    let mut observed = ready();
    observed.step = headers();
    observed.unsent_messages = true;
    let first = told(&observed);
    assert_eq!((first.action, first.sync), (START, headers()));
    observed.job = Some(Operation::Start(STAKE));
    assert_eq!((told(&observed).action, told(&observed).sync), (Action::Relay, headers()));
    // A dispatch under way holds up no message, and no second one is started.
    observed.syncing = true;
    assert_eq!((told(&observed).action, told(&observed).sync), (Action::Relay, Step::Wait));
    observed.unsent_messages = false;
    assert_eq!(decided(&observed).0, Action::Wait);
    // The job has ended, and the view is older than that.
    observed.job = None;
    observed.awaiting_block = Some(ParaNumber(52));
    assert_eq!(
        decided(&observed),
        (Action::Wait, State::PreActive, "Waiting for the on-chain state of block 52".into())
    );
    observed.stale = true;
    observed.syncing = false;
    let stale = told(&observed);
    assert_eq!((stale.action, stale.sync), (Action::Observe, Step::Wait), "the worker's own word first");
}

#[test]
fn an_operation_that_fails_is_shown_and_holds_up_nothing_else() {
    let mut observed = ready();
    observed.step = headers();
    observed.failures.chain = failure(1, false);
    let waits = told(&observed);
    assert_eq!((waits.action, waits.sync, waits.state), (Action::Wait, headers(), State::Error));
    assert_eq!(waits.message, "it fails");
    observed.failures.chain = failure(1, true);
    assert_eq!(decided(&observed).0, START);
    // Under way again: what it does, not what it did.
    observed.job = Some(Operation::Start(STAKE));
    assert_eq!(decided(&observed).1, State::PreActive);
    assert_eq!(decided(&observed).2, "Starting computing...");

    // A computing worker whose stake cannot be raised goes on computing.
    let mut observed = computing();
    on_chain(&mut observed, |chain| chain.session.as_mut().unwrap().stake = Some(STAKE - 1));
    observed.failures.chain = failure(4, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it fails".into()));

    // A failure of an operation that nobody wants any more is not shown.
    let mut observed = computing();
    observed.failures.chain = failure(4, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "Computing".into()));
}

#[test]
fn a_refused_operation_waits_for_the_state_that_caused_it() {
    let refused = |operation, holds| {
        let (error, remedy) = ("PhalaStakePoolv2::PoolFrozen".into(), "ask its owner".into());
        Some(Refused { operation, error, remedy, is_current: holds })
    };
    let mut observed = ready();
    observed.refused = refused(Operation::Start(STAKE), true);
    observed.failures.chain = failure(1, true);
    let told = told(&observed);
    assert_eq!((told.action, told.state, told.code), (Action::Wait, State::Error, "operation-refused"));
    assert!(
        told.message.contains("PoolFrozen") && told.message.contains("ask its owner"),
        "{}",
        told.message
    );
    // With another stake it is the same call.
    observed.refused = refused(Operation::Start(1), true);
    assert_eq!(decided(&observed).0, Action::Wait);
    observed.refused = refused(Operation::Start(STAKE), false);
    assert_eq!(decided(&observed).0, START);
    // Another operation is not concerned.
    observed.refused = refused(Operation::AddToPool, true);
    assert_eq!(decided(&observed).0, START);
}

#[test]
fn messages_that_fail_wait_and_are_shown() {
    let mut observed = computing();
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Relay);
    observed.failures.relay = failure(2, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it fails".into()));
}

#[test]
fn a_few_failed_batches_are_told_and_more_are_an_error() {
    let mut observed = computing();
    observed.step = headers();
    observed.failures.sync = failure(2, false);
    let few = told(&observed);
    assert_eq!((few.sync, few.state, &*few.message), (Step::Wait, State::Active, "it fails"));
    observed.failures.sync = failure(3, true);
    let more = told(&observed);
    assert_eq!((more.sync, more.state), (headers(), State::Error));
    let mut observed = computing();
    observed.step = headers();
    observed.failures.connection = failure(1, false);
    assert_eq!((told(&observed).action, told(&observed).sync), (Action::Wait, Step::Wait));
    assert_eq!(told(&observed).state, State::Active);
    observed.failures.connection = failure(1, true);
    assert_eq!(decided(&observed).0, Action::Observe);
}

#[test]
fn a_fresh_attestation_is_registered_when_asked_for() {
    let mut observed = computing();
    observed.refresh_ra = true;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Register));
    assert_eq!(decided(&observed).1, State::Active);
}

#[test]
fn a_worker_with_anothers_key_is_only_rechecked() {
    for (desired, mut observed) in [
        (desired(true, false), ready()),
        (desired(true, true), computing()),
        (desired(false, false), ready()),
    ] {
        observed.key_holder = Some("elder".into());
        observed.unsent_messages = true;
        observed.step = headers();
        let told = told_for(&desired, &Settings::default(), &observed);
        assert_eq!((told.action, told.sync, told.state), (Action::Recheck, Step::Wait, State::Error));
        assert!(told.message.contains("elder"), "{}", told.message);
    }
}

#[test]
fn what_cannot_be_read_is_told_and_nothing_is_sent() {
    let mut observed = ready();
    observed.unsent_messages = true;
    observed.chain = None;
    assert_eq!((told(&observed).action, told(&observed).code), (Action::Wait, "awaiting-chain-state"));
    observed.chain = Some(Err(Unreadable::new("Sessions does not decode")));
    let unreadable = told(&observed);
    assert_eq!((unreadable.action, unreadable.state), (Action::Wait, State::Error));
    assert!(unreadable.message.contains("Sessions does not decode"), "{}", unreadable.message);
    let mut observed = ready();
    observed.pool = Some(Err(Unreadable::new("Pools does not decode")));
    assert_eq!((told(&observed).action, told(&observed).code), (Action::Wait, "pool-unreadable"));
}

/// The entry was known by another key, which has that much at stake.
fn other_key(mut observed: Observed, at_stake: Option<u128>, holder: Option<&str>) -> Observed {
    let chain = at_stake.map(|stake| {
        let mut chain = WorkerOnChain::default();
        chain.session = (stake > 0).then(|| session(SessionState::WorkerIdle, stake));
        Ok(Arc::new(chain))
    });
    let key = WorkerKey([8; 32]);
    observed.saved.key = Some(key);
    observed.last_key = Some(LastKey { key, chain, holder: holder.map(Into::into) });
    observed
}

#[test]
fn nothing_is_staked_for_another_key_while_the_last_has_something_at_stake() {
    let stake = 5_000_000_000_000_000;
    for mut observed in [ready(), computing()] {
        on_chain(&mut observed, |chain| chain.registration = None);
        let changed = told(&other_key(observed.clone(), Some(stake), None));
        assert_eq!(
            (changed.action, changed.state, changed.code),
            (Action::Wait, State::Error, "key-changed")
        );
        for text in ["5,000 PHA", &KEY.to_string(), &WorkerKey([8; 32]).to_string(), "confirm"] {
            assert!(changed.message.contains(text), "{text} in {}", changed.message);
        }
        let moved = told(&other_key(observed.clone(), Some(stake), Some("rack-2")));
        assert_eq!(moved.action, Action::Wait);
        assert!(moved.message.contains("worker rack-2"), "{}", moved.message);
        let unknown = told(&other_key(observed, None, None));
        assert_eq!((unknown.action, unknown.code), (Action::Wait, "key-changed-unchecked"));
    }
    // Without anything to lose the new key takes the place of the last.
    assert_eq!(decided(&other_key(ready(), Some(0), None)).0, START);
    // A new key that computes is kept alive.
    let mut observed = other_key(computing(), Some(stake), None);
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Relay);
    let mut observed = other_key(ready(), Some(stake), None);
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Wait);
}

#[test]
fn a_key_that_answers_elsewhere_is_named_where_it_was() {
    let mut observed = other_key(Observed::default(), None, Some("rack-2"));
    observed.failures.connection = failure(3, false);
    let told = told(&observed);
    assert_eq!((told.state, told.code), (State::Error, "key-moved"));
    assert!(told.message.contains("rack-2"), "{}", told.message);
}

#[test]
fn nothing_is_sent_before_what_is_kept_of_it_is_stored() {
    let mut observed = ready();
    observed.unsaved = true;
    assert_eq!(decided(&observed).0, Action::Wait);
    observed.failures.save =
        Some(Failure { reason: Reason::SaveFailing { error: "disk full".into() }, attempts: 1, due: false });
    assert_eq!(told(&observed).code, "save-failing");
    assert!(told(&observed).message.contains("disk full"));
}

#[test]
fn what_the_chain_would_refuse_is_told_and_not_sent() {
    let check = |observed: &Observed, code: &str, texts: &[&str]| {
        let told = told(observed);
        assert_eq!(
            (told.action, told.state, told.code),
            (Action::Wait, State::Error, code),
            "{}",
            told.message
        );
        for text in texts {
            assert!(told.message.contains(text), "{text} in {}", told.message);
        }
    };
    assert_eq!(decided(&with_pool(ready(), Some(pool()))).0, START);
    check(&with_pool(ready(), None), "pool-does-not-exist", &["pool 1"]);
    let mut vault = pool();
    vault.is_vault = true;
    check(&with_pool(ready(), Some(vault)), "pool-is-vault", &["vault"]);
    let mut strange = pool();
    strange.owner = STRANGER;
    check(
        &with_pool(ready(), Some(strange)),
        "not-pool-owner",
        &["UnauthorizedPoolOwner", &STRANGER.to_ss58(30)],
    );
    let mut observed = with_pool(ready(), Some(pool()));
    observed.grant = Grant::Short { free: 1_200_000_000_000_000, missing: 3_800_000_000_000_000, waiting: 7 };
    let texts = [
        "Pool 1 has 1,200 PHA of free stake",
        "7 workers wait",
        "3,800 PHA are missing",
        "InsufficientFreeStake",
    ];
    check(&observed, "free-stake-short", &texts);
    observed.grant = Grant::Undecided;
    let undecided = told(&observed);
    assert_eq!((undecided.action, undecided.state), (Action::Wait, State::PreActive));
    let mut observed = with_pool(ready(), Some(pool()));
    observed.payer = Some(Ok(Arc::default()));
    check(&observed, "operator-cannot-pay", &["0 PHA"]);

    // A worker that is in no pool yet.
    let mut outside = with_pool(ready(), Some(pool()));
    on_chain(&mut outside, |chain| (chain.pool, chain.session) = (None, None));
    outside.rules.max_pool_workers = Some(2);
    assert_eq!(decided(&outside).0, Action::Operate(Operation::AddToPool));
    let mut full = pool();
    full.workers = vec![WorkerKey([1; 32]), WorkerKey([2; 32])];
    check(&with_pool(outside, Some(full)), "pool-full", &["2 workers"]);
}

#[test]
fn withdrawals_come_before_higher_stakes_and_before_starts_that_would_be_undone() {
    let asked = |ago| {
        let mut pool = pool();
        pool.withdrawals = vec![Withdrawal { start_time: NOW_SECS - ago }];
        Some(pool)
    };
    let mut raises = computing();
    on_chain(&mut raises, |chain| chain.session.as_mut().unwrap().stake = Some(STAKE - 1));
    raises.rules.withdrawal_grace_secs = Some(100);
    let told_of = |observed: Observed, ago| told(&with_pool(observed, asked(ago)));
    let told_first = told_of(raises.clone(), 5);
    assert_eq!((told_first.action, told_first.state), (Action::Wait, State::Active));
    assert_eq!(told_first.code, "withdrawals-queued");
    let mut starts = ready();
    starts.rules.withdrawal_grace_secs = Some(100);
    assert_eq!(told_of(starts.clone(), 5).action, START);
    assert_eq!(
        (told_of(starts.clone(), 100).action, told_of(starts, 100).code),
        (Action::Wait, "withdrawals-queued")
    );
}

#[test]
fn stops_are_shown_as_what_they_are() {
    let cooling = |ended_ago: u64, goal| {
        let mut observed = computing();
        on_chain(&mut observed, |chain| {
            let session = chain.session.as_mut().unwrap();
            session.state = SessionState::WorkerCoolingDown;
            session.cool_down_start = NOW_SECS - COOL_DOWN_SECS + 60 - ended_ago;
        });
        observed.saved.goal = goal;
        observed
    };
    let now = told(&cooling(0, Goal::StayStopped));
    assert_eq!((now.action, now.state, now.code), (Action::Wait, State::Synched, "cooling-down"));
    assert!(now.message.contains("1 minutes left; stays stopped"), "{}", now.message);
    assert!(told(&cooling(0, Goal::StartAgain)).message.contains("starts again"));
    assert_eq!(told(&cooling(60, Goal::StayStopped)).code, "cooled-down");
    assert_eq!(told(&cooling(60, Goal::Reclaim)).action, Action::Operate(Operation::Reclaim));
    // By force.
    let mut forced = pool();
    forced.withdrawals = vec![Withdrawal { start_time: NOW_SECS - COOL_DOWN_SECS - 100 }];
    let mut observed = with_pool(cooling(0, Goal::StayStopped), Some(forced));
    observed.rules.withdrawal_grace_secs = Some(100);
    assert!(told(&observed).message.contains("forced"), "{}", told(&observed).message);
    observed.rules.withdrawal_grace_secs = Some(10_000);
    assert!(!told(&observed).message.contains("forced"));

    let mut observed = computing();
    on_chain(&mut observed, |chain| chain.session.as_mut().unwrap().state = SessionState::WorkerUnresponsive);
    assert_eq!((told(&observed).state, told(&observed).code), (State::Active, "unresponsive"));
    on_chain(&mut observed, |chain| chain.pool = None);
    observed.unsent_messages = true;
    let gone = told(&observed);
    assert_eq!((gone.action, gone.state, gone.code), (Action::Relay, State::Active, "assignment-gone"));
}

#[test]
fn settings_for_stops_hold_from_worker_to_pool_to_fleet() {
    let mut desired = desired(true, false);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::Reclaim);
    Arc::make_mut(desired.pool.as_mut().unwrap()).after_stop = Some(AfterExternalStop::StartAgain);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::StartAgain);
    Arc::make_mut(&mut desired.worker).after_stop = Some(AfterExternalStop::StayStopped);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::StayStopped);
}

#[test]
fn a_gatekeeper_is_registered_and_not_put_to_computing() {
    let mut desired = desired(true, false);
    Arc::make_mut(&mut desired.worker).gatekeeper = true;
    let settings = Settings::default();
    let mut observed = ready();
    on_chain(&mut observed, |chain| (chain.pool, chain.session) = (None, None));
    observed.unsent_messages = true;
    let off_duty = told_for(&desired, &settings, &observed);
    assert_eq!(
        (off_duty.action, off_duty.state, off_duty.code),
        (Action::Relay, State::Synched, "gatekeeper")
    );
    let mut active = info();
    active.gatekeeper = Some(GatekeeperStatus { role: 2, ..GatekeeperStatus::default() });
    observed.info = Some(Arc::new(active));
    assert_eq!(told_for(&desired, &settings, &observed).state, State::Active);
    on_chain(&mut observed, |chain| chain.registration = None);
    assert_eq!(told_for(&desired, &settings, &observed).action, Action::Operate(Operation::Register));
}

#[test]
fn endpoints_are_announced_when_they_differ() {
    let mut desired = desired(true, false);
    Arc::make_mut(&mut desired.worker).endpoints = vec!["https://a".into()];
    let settings = Settings::default();
    let mut observed = computing();
    let announce = Action::Operate(Operation::AnnounceEndpoints);
    assert_eq!(told_for(&desired, &settings, &observed).action, announce);
    assert_eq!(told_for(&desired, &settings, &observed).state, State::Active);
    on_chain(&mut observed, |chain| chain.endpoints = vec!["https://a".into()]);
    assert_eq!(told_for(&desired, &settings, &observed).action, Action::Wait);
    on_chain(&mut observed, |chain| chain.endpoints = vec!["https://old".into()]);
    assert_eq!(told_for(&desired, &settings, &observed).action, announce);
    // What makes it earn comes first.
    on_chain(&mut observed, |chain| chain.session = Some(session(SessionState::Ready, 0)));
    assert_eq!(told_for(&desired, &settings, &observed).action, START);
}

#[test]
fn a_fleet_wide_sync_only_holds_for_every_worker() {
    let settings = Settings::default().with_sync_only(true);
    let told = told_for(&desired(true, false), &settings, &ready());
    assert_eq!((told.action, told.state), (Action::Wait, State::Synched));
}

#[test]
fn the_proxied_account_is_the_operator() {
    let mut desired = desired(true, false);
    Arc::make_mut(desired.pool.as_mut().unwrap()).proxied = Some(STRANGER);
    let settings = Settings::default();
    let mut observed = ready();
    let told = told_for(&desired, &settings, &observed);
    assert_eq!(told.action, Action::Operate(Operation::Register), "the signer is not the operator");
    on_chain(&mut observed, |chain| chain.registration.as_mut().unwrap().operator = Some(STRANGER));
    assert_eq!(told_for(&desired, &settings, &observed).action, START);
    let mut theirs = pool();
    theirs.owner = AccountId([77; 32]);
    assert_eq!(
        told_for(&desired, &settings, &with_pool(observed.clone(), Some(theirs.clone()))).code,
        "not-pool-owner"
    );
    theirs.owner = STRANGER;
    assert_eq!(told_for(&desired, &settings, &with_pool(observed, Some(theirs))).action, START);
}

#[test]
fn states_have_their_names_and_numbers() {
    let names: Vec<_> = State::ALL.iter().map(|s| (s.number(), s.as_str())).collect();
    assert_eq!(
        names,
        [
            (0, "S_IDLE"),
            (1, "S_STARTING"),
            (2, "S_SYNCHING"),
            (3, "S_SYNCHED"),
            (4, "S_PRE_ACTIVE"),
            (5, "S_ACTIVE"),
            (6, "S_KICKED"),
            (7, "S_ERROR")
        ]
    );
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}
