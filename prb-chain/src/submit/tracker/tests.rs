#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;

const HASH: Hash = Hash([7; 32]);

fn config() -> Config {
    Config {
        poll_interval: Duration::from_secs(1),
        watch_timeout: Duration::from_secs(10),
        unknown_after: Duration::from_secs(100),
        fill_nonce_gaps: true,
        ..Config::default()
    }
}

/// Sent a second ago to a node that watches it.
fn watched(start: Instant) -> State {
    let state = State::new(5, start, &config());
    decide(state, Observation::Sent { watched: true }, start, &config()).0
}

/// In the state after this status.
fn reported(start: Instant, status: Status) -> State {
    decide(watched(start), Observation::Status(status), start, &config()).0
}

fn not_yet() -> Observation {
    Observation::Searched(Search::NotYet { next_block: 9 })
}

fn failed() -> Observation {
    Observation::Searched(Search::Failed { error: "away".into() })
}

fn lost(reason: &str) -> Action {
    Action::End(End::Lost { reason: reason.into() })
}

#[tokio::test(start_paused = true)]
async fn state_and_observation_determine_the_action() {
    let start = Instant::now();
    let after = |secs| start + Duration::from_secs(secs);
    let search = |first| Action::Search { from: 5, first };
    let quick = Action::Listen { until: after(2) };
    let wait = Action::Listen { until: after(11) };
    let resend = Action::Resend { attempt: 0 };
    let unwatched = || State::new(5, start, &config());
    let excluded = || Observation::Searched(Search::Excluded { reason: "it expired".into() });
    let disputed = || Observation::Searched(Search::Disputed { reason: "it expired".into() });
    let status = |status| Observation::Status(status);
    let cases = [
        // A second after it was sent.
        ("no watch", unwatched(), Observation::Sent { watched: false }, quick.clone()),
        ("a watch", unwatched(), Observation::Sent { watched: true }, wait.clone()),
        ("ready", watched(start), status(Status::Ready), wait.clone()),
        ("broadcast", watched(start), status(Status::Broadcast(vec![])), wait.clone()),
        ("future", watched(start), status(Status::Future), quick.clone()),
        ("in a block", watched(start), status(Status::InBlock(HASH)), wait.clone()),
        ("retracted", watched(start), status(Status::Retracted(HASH)), wait.clone()),
        ("final", watched(start), status(Status::Finalized(HASH)), search(Some(HASH))),
        ("not final in time", watched(start), status(Status::FinalityTimeout(HASH)), search(None)),
        ("usurped", watched(start), status(Status::Usurped(HASH)), search(None)),
        ("dropped", watched(start), status(Status::Dropped), search(None)),
        ("invalid", watched(start), status(Status::Invalid), search(None)),
        ("watch ended", watched(start), Observation::WatchEnded, search(None)),
        ("quiet", watched(start), Observation::Quiet, search(None)),
        ("quiet, unwatched", unwatched(), Observation::Quiet, search(None)),
        ("not yet, unwatched", unwatched(), not_yet(), resend.clone()),
        ("not yet, in the pool", reported(start, Status::Ready), not_yet(), resend.clone()),
        ("not yet, behind a gap", reported(start, Status::Future), not_yet(), Action::FillGap),
        ("gap filled", reported(start, Status::Future), Observation::GapFilled, resend.clone()),
        ("not yet, in a block", reported(start, Status::InBlock(HASH)), not_yet(), wait.clone()),
        ("not yet, retracted", reported(start, Status::Retracted(HASH)), not_yet(), resend.clone()),
        ("nodes are away", unwatched(), failed(), resend),
        ("nodes are away, in a block", reported(start, Status::InBlock(HASH)), failed(), wait),
        ("included", watched(start), Observation::Searched(Search::Included), Action::End(End::Included)),
        ("excluded", watched(start), excluded(), lost("it expired (last seen: sent)")),
        (
            "excluded, dropped",
            reported(start, Status::Dropped),
            excluded(),
            lost("it expired (last seen: dropped)"),
        ),
        ("disputed", unwatched(), disputed(), Action::Resend { attempt: 0 }),
    ];
    for (name, state, observation, action) in cases {
        assert_eq!(decide(state, observation, after(1), &config()).1, action, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nonce_gap_is_filled_after_some_final_blocks_unless_configured_otherwise() {
    let start = Instant::now();
    let config = Config { fill_nonce_gaps: false, ..config() };
    let mut state = reported(start, Status::Future);
    let mut searched = |next_block, secs| {
        let search = Observation::Searched(Search::NotYet { next_block });
        let (next, action) = decide(state.clone(), search, start + Duration::from_secs(secs), &config);
        state = next;
        action
    };
    assert_eq!(searched(9, 0), Action::Resend { attempt: 0 });
    assert!(matches!(searched(12, 10), Action::Resend { .. }));
    assert_eq!(searched(13, 20), Action::FillGap);
    // It was filled, and there is another one.
    let (next, _) = decide(state, Observation::Status(Status::Ready), start, &config);
    let (next, _) = decide(next, Observation::Status(Status::Future), start, &config);
    let search = Observation::Searched(Search::NotYet { next_block: 14 });
    let (_, action) = decide(next, search, start + Duration::from_secs(60), &config);
    assert!(matches!(action, Action::Resend { .. }), "{action:?}");
}

#[tokio::test(start_paused = true)]
async fn resends_back_off() {
    let start = Instant::now();
    let (mut state, mut now, mut pauses) = (watched(start), start, Vec::new());
    for attempt in 0..8 {
        let before = now;
        loop {
            let (next, action) = decide(state, not_yet(), now, &config());
            state = next;
            match action {
                Action::Resend { attempt: which } => {
                    assert_eq!(which, attempt);
                    break;
                }
                Action::Listen { .. } => now += Duration::from_secs(1),
                other => panic!("{other:?}"),
            }
        }
        pauses.push((now - before).as_secs());
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 16, 16]);
}

#[tokio::test(start_paused = true)]
async fn disputed_loss_is_accepted_after_a_while() {
    let start = Instant::now();
    let disputed = || Observation::Searched(Search::Disputed { reason: "it expired".into() });
    let (state, _) = decide(watched(start), disputed(), start, &config());
    let (state, action) = decide(state, disputed(), start + Duration::from_secs(9), &config());
    assert!(!matches!(action, Action::End(_)), "{action:?}");
    let (_, action) = decide(state, disputed(), start + Duration::from_secs(10), &config());
    assert_eq!(action, lost("it expired (last seen: sent)"));
}

#[tokio::test(start_paused = true)]
async fn long_outage_leaves_the_outcome_unknown_and_any_answer_restarts_the_limit() {
    let start = Instant::now();
    let after = |secs| start + Duration::from_secs(secs);
    let (state, _) = decide(watched(start), Observation::WatchEnded, start, &config());
    let (state, _) = decide(state, not_yet(), after(50), &config());
    let (state, action) = decide(state, failed(), after(149), &config());
    assert!(!matches!(action, Action::End(_)), "{action:?}");
    let (_, action) = decide(state, failed(), after(150), &config());
    let reason = "away (last seen: sent, then the watch was lost)".into();
    assert_eq!(action, Action::End(End::Unknown { reason }));
}

#[tokio::test(start_paused = true)]
async fn node_that_keeps_reporting_does_not_prevent_searches() {
    let start = Instant::now();
    let (mut state, mut now) = (watched(start), start);
    let until = loop {
        let status = Observation::Status(Status::Broadcast(vec![]));
        let (next, action) = decide(state, status, now, &config());
        state = next;
        let Action::Listen { until } = action else { panic!("{action:?}") };
        if until <= now {
            break until;
        }
        now += Duration::from_secs(5);
        assert!(now < start + Duration::from_secs(60), "it is never searched for");
    };
    assert_eq!(until, start + config().watch_timeout * 3);
    let (state, action) = decide(state, Observation::Quiet, now, &config());
    assert_eq!(action, Action::Search { from: 5, first: None });
    let (state, _) = decide(state, not_yet(), now, &config());
    let status = Observation::Status(Status::Ready);
    let (_, action) = decide(state, status, now, &config());
    assert_eq!(action, Action::Listen { until: now + config().watch_timeout });
}

#[tokio::test(start_paused = true)]
async fn reported_block_that_is_not_found_does_not_prevent_sending_for_long() {
    let start = Instant::now();
    let after = |secs| start + Duration::from_secs(secs);
    let mut state = reported(start, Status::InBlock(HASH));
    for secs in [10, 20, 29] {
        let action;
        (state, action) = decide(state, not_yet(), after(secs), &config());
        assert!(matches!(action, Action::Listen { .. }), "{action:?}");
        // Again and again the same.
        (state, _) = decide(state, Observation::Status(Status::InBlock(HASH)), after(secs), &config());
    }
    let (_, action) = decide(state, not_yet(), after(30), &config());
    assert_eq!(action, Action::Resend { attempt: 0 });
}

#[tokio::test(start_paused = true)]
async fn search_continues_where_the_last_one_ended() {
    let start = Instant::now();
    let (state, _) = decide(watched(start), not_yet(), start, &config());
    let (state, action) = decide(state, Observation::Quiet, start, &config());
    assert_eq!(action, Action::Search { from: 9, first: None });
    let unread = Search::Unread { block: 7, error: "no events".into() };
    let (state, _) = decide(state, Observation::Searched(unread), start, &config());
    let (_, action) = decide(state, Observation::Quiet, start, &config());
    assert_eq!(action, Action::Search { from: 7, first: None });
}
