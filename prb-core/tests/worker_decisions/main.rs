//! What a worker does in single situations, and what it reports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use prb_core::{
    blob::HeaderCursor,
    chain::{SessionState, Unreadable, Withdrawal, WorkerOnChain},
    inventory::{AfterExternalStop, Goal},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber, WorkerKey},
    prpc::{GatekeeperStatus, PhactoryInfo},
    sync::Step,
    worker::{
        Action, Desired, Failure, Grant, LastKey, NodeBehind, Observed, Operation, Reason, Refused, Settings,
        State, decide,
    },
};

mod operations;

#[path = "../worker_rig/rig.rs"]
mod rig;
use rig::{
    COOL_DOWN_SECS, GENESIS, KEY, NOW_SECS, OTHER, STAKE, STRANGER, computing, desired, info, on_chain, pool,
    ready, session, with_pool,
};

const START: Action = Action::Operate(Operation::Start(STAKE));

struct Summary {
    action: Action,
    sync: Step,
    state: State,
    code: &'static str,
    message: String,
    on_the_way: bool,
}

fn decision_for(desired: &Desired, settings: &Settings, observed: &Observed) -> Summary {
    let decision = decide(desired, settings, observed);
    assert_eq!(*decision.message, *decision.reason.to_string());
    Summary {
        action: decision.action,
        sync: decision.sync,
        state: decision.state,
        code: decision.reason.code(),
        message: decision.message.to_string(),
        on_the_way: decision.on_the_way,
    }
}

fn decision(observed: &Observed) -> Summary {
    decision_for(&desired(true, false), &Settings::default(), observed)
}

fn decided(observed: &Observed) -> (Action, State, String) {
    let decision = decision(observed);
    (decision.action, decision.state, decision.message)
}

fn failure(attempts: u32, due: bool) -> Option<Failure> {
    Some(Failure { reason: Reason::Unreachable { error: "it fails".into() }, attempts, due })
}

fn headers() -> Step {
    Step::Headers(HeaderCursor { relay: RelayNumber(101), para: ParaNumber(51) })
}

#[test]
fn connecting_is_retried_until_the_worker_answers() {
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
fn disabled_worker_is_idle() {
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
        let decision = decision_for(&desired, &settings, &ready());
        assert_eq!((decision.action, decision.state, decision.code), (Action::Wait, State::Idle, code));
    }
}

#[test]
fn worker_of_another_chain_is_reported_and_left_alone() {
    for mut observed in [ready(), computing()] {
        observed.relay_genesis = Some(Hash([8; 32]));
        observed.step = headers();
        observed.unsent_messages = true;
        let decision = decision(&observed);
        assert_eq!(
            (decision.action, decision.sync, decision.state),
            (Action::Recheck, Step::Wait, State::Error)
        );
        assert!(decision.message.contains("another chain"), "{}", decision.message);
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
fn worker_behind_the_tip_only_syncs_and_relays() {
    for mut observed in [ready(), computing()] {
        observed.caught_up = false;
        observed.step = headers();
        let decision = decision(&observed);
        assert_eq!(
            (decision.action, decision.sync, decision.state),
            (Action::Wait, headers(), State::Synching)
        );
        observed.unsent_messages = true;
        assert_eq!(decided(&observed).0, Action::Relay);
    }
    // One that belongs to another pool is decision of at once.
    let mut observed = ready();
    on_chain(&mut observed, |chain| chain.pool = Some(OTHER));
    observed.caught_up = false;
    observed.step = headers();
    observed.unsent_messages = true;
    let decision = decision(&observed);
    assert_eq!((decision.action, decision.sync, decision.state), (Action::Wait, headers(), State::Error));
    assert!(decision.message.contains("pool 7"), "{}", decision.message);
    // A stop does not wait for the tip.
    let mut observed = computing();
    observed.caught_up = false;
    observed.saved.goal = Goal::Stop;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Stop));
}

#[test]
fn what_follows_a_stop_does_not_wait_for_the_tip() {
    let mut cooled_down = computing();
    on_chain(&mut cooled_down, |chain| {
        let session = chain.session.as_mut().unwrap();
        session.state = SessionState::WorkerCoolingDown;
        session.cool_down_start = NOW_SECS - COOL_DOWN_SECS - 1;
    });
    let (reclaim, leave) = (Action::Operate(Operation::Reclaim), Action::Operate(Operation::LeavePool));
    let cases = [
        (cooled_down.clone(), Goal::Reclaim, reclaim),
        (cooled_down.clone(), Goal::LeavePool, reclaim),
        (ready(), Goal::LeavePool, leave),
        // Its stake is needed no earlier than at the tip.
        (cooled_down, Goal::StartAgain, Action::Wait),
    ];
    for (mut observed, goal, action) in cases {
        observed.saved.goal = goal;
        observed.caught_up = false;
        let decision = decision(&observed);
        assert_eq!((decision.action, decision.state), (action, State::Synching), "{goal:?}");
    }
}

#[test]
fn last_key_is_stopped_while_its_machine_serves_another_chain() {
    let mut observed = ready();
    let Some(Ok(chain)) = computing().chain else { panic!("it has a state") };
    observed.last_key = Some(LastKey { key: KEY, chain: Some(Ok(chain)), holder: None, may_start: false });
    observed.relay_genesis = Some(Hash([8; 32]));
    observed.saved.goal = Goal::Stop;
    let stops = decision(&observed);
    assert_eq!((stops.action, stops.state), (Action::Operate(Operation::Stop), State::Error));
    assert_eq!((stops.sync, stops.code), (Step::Wait, "wrong-chain"));
    // Without such a goal it is only observed again.
    observed.saved.goal = Goal::Compute;
    assert_eq!(decision(&observed).action, Action::Recheck);
}

#[test]
fn syncing_continues_during_operations_and_messages() {
    let mut observed = ready();
    observed.step = headers();
    observed.unsent_messages = true;
    let first = decision(&observed);
    assert_eq!((first.action, first.sync), (START, headers()));
    observed.job = Some(Operation::Start(STAKE));
    assert_eq!((decision(&observed).action, decision(&observed).sync), (Action::Relay, headers()));
    // A dispatch under way holds up no message, and no second one is started.
    observed.syncing = true;
    assert_eq!((decision(&observed).action, decision(&observed).sync), (Action::Relay, Step::Wait));
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
    let stale = decision(&observed);
    assert_eq!((stale.action, stale.sync), (Action::Observe, Step::Wait), "the worker's own word first");
}

#[test]
fn nothing_is_sent_on_a_view_that_is_too_old() {
    let mut observed = ready();
    observed.step = headers();
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, START);
    let before = decision(&observed);
    observed.node_behind = Some(NodeBehind { blocks: 14, is_lasting: false });
    let moment = decision(&observed);
    assert_eq!((moment.action, moment.sync), (Action::Wait, headers()));
    assert_eq!((moment.state, moment.code), (before.state, before.code), "not shown yet");
    observed.node_behind = Some(NodeBehind { blocks: 14, is_lasting: true });
    let lasting = decision(&observed);
    assert_eq!((lasting.action, lasting.sync, lasting.code), (Action::Wait, headers(), "node-behind"));
    assert!(lasting.message.contains("is 14 blocks behind"), "{}", lasting.message);
    observed.failures.connection = failure(1, false);
    assert_eq!(decision(&observed).message, "it fails", "the worker itself first");
    // An absent worker's stop waits as well.
    let mut observed = computing();
    let chain = observed.chain.take();
    observed.info = None;
    observed.last_key = Some(LastKey { key: KEY, chain, holder: None, may_start: false });
    observed.saved.goal = Goal::Stop;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Stop));
    observed.node_behind = Some(NodeBehind { blocks: 1, is_lasting: false });
    assert_ne!(decided(&observed).0, Action::Operate(Operation::Stop));
    // A worker that only syncs needs no views.
    let mut observed = ready();
    observed.node_behind = Some(NodeBehind { blocks: 14, is_lasting: true });
    let syncs = decision_for(&desired(true, true), &Settings::default(), &observed);
    assert_eq!(syncs.code, "sync-only");
}

#[test]
fn failed_operation_is_shown_and_blocks_nothing_else() {
    let mut observed = ready();
    observed.step = headers();
    observed.failures.chain = failure(1, false);
    let waits = decision(&observed);
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
fn refused_operation_waits_for_a_state_change() {
    let refused = |operation, holds| {
        let (error, remedy) = ("PhalaStakePoolv2::PoolFrozen".into(), "ask its owner".into());
        Some(Refused { operation, error, remedy, is_current: holds })
    };
    let mut observed = ready();
    observed.refused = refused(Operation::Start(STAKE), true);
    observed.failures.chain = failure(1, true);
    let decision = decision(&observed);
    assert_eq!(
        (decision.action, decision.state, decision.code),
        (Action::Wait, State::Error, "operation-refused")
    );
    assert!(
        decision.message.contains("PoolFrozen") && decision.message.contains("ask its owner"),
        "{}",
        decision.message
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
fn failed_messages_back_off_and_are_shown() {
    let mut observed = computing();
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Relay);
    observed.failures.relay = failure(2, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it fails".into()));
}

#[test]
fn few_failed_batches_are_reported_and_more_are_an_error() {
    let mut observed = computing();
    observed.step = headers();
    observed.failures.sync = failure(2, false);
    let few = decision(&observed);
    assert_eq!((few.sync, few.state, &*few.message), (Step::Wait, State::Active, "it fails"));
    observed.failures.sync = failure(3, true);
    let more = decision(&observed);
    assert_eq!((more.sync, more.state), (headers(), State::Error));
    let mut observed = computing();
    observed.step = headers();
    observed.failures.connection = failure(1, false);
    assert_eq!((decision(&observed).action, decision(&observed).sync), (Action::Wait, Step::Wait));
    assert_eq!(decision(&observed).state, State::Active);
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
fn worker_with_another_workers_key_is_only_rechecked() {
    for (desired, mut observed) in [
        (desired(true, false), ready()),
        (desired(true, true), computing()),
        (desired(false, false), ready()),
    ] {
        observed.key_holder = Some("elder".into());
        observed.unsent_messages = true;
        observed.step = headers();
        let decision = decision_for(&desired, &Settings::default(), &observed);
        assert_eq!(
            (decision.action, decision.sync, decision.state),
            (Action::Recheck, Step::Wait, State::Error)
        );
        assert!(decision.message.contains("elder"), "{}", decision.message);
    }
}

#[test]
fn unreadable_state_is_reported_and_nothing_is_sent() {
    let mut observed = ready();
    observed.unsent_messages = true;
    observed.chain = None;
    assert_eq!(
        (decision(&observed).action, decision(&observed).code),
        (Action::Wait, "awaiting-chain-state")
    );
    observed.chain = Some(Err(Unreadable::new("Sessions does not decode")));
    let unreadable = decision(&observed);
    assert_eq!((unreadable.action, unreadable.state), (Action::Wait, State::Error));
    assert!(unreadable.message.contains("Sessions does not decode"), "{}", unreadable.message);
    let mut observed = ready();
    observed.pool = Some(Err(Unreadable::new("Pools does not decode")));
    assert_eq!((decision(&observed).action, decision(&observed).code), (Action::Wait, "pool-unreadable"));
}
