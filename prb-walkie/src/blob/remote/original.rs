//! Asks a provider of the original bridge with its own keys.
//!
//! Headers: `rangeByParentBlock:{n}:pb` describes the range that begins at relay block n; the longer of its
//! two blobs is used if it fits. Blocks: `rangeParaBlock:key:{n}` names a buffer of several blocks; otherwise
//! they are fetched one by one. Ranges begin where the original has cut them: a worker that got its headers
//! from another kind of provider may be in the middle of one, for which there is no answer here.

use bytes::Bytes;
use prb_core::{
    blob::{BlockBatch, Error, Genesis, HeaderBatch, Span},
    primitives::{Hash, RelayNumber},
};
use prost::Message;
use serde::Deserialize;

use super::{
    ask::{Ask, Blocks, Failure, Headers},
    provider::Provider,
};
use crate::{
    blob::{batch_walk, client::Bounds, keys::Key},
    proto::db,
};

/// Limit of a range's description, in bytes.
const MAX_META_BYTES: usize = 2 << 20;

async fn meta(provider: &Provider, key: Key, bounds: Bounds) -> Result<Bytes, Failure> {
    let bounds = Bounds { max_bytes: MAX_META_BYTES, ..bounds };
    provider.get(&key.to_string(), bounds).await?.ok_or(Failure::NotYet)
}

/// Runs a walk through a whole blob on a blocking thread.
async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, batch_walk::Malformed> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Failure::bad)?.map_err(Failure::bad)
}

fn too_large(question: &impl Ask, size_bytes: usize) -> Failure {
    Failure::Verdict(Error::TooLarge {
        cursor: question.key().to_string(),
        size_bytes,
        limit_bytes: question.max_bytes(),
    })
}

/// Fetches the headers at a cursor.
pub(super) async fn headers(
    provider: &Provider,
    question: &Headers,
    bounds: Bounds,
) -> Result<HeaderBatch, Failure> {
    let cursor = question.cursor;
    let meta = meta(provider, Key::RangeByParentBlock(cursor.relay), bounds).await?;
    let meta = db::RangeMeta::decode(meta).map_err(Failure::bad)?;
    let mut too_long = None;
    // The longer blob first: the shorter one serves if the longer one is too large.
    for key in [&meta.blob_sync_header_req_key, &meta.dry_sync_header_req_key] {
        if key.is_empty() {
            continue;
        }
        let Some(request) = provider.get(key, bounds).await? else { continue };
        match on_blocking_thread(move || batch_walk::headers_of_request(&request, cursor)).await? {
            Some(batch) if batch.body.len() <= question.max_bytes => return Ok(batch),
            Some(batch) => too_long = Some(batch.body.len()),
            None => {}
        }
    }
    Err(too_long.map_or(Failure::NotYet, |size| too_large(question, size)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockRange {
    buffer_key: Option<String>,
}

/// Fetches the blocks at a cursor.
pub(super) async fn blocks(
    provider: &Provider,
    question: &Blocks,
    bounds: Bounds,
) -> Result<BlockBatch, Failure> {
    let cursor = question.cursor;
    let range = meta(provider, Key::RangeParaBlockKey(cursor.from), bounds).await?;
    let range: BlockRange = serde_json::from_slice(&range).map_err(Failure::bad)?;
    // A buffer may be larger than the limit, or gone: the single block is the fallback for both.
    let one = Key::DryParaBlock(cursor.from).to_string();
    let mut too_long = None;
    for key in range.buffer_key.into_iter().chain([one]) {
        let Some(request) = provider.get(&key, bounds).await? else { continue };
        let within = Span { first: cursor.from, last: cursor.to };
        match on_blocking_thread(move || batch_walk::blocks_of_request(&request, within)).await? {
            Some(batch) if batch.body.len() <= question.max_bytes => return Ok(batch),
            Some(batch) => too_long = Some(batch.body.len()),
            None => {}
        }
    }
    Err(too_long.map_or(Failure::NotYet, |size| too_large(question, size)))
}

/// Fetches the genesis. `identity` is the chain's, which the original's genesis does not contain.
pub(super) async fn genesis(
    provider: &Provider,
    bounds: Bounds,
    identity: Option<Hash>,
) -> Result<Genesis, Failure> {
    let candidate = provider.candidate();
    let Some(announced) = candidate.announced else { return Err(Failure::NotYet) };
    let Some(chain_identity) = candidate.chain_identity.or(identity) else { return Err(Failure::NotYet) };
    let key = Key::OriginalGenesis { para_id: announced.para_id };
    let blob = provider.get(&key.to_string(), bounds).await?.ok_or(Failure::NotYet)?;
    let genesis = db::Genesis::decode(blob).map_err(Failure::bad)?;
    let (number, relay_hash) =
        batch_walk::genesis_block(&genesis.bridge_genesis_info).map_err(Failure::bad)?;
    if (number, genesis.para_id) != (RelayNumber(genesis.parent_number), announced.para_id) {
        return Err(Failure::bad("its genesis info is of another block or chain than it says"));
    }
    Ok(Genesis {
        para_id: genesis.para_id,
        relay_number: number,
        relay_hash,
        chain_identity,
        info: genesis.bridge_genesis_info,
        state: genesis.genesis_state,
    })
}
