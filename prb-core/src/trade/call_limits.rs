//! Adapts the number of calls in an account's transactions to the outcomes of earlier ones.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::Config;
use crate::primitives::AccountId;

/// Maximum number of accounts whose cap is remembered; evicted accounts start over.
const MAX_ACCOUNTS: usize = 4_096;

/// The limits of the next transaction's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallLimits {
    /// The cap learned from the account's transactions.
    pub(super) cap: usize,
    /// The number of calls that the account can pay for, after it could not pay for more.
    pub(super) payable: usize,
}

impl CallLimits {
    pub(super) const fn new(cap: usize) -> Self {
        Self { cap, payable: usize::MAX }
    }

    pub(super) fn max_calls(self) -> usize {
        self.cap.min(self.payable)
    }

    /// Limits after a transaction of `calls` was included: a full one permits twice as many.
    pub(super) fn included(self, calls: usize, max: usize) -> Self {
        let cap = if calls >= self.cap { self.cap.saturating_mul(2).min(max) } else { self.cap };
        Self::new(cap)
    }

    /// Limits after a transaction that was lost, expired, or has an unknown outcome: it may have been too
    /// large for the blocks that collators get backed by the relay chain.
    pub(super) fn lost(self) -> Self {
        Self::new((self.cap / 2).max(1))
    }

    /// Limits after a transaction of `calls` was refused as too large, of which about `fits` would fit.
    pub(super) fn too_large(self, calls: usize, fits: usize) -> Self {
        Self { cap: fits.clamp(1, calls.saturating_sub(1).max(1)), ..self }
    }

    /// Limits after the account could not pay for `calls`.
    pub(super) fn unpayable(self, calls: usize) -> Self {
        Self { payable: (calls / 2).max(1), ..self }
    }
}

/// The accounts' caps, kept while the trader runs: lanes are short-lived.
#[derive(Debug, Default)]
pub(super) struct CallCaps(Mutex<HashMap<AccountId, usize>>);

impl CallCaps {
    pub(super) fn limits(&self, account: AccountId, config: &Config) -> CallLimits {
        let caps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = config.first_calls.min(config.max_calls);
        CallLimits::new(caps.get(&account).copied().unwrap_or(first))
    }

    pub(super) fn remember(&self, account: AccountId, limits: CallLimits) {
        let mut caps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if caps.len() >= MAX_ACCOUNTS
            && !caps.contains_key(&account)
            // Any other account: an evicted one only has to learn its cap again.
            && let Some(other) = caps.keys().next().copied()
        {
            caps.remove(&other);
        }
        caps.insert(account, limits.cap);
    }
}
