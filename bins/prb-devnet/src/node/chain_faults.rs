//! Faults of the chains themselves: every node shows them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// The current faults of both chains, which the next ticks follow. Shared by the devnet and its nodes.
#[derive(Debug, Default)]
pub(crate) struct ChainFaults {
    finality_lag: AtomicU32,
    offboarded: AtomicBool,
    fork_every: AtomicU32,
    fork_next: AtomicBool,
}

impl ChainFaults {
    pub(crate) fn new(finality_lag: u32, fork_every: u32) -> Self {
        let (offboarded, fork_next) = Default::default();
        Self { finality_lag: finality_lag.into(), offboarded, fork_every: fork_every.into(), fork_next }
    }

    pub(crate) fn lag_finality(&self, blocks: u32) {
        self.finality_lag.store(blocks, Relaxed);
    }

    pub(crate) fn finality_lag(&self) -> u32 {
        self.finality_lag.load(Relaxed)
    }

    pub(crate) fn offboard(&self, offboarded: bool) {
        self.offboarded.store(offboarded, Relaxed);
    }

    pub(crate) fn is_offboarded(&self) -> bool {
        self.offboarded.load(Relaxed)
    }

    pub(crate) fn fork_every(&self, blocks: u32) {
        self.fork_every.store(blocks, Relaxed);
    }

    /// Whether a fork is due after this relay block.
    pub(crate) fn is_fork_due(&self, relay: u32) -> bool {
        let every = self.fork_every.load(Relaxed);
        every != 0 && relay.is_multiple_of(every)
    }

    /// Wants one fork, as soon as there are blocks to retract.
    pub(crate) fn fork_next(&self, wanted: bool) {
        self.fork_next.store(wanted, Relaxed);
    }

    pub(crate) fn wants_fork(&self) -> bool {
        self.fork_next.load(Relaxed)
    }

    pub(crate) fn heal(&self) {
        self.lag_finality(0);
        self.offboard(false);
        self.fork_every(0);
        self.fork_next(false);
    }
}
