//! Carries out one step of the plan: fetch, send, move on.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

use super::{BatchSize, FetchPermit, InFlight, Lane, Limits, Position, Step, TransferBudget, plan, refused};
use crate::{
    blob::{self, BlobSource, BlockBatch, BlockCursor, HeaderBatch, HeaderCursor, Heights, Refusal, Span},
    primitives::{ParaNumber, RelayNumber},
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
    #[error("{method} was accepted without effect: the worker stays at {position}")]
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

    /// Whether the cause lies with the source, and the worker need not be observed again.
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::WrongBatch { .. })
    }

    /// Whether the same step may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(e) => e.is_retryable(),
            Self::Worker(e) => e.is_retryable(),
            Self::WrongBatch { .. } | Self::NoProgress { .. } => false,
        }
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
    /// The source has nothing there yet: wait for its heights to be others than these.
    NotYet {
        /// The heights that the plan was made with. They may have grown since: waiting for others than these
        /// misses nothing.
        heights: Heights,
    },
}

/// A step to do, and what it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// Where the worker is.
    pub position: Position,
    /// The source's heights.
    pub heights: Heights,
    /// What the worker takes next.
    pub step: Step,
    /// Whose share of the budget it uses.
    pub lane: Lane,
}

impl Planned {
    /// A step that was decided on elsewhere.
    pub const fn new(position: Position, heights: Heights, step: Step, lane: Lane) -> Self {
        Self { position, heights, step, lane }
    }

    /// What [`plan`] says.
    pub fn of(position: Position, heights: Heights, limits: &Limits, lane: Lane) -> Self {
        Self::new(position, heights, plan(position, &heights, limits), lane)
    }
}

/// How large one worker's next batches may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSizes {
    /// Of header batches.
    pub headers: BatchSize,
    /// Of block batches.
    pub blocks: BatchSize,
}

impl BatchSizes {
    /// Both start at `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        let size = BatchSize::new(max_bytes);
        Self { headers: size, blocks: size }
    }
}

/// What was sent to a worker, whether or not it took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A header batch with these relay headers.
    Headers(Span<RelayNumber>),
    /// These blocks.
    Blocks(Span<ParaNumber>),
}

/// A step that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Stepped {
    /// What was to be done.
    pub planned: Planned,
    /// What was sent, if it came to that.
    pub sent: Option<Sent>,
    /// Sizes for the worker's next step.
    pub sizes: BatchSizes,
    /// How it ended. After a worker's error its position is not known: observe it.
    pub result: Result<Outcome, Error>,
}

/// Fetches and sends workers' batches. Cheap to clone; what belongs to one worker ([`BatchSizes`]) is passed
/// in and given back.
#[derive(Clone, Debug)]
pub struct Driver {
    source: Arc<dyn BlobSource>,
    budget: TransferBudget,
}

impl Driver {
    /// A driver that gives what `source` has. Put a cache in front of it: workers at one cursor then share one
    /// fetch, one encoding and one charge.
    pub fn new(source: Arc<dyn BlobSource>, budget: TransferBudget) -> Self {
        Self { source, budget }
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
    pub const fn budget(&self) -> &TransferBudget {
        &self.budget
    }

    /// Does one step for `worker`. Where the worker refuses a batch for what is in it, the source hears of it
    /// ([`BlobSource::refused`]). The future owns what it needs; a worker must have one step under way at most.
    ///
    /// # Cancel safety
    /// The worker may or may not have taken the batch: observe it.
    pub fn step(
        &self,
        worker: PRuntime,
        planned: Planned,
        sizes: BatchSizes,
    ) -> impl Future<Output = Stepped> + Send + use<> {
        let mut run = Run { driver: self.clone(), worker, planned, sent: None, sizes };
        async move {
            let result = match planned.step {
                Step::Wait => Ok(Outcome::NotYet { heights: planned.heights }),
                Step::Headers(cursor) => run.headers(cursor).await,
                Step::Blocks(cursor) => run.blocks(cursor).await,
            };
            Stepped { planned, sent: run.sent, sizes: run.sizes, result }
        }
    }
}

/// A step under way.
struct Run {
    driver: Driver,
    worker: PRuntime,
    planned: Planned,
    sent: Option<Sent>,
    sizes: BatchSizes,
}

impl Run {
    async fn headers(&mut self, cursor: HeaderCursor) -> Result<Outcome, Error> {
        let Driver { source, budget } = &self.driver;
        let size = &mut self.sizes.headers;
        let permit = budget.fetch_permit(self.planned.lane).await;
        let mut fetched = source.headers(cursor, size.bytes()).await;
        if makes_room(size, Method::SyncCombinedHeaders, &fetched) {
            fetched = source.headers(cursor, size.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(self.nothing());
        };
        check_headers(&batch, cursor)?;
        let _in_flight = self.charge(permit, &batch.body).await;
        let bytes = batch.body.len();
        self.sent = Some(Sent::Headers(batch.relay));
        let synced = self.worker.sync_headers(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.driver.source.refused(&Refusal::Headers { cursor, message: message.to_owned() });
            }
            resize(&mut self.sizes.headers, e)
        })?;
        self.sizes.headers.succeeded();
        let mut position = self.planned.position;
        let moved = position.headers_synced(synced);
        moved_on(moved, position, bytes, Method::SyncCombinedHeaders)
    }

    async fn blocks(&mut self, cursor: BlockCursor) -> Result<Outcome, Error> {
        let Driver { source, budget } = &self.driver;
        let size = &mut self.sizes.blocks;
        let permit = budget.fetch_permit(self.planned.lane).await;
        let mut fetched = source.blocks(cursor, size.bytes()).await;
        if makes_room(size, Method::DispatchBlocks, &fetched) {
            fetched = source.blocks(cursor, size.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(self.nothing());
        };
        check_blocks(&batch, cursor)?;
        let _in_flight = self.charge(permit, &batch.body).await;
        let bytes = batch.body.len();
        self.sent = Some(Sent::Blocks(batch.blocks));
        let synced = self.worker.dispatch_blocks(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.driver.source.refused(&refused::blocks(batch.blocks, message));
            }
            resize(&mut self.sizes.blocks, e)
        })?;
        self.sizes.blocks.succeeded();
        let mut position = self.planned.position;
        let moved = position.blocks_synced(synced);
        moved_on(moved, position, bytes, Method::DispatchBlocks)
    }

    /// Pays for what was fetched; only then may another fetch.
    async fn charge(&self, permit: FetchPermit, body: &bytes::Bytes) -> InFlight {
        let in_flight = self.driver.budget.charge(self.planned.lane, body).await;
        drop(permit);
        in_flight
    }

    const fn nothing(&self) -> Outcome {
        Outcome::NotYet { heights: self.planned.heights }
    }
}

fn moved_on(moved: bool, position: Position, bytes: usize, method: Method) -> Result<Outcome, Error> {
    if moved {
        return Ok(Outcome::Advanced { position, bytes });
    }
    Err(Error::NoProgress { method: method.name(), position })
}

fn check_headers(batch: &HeaderBatch, cursor: HeaderCursor) -> Result<(), Error> {
    let para = batch.para.is_none_or(|span| span.first == cursor.para);
    if batch.relay.first == cursor.relay && para {
        return Ok(());
    }
    Err(Error::WrongBatch {
        got: match batch.para {
            Some(para) => format!("headers of relay blocks {} and parachain blocks {para}", batch.relay),
            None => format!("headers of relay blocks {}", batch.relay),
        },
        wanted: cursor.to_string(),
    })
}

fn check_blocks(batch: &BlockBatch, cursor: BlockCursor) -> Result<(), Error> {
    if batch.blocks.first == cursor.from && batch.blocks.last <= cursor.to {
        return Ok(());
    }
    Err(Error::WrongBatch { got: format!("blocks {}", batch.blocks), wanted: cursor.to_string() })
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

/// Asks for less after an answer that says, or suggests, that there was too much: a worker short of memory
/// breaks the connection.
fn resize(size: &mut BatchSize, error: pruntime::Error) -> Error {
    use pruntime::Error as E;
    if matches!(
        error,
        E::TooLarge { .. } | E::TimedOut { .. } | E::Unreachable { .. } | E::Refused { status: 413, .. }
    ) {
        size.halve();
    }
    Error::Worker(error)
}
