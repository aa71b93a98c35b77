//! The seam [`AccountLeases`]: which of several traders may use an account's nonce.
//!
//! A lease gives an account to one trader for a while; the others are warm spares for it. It runs out where
//! its trader is gone, and another takes over: that one waits for what was sent before, and asks which calls
//! are done, as after any restart.
//!
//! Not for: the jobs' own leases (see [`crate::queue`]), or the nonce itself (see
//! [`ChainSubmitter`](crate::chain::ChainSubmitter)).

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::primitives::AccountId;

mod memory;

pub use memory::MemoryAccounts;

/// Why leases of accounts can be neither given nor renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend cannot be reached.
    #[error("the leases of accounts are unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Leases of accounts, as one trader sees them.
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
    /// Leases an account for `ttl`, and gives the lease's token: one that no other lease ever had. `None`
    /// while another trader has the account. A lease that this trader had of it is replaced.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// A cancelled call may have leased the account; the lease runs out, or is replaced by the next call.
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, Error>;

    /// Renews leases for another `ttl`; gives the accounts whose lease is lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn renew(&self, leases: &[(AccountId, u64)], ttl: Duration) -> Result<Vec<AccountId>, Error>;

    /// Gives accounts back. Lost leases are passed over.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), Error>;
}
