//! Requests a batch: asks the best provider, then the next, until one has answered.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{
    blob::{BlockBatch, BlockCursor, Error, HeaderBatch, HeaderCursor, Heights},
    primitives::ParaNumber,
};
use tokio::time::sleep;

use super::{
    examine::Record,
    original,
    pool::Pool,
    provider::{Kind, Provider},
};
use crate::blob::{
    answer::{self, Malformed, Refused, Reply},
    batch_walk,
    client::{self, Bounds},
    keys::Key,
    metrics,
};

/// Bodies from this size on are checked on a blocking thread.
const LARGE_BYTES: usize = 256 * 1024;

/// What was asked for; identifies refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Headers at a cursor.
    Headers(HeaderCursor),
    /// Blocks from this one on.
    Blocks(ParaNumber),
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers(cursor) => cursor.fmt(f),
            Self::Blocks(from) => write!(f, "blocks from {from} on"),
        }
    }
}

impl Question {
    /// Whether a provider with these heights has it.
    pub(super) fn is_covered(self, heights: &Heights) -> bool {
        match self {
            Self::Headers(cursor) => heights.relay.is_some_and(|tip| tip >= cursor.relay),
            Self::Blocks(from) => heights.para.is_some_and(|tip| tip >= from),
        }
    }
}

/// A kind of batch that can be requested.
#[async_trait]
pub(super) trait Ask: Copy + Send + Sync + fmt::Debug + 'static {
    type Batch: Clone + Send + Sync + 'static;

    fn question(&self) -> Question;
    fn key(&self) -> Key;
    fn max_bytes(&self) -> usize;
    /// Whether a provider with these heights has it.
    fn is_covered(&self, heights: &Heights) -> bool {
        self.question().is_covered(heights)
    }
    fn read(&self, blob: Bytes) -> Result<Reply<Self::Batch>, Malformed>;
    fn body(batch: &Self::Batch) -> &Bytes;
    /// The first and last numbers in the batch.
    fn spans(batch: &Self::Batch) -> [u32; 4];
    fn begins_right(&self, batch: &Self::Batch) -> bool;
    fn check(batch: &Self::Batch) -> Result<(), batch_walk::Malformed>;
    /// Asks a provider that knows only the original's keys.
    async fn original(&self, provider: &Provider, bounds: Bounds) -> Result<Self::Batch, Failure>;
}

/// The next headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    pub(super) cursor: HeaderCursor,
    pub(super) max_bytes: usize,
}

/// The next blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub(super) cursor: BlockCursor,
    pub(super) max_bytes: usize,
}

fn limit(max_bytes: usize) -> u32 {
    u32::try_from(max_bytes).unwrap_or(u32::MAX)
}

#[async_trait]
impl Ask for Headers {
    type Batch = HeaderBatch;

    fn question(&self) -> Question {
        Question::Headers(self.cursor)
    }

    fn key(&self) -> Key {
        Key::Headers { cursor: self.cursor, max_bytes: limit(self.max_bytes) }
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    fn read(&self, blob: Bytes) -> Result<Reply<HeaderBatch>, Malformed> {
        answer::read_headers(blob)
    }

    fn body(batch: &HeaderBatch) -> &Bytes {
        &batch.body
    }

    fn spans(batch: &HeaderBatch) -> [u32; 4] {
        let para = batch.para.map_or([1, 0], |para| [para.first.0, para.last.0]);
        [batch.relay.first.0, batch.relay.last.0, para[0], para[1]]
    }

    fn begins_right(&self, batch: &HeaderBatch) -> bool {
        batch.relay.first == self.cursor.relay && batch.para.is_none_or(|para| para.first == self.cursor.para)
    }

    fn check(batch: &HeaderBatch) -> Result<(), batch_walk::Malformed> {
        batch_walk::check_headers(batch)
    }

    async fn original(&self, provider: &Provider, bounds: Bounds) -> Result<HeaderBatch, Failure> {
        original::headers(provider, self, bounds).await
    }
}

#[async_trait]
impl Ask for Blocks {
    type Batch = BlockBatch;

    fn question(&self) -> Question {
        Question::Blocks(self.cursor.from)
    }

    fn key(&self) -> Key {
        Key::Blocks { cursor: self.cursor, max_bytes: limit(self.max_bytes) }
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    fn read(&self, blob: Bytes) -> Result<Reply<BlockBatch>, Malformed> {
        answer::read_blocks(blob)
    }

    fn body(batch: &BlockBatch) -> &Bytes {
        &batch.body
    }

    fn spans(batch: &BlockBatch) -> [u32; 4] {
        [batch.blocks.first.0, batch.blocks.last.0, 0, 0]
    }

    fn begins_right(&self, batch: &BlockBatch) -> bool {
        batch.blocks.first == self.cursor.from && batch.blocks.last <= self.cursor.to
    }

    fn check(batch: &BlockBatch) -> Result<(), batch_walk::Malformed> {
        batch_walk::check_blocks(batch)
    }

    async fn original(&self, provider: &Provider, bounds: Bounds) -> Result<BlockBatch, Failure> {
        original::blocks(provider, self, bounds).await
    }
}

/// Why a provider has not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// It sent wrong data or made a false claim: it is suspended.
    Bad(String),
    /// It is slow or has a failure of its own: it is suspended too, but its claims may be true.
    Faulty(String),
    /// The connection is lost.
    Disconnected(client::Error),
    /// It answers that there is no such batch.
    Verdict(Error),
    /// It does not have it yet.
    NotYet,
}

impl Failure {
    pub(super) fn bad(reason: impl fmt::Display) -> Self {
        Self::Bad(reason.to_string())
    }

    /// Classifies a refusal that is not about the request's cursor or size.
    pub(super) fn refused(refused: Refused) -> Self {
        match refused {
            Refused::NotReady => Self::NotYet,
            Refused::Failed => Self::Faulty("it cannot read its data".into()),
            Refused::BadCursor(_) | Refused::TooLarge(_) => Self::bad("its answer does not fit the question"),
        }
    }

    /// Carries out the failure's consequence; returns the error for the caller if no other provider answers.
    pub(super) fn settle(self, pool: &Pool, provider: &Provider) -> Option<Error> {
        let (reason, lied) = match self {
            Self::NotYet => return None,
            Self::Verdict(error) => return Some(error),
            Self::Disconnected(error) => return Some(Error::Unavailable(Box::new(error))),
            Self::Bad(reason) => (reason, true),
            Self::Faulty(reason) => (reason, false),
        };
        let error = Error::Unavailable(format!("{} was suspended: {reason}", provider.id).into());
        pool.suspend(provider, reason, lied);
        Some(error)
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::BadBytes { reason, .. } => Self::Bad(format!("it sent bad bytes: {reason}")),
            client::Error::TimedOut { ref key, after, .. } => {
                Self::Faulty(format!("it did not answer {key} within {} ms", after.as_millis()))
            }
            error => Self::Disconnected(error),
        }
    }
}

impl Pool {
    /// Asks the providers that have it, one after the other; the next one also if one takes long.
    pub(super) async fn ask<Q: Ask>(&self, question: Q) -> Result<Option<Q::Batch>, Error> {
        let mut rest = self.rank(&question).into_iter();
        let attempt = |(provider, kind): (Arc<Provider>, Kind)| async move {
            let measured = provider.measure();
            let answer = self.ask_one(&provider, kind, question).await;
            measured.ended(answer.is_ok());
            (provider, answer)
        };
        // Requests of slower providers stay in flight: whichever answers first is used, and dropping the
        // others cancels them.
        let mut asked = FuturesUnordered::new();
        asked.extend(rest.next().map(attempt));
        let mut error: Option<Error> = None;
        while !asked.is_empty() {
            let next = tokio::select! {
                Some((provider, answer)) = asked.next() => match answer {
                    Ok(batch) => {
                        self.served.add(question.question(), Record::of::<Q>(&provider, &question, &batch));
                        return Ok(Some(batch));
                    }
                    Err(failure) => {
                        // A verdict on the cursor is more informative than a provider's own failure.
                        let settled = failure.settle(self, &provider);
                        if error.as_ref().is_none_or(Error::is_retryable) {
                            error = settled.or(error);
                        }
                        rest.next()
                    }
                },
                () = sleep(self.config.hedge_after), if rest.len() > 0 => {
                    metrics::hedged();
                    rest.next()
                }
            };
            asked.extend(next.map(attempt));
        }
        // If a claim was wrong, the remaining providers may show that the batch does not exist yet.
        match (error, self.no_provider_error()) {
            (Some(error), _) if !error.is_retryable() => Err(error),
            (_, None) if self.rank(&question).is_empty() => Ok(None),
            (Some(error), _) | (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Asks one provider and checks its answer.
    pub(super) async fn ask_one<Q: Ask>(
        &self,
        provider: &Provider,
        kind: Kind,
        question: Q,
    ) -> Result<Q::Batch, Failure> {
        let timeout = self.config.request_timeout;
        let batch = match kind {
            Kind::Original => {
                let bounds = Bounds { max_bytes: self.config.max_genesis_bytes, timeout };
                question.original(provider, bounds).await?
            }
            Kind::Cursors => {
                let max_bytes = question.max_bytes().saturating_add(answer::MAX_HEAD_BYTES);
                let blob = provider.get(&question.key().to_string(), Bounds { max_bytes, timeout }).await?;
                let blob = blob.ok_or_else(|| Failure::bad("it no longer knows our keys"))?;
                match question.read(blob).map_err(Failure::bad)? {
                    Ok(Some(batch)) => batch,
                    Ok(None) => return Err(not_yet(provider, &question)),
                    Err(refused) => return Err(verdict(refused, &question)),
                }
            }
        };
        let size = Q::body(&batch).len();
        if !question.begins_right(&batch) || size > question.max_bytes() {
            let spans = Q::spans(&batch).map(|number| number.to_string()).join(" ");
            return Err(Failure::bad(format!("it gave {spans} in {size} bytes for {}", question.key())));
        }
        check::<Q>(&batch).await?;
        Ok(batch)
    }
}

async fn check<Q: Ask>(batch: &Q::Batch) -> Result<(), Failure> {
    if Q::body(batch).len() < LARGE_BYTES {
        return Q::check(batch).map_err(Failure::bad);
    }
    let batch = batch.clone();
    let checked = tokio::task::spawn_blocking(move || Q::check(&batch)).await;
    // A check that panics counts as a malformed batch.
    checked.map_err(Failure::bad)?.map_err(Failure::bad)
}

/// The failure of a provider that was asked because it claims to have the batch.
fn not_yet(provider: &Provider, question: &impl Ask) -> Failure {
    let heights = provider.snapshot().heights;
    if !question.is_covered(&heights) {
        return Failure::NotYet;
    }
    let shown = |height: Option<u32>| height.map_or_else(|| "none".into(), |height| height.to_string());
    let (relay, para) = (shown(heights.relay.map(|n| n.0)), shown(heights.para.map(|n| n.0)));
    Failure::Bad(format!(
        "it claims relay block {relay} and parachain block {para}, but has no {}",
        question.key()
    ))
}

fn verdict(refused: Refused, question: &impl Ask) -> Failure {
    let cursor = question.key().to_string();
    let limit_bytes = question.max_bytes();
    match refused {
        Refused::BadCursor(reason) => Failure::Verdict(Error::BadCursor { cursor, reason }),
        Refused::TooLarge(size_bytes) if size_bytes > limit_bytes => {
            Failure::Verdict(Error::TooLarge { cursor, size_bytes, limit_bytes })
        }
        Refused::TooLarge(size) => Failure::bad(format!("{size} bytes are not too large for {cursor}")),
        refused => Failure::refused(refused),
    }
}
