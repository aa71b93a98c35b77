//! [`KeySpace`]: assembles blobs by key from a range source.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{
        BlockCursor, Error, HeaderBatch, HeaderCursor, Heights,
        range::{Range, RangeSource},
    },
    primitives::{ParaNumber, RelayNumber},
};
use prost::Message;
use serde::Serialize;

use super::{
    Lookup, Parts,
    answer::{self, Position},
    batch_walk,
    keys::{HeaderRange, Key},
};
use crate::proto::db;

/// Bytes reserved for small blobs.
const SMALL_BYTES: usize = 16 * 1024;
/// Most relay headers that an original's range lists individually.
const MAX_NAMED: u32 = 100_000;

/// Limits of a [`KeySpace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// The largest blob, in bytes. Default: 101 MiB.
    pub max_blob_bytes: usize,
    /// Most parachain blocks in one of the original's range blobs
    /// (`PHALA_DATA_PROVIDER_BLOB_MAX_PARA_BLOCK_RANGE_COUNT`). Default: 15.
    pub max_para_blocks: u32,
    /// How long an answer about heights may be delayed. Default: 60 s.
    pub max_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        // A worker accepts request bodies of 100 MiB; a genesis may be slightly larger here than in a request.
        Self { max_blob_bytes: 101 << 20, max_para_blocks: 15, max_wait: Duration::from_secs(60) }
    }
}

/// A source's blobs by [key](Key), for the original's keys and ours.
///
/// Nothing is cached: the ranges that the original stores are slices of the source's blocks here, and any
/// relay block may begin one. A range keeps its name once it was announced: if the source no longer knows
/// that a header is justified, the blob extends to the next header that is.
#[derive(Clone, Debug)]
pub struct KeySpace {
    source: Arc<dyn RangeSource>,
    config: Config,
}

impl KeySpace {
    /// Creates the key space of a source.
    pub fn new(source: Arc<dyn RangeSource>, config: Config) -> Self {
        Self { source, config }
    }

    async fn blob(&self, key: Key) -> Result<Option<Parts>, Error> {
        let limit = |max_bytes: u32| (max_bytes as usize).min(self.config.max_blob_bytes);
        Ok(Some(match key {
            Key::Headers { cursor, max_bytes } => {
                answer::headers(self.source.headers(cursor, limit(max_bytes)).await)
            }
            Key::Blocks { cursor, max_bytes } => {
                answer::blocks(self.source.blocks(cursor, limit(max_bytes)).await)
            }
            Key::Genesis => answer::genesis(self.source.genesis().await),
            Key::Heights { relay, para, wait_ms } => {
                answer::heights(&self.heights(relay, para, Duration::from_millis(wait_ms.into())).await)
            }
            original => return Ok(self.original(original).await?.map(Parts::whole)),
        }))
    }

    /// Waits until the source has more than the requester, or the time is over.
    async fn heights(
        &self,
        relay: Option<RelayNumber>,
        para: Option<ParaNumber>,
        wait: Duration,
    ) -> Position {
        let mut heights = self.source.heights();
        let more = |heights: &Heights| heights.relay > relay || heights.para > para;
        let wait = wait.min(self.config.max_wait);
        // If the source is gone, its last heights are the answer.
        let _ = tokio::time::timeout(wait, heights.wait_for(more)).await;
        let now = *heights.borrow();
        let identity = self.source.genesis().await.ok().map(|genesis| genesis.chain_identity);
        Position { heights: now, identity }
    }

    async fn original(&self, key: Key) -> Result<Option<Bytes>, Error> {
        let answer = match key {
            Key::OriginalGenesis { para_id } => self.original_genesis(para_id).await,
            Key::RangeByParentBlock(from) => self.range_meta(from).await,
            Key::DrySyncHeader(range) | Key::BlobRange(range) => self.header_request(range).await,
            Key::RangeParaBlockKey(number) => self.block_range(number).await,
            Key::DryParaBlock(number) => self.block_request(number, 1).await,
            Key::RangeParaBlockBuffer(number) => {
                self.block_request(number, self.config.max_para_blocks).await
            }
            Key::Genesis | Key::Heights { .. } | Key::Headers { .. } | Key::Blocks { .. } => Ok(None),
        };
        match answer {
            // Blocks that are not on the chain have no blob.
            Err(Error::BadCursor { .. } | Error::NotReady) => Ok(None),
            answer => answer,
        }
    }

    async fn original_genesis(&self, para_id: u32) -> Result<Option<Bytes>, Error> {
        let genesis = self.source.genesis().await?;
        if genesis.para_id != para_id {
            return Ok(None);
        }
        let message = db::Genesis {
            para_id,
            para_number: 0,
            parent_number: genesis.relay_number.0,
            bridge_genesis_info: genesis.info,
            genesis_state: genesis.state,
        };
        Ok(Some(message.encode_to_vec().into()))
    }

    async fn range_meta(&self, from: RelayNumber) -> Result<Option<Bytes>, Error> {
        let Some(ranges) = self.source.ranges(from).await? else { return Ok(None) };
        let dry = ranges.shortest;
        let mut meta = dry_meta(&dry);
        // Originals cache the answer for half an hour, so the range of an authority set that is still active, which
        // grows, is not offered.
        let blob = ranges.longest;
        if blob.ends_set {
            meta.blob_parent_stop_block = blob.relay.last.0;
            meta.blob_para_stop_block = number_or_none(blob.para.map(|span| span.last));
            meta.blob_sync_header_req_key =
                Key::BlobRange(HeaderRange::of(blob.relay, blob.para)).to_string();
        }
        Ok(Some(meta.encode_to_vec().into()))
    }

    async fn header_request(&self, range: HeaderRange) -> Result<Option<Bytes>, Error> {
        // No parachain header has this number, so a key without any gets none.
        let named = range.para.map_or(ParaNumber(u32::MAX), |(first, _)| first);
        let Some(mut batch) = self.headers_to(range, named).await? else { return Ok(None) };
        if batch.relay.last == range.relay_last {
            // The key names other parachain headers than the chain has: it is of another fork, or made up.
            if batch.para.map(|span| span.last) != range.para.map(|(_, last)| last) {
                return Ok(None);
            }
        } else if range.para.is_none() {
            // The blob extends beyond its name, and the parachain may have advanced in between.
            let ranges = self.source.ranges(range.relay_first).await?;
            if let Some(para) = ranges.and_then(|ranges| ranges.longest.para) {
                let Some(longer) = self.headers_to(range, para.first).await? else { return Ok(None) };
                batch = longer;
            }
        }
        batch_walk::request_of_headers(&batch.body).map(Some).map_err(|e| Error::Storage(Box::new(e)))
    }

    async fn headers_to(&self, range: HeaderRange, para: ParaNumber) -> Result<Option<HeaderBatch>, Error> {
        let cursor = HeaderCursor { relay: range.relay_first, para };
        self.source.headers_to(cursor, range.relay_last, self.config.max_blob_bytes).await
    }

    /// Returns several blocks at once only if all exist: a key's blob must never change.
    async fn block_range(&self, first: ParaNumber) -> Result<Option<Bytes>, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct BlockRange {
            #[serde(skip_serializing_if = "Option::is_none")]
            buffer_key: Option<String>,
            first_block_number: u32,
            last_block_number: u32,
        }
        let heights = *self.source.heights().borrow();
        // Block 0 is in the genesis state.
        if first.0 == 0 || heights.para.is_none_or(|tip| tip < first) {
            return Ok(None);
        }
        let wanted = first.0.saturating_add(self.config.max_para_blocks.saturating_sub(1));
        let mut last = first.0;
        if wanted > last && heights.para.is_some_and(|tip| tip.0 >= wanted) {
            let cursor = BlockCursor { from: first, to: ParaNumber(wanted) };
            let batch = self.source.blocks(cursor, self.config.max_blob_bytes).await?;
            last = batch.map_or(last, |batch| batch.blocks.last.0);
        }
        let range = BlockRange {
            buffer_key: (last > first.0).then(|| Key::RangeParaBlockBuffer(first).to_string()),
            first_block_number: first.0,
            last_block_number: last,
        };
        serde_json::to_vec(&range).map(|json| Some(json.into())).map_err(|e| Error::Storage(Box::new(e)))
    }

    async fn block_request(&self, first: ParaNumber, count: u32) -> Result<Option<Bytes>, Error> {
        let to = ParaNumber(first.0.saturating_add(count.saturating_sub(1)));
        // A buffer that is cut off at the tip would have other contents later.
        if count > 1 && self.source.heights().borrow().para.is_none_or(|tip| tip < to) {
            return Ok(None);
        }
        let cursor = BlockCursor { from: first, to };
        let Some(batch) = self.source.blocks(cursor, self.config.max_blob_bytes).await? else {
            return Ok(None);
        };
        batch_walk::request_of_blocks(&batch.body).map(Some).map_err(|e| Error::Storage(Box::new(e)))
    }
}

fn number_or_none(number: Option<ParaNumber>) -> i32 {
    number.and_then(|number| i32::try_from(number.0).ok()).unwrap_or(-1)
}

fn dry_meta(dry: &Range) -> db::RangeMeta {
    let (relay, para) = (dry.relay, dry.para);
    // The set that is active after the last block, according to its state.
    let set_id = dry.set_id + u64::from(dry.ends_set);
    db::RangeMeta {
        parent_start_block: relay.first.0,
        parent_stop_block: relay.last.0,
        para_start_block: number_or_none(para.map(|span| span.first)),
        para_stop_block: number_or_none(para.map(|span| span.last)),
        parent_range: (relay.first.0..=relay.last.0).take(MAX_NAMED as usize).collect(),
        para_range: para
            .map(|span| (span.first.0..=span.last.0).take(MAX_NAMED as usize).collect())
            .unwrap_or_default(),
        dry_sync_header_req_key: Key::DrySyncHeader(HeaderRange::of(relay, para)).to_string(),
        latest_set_id: i32::try_from(set_id).unwrap_or(i32::MAX),
        ..db::RangeMeta::default()
    }
}

#[async_trait]
impl Lookup for KeySpace {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.parts(key).await?.map(Parts::join))
    }

    async fn parts(&self, key: &str) -> Result<Option<Parts>, Error> {
        match Key::parse(key) {
            Some(key) => self.blob(key).await,
            None => Ok(None),
        }
    }

    async fn smaller(&self, key: &str, max_bytes: usize) -> Result<Option<Parts>, Error> {
        let max_bytes = max_bytes.saturating_sub(answer::MAX_HEAD_BYTES);
        let limit = |asked: u32| (asked as usize).min(max_bytes);
        match Key::parse(key) {
            Some(Key::Headers { cursor, max_bytes }) => {
                let batch = self.source.headers(cursor, limit(max_bytes)).await;
                Ok(matches!(batch, Ok(Some(_))).then(|| answer::headers(batch)))
            }
            Some(Key::Blocks { cursor, max_bytes }) => {
                let batch = self.source.blocks(cursor, limit(max_bytes)).await;
                Ok(matches!(batch, Ok(Some(_))).then(|| answer::blocks(batch)))
            }
            _ => Ok(None),
        }
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        let max = self.config.max_blob_bytes;
        match Key::parse(key) {
            // Delayed for long with hardly any bytes: it must not reserve room that others need.
            None | Some(Key::Heights { .. }) => 0,
            Some(Key::RangeParaBlockKey(_)) => SMALL_BYTES,
            Some(Key::Headers { max_bytes, .. } | Key::Blocks { max_bytes, .. }) => {
                (max_bytes as usize).min(max).saturating_add(answer::MAX_HEAD_BYTES)
            }
            // A list of block numbers, 5 bytes each.
            Some(Key::RangeByParentBlock(_)) => SMALL_BYTES + 2 * 5 * MAX_NAMED as usize,
            // The source has it in memory already.
            Some(Key::Genesis) => SMALL_BYTES,
            Some(_) => max,
        }
    }
}

#[cfg(test)]
mod tests {
    use prb_core::blob::Span;

    use super::*;

    /// The authority set of a chain that stood still, or of one that somebody made for this purpose.
    #[test]
    fn description_of_a_long_range_names_a_bounded_number_of_blocks() {
        let relay = Span { first: RelayNumber(1), last: RelayNumber(u32::MAX - 1) };
        let para = Some(Span { first: ParaNumber(1), last: ParaNumber(u32::MAX - 1) });
        let meta = dry_meta(&Range { relay, para, set_id: 1, ends_set: false });
        assert_eq!((meta.parent_range.len(), meta.para_range.len()), (100_000, 100_000));
        assert_eq!((meta.parent_start_block, meta.parent_stop_block), (1, u32::MAX - 1));
    }
}
