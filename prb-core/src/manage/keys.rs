//! The seam [`OperatorKeys`]: from an operator's secret to its account.

use std::{error::Error as StdError, fmt};

use secrecy::SecretString;

use crate::primitives::AccountId;

/// Says whose key a secret is. The core knows no signature scheme; `prb_chain::keys` knows the chain's, and
/// `manage::memory::MemoryKeys` (feature `testing`) stands in for it in tests.
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
    /// The account that a mnemonic or secret URI signs for. May block for some milliseconds.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError>;
}

/// Why the account of a secret is not known. Never holds any part of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret is not one of the scheme's; the caller has to send another.
    #[error("the secret cannot be read")]
    Invalid(#[source] Box<dyn StdError + Send + Sync>),
    /// What reads secrets, such as a key server, does not answer.
    #[error("the account of the secret cannot be asked for")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
}

impl KeyError {
    /// Whether the same secret may be read later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
