//! [`MemorySigners`]: signers for [`MemoryChain`], which has no cryptography: anyone can compute its
//! 'signatures'.
//!
//! Such a signature is the account's 32 bytes, followed by the blake2-256 of these and the payload. A double of a key
//! service makes them with [`MemorySigner::sign_now`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use secrecy::ExposeSecret;

use super::{Error, SIGNATURE_BYTES, Signer, Signers};
use crate::{
    chain::memory::MemoryChain, primitives::AccountId, primitives::Hash, queue::JobSigner, vault::Vault,
};

/// Opens jobs' keys with a vault, and uses each as the secret of a [`MemoryChain`] account.
#[derive(Clone, Debug)]
pub struct MemorySigners {
    vault: Arc<dyn Vault>,
}

impl MemorySigners {
    /// Creates signers for keys sealed by `vault`.
    pub fn new(vault: Arc<dyn Vault>) -> Self {
        Self { vault }
    }
}

#[async_trait]
impl Signers for MemorySigners {
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
        let account = of.operator;
        let secret = self.vault.open(&of.key).await.map_err(|source| Error::Vault { account, source })?;
        let signer = MemorySigner::new(secret.expose_secret());
        if signer.account != account {
            return Err(Error::BadKey { account, reason: "it is another account's".into() });
        }
        Ok(Arc::new(signer))
    }
}

/// Signs for an account of a [`MemoryChain`].
#[derive(Clone, Copy)]
pub struct MemorySigner {
    account: AccountId,
    /// The account whose signatures it produces; differs from `account` in tests of invalid signatures.
    signs_as: AccountId,
}

impl MemorySigner {
    /// Creates the signer of the account that [`MemoryChain::account_of`] derives from this secret.
    pub fn new(secret: &str) -> Self {
        let account = MemoryChain::account_of(secret);
        Self { account, signs_as: account }
    }

    /// Signs without waiting: the account's bytes, then the blake2-256 of these and `payload`.
    pub fn sign_now(&self, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
        signature(self.signs_as, payload)
    }

    /// Makes the signer claim to be `account`, while it keeps the other account's key.
    #[must_use]
    pub const fn with_claimed_account(self, account: AccountId) -> Self {
        Self { account, ..self }
    }
}

impl fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySigner").field("account", &self.account).finish_non_exhaustive()
    }
}

#[async_trait]
impl Signer for MemorySigner {
    fn account(&self) -> AccountId {
        self.account
    }

    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
        Ok(self.sign_now(payload))
    }
}

/// A stand-in for a signature: the account, and a hash of account and payload.
pub(crate) fn signature(account: AccountId, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut signature = [0; SIGNATURE_BYTES];
    signature[..32].copy_from_slice(&account.0);
    signature[32..].copy_from_slice(&Hash::of(&[&account.0, payload].concat()).0);
    signature
}
