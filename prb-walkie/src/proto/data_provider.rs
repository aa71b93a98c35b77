//! Messages of the package `prb.data_provider`.

use bytes::Bytes;
use prost::{Enumeration, Message};

/// A data provider's progress. -1 stands for unknown numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Info {
    /// Whether it is at the tip.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
    /// The parachain's id.
    #[prost(int32, tag = "2")]
    pub para_id: i32,
    /// First relay header in its store.
    #[prost(int32, tag = "3")]
    pub parent_start_header: i32,
    /// Newest finalised relay block of its node.
    #[prost(int32, tag = "4")]
    pub parent_target: i32,
    /// Newest relay block fetched.
    #[prost(int32, tag = "5")]
    pub parent_fetched_height: i32,
    /// Newest relay block that it can serve.
    #[prost(int32, tag = "6")]
    pub parent_processed_height: i32,
    /// Newest relay block on disk.
    #[prost(int32, tag = "7")]
    pub parent_committed_height: i32,
    /// Newest finalised parachain block of its node.
    #[prost(int32, tag = "8")]
    pub para_target: i32,
    /// Newest parachain block fetched.
    #[prost(int32, tag = "9")]
    pub para_fetched_height: i32,
    /// Newest parachain block that it can serve.
    #[prost(int32, tag = "10")]
    pub para_processed_height: i32,
    /// Newest parachain block on disk.
    #[prost(int32, tag = "11")]
    pub para_committed_height: i32,
    /// Port of its blob server, at the IP of the connection.
    #[prost(uint32, tag = "12")]
    pub blob_server_port: u32,
}

/// Whether a data provider is at the tip, here without its `S_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Unknown.
    Unknown = 0,
    /// Fetching; `S_SYHCHING` in the original.
    Synching = 1,
    /// At the tip.
    Idle = 2,
}

/// Asks an external data provider for a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct WantBlob {
    /// The block's number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its chain.
    #[prost(enumeration = "BlobType", tag = "2")]
    pub r#type: i32,
}

/// Kinds of blobs, here without their `BT_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlobType {
    /// Unspecified.
    Unknown = 0,
    /// A relay block.
    ParentBlock = 1,
    /// A parachain block.
    ParaBlock = 2,
}

/// A blob that can be fetched for a limited time. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct BlobMeta {
    /// The block's number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its hash.
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
    /// The peer that has it.
    #[prost(string, tag = "3")]
    pub origin_peer: String,
    /// Its chain.
    #[prost(enumeration = "BlobType", tag = "4")]
    pub r#type: i32,
    /// The token to fetch it with.
    #[prost(string, tag = "5")]
    pub get_token: String,
    /// When the token expires, in ms since the Unix epoch.
    #[prost(uint64, tag = "6")]
    pub token_expires_at: u64,
}

impl std::fmt::Debug for BlobMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobMeta")
            .field("number", &self.number)
            .field("type", &self.r#type)
            .field("token_expires_at", &self.token_expires_at)
            .finish_non_exhaustive()
    }
}

/// Fetches a blob that [`WantBlob`] has found. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct GetBlob {
    /// [`BlobMeta::get_token`].
    #[prost(string, tag = "1")]
    pub token: String,
}

impl std::fmt::Debug for GetBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetBlob").finish_non_exhaustive()
    }
}

/// A block.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Blob {
    /// Its chain.
    #[prost(enumeration = "BlobType", tag = "1")]
    pub r#type: i32,
    /// Its number.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// Its encoding; see [`crate::blob::external`].
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// Asks for a blob by its key.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct GetBlobByKey {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
}

/// The answer to [`GetBlobByKey`].
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RawBlob {
    /// Its key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Whether there is none.
    #[prost(bool, tag = "2")]
    pub empty: bool,
    /// The blob.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}
