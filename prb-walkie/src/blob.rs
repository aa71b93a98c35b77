//! Blobs by key: the key space, the TCP wire, and the source that fetches from providers.

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::blob::Error;

/// Answers keys with blobs; what the TCP server, `/blob` and `GetBlobByKey` serve from.
#[async_trait]
pub trait Lookup: Send + Sync + std::fmt::Debug {
    /// The blob of a key; `None` where there is none, now or ever.
    ///
    /// # Errors
    /// Where it cannot be read. Peers see a missing blob then.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error>;
}
