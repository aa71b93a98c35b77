//! Conformance suite of [`AccountLeases`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{primitives::AccountId, trade::accounts::AccountLeases};

const ALICE: AccountId = AccountId([0xa1; 32]);
const BOB: AccountId = AccountId([0xb0; 32]);
/// Does not expire within any check.
const LONG: Duration = Duration::from_secs(600);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(400);
/// A lease that has not expired by then never will.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs all checks. `two` creates two traders that share their accounts with no others.
///
/// ```
/// use prb_core::{conformance, trade::accounts::MemoryAccounts};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // In a `#[tokio::test]` of the backend.
/// conformance::accounts::all(async || {
///     let one = MemoryAccounts::default();
///     let other = one.for_other_trader();
///     (one, other)
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<L: AccountLeases>(two: impl AsyncFn() -> (L, L)) {
    let (one, other) = two().await;
    an_account_has_one_trader(&one, &other).await;
    let (one, other) = two().await;
    leases_expire_unless_renewed(&one, &other).await;
    let (one, other) = two().await;
    renewals_report_lost_leases(&one, &other).await;
    let (one, other) = two().await;
    releasing_a_replaced_lease_has_no_effect(&one, &other).await;
}

async fn an_account_has_one_trader<L: AccountLeases>(one: &L, other: &L) {
    let token = one.acquire(ALICE, LONG).await.unwrap().unwrap();
    assert_eq!(
        other.acquire(ALICE, LONG).await.unwrap(),
        None,
        "another trader got an account that is leased"
    );
    assert!(other.acquire(BOB, LONG).await.unwrap().is_some(), "another account is free");
    one.release(&[(ALICE, token)]).await.unwrap();
    let next = other.acquire(ALICE, LONG).await.unwrap().expect("the account was released");
    assert_ne!(next, token, "each lease has its own token");
    assert_eq!(
        one.acquire(ALICE, LONG).await.unwrap(),
        None,
        "the former trader got the account back while another one has it"
    );
}

async fn leases_expire_unless_renewed<L: AccountLeases>(one: &L, other: &L) {
    let began = Instant::now();
    let token = one.acquire(ALICE, SHORT).await.unwrap().unwrap();
    let next = loop {
        if let Some(next) = other.acquire(ALICE, LONG).await.unwrap() {
            break next;
        }
        assert!(began.elapsed() < TIMEOUT, "a lease does not expire");
        sleep(SHORT / 8).await;
    };
    assert!(began.elapsed() >= SHORT, "it expired after {:?}", began.elapsed());
    assert_ne!(next, token, "each lease has its own token");
    assert_eq!(
        one.renew(&[(ALICE, token)], LONG).await.unwrap(),
        [ALICE],
        "a lease that another trader has since is reported as lost"
    );
    assert!(
        other.renew(&[(ALICE, next)], LONG).await.unwrap().is_empty(),
        "a current lease is reported as lost"
    );
}

async fn renewals_report_lost_leases<L: AccountLeases>(one: &L, other: &L) {
    let alice = one.acquire(ALICE, SHORT).await.unwrap().unwrap();
    let bob = one.acquire(BOB, LONG).await.unwrap().unwrap();
    assert!(
        one.renew(&[(ALICE, alice), (BOB, bob)], LONG).await.unwrap().is_empty(),
        "current leases are reported as lost"
    );
    // Longer than the first TTL: only the renewal keeps the lease.
    sleep(2 * SHORT).await;
    assert_eq!(other.acquire(ALICE, LONG).await.unwrap(), None, "it was renewed for longer");
    one.release(&[(BOB, bob)]).await.unwrap();
    assert_eq!(
        one.renew(&[(ALICE, alice), (BOB, bob)], LONG).await.unwrap(),
        [BOB],
        "only the released account is lost"
    );
    assert!(one.renew(&[], LONG).await.unwrap().is_empty(), "renewing nothing loses nothing");
}

async fn releasing_a_replaced_lease_has_no_effect<L: AccountLeases>(one: &L, other: &L) {
    let old = one.acquire(ALICE, LONG).await.unwrap().unwrap();
    let new = one.acquire(ALICE, LONG).await.unwrap().expect("a trader replaces its own lease");
    assert_ne!(old, new, "the replaced lease and the new one have the same token");
    one.release(&[(ALICE, old)]).await.unwrap();
    assert_eq!(
        other.acquire(ALICE, LONG).await.unwrap(),
        None,
        "another trader got an account that is leased"
    );
    assert_eq!(
        one.renew(&[(ALICE, old)], LONG).await.unwrap(),
        [ALICE],
        "a replaced lease is reported as lost"
    );
    assert!(
        one.renew(&[(ALICE, new)], LONG).await.unwrap().is_empty(),
        "releasing a replaced lease ended the current one"
    );
}
