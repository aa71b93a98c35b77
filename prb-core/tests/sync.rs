//! What the planner promises for any numbers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use prb_core::{
    blob::{BlockCursor, HeaderCursor, Heights},
    primitives::{ParaNumber, RelayNumber},
    prpc::{HeadersSyncedTo, SyncedTo},
    sync::{Limits, Position, Step, plan},
};
use proptest::prelude::*;

fn position(relay: u32, para: u32, block: u32) -> Position {
    Position { relay_header: RelayNumber(relay), para_header: ParaNumber(para), block: ParaNumber(block) }
}

fn heights(relay: Option<u32>, para: Option<u32>) -> Heights {
    Heights {
        relay: relay.map(RelayNumber),
        para: para.map(ParaNumber),
        relay_target: None,
        para_target: None,
    }
}

/// Small numbers, so that they meet, and the largest.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..60u32, 1 => (u32::MAX - 3)..=u32::MAX]
}

fn any_position() -> impl Strategy<Value = Position> {
    (number(), number(), number()).prop_map(|(r, p, b)| position(r, p, b))
}

fn any_heights() -> impl Strategy<Value = Heights> {
    (proptest::option::of(number()), proptest::option::of(number())).prop_map(|(r, p)| heights(r, p))
}

proptest! {
    #[test]
    fn plans_are_bounded_by_the_worker_and_the_source(at in any_position(), tip in any_heights()) {
        match plan(at, &tip, &Limits::default()) {
            Step::Headers(cursor) => {
                prop_assert_eq!(cursor, HeaderCursor { relay: at.relay_header, para: at.para_header });
                prop_assert!(tip.relay.unwrap() >= cursor.relay);
                prop_assert!(cursor.relay.0 > 0);
            }
            Step::Blocks(cursor) => {
                prop_assert_eq!(cursor.from, at.block);
                prop_assert!(cursor.from.0 > 0, "block 0 is in the genesis state");
                prop_assert!(cursor.from <= cursor.to);
                prop_assert!(cursor.to < at.para_header, "only blocks that it has the header of");
                prop_assert!(cursor.to <= tip.para.unwrap());
            }
            Step::Wait => {}
        }
    }

    #[test]
    fn waits_only_if_nothing_is_available(at in any_position(), tip in any_heights()) {
        prop_assume!(at.relay_header.0 > 0 && at.block.0 > 0);
        if plan(at, &tip, &Limits::default()) == Step::Wait {
            let block = tip.para.is_some_and(|p| at.block <= p) && at.block < at.para_header;
            prop_assert!(!block, "a block could be dispatched");
            let headers = tip.relay.map_or(0, |r| (u64::from(r.0) + 1).saturating_sub(u64::from(at.relay_header.0)));
            let para = tip.para.is_some_and(|p| at.para_header <= p);
            prop_assert!(headers == 0 || !para, "a header could be synced");
            prop_assert!(headers <= u64::from(Limits::default().idle_relay_headers));
        }
    }

    /// Against a source whose batches end anywhere and whose parachain stands still now and then, any
    /// worker gets to the tip, moves on at every step, and never holds many more headers than blocks.
    #[test]
    fn any_worker_reaches_the_tip(
        steps in proptest::collection::vec((1..9u32, 0..4u32), 1..40),
        cuts in proptest::collection::vec(1..7u32, 64),
    ) {
        // Each stop: a justified relay block, and the newest parachain header that it names.
        let mut stops = Vec::new();
        let (mut relay, mut para) = (0, 0);
        for (more_relay, more_para) in steps {
            relay += more_relay;
            para += more_para;
            stops.push((relay, para));
        }
        let tip = heights(Some(relay), Some(para));
        let mut at = position(1, 0, 1);
        for (turn, cut) in cuts.iter().cycle().enumerate() {
            prop_assert!(turn < 10_000, "no end");
            match plan(at, &tip, &Limits::default()) {
                Step::Wait => break,
                Step::Headers(cursor) => {
                    let ahead = stops.iter().filter(|(r, _)| *r >= cursor.relay.0).take(*cut as usize);
                    let (r, p) = ahead.last().unwrap();
                    let answer = HeadersSyncedTo {
                        relaychain_synced_to: *r,
                        parachain_synced_to: (*p + 1).max(cursor.para.0).wrapping_sub(1),
                    };
                    prop_assert!(at.headers_synced(answer));
                }
                Step::Blocks(cursor) => {
                    let last = cursor.to.0.min(cursor.from.0 + cut - 1);
                    let answer = SyncedTo { synced_to: last };
                    prop_assert!(at.blocks_synced(answer));
                }
            }
        }
        prop_assert_eq!(at.block, ParaNumber(para + 1));
        prop_assert!(relay + 1 - at.relay_header.0 <= Limits::default().idle_relay_headers);
    }
}

#[test]
fn blocks_come_before_headers_and_headers_go_on_without_blocks() {
    let limits = Limits::default();
    let tip = heights(Some(100), Some(50));
    let blocks = BlockCursor { from: ParaNumber(5), to: ParaNumber(9) };
    assert_eq!(plan(position(21, 10, 5), &tip, &limits), Step::Blocks(blocks));
    // The source holds no more blocks, but more headers.
    let short = heights(Some(100), Some(4));
    let headers = HeaderCursor { relay: RelayNumber(21), para: ParaNumber(10) };
    assert_eq!(plan(position(21, 10, 5), &short, &limits), Step::Headers(headers));
    // Relay headers alone wait for company.
    assert_eq!(plan(position(99, 51, 51), &tip, &limits), Step::Wait);
    assert!(matches!(plan(position(80, 51, 51), &tip, &limits), Step::Headers(_)));
    // A worker that is ahead of the source.
    assert_eq!(plan(position(500, 400, 400), &tip, &limits), Step::Wait);
}

#[test]
fn the_answer_before_any_parachain_header_is_understood() {
    let mut at = position(1, 0, 1);
    let answer = HeadersSyncedTo { relaychain_synced_to: 7, parachain_synced_to: u32::MAX };
    assert!(at.headers_synced(answer));
    assert_eq!(at, position(8, 0, 1));
    assert!(!at.headers_synced(answer), "no further");
}

#[test]
fn the_lag_is_against_the_chain() {
    let at = position(1, 1, 11);
    assert_eq!(at.lag(&heights(None, None)), None);
    assert_eq!(at.lag(&heights(None, Some(10))), Some(0));
    let tip = Heights { para_target: Some(ParaNumber(15)), ..heights(None, Some(10)) };
    assert_eq!(at.lag(&tip), Some(5));
    assert_eq!(position(1, 1, 99).lag(&tip), Some(0));
}
