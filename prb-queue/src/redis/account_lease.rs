//! [`RedisAccounts`]: leases of operator accounts, shared by the traders of a queue.

use std::time::Duration;

use async_trait::async_trait;
use prb_core::{
    primitives::AccountId,
    trade::accounts::{AccountLeases, Error},
};
use redis::RedisError;

use super::{RedisQueue, connections::Connections, leasing::millis, random_name};

/// Maximum number of leases that one script renews: Redis runs nothing else meanwhile.
const MAX_RENEWED: usize = 256;

/// Account leases in the queue's Redis, held by one trader.
///
/// Each account has one key, `prb:account:` and the account's hex digits after the queue's prefix. It holds
/// the trader's name and the lease token and expires with the lease. All times are the server's. When Redis
/// loses its data, the leases are lost too: traders notice it at the next renewal, and a token mismatch keeps
/// them from renewing a key that another trader has created meanwhile.
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
    /// Returns account leases for one trader, for the accounts that sign this queue's jobs. Each call creates a
    /// distinct trader.
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
        // A TTL of 0 deletes the key, if it still has this trader's token.
        self.set(leases, 0).await.map(drop)
    }
}
