//! Account leases within one process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{AccountLeases, Error};
use crate::primitives::AccountId;

/// [`AccountLeases`] within one process, for one trader. Clones act as the same trader.
///
/// A new instance shares its accounts with no other until [`for_other_trader`](Self::for_other_trader) is
/// called: sufficient for a single [`Trader`](crate::trade::Trader).
#[derive(Clone, Debug, Default)]
pub struct MemoryAccounts {
    table: Arc<Mutex<Table>>,
    trader: u64,
}

#[derive(Debug, Default)]
struct Table {
    traders: u64,
    tokens: u64,
    leases: HashMap<AccountId, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    trader: u64,
    token: u64,
    until: Instant,
}

impl MemoryAccounts {
    /// Creates a handle on the same accounts for another trader.
    #[must_use]
    pub fn for_other_trader(&self) -> Self {
        let mut table = self.table();
        table.traders += 1;
        Self { table: Arc::clone(&self.table), trader: table.traders }
    }

    /// Drops all leases, like a server that lost its data.
    pub fn forget_all(&self) {
        self.table().leases.clear();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AccountLeases for MemoryAccounts {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, Error> {
        let mut table = self.table();
        let now = Instant::now();
        // Drops the leases of traders that are gone; nothing else bounds the table.
        table.leases.retain(|_, lease| lease.until > now);
        if table.leases.get(&account).is_some_and(|lease| lease.trader != self.trader) {
            return Ok(None);
        }
        table.tokens += 1;
        let lease = Lease { trader: self.trader, token: table.tokens, until: now + ttl };
        table.leases.insert(account, lease);
        Ok(Some(lease.token))
    }

    async fn renew(&self, leases: &[(AccountId, u64)], ttl: Duration) -> Result<Vec<AccountId>, Error> {
        let mut table = self.table();
        let now = Instant::now();
        let mut lost = Vec::new();
        for (account, token) in leases {
            match table.leases.get_mut(account) {
                Some(lease) if lease.token == *token && lease.until > now => lease.until = now + ttl,
                _ => lost.push(*account),
            }
        }
        Ok(lost)
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), Error> {
        let mut table = self.table();
        for (account, token) in leases {
            if table.leases.get(account).is_some_and(|lease| lease.token == *token) {
                table.leases.remove(account);
            }
        }
        Ok(())
    }
}
