//! The seam [`Vault`]: seals operators' keys for storage and transport, and opens them again.

use std::fmt;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

mod discard;
pub mod memory;

pub use discard::DiscardVault;

/// A sealed secret: ciphertext that only its [`Vault`] opens. Hexadecimal in JSON and TOML.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(#[serde(with = "hex::serde")] pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Why a vault cannot seal or open. Never contains the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The secret was not sealed with this vault's key, or was altered.
    #[error("the secret was sealed with another key or has been altered")]
    WrongKey,
    /// The format is unknown to this version.
    #[error("the sealed secret has an unknown format ({version})")]
    UnknownVersion {
        /// The first byte.
        version: u8,
    },
    /// The secret exceeds the maximum size.
    #[error("the secret exceeds the maximum of {limit_bytes} bytes")]
    TooLarge {
        /// The maximum.
        limit_bytes: usize,
    },
    /// The cipher failed.
    #[error("the cipher failed")]
    Cipher,
    /// The backend that holds the vault's key (a key management service, a hardware module) does not answer
    /// now.
    #[error("the vault is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Maximum size of a secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 4096;

/// Seals and opens operators' keys.
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::vault::{Error, MAX_SECRET_BYTES, Sealed, Vault};
/// use secrecy::{ExposeSecret, SecretString};
///
/// /// A client of a key management service that encrypts and decrypts.
/// # #[derive(Debug)]
/// struct Service;
///
/// impl Service {
///     async fn encrypt(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
///         # Ok(plain.to_vec())
///     }
///     async fn decrypt(&self, sealed: &[u8]) -> std::io::Result<Option<String>> {
///         # Ok(String::from_utf8(sealed.to_vec()).ok())
///     }
/// }
///
/// #[async_trait]
/// impl Vault for Service {
///     async fn seal(&self, secret: &SecretString) -> Result<Sealed, Error> {
///         let secret = secret.expose_secret().as_bytes();
///         if secret.len() > MAX_SECRET_BYTES {
///             return Err(Error::TooLarge { limit_bytes: MAX_SECRET_BYTES });
///         }
///         self.encrypt(secret).await.map(Sealed).map_err(|e| Error::Unavailable(Box::new(e)))
///     }
///
///     async fn open(&self, sealed: &Sealed) -> Result<SecretString, Error> {
///         let opened = self.decrypt(&sealed.0).await.map_err(|e| Error::Unavailable(Box::new(e)))?;
///         opened.map(SecretString::from).ok_or(Error::WrongKey)
///     }
/// }
/// ```
#[async_trait]
pub trait Vault: Send + Sync + fmt::Debug {
    /// Seals a secret. Sealing is randomised: the same secret yields different ciphertexts.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Cipher`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: only the answer is lost.
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, Error>;

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// [`Error::WrongKey`], [`Error::UnknownVersion`], [`Error::Cipher`], [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: only the answer is lost.
    async fn open(&self, sealed: &Sealed) -> Result<SecretString, Error>;
}
