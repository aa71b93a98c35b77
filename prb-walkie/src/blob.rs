//! Blobs by key: the key space, the TCP wire format, and a source that fetches from data providers.
//!
//! ```text
//!  data provider                                                  lifecycle manager
//!  RangeSource ─▶ KeySpace ─▶ server ══ TCP, frames ══▶ client ─▶ RemoteBlobSource ─▶ workers
//!  (block store)  Lookup          │                     one per provider  BlobSource
//!                                 └─ also /blob and GetBlobByKey over libp2p
//! ```
//! Blobs are not stored: [`KeySpace`](keyspace::KeySpace) assembles each [key](keys::Key)'s blob, for the
//! original bridge's keys and our own, from a [`RangeSource`](prb_core::blob::range::RangeSource) on request.
//! The [wire format](frame) is byte for byte the original's.

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::blob::Error;

pub mod answer;
pub mod batch_walk;
pub mod client;
pub mod external;
pub mod frame;
pub mod keys;
pub mod keyspace;
mod metrics;
mod quick_ack;
pub mod remote;
pub mod server;
pub mod tokens;

/// Returns blobs by key. The TCP server, `/blob` and `GetBlobByKey` serve from it.
///
/// # Cancel safety
/// The futures of all methods may be dropped, for example when a peer disconnects; only the answer is lost. Work in
/// `tokio::task::spawn_blocking` is not cancelled with them, so keep it short.
#[async_trait]
pub trait Lookup: Send + Sync + std::fmt::Debug {
    /// Returns the blob of a key, or `None` if there is none.
    ///
    /// # Errors
    /// The source cannot be read. Peers are told that the blob is missing.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error>;

    /// Returns the same blob in the parts it is stored in, for callers that can write them one after the other.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    async fn parts(&self, key: &str) -> Result<Option<Parts>, Error> {
        Ok(self.get(key).await?.map(Parts::whole))
    }

    /// Returns a smaller blob that also answers the key, with fewer headers or blocks and at most `max_bytes`
    /// bytes. `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    async fn smaller(&self, key: &str, max_bytes: usize) -> Result<Option<Parts>, Error> {
        let _ = (key, max_bytes);
        Ok(None)
    }

    /// Returns how many bytes a server reserves of its memory budget before it has this key's blob assembled: an upper
    /// bound of the blob's size, or less if the blob is in memory already.
    ///
    /// By default a request reserves all that one address may have, so that each address gets one answer at a time.
    fn reserve_bytes(&self, key: &str) -> usize {
        let _ = key;
        usize::MAX
    }
}

/// A blob in up to two parts: a head written for this request, and a body that may be shared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The first part.
    pub head: Bytes,
    /// The second part.
    pub body: Bytes,
}

impl Parts {
    /// Creates a blob in one part.
    pub const fn whole(body: Bytes) -> Self {
        Self { head: Bytes::new(), body }
    }

    /// The length of both parts, in bytes.
    pub const fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether both parts are empty.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the blob in one piece; copies it if it has two parts.
    pub fn join(self) -> Bytes {
        match (self.head.is_empty(), self.body.is_empty()) {
            (true, _) => self.body,
            (_, true) => self.head,
            _ => [self.head, self.body].concat().into(),
        }
    }

    /// CRC-32C of the blob.
    pub fn crc(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.head), &self.body)
    }
}
