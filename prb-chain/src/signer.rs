//! [`VaultSigners`]: signs with the sealed keys in jobs, which a [`Vault`] in this process opens.

use std::sync::Arc;

use async_trait::async_trait;
use prb_core::{
    primitives::AccountId,
    queue::JobSigner,
    signer::{Error, SIGNATURE_BYTES, Signer, Signers},
    vault::Vault,
};

use crate::keys::OperatorKey;

/// Opens jobs' keys with a vault. An opened key stays in memory while its signer exists, and is wiped
/// afterwards.
///
/// The vault is `prb_walkie::vault::RsaVault`, or [`MemoryVault`](prb_core::vault::memory::MemoryVault) for a program
/// that seals its operators' keys again at each start.
#[derive(Clone, Debug)]
pub struct VaultSigners {
    vault: Arc<dyn Vault>,
}

impl VaultSigners {
    /// Creates signers for keys sealed by `vault`.
    pub fn new(vault: Arc<dyn Vault>) -> Self {
        Self { vault }
    }
}

#[async_trait]
impl Signers for VaultSigners {
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
        let account = of.operator;
        let secret = self.vault.open(&of.key).await.map_err(|source| Error::Vault { account, source })?;
        let bad = |reason: String| Error::BadKey { account, reason };
        let key = OperatorKey::from_secret(&secret).map_err(|e| bad(e.to_string()))?;
        // A job names the account and the sealed key separately: its sender may have confused them.
        if key.account() != account {
            return Err(bad("it belongs to another account".into()));
        }
        Ok(Arc::new(key))
    }
}

#[async_trait]
impl Signer for OperatorKey {
    fn account(&self) -> AccountId {
        Self::account(self)
    }

    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
        Ok(Self::sign(self, payload))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::{
        conformance::{self, signers::TestSigners},
        vault::{self, Sealed, memory::MemoryVault},
    };

    use super::*;
    use crate::keys;

    #[tokio::test]
    async fn sealed_key_signs_only_for_its_account() {
        let vault = Arc::new(MemoryVault::new());
        const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
        let (alice, other) = (format!("{PHRASE}//Alice"), format!("{PHRASE}//Bob"));
        let account = |secret: &str| OperatorKey::from_secret(&secret.to_owned().into()).unwrap().account();
        let key = vault.seal(&alice.clone().into()).await.unwrap();
        let of = |operator, key: &Sealed| JobSigner { operator, key: key.clone(), proxied: None };
        let bob = of(account(&other), &vault.seal(&other.clone().into()).await.unwrap());
        let subject = TestSigners {
            signers: VaultSigners::new(vault.clone()),
            known: [of(account(&alice), &key), bob],
            mismatched: Some(of(account(&other), &key)),
        };
        conformance::signers::all(&subject, keys::verify).await;

        let signers = subject.signers;
        let other = AccountId([7; 32]);
        let error = signers.signer(&of(other, &key)).await.unwrap_err();
        assert!(matches!(error, Error::BadKey { account, .. } if account == other), "{error}");
        let garbled = Sealed(vec![0; 60]);
        let error = signers.signer(&of(other, &garbled)).await.unwrap_err();
        assert!(matches!(error, Error::Vault { source: vault::Error::WrongKey, .. }), "{error}");
        let words = vault.seal(&"hunter2secret".to_owned().into()).await.unwrap();
        let error = signers.signer(&of(other, &words)).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2secret"), "{error}");
        assert!(!error.is_retryable());
    }
}
