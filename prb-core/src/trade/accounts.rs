//! The seam [`AccountLeases`]: exclusive use of an account's nonce by one of several traders.
//!
//! A lease assigns an account to one trader for a limited time; the others are warm standbys. If its trader
//! is gone, the lease expires and another one takes over: it waits for what was sent before, and reads its
//! effects, as after any restart.
//!
//! Not for: the jobs' own leases (see [`crate::queue`]), or the nonce itself (see
//! [`ChainSubmitter`](crate::chain::ChainSubmitter)).

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::primitives::AccountId;

mod memory;

pub use memory::MemoryAccounts;

/// Why account leases cannot be granted or renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend cannot be reached.
    #[error("the backend of account leases is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Account leases, from the view of one trader.
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering}, time::Duration};
/// use async_trait::async_trait;
/// use prb_core::{primitives::AccountId, trade::accounts::{AccountLeases, Error}};
///
/// /// For deployments that never run more than one trader at a time.
/// #[derive(Debug, Default)]
/// struct OnlyTrader(AtomicU64);
///
/// #[async_trait]
/// impl AccountLeases for OnlyTrader {
///     async fn acquire(&self, _account: AccountId, _ttl: Duration) -> Result<Option<u64>, Error> {
///         Ok(Some(self.0.fetch_add(1, Ordering::Relaxed)))
///     }
///
///     async fn renew(&self, _leases: &[(AccountId, u64)], _ttl: Duration) -> Result<Vec<AccountId>, Error> {
///         Ok(Vec::new())
///     }
///
///     async fn release(&self, _leases: &[(AccountId, u64)]) -> Result<(), Error> {
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait AccountLeases: Send + Sync + fmt::Debug {
    /// Leases an account for `ttl`; returns the lease's token, which no other lease ever had. Returns `None`
    /// while another trader holds the account. An existing lease of this trader on it is replaced.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have leased the account; the lease expires, or the next call replaces it.
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, Error>;

    /// Renews leases for another `ttl`; returns the accounts whose leases are lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have renewed some of the leases, and does not return which are lost: repeat it.
    async fn renew(&self, leases: &[(AccountId, u64)], ttl: Duration) -> Result<Vec<AccountId>, Error>;

    /// Releases accounts. Lost leases are ignored.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have released some of the accounts; the leases of the others expire.
    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), Error>;
}
