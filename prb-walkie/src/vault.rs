//! [`RsaVault`]: seals operators' keys under the identity.
//!
//! # Layout of a sealed secret, version 1
//!
//! ```text
//! offset  bytes  content
//! 0       1      version, 1
//! 1       2      length n of the wrapped key, big-endian (256 for RSA-2048)
//! 3       n      data key, 32 bytes, wrapped by RSA-OAEP with SHA-256 and no label
//! 3+n     12     nonce
//! 15+n    m      the secret, AES-256-GCM
//! 15+n+m  16     tag
//! ```
//! The bytes before the nonce are authenticated along with the secret. Each secret has its own data key.

use std::{fmt, sync::Arc};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, Generate, KeyInit, Payload},
};
use async_trait::async_trait;
use prb_core::vault::{Error, MAX_SECRET_BYTES, Sealed, Vault};
use rsa::{
    Oaep, RsaPrivateKey,
    rand_core::{OsRng, RngCore},
    sha2::Sha256,
    traits::PublicKeyParts,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::identity::{Identity, PeerId};

pub mod original;

const VERSION: u8 = 1;
const DATA_KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Seals and opens operators' keys with the key of an [`Identity`].
#[derive(Clone)]
pub struct RsaVault {
    key: Arc<RsaPrivateKey>,
    peer_id: PeerId,
}

impl fmt::Debug for RsaVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaVault").field("peer_id", &self.peer_id).finish_non_exhaustive()
    }
}

impl RsaVault {
    /// Creates the vault of an identity. Only the same identity opens what it has sealed.
    pub fn new(identity: &Identity) -> Self {
        Self { key: identity.key(), peer_id: identity.peer_id().clone() }
    }
}

#[async_trait]
impl Vault for RsaVault {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, Error> {
        if secret.expose_secret().len() > MAX_SECRET_BYTES {
            return Err(Error::TooLarge { limit_bytes: MAX_SECRET_BYTES });
        }
        let (key, secret) = (self.key.clone(), secret.clone());
        blocking(move || seal(&key, secret.expose_secret().as_bytes())).await.map(Sealed)
    }

    async fn open(&self, sealed: &Sealed) -> Result<SecretString, Error> {
        // Longer ones were never sealed: refuse them before they are copied.
        let limit_bytes = envelope_bytes(self.key.size(), MAX_SECRET_BYTES);
        if sealed.0.len() > limit_bytes {
            return Err(Error::WrongKey);
        }
        let (key, sealed) = (self.key.clone(), sealed.0.clone());
        blocking(move || open(&key, &sealed)).await
    }
}

/// Runs RSA operations, which take milliseconds, on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // Cancelled only when the runtime shuts down, which says nothing about the key.
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| {
        Err(if e.is_cancelled() { Error::Unavailable(Box::new(e)) } else { Error::Cipher })
    })
}

const fn envelope_bytes(wrapped: usize, secret: usize) -> usize {
    1 + 2 + wrapped + NONCE_BYTES + secret + TAG_BYTES
}

fn cipher(data_key: &[u8; DATA_KEY_BYTES]) -> Aes256Gcm {
    Aes256Gcm::new(data_key.into())
}

fn seal(key: &RsaPrivateKey, secret: &[u8]) -> Result<Vec<u8>, Error> {
    // A key for each secret: with random nonces, one key for all could repeat a nonce.
    let mut data_key = Zeroizing::new([0; DATA_KEY_BYTES]);
    OsRng.try_fill_bytes(&mut *data_key).map_err(|_| Error::Cipher)?;
    let wrapped = key
        .to_public_key()
        .encrypt(&mut OsRng, Oaep::new::<Sha256>(), &*data_key)
        .map_err(|_| Error::Cipher)?;
    let mut envelope = Vec::with_capacity(envelope_bytes(wrapped.len(), secret.len()));
    envelope.push(VERSION);
    let length = u16::try_from(wrapped.len()).map_err(|_| Error::Cipher)?;
    envelope.extend(length.to_be_bytes());
    envelope.extend(&wrapped);
    let nonce = Nonce::generate();
    let payload = Payload { msg: secret, aad: &envelope };
    let ciphertext = cipher(&data_key).encrypt(&nonce, payload).map_err(|_| Error::Cipher)?;
    envelope.extend(nonce);
    envelope.extend(ciphertext);
    Ok(envelope)
}

fn open(key: &RsaPrivateKey, envelope: &[u8]) -> Result<SecretString, Error> {
    let (&version, rest) = envelope.split_first().ok_or(Error::WrongKey)?;
    if version != VERSION {
        return Err(Error::UnknownVersion { version });
    }
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(Error::WrongKey)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length != key.size() {
        return Err(Error::WrongKey);
    }
    let (wrapped, rest) = rest.split_at_checked(length).ok_or(Error::WrongKey)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error::WrongKey)?;
    // All failures from here on look the same, so that an answer does not reveal which step failed. Blinded, because
    // the RSA implementation is not constant-time (RUSTSEC-2023-0071).
    let unwrapped = key
        .decrypt_blinded(&mut OsRng, Oaep::new::<Sha256>(), wrapped)
        .map(Zeroizing::new)
        .map_err(|_| Error::WrongKey)?;
    let data_key: &[u8; DATA_KEY_BYTES] = unwrapped.as_slice().try_into().map_err(|_| Error::WrongKey)?;
    let payload = Payload { msg: ciphertext, aad: &envelope[..3 + length] };
    let secret = cipher(data_key)
        .decrypt(&(*nonce).into(), payload)
        .map(Zeroizing::new)
        .map_err(|_| Error::WrongKey)?;
    std::str::from_utf8(&secret).map(SecretString::from).map_err(|_| Error::WrongKey)
}
