//! [`RedisAccounts`]: which trader of a queue has which operator's account.

use std::time::Duration;

use async_trait::async_trait;
use prb_core::{
    primitives::AccountId,
    trade::accounts::{AccountLeases, Error},
};
use redis::RedisError;

use super::{RedisQueue, connections::Connections, leasing::millis, random_name};

/// Most leases in one script.
const MAX_RENEWED: usize = 256;

/// Leases of accounts in the queue's Redis, as one trader sees them.
///
/// One key an account, `prb:account:` and the account's hex digits behind the queue's prefix, that holds the
/// trader's name and the lease's token and goes away when the lease runs out. Times are the server's. A Redis
/// that lost its data has lost the leases as well: their traders learn it with the next renewal, and a key that
/// another trader made meanwhile is not theirs.
#[derive(Clone)]
pub struct RedisAccounts {
    link: Connections,
    trader: String,
}

impl std::fmt::Debug for RedisAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisAccounts").field("trader", &self.trader).finish_non_exhaustive()
    }
}

impl RedisQueue {
    /// The leases of the accounts that this queue's jobs are signed with, for one trader: each call makes
    /// another trader's.
    pub fn accounts(&self) -> RedisAccounts {
        RedisAccounts { link: self.0.shared.link.clone(), trader: random_name() }
    }
}

impl RedisAccounts {
    fn unavailable(&self, error: RedisError) -> Error {
        Error::Unavailable(Box::new(self.link.endpoint_error(error)))
    }

    async fn set(&self, leases: &[(AccountId, u64)], ttl_ms: u64) -> Result<Vec<AccountId>, Error> {
        let mut lost = Vec::new();
        for chunk in leases.chunks(MAX_RENEWED) {
            let mut script = self.link.scripts.renew_accounts.call();
            script.arg(&self.trader).arg(ttl_ms);
            for (account, token) in chunk {
                script.arg(hex::encode(account.0)).arg(token);
            }
            let names: Vec<String> = self.link.run(&script).await.map_err(|e| self.unavailable(e))?;
            lost.extend(chunk.iter().map(|(account, _)| *account).filter(|account| {
                let name = hex::encode(account.0);
                names.contains(&name)
            }));
        }
        Ok(lost)
    }
}

#[async_trait]
impl AccountLeases for RedisAccounts {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, Error> {
        let mut script = self.link.scripts.lease_account.call();
        script.arg(&self.trader).arg(hex::encode(account.0)).arg(millis(ttl));
        let token: u64 = self.link.run(&script).await.map_err(|e| self.unavailable(e))?;
        Ok((token > 0).then_some(token))
    }

    async fn renew(&self, leases: &[(AccountId, u64)], ttl: Duration) -> Result<Vec<AccountId>, Error> {
        self.set(leases, millis(ttl)).await
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), Error> {
        self.set(leases, 0).await.map(drop)
    }
}
