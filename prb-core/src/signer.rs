//! The seam [`Signers`]: signs transactions for operators' accounts, regardless of where their keys are.
//!
//! A [`Signers`] returns the [`Signer`] of a job's operator. `prb_chain::signer::VaultSigners` opens the sealed
//! key of the job and signs in this process. A program whose keys must not leave a key management service
//! implements both traits itself and ignores [`JobSigner::key`]. That is the `key` of the pool's
//! [`Operator`](crate::inventory::Operator): it may be empty, or what an [`OperatorKeys`](crate::manage::OperatorKeys)
//! of yours accepts in place of a secret, such as the key's name.
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use prb_core::{
//!     primitives::AccountId,
//!     queue::JobSigner,
//!     signer::{Error, SIGNATURE_BYTES, Signer, Signers},
//! };
//!
//! /// A client of the service; reports its own failures.
//! # #[derive(Debug)]
//! struct Service;
//!
//! impl Service {
//!     async fn sign(&self, key_name: &str, payload: &[u8]) -> std::io::Result<[u8; SIGNATURE_BYTES]> {
//!         # let _ = (key_name, payload);
//!         # Ok([0; SIGNATURE_BYTES])
//!     }
//! }
//!
//! /// A key of the service.
//! # #[derive(Debug)]
//! struct RemoteKey {
//!     service: Arc<Service>,
//!     account: AccountId,
//! }
//!
//! #[async_trait]
//! impl Signer for RemoteKey {
//!     fn account(&self) -> AccountId {
//!         self.account
//!     }
//!
//!     async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
//!         let unavailable = |e| Error::Unavailable { account: self.account, source: Box::new(e) };
//!         self.service.sign(&self.account.to_string(), payload).await.map_err(unavailable)
//!     }
//! }
//!
//! /// One key of the service per operator.
//! # #[derive(Debug)]
//! struct RemoteKeys(Arc<Service>);
//!
//! #[async_trait]
//! impl Signers for RemoteKeys {
//!     async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
//!         Ok(Arc::new(RemoteKey { service: self.0.clone(), account: of.operator }))
//!     }
//! }
//! ```
//!
//! Not for: storing keys (see [`crate::vault`]), or building the signed payload (see
//! [`ChainSubmitter`](crate::chain::ChainSubmitter)).

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    primitives::{AccountId, PHALA_SS58_PREFIX},
    queue::JobSigner,
    vault,
};

#[cfg(feature = "testing")]
pub mod memory;

/// Length of an sr25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Why nothing was signed. Never contains any part of a secret.
///
/// What the trade engine does with the job when [`Signers::signer`] returns it:
///
/// | error | the job |
/// |---|---|
/// | [`is_retryable`](Self::is_retryable) | waits in its lane until the backend answers |
/// | `Vault` with [`vault::Error::WrongKey`] | is left to other traders for 60 s ([`UNSIGNABLE_LIMIT`]), then fails |
/// | others | fails at once |
///
/// [`UNSIGNABLE_LIMIT`]: crate::queue::UNSIGNABLE_LIMIT
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The secret is not a valid key, or is the key of another account.
    #[error("the key of {} is not usable: {reason}", address(account))]
    BadKey {
        /// The account that should have signed.
        account: AccountId,
        /// The problem, without the key.
        reason: String,
    },
    /// The vault cannot open the sealed key. With [`vault::Error::WrongKey`] it also says that this backend has no key
    /// for the account, but another trader of the queue may.
    #[error("the key of {} cannot be opened", address(account))]
    Vault {
        /// The account that should have signed.
        account: AccountId,
        /// The vault's error.
        source: vault::Error,
    },
    /// The backend that holds the key refuses to sign with it.
    #[error("the signer of {} refuses: {reason}", address(account))]
    Refused {
        /// The account that should have signed.
        account: AccountId,
        /// The backend's error text.
        reason: String,
    },
    /// The backend that holds the key does not answer now.
    #[error("the signer of {} is unavailable", address(account))]
    Unavailable {
        /// The account that should have signed.
        account: AccountId,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn address(account: &AccountId) -> String {
    account.to_ss58(PHALA_SS58_PREFIX)
}

impl Error {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Vault { source, .. } => source.is_retryable(),
            Self::Unavailable { .. } => true,
            Self::BadKey { .. } | Self::Refused { .. } => false,
        }
    }
}

/// Signs for one account.
#[async_trait]
pub trait Signer: Send + Sync + fmt::Debug {
    /// The account that it signs for.
    fn account(&self) -> AccountId;

    /// Signs the bytes of `payload` as they are, without hashing them: sr25519 in the signing context `substrate`, as
    /// `sr25519::Pair::sign` does. They are a transaction's payload, or its blake2-256 if that is longer than 256
    /// bytes.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Safe: an unused signature has no effect. The caller may stop waiting: `prb_chain::submit` does after its
    /// `sign_timeout`, 30 s by default, and tries again later.
    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error>;
}

/// Provides the signers of jobs' operators.
#[async_trait]
pub trait Signers: Send + Sync + fmt::Debug {
    /// Returns the signer of `of.operator`. Its [`Signer::account`] must be that operator: return
    /// [`Error::BadKey`] for a key of another account. If there is no key for the operator here, return
    /// [`Error::Vault`] with [`vault::Error::WrongKey`] if other traders take jobs of the same queue, so that one of
    /// them signs; otherwise [`Error::Refused`].
    ///
    /// The trade engine caches signers while the operator's lane lives, one per sealed key.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Safe.
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error>;
}
