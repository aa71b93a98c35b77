//! Carries out one step of the plan: fetch, send, move on.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{BatchSize, ByteBudget, Position, Step, refused};
use crate::{
    blob::{self, BlobSource, BlockBatch, BlockCursor, HeaderBatch, HeaderCursor, Heights, Refusal},
    prpc::Method,
    pruntime::{self, PRuntime},
};

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source did not give the batch.
    #[error("no chain data: {0}")]
    Source(#[source] blob::Error),
    /// The worker did not take it.
    #[error(transparent)]
    Worker(#[from] pruntime::Error),
    /// The source gave another batch than asked for.
    #[error("the source gave {got} for {wanted}")]
    WrongBatch {
        /// What it gave.
        got: String,
        /// What was asked for.
        wanted: String,
    },
    /// The worker answered that it took a batch and still wants what was in it.
    #[error("{method} was accepted without effect: the worker stays at {position:?}")]
    NoProgress {
        /// The method called.
        method: &'static str,
        /// Where the worker stays.
        position: Position,
    },
}

impl Error {
    /// Whether the worker is only busy with another call.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Worker(e) if e.is_busy())
    }

    /// Whether the cause lies with the source, and the worker need not be observed anew.
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::WrongBatch { .. })
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The worker took a batch of that many bytes and is at this position now.
    Advanced {
        /// Where the worker is.
        position: Position,
        /// Size of the request body.
        bytes: usize,
    },
    /// The source has nothing there yet: wait for its heights to grow.
    NotYet,
}

/// Fetches and sends one worker's batches, one at a time.
#[derive(Debug)]
pub struct Driver {
    source: Arc<dyn BlobSource>,
    budget: ByteBudget,
    headers: BatchSize,
    blocks: BatchSize,
}

impl Driver {
    /// A driver that asks for at most `max_batch_bytes` at once and shares `budget` with others.
    pub fn new(source: Arc<dyn BlobSource>, budget: ByteBudget, max_batch_bytes: usize) -> Self {
        let size = BatchSize::new(max_batch_bytes);
        Self { source, budget, headers: size, blocks: size }
    }

    /// The source's heights.
    pub fn heights(&self) -> watch::Receiver<Heights> {
        self.source.heights()
    }

    /// The source.
    pub fn source(&self) -> &Arc<dyn BlobSource> {
        &self.source
    }

    /// What all workers share.
    pub const fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    /// Size limits of the next header and block batch, in bytes.
    pub const fn batch_bytes(&self) -> (usize, usize) {
        (self.headers.bytes(), self.blocks.bytes())
    }

    /// Does one step for the worker at `position`. Where the worker refuses a batch for what is in it, the
    /// source hears of it ([`BlobSource::refused`]).
    ///
    /// # Errors
    /// See [`Error`]. After a worker's error its position is not known: observe it.
    ///
    /// # Cancel safety
    /// The worker may or may not have taken the batch: observe it.
    pub async fn step(
        &mut self,
        worker: &PRuntime,
        position: Position,
        step: Step,
    ) -> Result<Outcome, Error> {
        match step {
            Step::Wait => Ok(Outcome::NotYet),
            Step::Headers(cursor) => self.headers(worker, position, cursor).await,
            Step::Blocks(cursor) => self.blocks(worker, position, cursor).await,
        }
    }

    async fn headers(
        &mut self,
        worker: &PRuntime,
        mut position: Position,
        cursor: HeaderCursor,
    ) -> Result<Outcome, Error> {
        let method = Method::SyncCombinedHeaders;
        let mut held = self.budget.hold(self.headers.bytes()).await;
        let mut fetched = self.source.headers(cursor, self.headers.bytes()).await;
        if makes_room(&mut self.headers, method, &fetched) {
            drop(held);
            held = self.budget.hold(self.headers.bytes()).await;
            fetched = self.source.headers(cursor, self.headers.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(Outcome::NotYet);
        };
        check_headers(&batch, cursor)?;
        let bytes = batch.body.len();
        held.shrink(bytes);
        let synced = worker.sync_headers(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.source.refused(&Refusal::Headers { cursor, message: message.to_owned() });
            }
            resize(&mut self.headers, e)
        })?;
        self.headers.succeeded();
        if !position.headers_synced(synced) {
            return Err(Error::NoProgress { method: method.name(), position });
        }
        Ok(Outcome::Advanced { position, bytes })
    }

    async fn blocks(
        &mut self,
        worker: &PRuntime,
        mut position: Position,
        cursor: BlockCursor,
    ) -> Result<Outcome, Error> {
        let method = Method::DispatchBlocks;
        let mut held = self.budget.hold(self.blocks.bytes()).await;
        let mut fetched = self.source.blocks(cursor, self.blocks.bytes()).await;
        if makes_room(&mut self.blocks, method, &fetched) {
            drop(held);
            held = self.budget.hold(self.blocks.bytes()).await;
            fetched = self.source.blocks(cursor, self.blocks.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(Outcome::NotYet);
        };
        check_blocks(&batch, cursor)?;
        let bytes = batch.body.len();
        held.shrink(bytes);
        let synced = worker.dispatch_blocks(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.source.refused(&refused::blocks(batch.blocks, message));
            }
            resize(&mut self.blocks, e)
        })?;
        self.blocks.succeeded();
        if !position.blocks_synced(synced) {
            return Err(Error::NoProgress { method: method.name(), position });
        }
        Ok(Outcome::Advanced { position, bytes })
    }
}

fn check_headers(batch: &HeaderBatch, cursor: HeaderCursor) -> Result<(), Error> {
    let para = batch.para.is_none_or(|span| span.first == cursor.para);
    if batch.relay.first == cursor.relay && para {
        return Ok(());
    }
    Err(Error::WrongBatch {
        got: format!("headers {:?} and {:?}", batch.relay, batch.para),
        wanted: format!("{cursor:?}"),
    })
}

fn check_blocks(batch: &BlockBatch, cursor: BlockCursor) -> Result<(), Error> {
    if batch.blocks.first == cursor.from && batch.blocks.last <= cursor.to {
        return Ok(());
    }
    Err(Error::WrongBatch { got: format!("{:?}", batch.blocks), wanted: format!("{cursor:?}") })
}

/// Whether the smallest batch is larger than asked for, and the worker would take it: then it may be asked
/// for again, with room for it.
fn makes_room<T>(size: &mut BatchSize, method: Method, fetched: &Result<T, blob::Error>) -> bool {
    match fetched {
        Err(blob::Error::TooLarge { size_bytes, .. }) => {
            size.make_room(*size_bytes, method.body_limit_bytes())
        }
        _ => false,
    }
}

/// Asks for less after an answer that says, or suggests, that there was too much.
fn resize(size: &mut BatchSize, error: pruntime::Error) -> Error {
    use pruntime::Error as E;
    if matches!(error, E::TooLarge { .. } | E::TimedOut { .. } | E::Refused { status: 413, .. }) {
        size.halve();
    }
    Error::Worker(error)
}

/// How soon a busy worker is asked again.
pub(crate) fn busy_wait() -> Duration {
    super::backoff::jittered(Duration::from_millis(500))
}
