//! Blobs by key: the key space, the TCP wire, and the source that fetches from providers.
//!
//! ```text
//!  data provider                                                  lifecycle manager
//!  RangeSource ─▶ KeySpace ─▶ server ══ TCP, frames ══▶ client ─▶ RemoteBlobSource ─▶ workers
//!  (block store)  Lookup          │                     one a provider    BlobSource
//!                                 └─ also /blob and GetBlobByKey over libp2p
//! ```
//!
//! A blob is nothing that is stored: [`KeySpace`](keyspace::KeySpace) answers each [key](keys::Key), the
//! original bridge's and our own, from a [`RangeSource`](prb_core::blob::range::RangeSource) when it is asked
//! for. The [wire](frame) is the original's, byte for byte.

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::blob::Error;

pub mod answer;
pub mod client;
pub mod external;
pub mod frame;
pub mod keys;
pub mod keyspace;
mod metrics;
mod quick_ack;
pub mod remote;
pub mod scale;
pub mod server;
pub mod tokens;

/// Answers keys with blobs; what the TCP server, `/blob` and `GetBlobByKey` serve from.
#[async_trait]
pub trait Lookup: Send + Sync + std::fmt::Debug {
    /// The blob of a key; `None` where there is none, now or ever.
    ///
    /// # Errors
    /// Where it cannot be read. Peers see a missing blob then.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error>;

    /// The same blob, in the parts that it lies in: for who can write them one after the other.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    async fn parts(&self, key: &str) -> Result<Option<Parts>, Error> {
        Ok(self.get(key).await?.map(Parts::whole))
    }

    /// A smaller blob that does for the same key, of at most so many bytes: fewer headers or blocks. `None` where there
    /// is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    async fn smaller(&self, key: &str, max_bytes: usize) -> Result<Option<Parts>, Error> {
        let _ = (key, max_bytes);
        Ok(None)
    }

    /// The most bytes that the key's blob may have: what is set aside before it is assembled.
    fn bound_bytes(&self, key: &str) -> usize {
        let _ = key;
        usize::MAX
    }
}

/// A blob that lies in up to two places: what was written for this asker, and a body that others share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// What comes first.
    pub head: Bytes,
    /// What follows.
    pub body: Bytes,
}

impl Parts {
    /// A blob in one piece.
    pub const fn whole(body: Bytes) -> Self {
        Self { head: Bytes::new(), body }
    }

    /// Bytes of both.
    pub const fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is no byte.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blob in one piece; copied where it lies in two.
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
