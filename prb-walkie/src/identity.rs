//! [`Identity`]: a daemon's RSA key and the file that stores it.
//!
//! # Layout of the file
//! Protobuf, as written by js-libp2p's peer-id and so by the original bridge. Lengths for RSA-2048:
//!
//! ```text
//! 0a 22  12 20 <sha-256 of the public key message>             1: id, a multihash
//! 12 ab 02  08 00  12 a6 02 <294 bytes SPKI DER>               2: public key message { 1: type, 2: data }
//! 1a ..     08 00  12 ..    <PKCS#1 RSAPrivateKey DER>         3: private key message { 1: type, 2: data }
//! ```
//! The type is RSA, 0, and is written although proto3 omits zeros, because it is part of the hashed bytes.
//! The peer id is the multihash in base58.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prb_core::text::io_remedy;
use prost::Message;
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey},
    pkcs8::EncodePublicKey,
    sha2::{Digest, Sha256},
    traits::PublicKeyParts,
};
use zeroize::{Zeroize, Zeroizing};

mod file;

#[doc(hidden)]
pub use file::new_private;

/// Size of a new key, in bits.
pub const KEY_BITS: usize = 2048;
/// Largest key that is accepted, in bits; larger ones make every call slow, and none is in use.
const MAX_KEY_BITS: usize = 4096;
/// Largest file that is accepted: RSA-4096 takes under 3 KiB.
const MAX_FILE_BYTES: usize = 16 * 1024;
/// libp2p's number for RSA keys.
const RSA: i32 = 0;
/// Multihash code and length of SHA-256.
const SHA2_256: [u8; 2] = [0x12, 0x20];

/// The role of a daemon; each role has an identity file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A data provider.
    DataProvider,
    /// A lifecycle manager. The original's trader uses this identity too, to open secrets sealed by the manager.
    Lifecycle,
    /// A trader.
    Trade,
    /// A monitor. The original's has a new id at each start, and so no file.
    Monitor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::DataProvider, Self::Lifecycle, Self::Trade, Self::Monitor];

    /// The file's name in the identity folder.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::DataProvider => "DATA_PROVIDER",
            Self::Lifecycle => "LIFECYCLE",
            Self::Trade => "TRADE",
            Self::Monitor => "MONITOR",
        }
    }
}

/// A libp2p peer id: the multihash of a public key. `Display` writes base58, as in addresses and logs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Vec<u8>);

impl PeerId {
    fn of(public_message: &[u8]) -> Self {
        Self([&SHA2_256[..], Sha256::digest(public_message).as_slice()].concat())
    }

    /// The multihash's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(&self.0).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why an identity cannot be loaded or stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file or its folder cannot be read or written.
    #[error("cannot {action} {}{}", path.display(), io_remedy(source))]
    Io {
        /// The failed operation: `read`, `write`, `create`…
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a valid identity. It is left unchanged.
    #[error("{} is not an identity file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// Key generation failed.
    #[error("cannot generate an RSA key")]
    Generate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with the bytes of an identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Larger than any identity file.
    #[error("it has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// Invalid protobuf.
    #[error("it cannot be decoded")]
    Protobuf(#[from] prost::DecodeError),
    /// A required field is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// Another kind of key, by libp2p's number.
    #[error("its {of} key is not RSA but of type {kind}")]
    NotRsa {
        /// `public` or `private`.
        of: &'static str,
        /// The number.
        kind: i32,
    },
    /// The private key is invalid.
    #[error("its private key is not valid")]
    BadKey(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key is too weak or too large.
    #[error("its key has {bits} bits, not {KEY_BITS} to {MAX_KEY_BITS}")]
    KeySize {
        /// Its size, in bits.
        bits: usize,
    },
    /// The public key does not match the private key.
    #[error("its public and private keys do not belong together")]
    OtherPublicKey,
    /// The id is not the public key's hash.
    #[error("its id is not the hash of its public key")]
    OtherId,
}

/// The file's message.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct IdentityMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    public: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    private: Vec<u8>,
}

impl Drop for IdentityMessage {
    fn drop(&mut self) {
        self.private.zeroize();
    }
}

/// libp2p's `PublicKey` and `PrivateKey`: `required` makes prost write the type although it is 0.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct KeyMessage {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", required, tag = "2")]
    data: Vec<u8>,
}

impl Drop for KeyMessage {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

/// A daemon's key. Clones share it; the key is wiped from memory when the last one is dropped.
#[derive(Clone)]
pub struct Identity {
    key: Arc<RsaPrivateKey>,
    peer_id: PeerId,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the role's identity from `folder`; generates and stores one if there is none. If several processes
    /// start at once, one creates the file and all use it.
    ///
    /// # Errors
    /// See [`Error`]. A file that exists but is not a valid identity is never replaced: it may be the only copy
    /// of a key.
    ///
    /// # Cancel safety
    /// A cancelled call may have created the file, but never a partial one.
    pub async fn load_or_generate(folder: &Path, role: Role) -> Result<Self, Error> {
        let path = folder.join(role.file_name());
        let work = tokio::task::spawn_blocking(move || file::load_or_generate(&path));
        work.await.map_err(|e| Error::Generate(e.into()))?
    }

    /// Reads the role's identity from `folder`; `None` if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn load(folder: &Path, role: Role) -> Result<Option<Self>, Error> {
        file::load(&folder.join(role.file_name()))
    }

    /// Like [`load`](Self::load), but changes nothing: the mode of a file that others can read is only logged.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn peek(folder: &Path, role: Role) -> Result<Option<Self>, Error> {
        file::peek(&folder.join(role.file_name()))
    }

    /// Stores the identity in `folder` as the role's, unless there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`], with [`io::ErrorKind::AlreadyExists`] if the file exists: it is not changed.
    pub fn store(&self, folder: &Path, role: Role) -> Result<(), Error> {
        file::create(&folder.join(role.file_name()), self)
    }

    /// Generates a new key without storing it. Takes about a second of CPU time, so do not call it on an
    /// executor's thread.
    ///
    /// # Errors
    /// [`Error::Generate`].
    pub fn generate() -> Result<Self, Error> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::Generate(e);
        let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS).map_err(|e| failed(e.into()))?;
        Self::of(key).map_err(|e| failed(e.into()))
    }

    fn of(key: RsaPrivateKey) -> Result<Self, Malformed> {
        let peer_id = PeerId::of(&public_message(&key.to_public_key())?);
        Ok(Self { key: Arc::new(key), peer_id })
    }

    /// Decodes a file's content.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(Malformed::TooLarge);
        }
        let message = IdentityMessage::decode(bytes)?;
        for (field, name) in
            [(&message.id, "id"), (&message.public, "public key"), (&message.private, "private key")]
        {
            if field.is_empty() {
                return Err(Malformed::Missing(name));
            }
        }
        let public = KeyMessage::decode(message.public.as_slice())?;
        let private = KeyMessage::decode(message.private.as_slice())?;
        for (of, kind) in [("public", public.kind), ("private", private.kind)] {
            if kind != RSA {
                return Err(Malformed::NotRsa { of, kind });
            }
        }
        let key = RsaPrivateKey::from_pkcs1_der(&private.data).map_err(|e| Malformed::BadKey(e.into()))?;
        let bits = key.n().bits();
        // Before anything is computed with the key: a huge one would take minutes.
        if !(KEY_BITS..=MAX_KEY_BITS).contains(&bits) {
            return Err(Malformed::KeySize { bits });
        }
        let identity = Self::of(key)?;
        // Compared as bytes: the peer id is their hash, so another encoding of the same key would be another
        // peer.
        if message.public != public_message(&identity.key.to_public_key())? {
            return Err(Malformed::OtherPublicKey);
        }
        if message.id != identity.peer_id.0 {
            return Err(Malformed::OtherId);
        }
        Ok(identity)
    }

    /// Encodes the file's content, which includes the private key; [`from_bytes`](Self::from_bytes) decodes it.
    ///
    /// # Errors
    /// [`Malformed::BadKey`] if the key cannot be encoded, which does not happen for loaded or generated keys.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let message = IdentityMessage {
            id: self.peer_id.0.clone(),
            public: public_message(&self.key.to_public_key())?,
            private: self.private_protobuf()?.to_vec(),
        };
        Ok(Zeroizing::new(message.encode_to_vec()))
    }

    /// Encodes the private key as libp2p's `PrivateKey` message, for libp2p's keypair.
    ///
    /// # Errors
    /// [`Malformed::BadKey`], as [`to_bytes`](Self::to_bytes).
    pub fn private_protobuf(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let der = self.key.to_pkcs1_der().map_err(|e| Malformed::BadKey(e.into()))?;
        let message = KeyMessage { kind: RSA, data: der.as_bytes().to_vec() };
        Ok(Zeroizing::new(message.encode_to_vec()))
    }

    /// The key's hash, by which peers identify it.
    pub const fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    pub(crate) fn key(&self) -> Arc<RsaPrivateKey> {
        self.key.clone()
    }
}

fn public_message(key: &RsaPublicKey) -> Result<Vec<u8>, Malformed> {
    let der = key.to_public_key_der().map_err(|e| Malformed::BadKey(e.into()))?;
    Ok(KeyMessage { kind: RSA, data: der.into_vec() }.encode_to_vec())
}
