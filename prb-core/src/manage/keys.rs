//! The seam [`OperatorKeys`]: derives an operator's account from its secret.

use std::{error::Error as StdError, fmt};

use secrecy::SecretString;

use crate::primitives::AccountId;

/// Derives accounts from secrets. The core implements no signature scheme; `prb_chain::keys` implements the
/// chain's, and `memory::MemoryKeys` (feature `testing`) is the test double.
///
/// ```
/// use prb_core::{manage::{KeyError, OperatorKeys}, primitives::AccountId};
/// use secrecy::{ExposeSecret, SecretString};
///
/// /// Operators are given as addresses of keys in a key service, not as secrets.
/// #[derive(Debug)]
/// struct Named;
///
/// impl OperatorKeys for Named {
///     fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
///         AccountId::from_address(secret.expose_secret()).map_err(|e| KeyError::Invalid(Box::new(e)))
///     }
/// }
/// ```
pub trait OperatorKeys: Send + Sync + fmt::Debug {
    /// Returns the account that a mnemonic or secret URI signs for. May block for some milliseconds.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError>;
}

/// Why the account of a secret could not be derived. Never contains any part of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret is not valid in the scheme; the caller must provide another one.
    #[error("the secret is not valid")]
    Invalid(#[source] Box<dyn StdError + Send + Sync>),
    /// The backend that derives accounts, such as a key server, does not answer.
    #[error("the account of the secret cannot be looked up")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
}

impl KeyError {
    /// Whether the same secret may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
