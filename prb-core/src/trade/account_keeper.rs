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
const RENEWALS: u32 = 4;
/// How long a trader without any account leaves jobs to others after it found one leased to another trader.
const SPARE_PAUSE: Duration = Duration::from_secs(3);

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
    Elsewhere,
}

#[derive(Debug)]
struct Kept {
    token: u64,
    until: watch::Sender<Instant>,
}

#[derive(Debug)]
pub(super) struct AccountKeeper {
    leases: Arc<dyn AccountLeases>,
    ttl: Duration,
    kept: Mutex<HashMap<AccountId, Kept>>,
    spare_until: watch::Sender<Instant>,
}

impl AccountKeeper {
    pub(super) fn new(leases: Arc<dyn AccountLeases>, ttl: Duration) -> Self {
        Self { leases, ttl, kept: Mutex::default(), spare_until: watch::Sender::new(Instant::now()) }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<AccountId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local expiry of a lease requested at `asked`: before the backend's, so that no other trader can
    /// hold it yet even if the clocks run at slightly different rates.
    fn end(&self, asked: Instant) -> Instant {
        asked + self.ttl * 3 / 4
    }

    /// Leases the account, unless another trader holds it.
    ///
    /// # Errors
    /// Returns the backend's error.
    pub(super) async fn acquire(&self, account: AccountId) -> Result<Acquired, Error> {
        let known = self.kept().get(&account).map(|kept| AccountLease(kept.until.subscribe()));
        if let Some(lease) = known.filter(AccountLease::is_held) {
            return Ok(Acquired::Ours { lease, new: false });
        }
        let asked = Instant::now();
        let Some(token) = self.leases.acquire(account, self.ttl).await? else {
            self.spare_until.send_replace(Instant::now() + SPARE_PAUSE);
            return Ok(Acquired::Elsewhere);
        };
        let (until, lease) = watch::channel(self.end(asked));
        self.kept().insert(account, Kept { token, until });
        Ok(Acquired::Ours { lease: AccountLease(lease), new: true })
    }

    /// Renews the leases that lanes use and releases the others. Never returns.
    pub(super) async fn keep(&self) {
        let period = self.ttl / RENEWALS;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.release_unused().await;
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let all: Vec<_> = self.kept().iter().map(|(account, kept)| (*account, kept.token)).collect();
        if all.is_empty() {
            return;
        }
        let asked = Instant::now();
        match self.leases.renew(&all, self.ttl).await {
            Ok(lost) => {
                let mut kept = self.kept();
                for (account, token) in all {
                    let Some(ours) = kept.get(&account).filter(|ours| ours.token == token) else { continue };
                    if !lost.contains(&account) {
                        ours.until.send_replace(self.end(asked));
                        continue;
                    }
                    let account_name = account.to_ss58(PHALA_SS58_PREFIX);
                    tracing::warn!(
                        account = account_name,
                        "the lease of an account was lost: its lane sends nothing more"
                    );
                    ours.until.send_replace(asked);
                    kept.remove(&account);
                }
            }
            Err(e) => {
                tracing::warn!(error = %describe(&e), accounts = all.len(), "account leases were not renewed");
            }
        }
    }

    async fn release_unused(&self) {
        let unused: Vec<_> = self
            .kept()
            .extract_if(|_, kept| kept.until.receiver_count() == 0)
            .map(|(account, kept)| (account, kept.token))
            .collect();
        self.release(&unused).await;
    }

    /// The number of accounts leased to this trader.
    pub(super) fn count(&self) -> usize {
        self.kept().len()
    }

    /// Releases all accounts; returns whether the backend accepted that. Nothing may be sent afterwards.
    pub(super) async fn release_all(&self) -> bool {
        let all: Vec<_> = self.kept().drain().map(|(account, kept)| (account, kept.token)).collect();
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
    pub(super) fn spare_until(&self) -> Option<Instant> {
        let until = *self.spare_until.borrow();
        (until > Instant::now() && self.kept().is_empty()).then_some(until)
    }

    /// A watch on changes of [`spare_until`](Self::spare_until).
    pub(super) fn spare(&self) -> watch::Receiver<Instant> {
        self.spare_until.subscribe()
    }
}
