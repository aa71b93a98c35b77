//! Operations: key changes, stakes, stops and settings.

use super::*;

/// The entry was known by another key, which has that much at stake.
fn other_key(mut observed: Observed, at_stake: Option<u128>, holder: Option<&str>) -> Observed {
    let chain = at_stake.map(|stake| {
        let mut chain = WorkerOnChain::default();
        chain.session = (stake > 0).then(|| session(SessionState::WorkerIdle, stake));
        Ok(Arc::new(chain))
    });
    let key = WorkerKey([8; 32]);
    observed.saved.key = Some(key);
    observed.last_key = Some(LastKey { key, chain, holder: holder.map(Into::into), may_start: false });
    observed
}

#[test]
fn no_stake_for_a_new_key_while_the_last_has_stake() {
    let stake = 5_000_000_000_000_000;
    for mut observed in [ready(), computing()] {
        on_chain(&mut observed, |chain| chain.registration = None);
        let changed = decision(&other_key(observed.clone(), Some(stake), None));
        assert_eq!(
            (changed.action, changed.state, changed.code),
            (Action::Wait, State::Error, "key-changed")
        );
        for text in ["5,000 PHA", &KEY.to_string(), &WorkerKey([8; 32]).to_string(), "confirm"] {
            assert!(changed.message.contains(text), "{text} in {}", changed.message);
        }
        let moved = decision(&other_key(observed.clone(), Some(stake), Some("rack-2")));
        assert_eq!(moved.action, Action::Wait);
        assert!(moved.message.contains("worker rack-2"), "{}", moved.message);
        let unknown = decision(&other_key(observed, None, None));
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
fn failing_sync_does_not_hide_a_changed_key() {
    for at_stake in [Some(5_000_000_000_000_000), None] {
        let mut observed = other_key(ready(), at_stake, None);
        let alone = decision(&observed);
        observed.failures.sync = failure(3, false);
        let both = decision(&observed);
        assert_eq!((both.state, both.code, &both.message), (State::Error, alone.code, &alone.message));
        // Of a worker that does not answer, nothing is known.
        observed.failures.connection = failure(1, false);
        assert_ne!(decision(&observed).code, alone.code);
    }
}

#[test]
fn key_at_another_endpoint_is_reported_at_the_old_one() {
    let mut observed = other_key(Observed::default(), None, Some("rack-2"));
    observed.failures.connection = failure(3, false);
    let decision = decision(&observed);
    assert_eq!((decision.state, decision.code), (State::Error, "key-moved"));
    assert!(decision.message.contains("rack-2"), "{}", decision.message);
}

#[test]
fn nothing_is_sent_before_its_record_is_stored() {
    let mut observed = ready();
    observed.unsaved = true;
    assert_eq!(decided(&observed).0, Action::Wait);
    observed.failures.save =
        Some(Failure { reason: Reason::SaveFailing { error: "disk full".into() }, attempts: 1, due: false });
    assert_eq!(decision(&observed).code, "save-failing");
    assert!(decision(&observed).message.contains("disk full"));
}

#[test]
fn operations_the_chain_would_refuse_are_reported_and_not_sent() {
    let check = |observed: &Observed, code: &str, texts: &[&str]| {
        let decision = decision(observed);
        assert_eq!(
            (decision.action, decision.state, decision.code),
            (Action::Wait, State::Error, code),
            "{}",
            decision.message
        );
        for text in texts {
            assert!(decision.message.contains(text), "{text} in {}", decision.message);
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
    let undecided = decision(&observed);
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
fn worker_of_another_operator_is_taken_over_only_by_the_owner_of_the_pool() {
    let mut strange = pool();
    strange.owner = STRANGER;
    let mut unregistered = ready();
    on_chain(&mut unregistered, |chain| (chain.registration, chain.pool, chain.session) = (None, None, None));
    assert_eq!(decided(&unregistered).0, Action::Operate(Operation::Register));
    let futile = decision(&with_pool(unregistered, Some(strange)));
    assert_eq!((futile.action, futile.code), (Action::Wait, "not-pool-owner"), "{}", futile.message);
    for (mut observed, state) in [(ready(), State::PreActive), (computing(), State::Active)] {
        on_chain(&mut observed, |chain| chain.registration.as_mut().unwrap().operator = Some(STRANGER));
        let owned = with_pool(observed.clone(), Some(pool()));
        assert_eq!(decided(&owned).0, Action::Operate(Operation::Register));
        let mut strange = pool();
        strange.owner = STRANGER;
        let decision = decision(&with_pool(observed, Some(strange)));
        assert_eq!(
            (decision.action, decision.code),
            (Action::Wait, "not-pool-owner"),
            "{}",
            decision.message
        );
        assert_eq!(decision.state, if state == State::Active { state } else { State::Error });
    }
}

#[test]
fn worker_that_computes_in_another_pool_keeps_its_heartbeats() {
    let in_other_pool = |mut observed: Observed| {
        on_chain(&mut observed, |chain| chain.pool = Some(PoolId(77)));
        observed.unsent_messages = true;
        decision(&observed)
    };
    let computes = in_other_pool(computing());
    assert_eq!((computes.action, computes.code), (Action::Relay, "in-other-pool"));
    assert_eq!(computes.state, State::Error);
    assert_eq!(in_other_pool(ready()).action, Action::Wait);
}

#[test]
fn score_that_does_not_come_is_reported_with_its_cause() {
    let mut unscored = ready();
    on_chain(&mut unscored, |chain| chain.registration.as_mut().unwrap().initial_score = None);
    unscored.benchmark_running = true;
    assert_eq!(decision(&unscored).code, "awaiting-score");
    let mut overdue = unscored.clone();
    overdue.benchmark_running = false;
    assert_eq!((decision(&overdue).code, decision(&overdue).state), ("score-overdue", State::PreActive));
    for mut observed in [unscored, overdue] {
        let reason = Reason::RelayFailing { error: "no answer".into() };
        observed.failures.relay = Some(Failure { reason, attempts: 1, due: true });
        assert_eq!(decision(&observed).code, "relay-failing");
    }
}

#[test]
fn worker_without_state_is_stopped_by_its_last_key() {
    let mut lost = computing();
    let chain = lost.chain.take();
    let mut info = info();
    (info.initialized, info.public_key) = (false, None);
    (lost.info, lost.relay_genesis) = (Some(Arc::new(info)), None);
    lost.last_key = Some(LastKey { key: KEY, chain, holder: None, may_start: false });
    assert_eq!(decided(&lost).0, Action::Wait);
    lost.saved.goal = Goal::Stop;
    assert_eq!(decided(&lost).0, Action::Operate(Operation::Stop));
    // Not while it answers at another entry.
    lost.last_key.as_mut().unwrap().holder = Some("another".into());
    assert_eq!(decided(&lost).0, Action::Wait);
}

#[test]
fn withdrawals_precede_higher_stakes_and_futile_starts() {
    let asked = |ago| {
        let mut pool = pool();
        pool.withdrawals = vec![Withdrawal { start_time: NOW_SECS - ago }];
        Some(pool)
    };
    let mut raises = computing();
    on_chain(&mut raises, |chain| chain.session.as_mut().unwrap().stake = Some(STAKE - 1));
    raises.rules.withdrawal_grace_secs = Some(100);
    let told_of = |observed: Observed, ago| decision(&with_pool(observed, asked(ago)));
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
fn stops_are_shown_with_their_cause() {
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
    let now = decision(&cooling(0, Goal::StayStopped));
    assert_eq!((now.action, now.state, now.code), (Action::Wait, State::Synched, "cooling-down"));
    assert!(now.message.contains("1 minutes left; stays stopped"), "{}", now.message);
    assert!(decision(&cooling(0, Goal::StartAgain)).message.contains("starts again"));
    assert_eq!(decision(&cooling(60, Goal::StayStopped)).code, "cooled-down");
    assert_eq!(decision(&cooling(60, Goal::Reclaim)).action, Action::Operate(Operation::Reclaim));
    // By force.
    let mut forced = pool();
    forced.withdrawals = vec![Withdrawal { start_time: NOW_SECS - COOL_DOWN_SECS - 100 }];
    let mut observed = with_pool(cooling(0, Goal::StayStopped), Some(forced));
    observed.rules.withdrawal_grace_secs = Some(100);
    assert!(decision(&observed).message.contains("forced"), "{}", decision(&observed).message);
    observed.rules.withdrawal_grace_secs = Some(10_000);
    assert!(!decision(&observed).message.contains("forced"));

    let mut observed = computing();
    on_chain(&mut observed, |chain| chain.session.as_mut().unwrap().state = SessionState::WorkerUnresponsive);
    assert_eq!((decision(&observed).state, decision(&observed).code), (State::Active, "unresponsive"));
    on_chain(&mut observed, |chain| chain.pool = None);
    observed.unsent_messages = true;
    let gone = decision(&observed);
    assert_eq!((gone.action, gone.state, gone.code), (Action::Relay, State::Active, "assignment-gone"));
}

#[test]
fn stop_settings_are_inherited_from_pool_and_fleet() {
    let mut desired = desired(true, false);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::Reclaim);
    Arc::make_mut(desired.pool.as_mut().unwrap()).after_stop = Some(AfterExternalStop::StartAgain);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::StartAgain);
    Arc::make_mut(&mut desired.worker).after_stop = Some(AfterExternalStop::StayStopped);
    assert_eq!(desired.after_stop(AfterExternalStop::Reclaim), AfterExternalStop::StayStopped);
}

#[test]
fn gatekeeper_is_registered_but_not_started() {
    let mut desired = desired(true, false);
    Arc::make_mut(&mut desired.worker).gatekeeper = true;
    let settings = Settings::default();
    let mut observed = ready();
    on_chain(&mut observed, |chain| (chain.pool, chain.session) = (None, None));
    observed.unsent_messages = true;
    let off_duty = decision_for(&desired, &settings, &observed);
    assert_eq!(
        (off_duty.action, off_duty.state, off_duty.code),
        (Action::Relay, State::Synched, "gatekeeper")
    );
    let mut active = info();
    active.gatekeeper = Some(GatekeeperStatus { role: 2, ..GatekeeperStatus::default() });
    observed.info = Some(Arc::new(active));
    assert_eq!(decision_for(&desired, &settings, &observed).state, State::Active);
    on_chain(&mut observed, |chain| chain.registration = None);
    assert_eq!(decision_for(&desired, &settings, &observed).action, Action::Operate(Operation::Register));
}

#[test]
fn endpoints_are_announced_when_they_differ() {
    let mut desired = desired(true, false);
    Arc::make_mut(&mut desired.worker).endpoints = vec!["https://a".into()];
    let settings = Settings::default();
    let mut observed = computing();
    let announce = Action::Operate(Operation::AnnounceEndpoints);
    assert_eq!(decision_for(&desired, &settings, &observed).action, announce);
    assert_eq!(decision_for(&desired, &settings, &observed).state, State::Active);
    on_chain(&mut observed, |chain| chain.endpoints = vec!["https://a".into()]);
    assert_eq!(decision_for(&desired, &settings, &observed).action, Action::Wait);
    on_chain(&mut observed, |chain| chain.endpoints = vec!["https://old".into()]);
    assert_eq!(decision_for(&desired, &settings, &observed).action, announce);
    // What makes it earn comes first.
    on_chain(&mut observed, |chain| chain.session = Some(session(SessionState::Ready, 0)));
    assert_eq!(decision_for(&desired, &settings, &observed).action, START);
}

#[test]
fn fleet_wide_sync_only_applies_to_every_worker() {
    let settings = Settings::default().with_sync_only(true);
    let decision = decision_for(&desired(true, false), &settings, &ready());
    assert_eq!((decision.action, decision.state), (Action::Wait, State::Synched));
}

#[test]
fn the_proxied_account_is_the_operator() {
    let mut desired = desired(true, false);
    Arc::make_mut(desired.pool.as_mut().unwrap()).proxied = Some(STRANGER);
    let settings = Settings::default();
    let mut observed = ready();
    let decision = decision_for(&desired, &settings, &observed);
    assert_eq!(decision.action, Action::Operate(Operation::Register), "the signer is not the operator");
    on_chain(&mut observed, |chain| chain.registration.as_mut().unwrap().operator = Some(STRANGER));
    assert_eq!(decision_for(&desired, &settings, &observed).action, START);
    let mut theirs = pool();
    theirs.owner = AccountId([77; 32]);
    assert_eq!(
        decision_for(&desired, &settings, &with_pool(observed.clone(), Some(theirs.clone()))).code,
        "not-pool-owner"
    );
    theirs.owner = STRANGER;
    assert_eq!(decision_for(&desired, &settings, &with_pool(observed, Some(theirs))).action, START);
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

/// A worker that waits for stake keeps its turn while nothing lasting keeps it from starting.
#[test]
fn failures_cost_a_worker_its_turn_once_they_last() {
    type Source = fn(&mut Observed, Option<Failure>);
    let sources: [Source; 3] = [
        |observed, failure| observed.failures.connection = failure,
        |observed, failure| observed.failures.sync = failure,
        |observed, failure| observed.failures.chain = failure,
    ];
    for set in sources {
        for (attempts, keeps_turn) in [(1, true), (2, true), (3, false)] {
            let mut observed = ready();
            set(&mut observed, failure(attempts, false));
            assert_eq!(decision(&observed).on_the_way, keeps_turn, "{attempts} failures");
        }
    }
    for (error, keeps_turn) in
        [("PhalaStakePoolv2::InsufficientFreeStake", true), ("PhalaStakePoolv2::WorkerDoesNotExist", false)]
    {
        let mut observed = ready();
        let (operation, error, remedy) = (Operation::Start(STAKE), error.into(), "none".into());
        observed.refused = Some(Refused { operation, error, remedy, is_current: true });
        assert_eq!(decision(&observed).on_the_way, keeps_turn, "{:?}", observed.refused);
    }
}

/// Nothing is staked for a new key while a start of the last one may still lock stake.
#[test]
fn a_start_of_the_last_key_is_awaited() {
    let mut observed = other_key(ready(), Some(0), None);
    observed.last_key.as_mut().unwrap().may_start = true;
    let decision = decision(&observed);
    assert_eq!(
        (decision.action, decision.state, decision.code),
        (Action::Wait, State::Error, "last-key-starting")
    );
}
