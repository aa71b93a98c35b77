//! Syncing one worker to the tip: [`plan`] decides the next step, [`Driver`] fetches and sends it.
//!
//! The plan is a pure function of the numbers that the worker needs next ([`Position`]) and of the source's
//! [`Heights`]. Blocks go before headers, so that a worker keeps few state roots pending; headers continue if
//! blocks are not available.
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
mod driver;
mod health;
mod rate_limit;
mod refused;
mod transfer_budget;

pub(crate) use backoff::jittered;
pub use backoff::{Backoff, BackoffConfig};
pub use budget::{BatchSize, ByteBudget, ByteLease};
pub use driver::{BatchSizes, Driver, Error, Outcome, PlannedStep, SentBatch, StepResult};
pub use health::{Cause, Health, HealthConfig, Problem, StepAdvice};
pub use rate_limit::RateLimit;
pub use transfer_budget::{
    CATCH_UP_FETCHES, FetchPermit, InFlight, Lane, TIP_FETCHES, TransferBudget, TransferLimits,
};

/// Registers descriptions of the sync metrics with the recorder. Called by
/// [`Fleet::start`](crate::fleet::Fleet::start); a program that uses [`Driver`] and [`Health`] directly calls
/// it once.
pub fn describe_metrics() {
    describe_counter!("prb_sync_bytes_total", "Bytes of headers and blocks that workers accepted, by kind");
    describe_counter!(
        "prb_sync_failures_total",
        "Sync steps that failed, by kind: of the worker (busy, refused, timed_out, connection_lost, bad_answer, \
         no_progress) or of the source (no_data, source)"
    );
    describe_gauge!(
        "prb_sync_in_flight_bytes",
        "Bytes of headers and blocks in flight to workers, by the lane whose share they use (tip, catch_up)"
    );
}

/// The numbers that a worker needs next, as pRuntime counts.
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

    /// The last relay header that the worker has.
    pub const fn relay_synced_to(self) -> Option<RelayNumber> {
        self.relay_header.prev()
    }

    /// The last parachain header that the worker has.
    pub const fn para_synced_to(self) -> Option<ParaNumber> {
        self.para_header.prev()
    }

    /// The last parachain block that the worker dispatched.
    pub const fn dispatched_to(self) -> Option<ParaNumber> {
        self.block.prev()
    }

    /// Applies the answer to `SyncCombinedHeaders`; returns whether the position advanced.
    pub fn headers_synced(&mut self, to: HeadersSyncedTo) -> bool {
        let before = *self;
        self.relay_header = RelayNumber(to.relaychain_synced_to).next();
        // pRuntime answers 0 - 1 (wrapped) before the first parachain header.
        self.para_header = ParaNumber(to.parachain_synced_to.wrapping_add(1));
        self.relay_header > before.relay_header || self.para_header > before.para_header
    }

    /// Applies the answer to `DispatchBlocks`; returns whether the position advanced.
    pub fn blocks_synced(&mut self, to: SyncedTo) -> bool {
        let before = self.block;
        self.block = ParaNumber(to.synced_to).next();
        self.block > before
    }

    /// The number of finalised parachain blocks that the worker has not dispatched, relative to the newest
    /// finalised block that the source knows of. `None` if the source knows none.
    pub fn lag(self, heights: &Heights) -> Option<u32> {
        let tip = heights.para.max(heights.para_target)?;
        Some(tip.next().0.saturating_sub(self.block.0))
    }
}

/// Limits of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Limits {
    /// Maximum relay headers to hold back while no parachain header comes with them. They have no effect on a
    /// worker until one does, and one call for several costs less than one for each. Default: 16.
    pub idle_relay_headers: u32,
}

/// Default of [`Limits::idle_relay_headers`].
pub const IDLE_RELAY_HEADERS: u32 = 16;

impl Default for Limits {
    fn default() -> Self {
        Self { idle_relay_headers: IDLE_RELAY_HEADERS }
    }
}

/// The next step of a worker's sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// A header batch.
    Headers(HeaderCursor),
    /// A batch of blocks.
    Blocks(BlockCursor),
    /// Nothing, until the heights grow.
    #[default]
    Wait,
}

/// Returns the next step of a worker at `position` from a source with `heights`.
///
/// Only what the worker can accept: headers starting at the one that it needs next, blocks from the one that
/// it needs next up to the last that it has the header of, and never block 0.
pub fn plan(position: Position, heights: &Heights, limits: &Limits) -> Step {
    blocks_ready(position, heights)
        .map(Step::Blocks)
        .or_else(|| headers_ready(position, heights, limits).map(Step::Headers))
        .unwrap_or(Step::Wait)
}

fn blocks_ready(position: Position, heights: &Heights) -> Option<BlockCursor> {
    // A worker may have headers of blocks that this source does not have yet, for example from another source.
    let to = position.para_synced_to()?.min(heights.para?);
    // Block 0 is the genesis state; a worker that needs it is not initialised.
    let ready = position.block.0 > 0 && position.block <= to;
    ready.then_some(BlockCursor { from: position.block, to })
}

fn headers_ready(position: Position, heights: &Heights, limits: &Limits) -> Option<HeaderCursor> {
    let newest = heights.relay?;
    // A worker that needs relay header 0 is not initialised: the first one is the genesis's child.
    if position.relay_header.0 == 0 || newest < position.relay_header {
        return None;
    }
    let waiting = newest.0 - position.relay_header.0 + 1;
    // A parachain header must not wait: it brings blocks, and with them the worker's heartbeats.
    let para_waits = heights.para.is_some_and(|newest| newest >= position.para_header);
    (para_waits || waiting > limits.idle_relay_headers)
        .then_some(HeaderCursor { relay: position.relay_header, para: position.para_header })
}
