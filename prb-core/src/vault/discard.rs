//! [`DiscardVault`]: a vault for dry runs.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::{Error, MAX_SECRET_BYTES, Sealed, Vault};

/// Accepts secrets and discards them. For edits that are validated but not applied.
///
/// Sealed secrets are empty and can never be opened: never use it for an inventory that a fleet runs.
///
/// ```
/// use prb_core::vault::{DiscardVault, Error, MAX_SECRET_BYTES, Vault};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sealed = DiscardVault.seal(&"operator".into()).await?;
/// assert!(matches!(DiscardVault.open(&sealed).await, Err(Error::WrongKey)));
/// let long = "x".repeat(MAX_SECRET_BYTES + 1).into();
/// assert!(matches!(DiscardVault.seal(&long).await, Err(Error::TooLarge { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardVault;

#[async_trait]
impl Vault for DiscardVault {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, Error> {
        if secret.expose_secret().len() > MAX_SECRET_BYTES {
            return Err(Error::TooLarge { limit_bytes: MAX_SECRET_BYTES });
        }
        Ok(Sealed(Vec::new()))
    }

    async fn open(&self, _sealed: &Sealed) -> Result<SecretString, Error> {
        Err(Error::WrongKey)
    }
}
