//! A source of batches over the exported chain.
use std::sync::Arc;

use async_trait::async_trait;
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, assemble,
        range::{RangeSource, Ranges},
    },
    primitives::RelayNumber,
};
use tokio::sync::watch;

use crate::chain::Chain;

#[derive(Clone)]
pub(crate) struct OwnSource {
    chain: Arc<Chain>,
    genesis: Genesis,
    heights: watch::Sender<Heights>,
}

impl OwnSource {
    /// A source of a finished chain. For one that grows, send new heights after adding blocks.
    pub(crate) fn new(chain: Chain, genesis: Genesis, heights: Heights) -> Self {
        Self { chain: Arc::new(chain), genesis, heights: watch::Sender::new(heights) }
    }
}

impl std::fmt::Debug for OwnSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnSource").field("heights", &self.heights).finish_non_exhaustive()
    }
}

#[async_trait]
impl BlobSource for OwnSource {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }
    async fn genesis(&self) -> Result<Genesis, Error> {
        Ok(self.genesis.clone())
    }
    async fn headers(&self, at: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        assemble::headers(&*self.chain, at, max_bytes)
    }
    async fn blocks(&self, at: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        assemble::blocks(&*self.chain, at, max_bytes)
    }
}

#[async_trait]
impl RangeSource for OwnSource {
    async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, Error> {
        assemble::ranges(&*self.chain, from)
    }
    async fn headers_to(
        &self,
        at: HeaderCursor,
        end: RelayNumber,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, Error> {
        assemble::headers_to(&*self.chain, at, end, max_bytes)
    }
}
