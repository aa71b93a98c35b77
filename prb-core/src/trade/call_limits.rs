//! How many calls an account's next transaction may have, learned from what became of the ones before.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::Config;
use crate::primitives::AccountId;

/// Accounts whose cap is remembered at most; the cap of others starts anew.
const MAX_ACCOUNTS: usize = 4_096;

/// Most calls of the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallLimits {
    /// What transactions of the account have shown to be included.
    pub(super) cap: usize,
    /// What the account can pay for, where it could not pay for more.
    pub(super) payable: usize,
}

impl CallLimits {
    pub(super) const fn new(cap: usize) -> Self {
        Self { cap, payable: usize::MAX }
    }

    pub(super) fn most(self) -> usize {
        self.cap.min(self.payable)
    }

    /// After a transaction of `calls` was included: a full one shows that the next may have twice as many.
    pub(super) fn included(self, calls: usize, max: usize) -> Self {
        let cap = if calls >= self.cap { self.cap.saturating_mul(2).min(max) } else { self.cap };
        Self::new(cap)
    }

    /// After a transaction that was lost, expired, or whose outcome is unknown: perhaps it was too large for
    /// the blocks that collators can get backed.
    pub(super) fn lost(self) -> Self {
        Self::new((self.cap / 2).max(1))
    }

    /// After a transaction of `calls` was refused as too large, of which about `fits` would fit.
    pub(super) fn too_large(self, calls: usize, fits: usize) -> Self {
        Self { cap: fits.clamp(1, calls.saturating_sub(1).max(1)), ..self }
    }

    /// After the account could not pay for `calls`.
    pub(super) fn unpayable(self, calls: usize) -> Self {
        Self { payable: (calls / 2).max(1), ..self }
    }
}

/// The accounts' caps, for as long as the trader runs: lanes come and go.
#[derive(Debug, Default)]
pub(super) struct Caps(Mutex<HashMap<AccountId, usize>>);

impl Caps {
    pub(super) fn limits(&self, account: AccountId, config: &Config) -> CallLimits {
        let caps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = config.first_calls.min(config.max_calls);
        CallLimits::new(caps.get(&account).copied().unwrap_or(first))
    }

    pub(super) fn remember(&self, account: AccountId, limits: CallLimits) {
        let mut caps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if caps.len() >= MAX_ACCOUNTS
            && !caps.contains_key(&account)
            && let Some(other) = caps.keys().next().copied()
        {
            caps.remove(&other);
        }
        caps.insert(account, limits.cap);
    }
}
