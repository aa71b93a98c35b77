//! Isolates the block at which a worker's connection breaks.

use std::sync::Arc;

use super::{Cause, Position, Step, is_ahead};
use crate::{
    blob::{BlockCursor, Span},
    primitives::ParaNumber,
};

/// Failures among the same blocks before these are sent one by one: a single one may be an accident.
pub(super) const MIN_CRASHES: u32 = 2;
/// Failures at one block before it counts as the cause, if the worker lost progress meanwhile, so that its process has
/// restarted.
const MIN_RESTARTS: u32 = 3;
/// Failures at one block before it counts as the cause although the worker lost nothing: a network may have taken it
/// away, or its process restarts with its state.
const MIN_BREAKS: u32 = 5;

/// Tracks connections that broke while blocks were dispatched.
///
/// A single break may have any cause. If the connection breaks again among the same blocks, they are sent one
/// by one until it breaks at one of them repeatedly or the worker is past them all. The suspicion survives a worker
/// that restarts from an earlier state and succeeds on the way back.
#[derive(Debug, Default)]
pub(super) struct CrashTracker {
    suspect: Option<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    /// The blocks among which the cause is.
    blocks: Span<ParaNumber>,
    count: u32,
    version: Arc<str>,
    /// Where the worker was when the connection broke last.
    position: Position,
    /// Whether it lost progress after that, or its whole state.
    has_restarted: bool,
}

impl CrashTracker {
    /// Records that the connection broke while `blocks` were dispatched; returns how often it broke among
    /// them.
    pub(super) fn connection_broke(
        &mut self,
        blocks: Span<ParaNumber>,
        position: Position,
        version: &Arc<str>,
    ) -> u32 {
        if let Some(suspect) = self.suspect.as_mut().filter(|suspect| suspect.version == *version)
            && let Some(common) = overlap(suspect.blocks, blocks)
        {
            // The cause is in both batches: each further crash narrows the suspected range.
            suspect.blocks = common;
            suspect.count = suspect.count.saturating_add(1);
            suspect.position = position;
            return suspect.count;
        }
        let version = Arc::clone(version);
        self.suspect = Some(Suspect { blocks, count: 1, version, position, has_restarted: false });
        1
    }

    /// Records where the worker is after it answered again; `None` if it has lost its state.
    pub(super) fn observed(&mut self, position: Option<Position>) {
        if let Some(suspect) = &mut self.suspect {
            suspect.has_restarted |= position.is_none_or(|now| is_ahead(suspect.position, now));
        }
    }

    /// Records that the worker is alive at `position`, so that all blocks before it are cleared.
    pub(super) fn passed(&mut self, position: Position) {
        if let Some(suspect) = &mut self.suspect {
            suspect.blocks.first = suspect.blocks.first.max(position.block);
            if suspect.blocks.first > suspect.blocks.last {
                self.suspect = None;
            }
        }
    }

    /// Clears the suspicion if the version changed: another version may get past the block.
    pub(super) fn set_version(&mut self, version: &Arc<str>) {
        if self.suspect.as_ref().is_some_and(|suspect| suspect.version != *version) {
            self.suspect = None;
        }
    }

    /// The block, once it is isolated.
    pub(super) fn found(&self) -> Option<Cause> {
        let suspect = self.suspect.as_ref().filter(|suspect| suspect.blocks.first == suspect.blocks.last)?;
        if suspect.count < if suspect.has_restarted { MIN_RESTARTS } else { MIN_BREAKS } {
            return None;
        }
        Some(Cause::CrashesAt {
            block: suspect.blocks.first,
            count: suspect.count,
            version: Arc::clone(&suspect.version),
        })
    }

    /// Limits a step that would send several blocks among which one breaks the connection.
    pub(super) fn narrow(&self, step: Step) -> Step {
        let (Step::Blocks(cursor), Some(suspect)) = (step, self.confirmed()) else { return step };
        let Span { first, last } = suspect.blocks;
        if cursor.to < first || cursor.from > last {
            return step;
        }
        // First up to the suspected blocks, then one by one.
        let to = if cursor.from < first { ParaNumber(first.0 - 1) } else { cursor.from };
        Step::Blocks(BlockCursor { from: cursor.from, to })
    }

    fn confirmed(&self) -> Option<&Suspect> {
        self.suspect.as_ref().filter(|suspect| suspect.count >= MIN_CRASHES)
    }
}

fn overlap(a: Span<ParaNumber>, b: Span<ParaNumber>) -> Option<Span<ParaNumber>> {
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    (first <= last).then_some(Span { first, last })
}
