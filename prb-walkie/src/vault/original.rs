//! Opens operators' keys as the original bridge (PRB v2) stores them in its database, for importing.
//!
//! Protobuf: `iv` (1), `key` (2), `payload` (3). The payload is the JSON of a polkadot.js account without a
//! password, encrypted with AES-256-CBC and PKCS#7 padding; its key is encrypted to the identity with
//! RSA-OAEP and SHA-1, the default of Node.js. The payload is not authenticated.
//!
//! Not for: sealing. See [`RsaVault`](super::RsaVault).

use aes::Aes256;
use cbc::{
    Decryptor,
    cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7},
};
use prb_core::vault::Error;
use prost::Message;
use rsa::{Oaep, rand_core::OsRng};
use secrecy::SecretString;
use sha1::Sha1;
use zeroize::Zeroizing;

use crate::identity::Identity;

/// Longest input, in bytes: such a JSON has under 1 KiB.
const MAX_BYTES: usize = 16 * 1024;

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    iv: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

/// Opens a pool's `encryptedOperator` with the identity it was encrypted to (`LIFECYCLE`). Takes milliseconds
/// of CPU time.
///
/// # Errors
/// [`Error::WrongKey`] if it belongs to another identity, or is damaged.
pub fn open(identity: &Identity, encrypted: &[u8]) -> Result<SecretString, Error> {
    if encrypted.len() > MAX_BYTES {
        return Err(Error::WrongKey);
    }
    let envelope = Envelope::decode(encrypted).map_err(|_| Error::WrongKey)?;
    // Blinded, because the RSA implementation is not constant-time (RUSTSEC-2023-0071).
    let key = identity.key().decrypt_blinded(&mut OsRng, Oaep::new::<Sha1>(), &envelope.key);
    let key = key.map(Zeroizing::new).map_err(|_| Error::WrongKey)?;
    let cipher = Decryptor::<Aes256>::new_from_slices(&key, &envelope.iv).map_err(|_| Error::WrongKey)?;
    let json = cipher.decrypt_padded_vec::<Pkcs7>(&envelope.payload).map(Zeroizing::new);
    let json = json.map_err(|_| Error::WrongKey)?;
    std::str::from_utf8(&json).map(SecretString::from).map_err(|_| Error::WrongKey)
}
