//! Executes one step of the plan: fetch, send, advance.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

use super::{BatchSize, FetchPermit, InFlight, Lane, Limits, Position, Step, TransferBudget, plan, refused};
use crate::{
    blob::{
        self, BlobSource, BlockBatch, BlockCursor, HeaderBatch, HeaderCursor, Heights, RefusedData, Span,
    },
    primitives::{ParaNumber, RelayNumber},
    prpc::Method,
    pruntime::{self, PRuntime},
};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source did not return the batch.
    #[error("no chain data: {0}")]
    Source(#[source] blob::Error),
    /// The worker did not accept it.
    #[error(transparent)]
    Worker(#[from] pruntime::Error),
    /// The source returned a batch other than the one requested.
    #[error("the data source returned {got} for {wanted}")]
    WrongBatch {
        /// What it returned.
        got: String,
        /// What was requested.
        wanted: String,
    },
    /// The worker accepted a batch and still needs what was in it.
    #[error("{method} was accepted without effect: the worker stays at {position}")]
    NoProgress {
        /// The method called.
        method: &'static str,
        /// The position at which the worker stays.
        position: Position,
    },
}

impl Error {
    /// Whether the worker is only busy with another call.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Worker(e) if e.is_busy())
    }

    /// Whether the cause lies with the source, so that the worker need not be observed again.
    pub const fn is_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::WrongBatch { .. })
    }

    /// Whether the same step may succeed later although nothing else changes.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(e) => e.is_retryable(),
            Self::Worker(e) => e.is_retryable(),
            Self::WrongBatch { .. } | Self::NoProgress { .. } => false,
        }
    }
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The worker accepted a batch of `bytes` bytes and is at this position now.
    Advanced {
        /// The worker's new position.
        position: Position,
        /// Size of the request body, in bytes.
        bytes: usize,
    },
    /// The source has no data there yet: retry when its heights differ from these.
    NotYet {
        /// The heights that the plan was made with. They may have grown since: waiting until they differ from
        /// these misses no change.
        heights: Heights,
    },
}

/// A step to execute, with the state that it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedStep {
    /// The worker's position.
    pub position: Position,
    /// The source's heights.
    pub heights: Heights,
    /// The step.
    pub step: Step,
    /// The lane whose share of the budget it uses.
    pub lane: Lane,
}

impl PlannedStep {
    /// Creates a step that was decided on elsewhere.
    pub const fn new(position: Position, heights: Heights, step: Step, lane: Lane) -> Self {
        Self { position, heights, step, lane }
    }

    /// Creates the step that [`plan`] returns.
    pub fn of(position: Position, heights: Heights, limits: &Limits, lane: Lane) -> Self {
        Self::new(position, heights, plan(position, &heights, limits), lane)
    }
}

/// The sizes of one worker's next batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSizes {
    /// Size of header batches.
    pub headers: BatchSize,
    /// Size of block batches.
    pub blocks: BatchSize,
}

impl BatchSizes {
    /// Starts both at `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        let size = BatchSize::new(max_bytes);
        Self { headers: size, blocks: size }
    }
}

/// What was sent to a worker, whether or not it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentBatch {
    /// A header batch with these relay headers.
    Headers(Span<RelayNumber>),
    /// These blocks.
    Blocks(Span<ParaNumber>),
}

/// A step that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepResult {
    /// The step.
    pub planned: PlannedStep,
    /// What was sent, if anything.
    pub sent: Option<SentBatch>,
    /// Batch sizes for the worker's next step.
    pub sizes: BatchSizes,
    /// The result. After an error of the worker its position is unknown: observe it.
    pub result: Result<Outcome, Error>,
}

/// Fetches and sends workers' batches. Cheap to clone; state that belongs to one worker ([`BatchSizes`]) is
/// passed in and returned.
#[derive(Clone, Debug)]
pub struct Driver {
    source: Arc<dyn BlobSource>,
    budget: TransferBudget,
}

impl Driver {
    /// Creates a driver over `source`. Put a cache in front of the source: workers at the same cursor then
    /// share one fetch, one encoding and one charge.
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

    /// The transfer budget that all workers share.
    pub const fn budget(&self) -> &TransferBudget {
        &self.budget
    }

    /// Executes one step for `worker`. If the worker refuses a batch for its content, the source is notified
    /// ([`BlobSource::refused`]). The future owns what it needs; a worker must have at most one step in
    /// flight.
    ///
    /// # Cancel safety
    /// The worker may or may not have accepted the batch: observe it.
    pub fn step(
        &self,
        worker: PRuntime,
        planned: PlannedStep,
        sizes: BatchSizes,
    ) -> impl Future<Output = StepResult> + Send + use<> {
        let mut run = Run { driver: self.clone(), worker, planned, sent: None, sizes };
        async move {
            let result = match planned.step {
                Step::Wait => Ok(Outcome::NotYet { heights: planned.heights }),
                Step::Headers(cursor) => run.headers(cursor).await,
                Step::Blocks(cursor) => run.blocks(cursor).await,
            };
            StepResult { planned, sent: run.sent, sizes: run.sizes, result }
        }
    }
}

/// A step in flight.
struct Run {
    driver: Driver,
    worker: PRuntime,
    planned: PlannedStep,
    sent: Option<SentBatch>,
    sizes: BatchSizes,
}

impl Run {
    async fn headers(&mut self, cursor: HeaderCursor) -> Result<Outcome, Error> {
        let Driver { source, budget } = &self.driver;
        let size = &mut self.sizes.headers;
        let permit = budget.fetch_permit(self.planned.lane).await;
        let mut fetched = source.headers(cursor, size.bytes()).await;
        // Headers up to the next justified one, or a single block, may exceed the adaptive size: pRuntime's
        // own limit is much higher, so the request is repeated at once.
        if grows_to_fit(size, Method::SyncCombinedHeaders, &fetched) {
            fetched = source.headers(cursor, size.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(self.not_yet());
        };
        // Sent anyway, the wrong batch would be refused, and the refusal would count as the worker's failure.
        check_headers(&batch, cursor)?;
        let _in_flight = self.charge(permit, &batch.body).await;
        let bytes = batch.body.len();
        self.sent = Some(SentBatch::Headers(batch.relay));
        let synced = self.worker.sync_headers(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.driver.source.refused(&RefusedData::Headers { cursor, message: message.to_owned() });
            }
            resize(&mut self.sizes.headers, e)
        })?;
        self.sizes.headers.succeeded();
        let mut position = self.planned.position;
        let moved = position.headers_synced(synced);
        advanced(moved, position, bytes, Method::SyncCombinedHeaders)
    }

    async fn blocks(&mut self, cursor: BlockCursor) -> Result<Outcome, Error> {
        let Driver { source, budget } = &self.driver;
        let size = &mut self.sizes.blocks;
        let permit = budget.fetch_permit(self.planned.lane).await;
        let mut fetched = source.blocks(cursor, size.bytes()).await;
        if grows_to_fit(size, Method::DispatchBlocks, &fetched) {
            fetched = source.blocks(cursor, size.bytes()).await;
        }
        let Some(batch) = fetched.map_err(Error::Source)? else {
            return Ok(self.not_yet());
        };
        check_blocks(&batch, cursor)?;
        let _in_flight = self.charge(permit, &batch.body).await;
        let bytes = batch.body.len();
        // Before the call: if the connection breaks, these are the blocks under suspicion (see
        // `CrashTracker`).
        self.sent = Some(SentBatch::Blocks(batch.blocks));
        let synced = self.worker.dispatch_blocks(batch.body).await.map_err(|e| {
            if let Some(message) = refused::content(&e) {
                self.driver.source.refused(&refused::blocks(batch.blocks, message));
            }
            resize(&mut self.sizes.blocks, e)
        })?;
        self.sizes.blocks.succeeded();
        let mut position = self.planned.position;
        let moved = position.blocks_synced(synced);
        advanced(moved, position, bytes, Method::DispatchBlocks)
    }

    /// Charges the fetched body to the budget, and only then releases the permit for another fetch.
    async fn charge(&self, permit: FetchPermit, body: &bytes::Bytes) -> InFlight {
        // In this order, so that fetched bodies which are not charged yet stay bounded by the permits.
        let in_flight = self.driver.budget.charge(self.planned.lane, body).await;
        drop(permit);
        in_flight
    }

    const fn not_yet(&self) -> Outcome {
        Outcome::NotYet { heights: self.planned.heights }
    }
}

fn advanced(moved: bool, position: Position, bytes: usize, method: Method) -> Result<Outcome, Error> {
    // pRuntime accepts a batch that it already has, without effect: an answer alone is no progress.
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

/// Raises the size if the smallest batch is larger than requested but within the worker's limit, so that it
/// can be requested again. Returns whether it was raised.
fn grows_to_fit<T>(size: &mut BatchSize, method: Method, fetched: &Result<T, blob::Error>) -> bool {
    match fetched {
        Err(blob::Error::TooLarge { size_bytes, .. }) => {
            size.grow_to_fit(*size_bytes, method.body_limit_bytes())
        }
        _ => false,
    }
}

/// Halves the size after an error that indicates, or suggests, that the batch was too large: a worker that
/// runs out of memory breaks the connection.
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
