//! [`MemoryVault`]: a vault for the lifetime of the process, for tests and for programs that keep operators'
//! keys elsewhere and seal them at each start.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, Generate, KeyInit, Payload},
};
use async_trait::async_trait;
use rand::RngCore;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Error, MAX_SECRET_BYTES, Sealed, Vault};

/// First byte of the sealed format; followed by a 12-byte nonce, the AES-256-GCM ciphertext and a 16-byte
/// tag.
const VERSION: u8 = 0;
const NONCE_BYTES: usize = 12;

/// A vault whose random key exists only in this process: what it sealed cannot be opened afterwards, nor by another
/// process.
///
/// For a program that reads operators' keys at its start, and whose inventory, queue, fleet and trader are all in it.
/// A persistent inventory, or a queue shared with other processes, needs a persistent vault, such as
/// `prb_walkie::vault::RsaVault`.
///
/// Secrets are sealed with AES-256-GCM and random nonces; its key is erased from memory when it is dropped.
pub struct MemoryVault {
    cipher: Aes256Gcm,
}

impl MemoryVault {
    /// Creates a vault with a new random key.
    pub fn new() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(&mut *key);
        Self { cipher: Aes256Gcm::new((&*key).into()) }
    }
}

impl Default for MemoryVault {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryVault").finish_non_exhaustive()
    }
}

#[async_trait]
impl Vault for MemoryVault {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, Error> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() > MAX_SECRET_BYTES {
            return Err(Error::TooLarge { limit_bytes: MAX_SECRET_BYTES });
        }
        // Random 96-bit nonces are safe for 2^32 messages under one key, far more than a process seals.
        let nonce = Nonce::generate();
        // The version is authenticated, so that it cannot be altered without failing to open.
        let payload = Payload { msg: secret, aad: &[VERSION] };
        let ciphertext = self.cipher.encrypt(&nonce, payload).map_err(|_| Error::Cipher)?;
        Ok(Sealed([&[VERSION], nonce.as_slice(), &ciphertext].concat()))
    }

    async fn open(&self, sealed: &Sealed) -> Result<SecretString, Error> {
        let (&version, rest) = sealed.0.split_first().ok_or(Error::WrongKey)?;
        if version != VERSION {
            return Err(Error::UnknownVersion { version });
        }
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error::WrongKey)?;
        let payload = Payload { msg: ciphertext, aad: &[VERSION] };
        let secret =
            Zeroizing::new(self.cipher.decrypt(&(*nonce).into(), payload).map_err(|_| Error::WrongKey)?);
        std::str::from_utf8(&secret).map(SecretString::from).map_err(|_| Error::WrongKey)
    }
}
