//! [`MemoryKeys`]: operator accounts on a [`MemoryChain`], for tests and examples.

use secrecy::{ExposeSecret, SecretString};

use super::{KeyError, OperatorKeys};
use crate::{chain::memory::MemoryChain, primitives::AccountId};

/// Accepts any text as a secret and derives the account that [`MemoryChain::account_of`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryKeys;

impl OperatorKeys for MemoryKeys {
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
        Ok(MemoryChain::account_of(secret.expose_secret()))
    }
}
