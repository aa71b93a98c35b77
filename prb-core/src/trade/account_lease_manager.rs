//! Acquires and renews the leases of the accounts that this trader sends for, and signals a lost lease in
//! time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::accounts::{AccountLeases, Error};
use crate::primitives::{AccountId, PHALA_SS58_PREFIX};
use crate::text::describe;

/// Renewals per TTL.
// A lease ends locally after three quarters of its TTL: one failed renewal has no effect, two in a row do.
const RENEWALS: u32 = 4;
/// How long a trader without any account leaves jobs to others after it found one leased to another trader.
const STANDBY_PAUSE: Duration = Duration::from_secs(3);

/// An account leased to this trader, as its lane sees it.
#[derive(Clone, Debug)]
pub(super) struct AccountLease(watch::Receiver<Instant>);

impl AccountLease {
    /// Whether this trader may send for the account now.
    pub(super) fn is_held(&self) -> bool {
        *self.0.borrow() > Instant::now()
    }

    /// Waits until the lease is no longer held.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                renewed = self.0.changed() => if renewed.is_err() { return },
            }
        }
    }
}

/// The result of acquiring an account.
#[derive(Debug)]
pub(super) enum Acquired {
    Ours {
        lease: AccountLease,
        /// The lease was not held a moment ago: another trader may have used the account.
        new: bool,
    },
    HeldByOther,
}

#[derive(Debug)]
struct HeldLease {
    token: u64,
    until: watch::Sender<Instant>,
}

#[derive(Debug)]
pub(super) struct AccountLeaseManager {
    leases: Arc<dyn AccountLeases>,
    ttl: Duration,
    held: Mutex<HashMap<AccountId, HeldLease>>,
    standby_until: watch::Sender<Instant>,
}

impl AccountLeaseManager {
    pub(super) fn new(leases: Arc<dyn AccountLeases>, ttl: Duration) -> Self {
        Self { leases, ttl, held: Mutex::default(), standby_until: watch::Sender::new(Instant::now()) }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<AccountId, HeldLease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local expiry of a lease requested at `requested_at`: before the backend's, so that no other trader can
    /// hold it yet even if the clocks run at slightly different rates.
    fn local_expiry(&self, requested_at: Instant) -> Instant {
        requested_at + self.ttl * 3 / 4
    }

    /// Leases the account, unless another trader holds it.
    ///
    /// # Errors
    /// Returns the backend's error.
    pub(super) async fn acquire(&self, account: AccountId) -> Result<Acquired, Error> {
        let known = self.held().get(&account).map(|held| AccountLease(held.until.subscribe()));
        if let Some(lease) = known.filter(AccountLease::is_held) {
            return Ok(Acquired::Ours { lease, new: false });
        }
        // Before the call: the backend's TTL cannot have begun earlier.
        let requested_at = Instant::now();
        let Some(token) = self.leases.acquire(account, self.ttl).await? else {
            // Without the pause, a standby trader would lease and release the active trader's jobs all the time.
            self.standby_until.send_replace(Instant::now() + STANDBY_PAUSE);
            return Ok(Acquired::HeldByOther);
        };
        let (until, lease) = watch::channel(self.local_expiry(requested_at));
        self.held().insert(account, HeldLease { token, until });
        Ok(Acquired::Ours { lease: AccountLease(lease), new: true })
    }

    /// Renews the leases that lanes use and releases the others. Never returns.
    pub(super) async fn run(&self) {
        let period = self.ttl / RENEWALS;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // First, so that the leases of ended lanes are not renewed.
            self.release_unused().await;
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let all: Vec<_> = self.held().iter().map(|(account, held)| (*account, held.token)).collect();
        if all.is_empty() {
            return;
        }
        let requested_at = Instant::now();
        match self.leases.renew(&all, self.ttl).await {
            Ok(lost) => {
                let mut held = self.held();
                for (account, token) in all {
                    // The map was unlocked during the call, so the lease may have been replaced.
                    let Some(ours) = held.get(&account).filter(|ours| ours.token == token) else { continue };
                    if !lost.contains(&account) {
                        ours.until.send_replace(self.local_expiry(requested_at));
                        continue;
                    }
                    let account_name = account.to_ss58(PHALA_SS58_PREFIX);
                    tracing::warn!(
                        account = account_name,
                        "the lease of an account was lost: its lane sends nothing more"
                    );
                    // A time in the past: wakes the lane that waits in `AccountLease::lost`.
                    ours.until.send_replace(requested_at);
                    held.remove(&account);
                }
            }
            Err(e) => {
                tracing::warn!(error = %describe(&e), accounts = all.len(), "account leases were not renewed");
            }
        }
    }

    /// Releases an account at once, for other traders. Nothing may be sent for it afterwards.
    pub(super) async fn give_up(&self, account: AccountId) {
        let held = self.held().remove(&account).map(|held| (account, held.token));
        self.release(held.as_slice()).await;
    }

    async fn release_unused(&self) {
        let unused: Vec<_> = self
            .held()
            // A lane keeps a receiver as long as it uses the account.
            .extract_if(|_, held| held.until.receiver_count() == 0)
            .map(|(account, held)| (account, held.token))
            .collect();
        self.release(&unused).await;
    }

    /// The number of accounts leased to this trader.
    pub(super) fn count(&self) -> usize {
        self.held().len()
    }

    /// Releases all accounts; returns whether the backend accepted that. Nothing may be sent afterwards.
    pub(super) async fn release_all(&self) -> bool {
        // Drained first: a renewal that runs meanwhile must not revive a lease that is being released.
        let all: Vec<_> = self.held().drain().map(|(account, held)| (account, held.token)).collect();
        self.release(&all).await
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> bool {
        if leases.is_empty() {
            return true;
        }
        let released = self.leases.release(leases).await;
        if let Err(e) = &released {
            tracing::debug!(error = %describe(e), "accounts were not released; their leases expire");
        }
        released.is_ok()
    }

    /// Until when this trader, without any account, leaves jobs to the traders that hold theirs.
    pub(super) fn standby_until(&self) -> Option<Instant> {
        let until = *self.standby_until.borrow();
        (until > Instant::now() && self.held().is_empty()).then_some(until)
    }

    /// A watch on changes of [`standby_until`](Self::standby_until).
    pub(super) fn standby_changes(&self) -> watch::Receiver<Instant> {
        self.standby_until.subscribe()
    }
}
