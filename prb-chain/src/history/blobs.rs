//! Another data provider as a [`HistorySource`], using the batches that it serves to workers.
//!
//! Any [`BlobSource`] works. Batches are split up: a header batch becomes a piece with its proof and the
//! parachain headers that it proves, which are kept until they are asked for; a block batch has headers and
//! storage changes.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{Compact, Decode, Encode};
use prb_core::{
    blob::{self, BlobSource, BlockCursor, Genesis, HeaderCursor, Span},
    primitives::ParaNumber,
    prpc::{Blocks, CombinedHeadersToSync},
    wire::{AuthoritySetChange, Header},
};
use prost::Message;

use super::{Error, Extent, HistorySource, Next, Piece};
use crate::verify::scale;

/// Most bytes of a batch.
const MAX_BATCH: usize = 64 << 20;

/// A data provider as a history source.
#[derive(Debug)]
pub struct BlobHistory<S> {
    name: String,
    source: S,
    /// Parachain headers of the last header batch, and the number of the first.
    headers: Mutex<(ParaNumber, Vec<Vec<u8>>)>,
}

impl<S: BlobSource> BlobHistory<S> {
    /// Creates a source over a data provider with a name for messages.
    pub fn new(name: impl Into<String>, source: S) -> Self {
        Self { name: name.into(), source, headers: Mutex::default() }
    }

    async fn blocks(&self, span: Span<ParaNumber>) -> Result<Option<Bytes>, Error> {
        let cursor = BlockCursor { from: span.first, to: span.last };
        let batch = self.source.blocks(cursor, MAX_BATCH).await.or_else(nothing)?;
        let Some(batch) = batch else { return Ok(None) };
        let blocks = Blocks::decode(batch.body).map_err(|_| broken("blocks"))?;
        Ok(Some(blocks.encoded_blocks))
    }
}

fn broken(what: &str) -> Error {
    Error::Bad(format!("a batch of {what} cannot be read"))
}

/// Converts an error: a provider that is not ready, or does not go back that far, has no blocks; others fail.
fn nothing<T>(e: blob::Error) -> Result<Option<T>, Error> {
    match e {
        blob::Error::NotReady | blob::Error::BadCursor { .. } => Ok(None),
        e => Err(Error::Unavailable { what: "it gives nothing".into(), source: Box::new(e) }),
    }
}

/// Reads a SCALE list of headers, each followed by further data.
fn headers(
    mut encoded: &[u8],
    what: &str,
    mut rest: impl FnMut(&mut &[u8]) -> Option<()>,
) -> Result<Vec<Vec<u8>>, Error> {
    let input = &mut encoded;
    let count = Compact::<u32>::decode(input).map_err(|_| broken(what))?.0;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push(Header::decode(input).map_err(|_| broken(what))?.encode());
        rest(input).ok_or_else(|| broken(what))?;
    }
    if input.is_empty() { Ok(headers) } else { Err(broken(what)) }
}

/// Splits a header batch into a piece and its parachain headers.
fn piece(body: Bytes) -> Result<(Piece, Vec<Vec<u8>>), Error> {
    const WHAT: &str = "headers";
    let batch = CombinedHeadersToSync::decode(body).map_err(|_| broken(WHAT))?;
    let mut justification = None;
    let relay = headers(&batch.encoded_relaychain_headers, WHAT, |input| {
        justification = Option::<Vec<u8>>::decode(input).ok()?;
        Some(())
    })?;
    let justification = justification.ok_or_else(|| broken(WHAT))?;
    let para = headers(&batch.encoded_parachain_headers, WHAT, |_| Some(()))?;
    let mut proof = batch.proof;
    if let Some(change) = batch.authority_set_change {
        let change = AuthoritySetChange::decode(&mut &change[..]).map_err(|_| broken(WHAT))?;
        for node in change.authority_proof {
            // Both proofs start at the same root, so they share nodes.
            if !proof.contains(&node) {
                proof.push(node);
            }
        }
    }
    Ok((Piece { headers: relay, justification, proof }, para))
}

#[async_trait]
impl<S: BlobSource> HistorySource for BlobHistory<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self) -> Extent {
        let heights = *self.source.heights().borrow();
        Extent { relay: heights.relay, para: heights.para }
    }

    async fn genesis(&self) -> Result<Option<Genesis>, Error> {
        self.source.genesis().await.map(Some).or_else(nothing)
    }

    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error> {
        // The cursor includes the previous head, because a batch without parachain headers has no proof of the head.
        let cursor = HeaderCursor { relay: next.relay, para: next.head };
        let batch = self.source.headers(cursor, MAX_BATCH).await.or_else(nothing)?;
        let Some(batch) = batch else { return Ok(Vec::new()) };
        let first = batch.para.map(|span| span.first);
        let (piece, para) = piece(batch.body)?;
        if let Some(first) = first {
            *self.headers.lock().unwrap_or_else(PoisonError::into_inner) = (first, para);
        }
        Ok(vec![piece])
    }

    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let most = (span.last.0 - span.first.0) as usize + 1;
        {
            let kept = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
            let skip = span.first.0.checked_sub(kept.0.0).map_or(usize::MAX, |skip| skip as usize);
            let found: Vec<_> = kept.1.iter().skip(skip).take(most).cloned().collect();
            // The next headers are usually those that the last relay batch has brought.
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if span.first == ParaNumber(0) {
            // Block 0 is in no block batch, but the first header batch has its header.
            let Some(start) = self.genesis().await? else { return Ok(Vec::new()) };
            let cursor = HeaderCursor { relay: start.relay_number.next(), para: ParaNumber(0) };
            let batch = self.source.headers(cursor, MAX_BATCH).await.or_else(nothing)?;
            let Some(batch) = batch else { return Ok(Vec::new()) };
            return Ok(piece(batch.body)?.1.into_iter().take(most).collect());
        }
        let Some(encoded) = self.blocks(span).await? else { return Ok(Vec::new()) };
        headers(&encoded, "blocks", |input| scale::storage_changes(input, &mut |_, _| {}).map(drop))
    }

    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let Some(encoded) = self.blocks(span).await? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        headers(&encoded, "blocks", |input| {
            let (changes, _) = scale::storage_changes(input, &mut |_, _| {})?;
            all.push(changes.to_vec());
            Some(())
        })?;
        Ok(all)
    }
}
