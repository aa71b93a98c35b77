//! Bringing one worker to the tip: [`plan`] says what it takes next, [`Driver`] fetches and sends it.
//!
//! The plan is a pure function of the numbers that the worker wants ([`Position`]) and of what the source
//! holds ([`Heights`]). Blocks come before headers, so that the state roots waiting in a worker stay few;
//! headers go on where blocks cannot be had.
//!
//! Not for: anything on chain (see [`crate::worker`]).

use std::fmt;

use metrics::{describe_counter, describe_gauge};
use serde::Serialize;

use crate::{
    blob::{BlockCursor, HeaderCursor, Heights},
    primitives::{ParaNumber, RelayNumber},
    prpc::{HeadersSyncedTo, PhactoryInfo, SyncedTo},
};

mod backoff;
mod budget;
mod cooldown;
mod driver;
mod health;
mod refused;
mod transfer;

pub use backoff::{Backoff, BackoffConfig};
pub use budget::{BatchSize, ByteBudget, Held};
pub use cooldown::Cooldown;
pub use driver::{BatchSizes, Driver, Error, Outcome, Planned, Sent, Stepped};
pub use health::{Advice, Cause, Health, HealthConfig, Problem};
pub use transfer::{
    CATCH_UP_FETCHES, FetchPermit, InFlight, Lane, TIP_FETCHES, TransferBudget, TransferLimits,
};

/// Describes the metrics of the sync to the recorder. Called by [`Fleet::start`](crate::fleet::Fleet::start);
/// those who use [`Driver`] and [`Health`] by themselves call it once.
pub fn describe_metrics() {
    describe_counter!("prb_sync_bytes_total", "Bytes of headers and blocks that workers took, by kind");
    describe_counter!(
        "prb_sync_failures_total",
        "Sync steps that failed, by kind: of the worker (busy, refused, timed_out, connection_lost, bad_answer, \
         no_progress) or of the source (no_data, source)"
    );
    describe_gauge!(
        "prb_sync_in_flight_bytes",
        "Bytes of headers and blocks on their way to workers, by the lane whose share they use (tip, catch_up)"
    );
}

/// The numbers that a worker wants next, as pRuntime counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Position {
    /// Next relay header.
    pub relay_header: RelayNumber,
    /// Next parachain header.
    pub para_header: ParaNumber,
    /// Next parachain block.
    pub block: ParaNumber,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relay_header, para_header, block } = self;
        write!(f, "relay header {relay_header}, parachain header {para_header}, block {block}")
    }
}

impl Position {
    /// Reads the numbers of `GetInfo`.
    pub const fn of(info: &PhactoryInfo) -> Self {
        Self {
            relay_header: RelayNumber(info.headernum),
            para_header: ParaNumber(info.para_headernum),
            block: ParaNumber(info.blocknum),
        }
    }

    /// The last relay header that the worker holds.
    pub const fn relay_synced_to(self) -> Option<RelayNumber> {
        self.relay_header.prev()
    }

    /// The last parachain header that the worker holds.
    pub const fn para_synced_to(self) -> Option<ParaNumber> {
        self.para_header.prev()
    }

    /// The last parachain block that the worker dispatched.
    pub const fn dispatched_to(self) -> Option<ParaNumber> {
        self.block.prev()
    }

    /// Moves on by the answer to `SyncCombinedHeaders`; gives whether that is any further.
    pub fn headers_synced(&mut self, to: HeadersSyncedTo) -> bool {
        let before = *self;
        self.relay_header = RelayNumber(to.relaychain_synced_to).next();
        // Before the first parachain header pRuntime answers 0 - 1.
        self.para_header = ParaNumber(to.parachain_synced_to.wrapping_add(1));
        self.relay_header > before.relay_header || self.para_header > before.para_header
    }

    /// Moves on by the answer to `DispatchBlocks`; gives whether that is any further.
    pub fn blocks_synced(&mut self, to: SyncedTo) -> bool {
        let before = self.block;
        self.block = ParaNumber(to.synced_to).next();
        self.block > before
    }

    /// How many finalised parachain blocks the worker has not dispatched: against the chain's newest that
    /// the source knows of, else against the source's own. `None` where the source knows nothing.
    pub fn lag(self, heights: &Heights) -> Option<u32> {
        let tip = heights.para.max(heights.para_target)?;
        Some(tip.next().0.saturating_sub(self.block.0))
    }
}

/// What the planner holds back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many relay headers may wait while no parachain header comes with them. They have no effect on
    /// a worker until one does, and one call for several costs less than one for each.
    pub idle_relay_headers: u32,
}

/// Default of [`Limits::idle_relay_headers`].
pub const IDLE_RELAY_HEADERS: u32 = 16;

impl Default for Limits {
    fn default() -> Self {
        Self { idle_relay_headers: IDLE_RELAY_HEADERS }
    }
}

/// What a worker takes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// A header batch.
    Headers(HeaderCursor),
    /// A batch of blocks.
    Blocks(BlockCursor),
    /// Nothing until the heights grow.
    #[default]
    Wait,
}

/// Says what a worker at `position` takes next from a source with `heights`.
///
/// Only what the worker can take: headers from the one that it wants, blocks from the one that it wants up
/// to the last that it has the header of, block 0 never.
pub fn plan(position: Position, heights: &Heights, limits: &Limits) -> Step {
    blocks_ready(position, heights)
        .map(Step::Blocks)
        .or_else(|| headers_ready(position, heights, limits).map(Step::Headers))
        .unwrap_or(Step::Wait)
}

fn blocks_ready(position: Position, heights: &Heights) -> Option<BlockCursor> {
    let to = position.para_synced_to()?.min(heights.para?);
    // Block 0 is the genesis state; a worker that wants it was not initialised.
    let ready = position.block.0 > 0 && position.block <= to;
    ready.then_some(BlockCursor { from: position.block, to })
}

fn headers_ready(position: Position, heights: &Heights, limits: &Limits) -> Option<HeaderCursor> {
    let newest = heights.relay?;
    if position.relay_header.0 == 0 || newest < position.relay_header {
        return None;
    }
    let waiting = newest.0 - position.relay_header.0 + 1;
    let para_waits = heights.para.is_some_and(|newest| newest >= position.para_header);
    (para_waits || waiting > limits.idle_relay_headers)
        .then_some(HeaderCursor { relay: position.relay_header, para: position.para_header })
}
