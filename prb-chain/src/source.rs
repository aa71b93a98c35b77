//! The block store as a [`BlobSource`].
//!
//! Programs that want the blocks themselves read them from the source as well: every stored block is verified and
//! finalised. This prints them as they arrive:
//!
//! ```
//! use prb_core::{
//!     blob::{BlobSource, BlockCursor},
//!     primitives::ParaNumber,
//!     prpc::Blocks,
//!     reexports::{codec::Decode, prost::Message},
//!     wire::BlockHeaderWithChanges,
//! };
//!
//! async fn print_blocks(source: impl BlobSource) -> Result<(), Box<dyn std::error::Error>> {
//!     let (mut heights, mut next) = (source.heights(), ParaNumber(1));
//!     loop {
//!         // Ends with an error when the source is dropped.
//!         let heights = *heights.wait_for(|heights| heights.para >= Some(next)).await?;
//!         let cursor = BlockCursor { from: next, to: heights.para.unwrap_or(next) };
//!         let Some(batch) = source.blocks(cursor, 4 << 20).await? else { continue };
//!         let encoded = Blocks::decode(batch.body)?.encoded_blocks;
//!         for block in Vec::<BlockHeaderWithChanges>::decode(&mut &encoded[..])? {
//!             let changes = block.storage_changes.main.len();
//!             println!("{} {}: {changes} changes", block.block_header.number, block.block_header.hash());
//!         }
//!         next = batch.blocks.last.next();
//!     }
//! }
//! ```

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use metrics::histogram;
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
        assemble,
        range::{RangeSource, Ranges},
    },
    primitives::RelayNumber,
};
use tokio::sync::{Semaphore, watch};

use crate::{
    ingest::Suspects,
    store::{self, Store, StoreView},
};

/// Most blocking threads that read the store. A disk that hangs occupies them, and their callers' retries would take all
/// of the runtime's.
const MAX_READS: usize = 64;

/// Assembles batches from the store, on blocking threads.
#[derive(Clone)]
pub struct StoreSource {
    store: Arc<Store>,
    reads: Arc<Semaphore>,
    suspects: Option<Suspects>,
}

impl fmt::Debug for StoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSource").field("store", &self.store).finish()
    }
}

impl StoreSource {
    /// Creates a source over the store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, reads: Arc::new(Semaphore::new(MAX_READS)), suspects: None }
    }

    /// Reports blocks that workers cannot apply to the ingest.
    pub fn with_suspects(self, suspects: Suspects) -> Self {
        Self { suspects: Some(suspects), ..self }
    }

    /// Reading may wait for the disk, so it runs on a blocking thread.
    async fn assemble<T: Send + 'static>(
        &self,
        kind: &'static str,
        work: impl FnOnce(&StoreView<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.store.genesis().is_none() {
            return Err(Error::NotReady);
        }
        let store = Arc::clone(&self.store);
        let start = tokio::time::Instant::now();
        let permit =
            Arc::clone(&self.reads).acquire_owned().await.map_err(|e| Error::Storage(Box::new(e)))?;
        let done = tokio::task::spawn_blocking(move || {
            // Moved here: a read that outlives its caller keeps its place.
            let _permit = permit;
            work(&store.view().map_err(storage)?)
        });
        let done = done.await;
        histogram!("prb_blob_assembly_seconds", "kind" => kind).record(start.elapsed().as_secs_f64());
        done.map_err(|e| Error::Storage(Box::new(e)))?
    }
}

fn storage(e: store::Error) -> Error {
    Error::Storage(Box::new(e))
}

#[async_trait]
impl BlobSource for StoreSource {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.store.heights()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        self.store.genesis().map(|(_, genesis)| genesis.clone()).ok_or(Error::NotReady)
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        self.assemble("headers", move |view| assemble::headers(view, cursor, max_bytes)).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        self.assemble("blocks", move |view| assemble::blocks(view, cursor, max_bytes)).await
    }

    fn refused(&self, refusal: &RefusedData) {
        let Some(suspects) = &self.suspects else { return };
        match refusal {
            RefusedData::Blocks { at: Some(at), .. } => suspects.report(*at),
            RefusedData::Headers { cursor, .. } => suspects.report_headers(*cursor),
            _ => {}
        }
    }
}

#[async_trait]
impl RangeSource for StoreSource {
    async fn ranges(&self, from: RelayNumber) -> Result<Option<Ranges>, Error> {
        self.assemble("ranges", move |view| assemble::ranges(view, from)).await
    }

    async fn headers_to(
        &self,
        cursor: HeaderCursor,
        end: RelayNumber,
        max_bytes: usize,
    ) -> Result<Option<HeaderBatch>, Error> {
        self.assemble("headers", move |view| assemble::headers_to(view, cursor, end, max_bytes)).await
    }
}
