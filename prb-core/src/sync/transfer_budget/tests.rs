#![allow(clippy::unwrap_used)]

use futures::{FutureExt, future::join_all, poll};

use super::*;

const KIB: usize = 1024;

/// 2 KiB for the tip, 14 KiB for catch-up, and one fetch each.
fn budget() -> TransferBudget {
    TransferBudget::new(TransferLimits {
        max_bytes: 16 * KIB,
        tip_bytes: 2 * KIB,
        catch_up_fetches: 1,
        tip_fetches: 1,
    })
}

fn body(kib: usize) -> Bytes {
    vec![7; kib * KIB].into()
}

fn free(budget: &TransferBudget) -> (usize, usize) {
    (budget.free_bytes(Lane::Tip) / KIB, budget.free_bytes(Lane::CatchUp) / KIB)
}

fn known(budget: &TransferBudget) -> usize {
    budget.shared.bodies().len()
}

#[tokio::test]
async fn shared_body_is_charged_once_until_its_last_sender_is_done() {
    let budget = budget();
    let shared = body(10);
    let senders = join_all((0..50).map(|_| budget.charge(Lane::CatchUp, &shared)));
    let mut senders = senders.now_or_never().unwrap();
    assert_eq!((free(&budget), known(&budget)), ((2, 4), 1));
    // Clones lie at the same place; equal bytes elsewhere are another body.
    senders.push(budget.charge(Lane::CatchUp, &shared.clone()).await);
    assert_eq!(free(&budget), (2, 4));
    let elsewhere = Bytes::from(shared.to_vec());
    assert!(budget.charge(Lane::CatchUp, &elsewhere).now_or_never().is_none());
    let last = senders.pop();
    drop(senders);
    assert_eq!(free(&budget), (2, 4));
    drop(last);
    assert_eq!((free(&budget), known(&budget)), ((2, 14), 0));
    let _elsewhere = budget.charge(Lane::CatchUp, &elsewhere).await;
    assert_eq!(free(&budget), (2, 4));
}

#[tokio::test]
async fn the_tip_waits_for_nothing_that_catch_up_holds_or_waits_for() {
    let budget = budget();
    let (large, waiting) = (body(14), body(14));
    let _fetching = budget.fetch_permit(Lane::CatchUp).await;
    let _sending = budget.charge(Lane::CatchUp, &large).await;
    let queued = budget.charge(Lane::CatchUp, &waiting);
    tokio::pin!(queued);
    assert!(poll!(queued.as_mut()).is_pending());
    assert!(budget.fetch_permit(Lane::CatchUp).now_or_never().is_none());

    let _permit = budget.fetch_permit(Lane::Tip).now_or_never().unwrap();
    let own = body(2);
    let _own = budget.charge(Lane::Tip, &own).now_or_never().unwrap();
    // What catch-up pays for already costs nothing; what is in line there is of no use.
    drop(budget.charge(Lane::Tip, &large).now_or_never().unwrap());
    assert!(budget.charge(Lane::Tip, &waiting).now_or_never().is_none(), "its own share is used up");
    drop(_own);
    drop(budget.charge(Lane::Tip, &waiting).now_or_never().unwrap());
    assert_eq!(free(&budget), (2, 0));
}

#[tokio::test]
async fn catch_up_takes_nothing_from_the_tip_and_the_tip_uses_what_catch_up_leaves() {
    let budget = budget();
    let small = body(1);
    let tip = budget.charge(Lane::Tip, &small).await;
    let newcomer = budget.charge(Lane::CatchUp, &small).await;
    assert_eq!(free(&budget), (1, 13), "a slow newcomer does not keep the tip's bytes");
    drop(tip);
    assert_eq!(free(&budget), (2, 13));
    drop(newcomer);
    // More than the tip's share.
    let large = body(8);
    let tip = budget.charge(Lane::Tip, &large).now_or_never().unwrap();
    assert_eq!(free(&budget), (2, 6));
    drop(tip);
    let hog = body(14);
    let _hog = budget.charge(Lane::CatchUp, &hog).await;
    let _tip = budget.charge(Lane::Tip, &large).now_or_never().unwrap();
    assert_eq!(free(&budget), (0, 0), "more than its whole share holds all of it");
}

#[tokio::test]
async fn lanes_are_first_in_first_out() {
    let budget = budget();
    let (first, large, small) = (body(10), body(12), body(1));
    let sending = budget.charge(Lane::CatchUp, &first).await;
    let (large, small) = (budget.charge(Lane::CatchUp, &large), budget.charge(Lane::CatchUp, &small));
    tokio::pin!(large, small);
    assert!(poll!(large.as_mut()).is_pending());
    assert!(poll!(small.as_mut()).is_pending(), "it would fit, but passes nobody over");
    drop(sending);
    let large = large.now_or_never();
    assert!(large.is_some() && small.now_or_never().is_some());
}

#[tokio::test]
async fn the_position_of_a_body_outlives_departing_waiters() {
    let budget = budget();
    let (first, shared, later) = (body(10), body(12), body(12));
    let sending = budget.charge(Lane::CatchUp, &first).await;
    let mut leaves = Box::pin(budget.charge(Lane::CatchUp, &shared));
    assert!(poll!(leaves.as_mut()).is_pending());
    let mut last = Box::pin(budget.charge(Lane::CatchUp, &later));
    assert!(poll!(last.as_mut()).is_pending());
    let task = tokio::spawn({
        let (budget, shared) = (budget.clone(), shared.clone());
        async move { budget.charge(Lane::CatchUp, &shared).await }
    });
    tokio::task::yield_now().await;
    // The one whose turn it was to poll goes away: the other is woken all the same, before the later one.
    drop(leaves);
    drop(sending);
    let joined = task.await.unwrap();
    assert!(poll!(last.as_mut()).is_pending());
    drop(joined);
    drop(last.await);
    assert_eq!((free(&budget), known(&budget)), ((2, 14), 0));

    // Where all leave, the place goes with them.
    let hog = body(14);
    let hog = budget.charge(Lane::CatchUp, &hog).await;
    let mut leaves = Box::pin(budget.charge(Lane::CatchUp, &shared));
    assert!(poll!(leaves.as_mut()).is_pending());
    drop(leaves);
    drop(hog);
    assert_eq!((free(&budget), known(&budget)), ((2, 14), 0));
}

#[tokio::test]
async fn permits_and_reservations_come_back() {
    let budget = budget();
    let permit = budget.fetch_permit(Lane::CatchUp).await;
    let mut next = Box::pin(budget.fetch_permit(Lane::CatchUp));
    assert!(poll!(next.as_mut()).is_pending());
    drop(permit);
    drop(next.await);
    let all = budget.reserve(Lane::CatchUp, 1 << 40).await;
    assert_eq!(free(&budget), (2, 0));
    drop(all);
    assert_eq!(free(&budget), (2, 14));
    drop(budget.charge(Lane::Tip, &Bytes::new()).await);
    assert_eq!(known(&budget), 0, "nothing to pay for");
}
