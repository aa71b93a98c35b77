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
    use prb_core::vault::{self, Sealed, memory::MemoryVault};

    use super::*;

    #[tokio::test]
    async fn sealed_key_signs_only_for_its_account() {
        let vault = Arc::new(MemoryVault::new());
        let alice = OperatorKey::from_secret(&"//Alice".to_owned().into()).unwrap();
        let key = vault.seal(&"//Alice".to_owned().into()).await.unwrap();
        let signers = VaultSigners::new(vault.clone());
        let of = |operator, key: &Sealed| JobSigner { operator, key: key.clone(), proxied: None };
        let signer = signers.signer(&of(alice.account(), &key)).await.unwrap();
        assert_eq!(signer.account(), alice.account());
        let signature = subxt_signer::sr25519::Signature(signer.sign(b"payload").await.unwrap());
        let public = subxt_signer::sr25519::PublicKey(alice.account().0);
        assert!(subxt_signer::sr25519::verify(&signature, b"payload", &public));

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
