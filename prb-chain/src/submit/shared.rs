//! Accounts from which other programs send transactions as well: another manager of the same operator, a wallet,
//! a payout script.
//!
//! On such an account, waiting until nothing is pending would never end. Its transactions are sent behind those of the
//! others, with the node's next nonce; one that loses its nonce is built again. An account counts as shared for an hour
//! after the last sign of another program.

use std::time::Duration;

use metrics::{counter, gauge};
use prb_core::{
    chain::{CallBatch, Effect, SubmitError},
    primitives::AccountId,
};
use rand::Rng;
use tokio::time::Instant;

use super::{Account, Inner, account_nonce::Nonces, prepare::Prepared};

const LOST_NONCES: &str = "prb_trade_nonces_lost_total";
const SHARED: &str = "prb_trade_account_shared";

/// How long an account counts as shared after a sign of another program.
const SHARED_FOR: Duration = Duration::from_secs(3_600);
/// Times that one batch is built again because its transaction lost its nonce.
pub(super) const MAX_LOST_NONCES: u32 = 10;

/// When an account was last seen to be shared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    until: Instant,
    warned_at: Instant,
}

/// Where a transaction lost its nonce to another one.
#[derive(Clone, Copy, Debug)]
pub(super) enum LostAt {
    /// The node's pool has another one with this nonce.
    Pool,
    /// A final block includes another one with this nonce.
    Chain,
}

impl LostAt {
    const fn label(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Chain => "chain",
        }
    }
}

/// The nonce and the last block of a transaction of this process whose outcome is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unresolved {
    pub(super) nonce: u64,
    pub(super) last: u32,
}

impl Unresolved {
    /// Whether no block can include it any more, or the next transaction gets its nonce.
    pub(super) const fn is_harmless(self, nonces: &Nonces) -> bool {
        let is_next = self.nonce == nonces.finalised && nonces.pending() == 0;
        is_next || !self.may_be_included(nonces)
    }

    /// Whether a block can still include it.
    pub(super) const fn may_be_included(self, nonces: &Nonces) -> bool {
        self.nonce >= nonces.finalised && self.last > nonces.head
    }
}

impl Account {
    pub(super) fn is_shared(&self) -> bool {
        self.sharing.is_some_and(|sharing| sharing.until > Instant::now())
    }

    /// Whether a transaction may be sent behind pending ones of others: none of them can be this process's.
    pub(super) fn may_send_behind(&self) -> bool {
        self.is_shared() && self.unresolved.is_none()
    }
}

/// From the start: `increase` does not see a series that begins with its first event.
pub(super) fn register_metrics() {
    for at in [LostAt::Pool, LostAt::Chain] {
        counter!(LOST_NONCES, "at" => at.label()).increment(0);
    }
}

impl Inner {
    /// Remembers that another program sends from the account, and says so once an hour.
    pub(super) fn note_sharing(&self, account: AccountId) {
        let (now, mut warn) = (Instant::now(), false);
        self.remember(account, |known| {
            let last = known.sharing.filter(|last| last.warned_at + SHARED_FOR > now);
            warn = last.is_none();
            let warned_at = last.map_or(now, |last| last.warned_at);
            known.sharing = Some(Sharing { until: now + SHARED_FOR, warned_at });
            known.unbelieved = 0;
        });
        self.publish_sharing(account);
        if warn {
            tracing::warn!(
                account = self.address(account),
                "another program sends transactions of this operator, too: batches are sent behind them and may be \
                 late. Let one trader send for all managers of the operator, or give each program an account of its \
                 own (docs/guide/troubleshooting.md)"
            );
        }
    }

    pub(super) fn publish_sharing(&self, account: AccountId) {
        let is_shared = self.account(account).is_shared();
        gauge!(SHARED, "account" => self.address(account)).set(f64::from(u8::from(is_shared)));
    }

    /// Before a batch is built for a shared account, so that several traders do not always use the same nonce. Their
    /// nodes need a moment to exchange transactions.
    pub(super) async fn avoid_collision(&self, account: AccountId) {
        if self.account(account).is_shared() {
            let part = rand::rng().random_range(0.0..1.0);
            tokio::time::sleep(self.config.poll_interval.mul_f64(part)).await;
        }
    }

    pub(super) fn count_lost_nonce(&self, account: AccountId, at: LostAt) {
        tracing::info!(
            account = self.address(account),
            at = at.label(),
            "another transaction of the account got this one's nonce"
        );
        counter!(LOST_NONCES, "at" => at.label()).increment(1);
    }

    /// Whether a transaction is in no block because another one has its nonce.
    pub(super) async fn has_lost_nonce(&self, prepared: &Prepared, error: &SubmitError) -> bool {
        matches!(error, SubmitError::Lost { .. })
            && self.nonces(prepared.account).await.is_ok_and(|nonces| nonces.finalised > prepared.nonce)
    }

    /// Waits until the batch may be built, after the node has reported transactions of others. Returns whether blocks
    /// have included any, which was `so_before` if the batch was overtaken before.
    pub(super) async fn after_overtaken(
        &self,
        batch: &CallBatch,
        so_before: bool,
    ) -> Result<bool, SubmitError> {
        if so_before {
            self.note_sharing(batch.operator());
            // What is pending now has come since: a predecessor's transaction is final.
            if self.account(batch.operator()).may_send_behind() {
                return Ok(true);
            }
        }
        Ok(self.wait_again(batch).await? || so_before)
    }

    /// Waits until the batch may be built again, after another transaction has got its nonce.
    pub(super) async fn after_lost_nonce(&self, batch: &CallBatch) -> Result<(), SubmitError> {
        let account = batch.operator();
        self.count_lost_nonce(account, LostAt::Chain);
        let was_shared = self.account(account).is_shared();
        self.note_sharing(account);
        // The first time, it may be another trader's that has lost the account's lease.
        match was_shared {
            true => self.check_undone(batch).await,
            false => self.wait_again(batch).await.map(|_| ()),
        }
    }

    /// Checks that no call of the batch has taken effect: another transaction that came first may contain the same.
    pub(super) async fn check_undone(&self, batch: &CallBatch) -> Result<(), SubmitError> {
        if self.effects(&batch.calls).await?.calls.contains(&Effect::Present) {
            let account = self.address(batch.operator());
            let reason =
                format!("another transaction of {account} came first, and some of its calls are on chain");
            return Err(SubmitError::Lost { reason });
        }
        Ok(())
    }
}
