//! Calls of the external role: `WantBlob` finds a block and returns a token, `GetBlobWithToken` returns the
//! block for it.
//!
//! The original declares these calls and leaves their formats open. They are defined here:
//!
//! | type | data | hash |
//! |---|---|---|
//! | `BT_PARENT_BLOCK` | SCALE `HeaderToSync`; with its justification where the block is known to be justified | blake2-256 of the relay header |
//! | `BT_PARA_BLOCK` | SCALE `BlockHeaderWithChanges` | blake2-256 of the parachain header |
//!
//! Not for: deciding who may call (see [`crate::rpc`]).

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use prb_core::{
    blob::{self, BlockCursor, HeaderCursor, range::RangeSource},
    primitives::{Hash, ParaNumber, RelayNumber},
};

use super::{
    batch_walk,
    tokens::{Full, Tokens},
};
use crate::proto::data_provider::{Blob, BlobMeta, BlobType, GetBlob, WantBlob};

/// The largest batch that is assembled to extract one block from it, in bytes.
const MAX_BYTES: usize = 101 << 20;

/// A requested block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The chain.
    pub kind: BlobType,
    /// The block's number.
    pub number: u32,
}

/// Why there is no block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a chain that has blobs.
    #[error("{0} is not a blob type")]
    BadType(i32),
    /// The block does not exist, or not yet.
    #[error("there is no such block")]
    NotFound,
    /// The token is unknown, expired, or another peer's.
    #[error("the token is not valid")]
    BadToken,
    /// Too many tokens.
    #[error(transparent)]
    Full(#[from] Full),
    /// The source failed.
    #[error("the block cannot be read")]
    Source(#[source] blob::Error),
    /// The source's batch is malformed.
    #[error("the block cannot be read")]
    Malformed(#[from] batch_walk::Malformed),
}

impl From<blob::Error> for Error {
    fn from(error: blob::Error) -> Self {
        match error {
            blob::Error::BadCursor { .. } | blob::Error::NotReady => Self::NotFound,
            error => Self::Source(error),
        }
    }
}

/// Answers `WantBlob` of the peer `asking` on behalf of the peer `origin`.
///
/// # Errors
/// See [`Error`].
pub async fn want_blob(
    source: &dyn RangeSource,
    tokens: &Tokens<Wanted>,
    origin: &str,
    asking: &str,
    request: WantBlob,
) -> Result<BlobMeta, Error> {
    let kind = BlobType::try_from(request.r#type).map_err(|_| Error::BadType(request.r#type))?;
    let wanted = Wanted { kind, number: request.number };
    // The block is read for its hash, and so that no token is issued for a block that does not exist.
    let (_, hash) = block(source, wanted).await?;
    let token = tokens.issue(asking, wanted)?;
    let expires = token.expires_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(BlobMeta {
        number: request.number,
        hash: Bytes::copy_from_slice(&hash.0),
        origin_peer: origin.to_owned(),
        r#type: request.r#type,
        get_token: token.text,
        token_expires_at: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Answers `GetBlobWithToken` of the peer `asking`.
///
/// # Errors
/// See [`Error`].
pub async fn get_blob(
    source: &dyn RangeSource,
    tokens: &Tokens<Wanted>,
    asking: &str,
    request: &GetBlob,
) -> Result<Blob, Error> {
    let wanted = tokens.redeem(asking, &request.token).ok_or(Error::BadToken)?;
    let (data, _) = block(source, wanted).await?;
    Ok(Blob { r#type: wanted.kind.into(), number: wanted.number, data })
}

async fn block(source: &dyn RangeSource, wanted: Wanted) -> Result<(Bytes, Hash), Error> {
    match wanted.kind {
        BlobType::ParentBlock => relay_block(source, RelayNumber(wanted.number)).await,
        BlobType::ParaBlock => {
            let number = ParaNumber(wanted.number);
            let batch = source.blocks(BlockCursor { from: number, to: number }, MAX_BYTES).await?;
            Ok(batch_walk::first_block(&batch.ok_or(Error::NotFound)?.body)?)
        }
        BlobType::Unknown => Err(Error::BadType(wanted.kind.into())),
    }
}

/// Returns the first header of the shortest batch that begins at it.
async fn relay_block(source: &dyn RangeSource, number: RelayNumber) -> Result<(Bytes, Hash), Error> {
    // No parachain header has this number, so the batch contains none.
    let cursor = HeaderCursor { relay: number, para: ParaNumber(u32::MAX) };
    let batch = source.headers_to(cursor, number, MAX_BYTES).await?;
    Ok(batch_walk::first_relay_header(&batch.ok_or(Error::NotFound)?.body)?)
}
