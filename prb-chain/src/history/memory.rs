//! A [`HistorySource`] in memory, for this crate's tests.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use prb_core::{
    blob::{Genesis, Span},
    primitives::{ParaNumber, RelayNumber},
};

use super::{Error, Extent, HistorySource, Next, Piece};

/// Blocks in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// The start.
    pub genesis: Option<Genesis>,
    /// Consecutive relay pieces.
    pub relay: Vec<Piece>,
    /// Number of the first relay header.
    pub first_relay: RelayNumber,
    /// Parachain headers from block 0 on.
    pub para_headers: Vec<Vec<u8>>,
    /// Storage changes from block 1 on.
    pub changes: Vec<Vec<u8>>,
}

impl Blocks {
    /// The newest blocks.
    pub fn extent(&self) -> Extent {
        let headers: usize = self.relay.iter().map(|piece| piece.headers.len()).sum();
        let relay = headers.checked_sub(1).map(|more| RelayNumber(self.first_relay.0 + more as u32));
        let headers = self.para_headers.len().checked_sub(1);
        let para = headers.map(|last| ParaNumber(last.min(self.changes.len()) as u32));
        Extent { relay, para }
    }
}

/// A history source in memory.
#[derive(Debug, Default)]
pub struct MemoryHistory {
    name: String,
    blocks: Mutex<Blocks>,
    /// Most items in one answer.
    per_answer: usize,
}

impl MemoryHistory {
    /// Creates a source of these blocks that returns at most `per_answer` pieces, headers or changes at once.
    pub fn new(name: impl Into<String>, blocks: Blocks, per_answer: usize) -> Self {
        Self { name: name.into(), blocks: Mutex::new(blocks), per_answer: per_answer.max(1) }
    }

    /// Changes its blocks.
    pub fn edit(&self, change: impl FnOnce(&mut Blocks)) {
        change(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn with<T>(&self, read: impl FnOnce(&Blocks) -> T) -> T {
        read(&self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn slice(&self, all: &[Vec<u8>], from: u32, span: Span<ParaNumber>) -> Vec<Vec<u8>> {
        let (Some(first), Some(last)) = (span.first.0.checked_sub(from), span.last.0.checked_sub(from))
        else {
            return Vec::new();
        };
        let count = (last as usize + 1).saturating_sub(first as usize).min(self.per_answer);
        all.iter().skip(first as usize).take(count).cloned().collect()
    }
}

#[async_trait]
impl HistorySource for MemoryHistory {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self) -> Extent {
        self.with(Blocks::extent)
    }

    async fn genesis(&self) -> Result<Option<Genesis>, Error> {
        Ok(self.with(|blocks| blocks.genesis.clone()))
    }

    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error> {
        Ok(self.with(|blocks| from_header(&blocks.relay, blocks.first_relay, next.relay, self.per_answer)))
    }

    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.with(|blocks| self.slice(&blocks.para_headers, 0, span)))
    }

    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.with(|blocks| self.slice(&blocks.changes, 1, span)))
    }
}

/// Returns pieces from a header on, without the headers before it in the first piece.
pub(super) fn from_header(
    pieces: &[Piece],
    first: RelayNumber,
    wanted: RelayNumber,
    most: usize,
) -> Vec<Piece> {
    let mut number = first.0;
    let mut found = Vec::new();
    for piece in pieces {
        let end = number.saturating_add(piece.headers.len() as u32);
        if end > wanted.0 && found.len() < most {
            let skip = wanted.0.saturating_sub(number);
            if number + skip != wanted.0 && found.is_empty() {
                // The piece starts later, so there is a gap.
                break;
            }
            found.push(Piece { headers: piece.headers[skip as usize..].to_vec(), ..piece.clone() });
        }
        number = end;
    }
    found
}
