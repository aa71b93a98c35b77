//! Faults of the chains themselves: every node shows them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::{Config, JustificationOddities};

/// The current faults of both chains, which the next ticks follow. Shared by the devnet and its nodes.
#[derive(Debug, Default)]
pub(crate) struct ChainFaults {
    finality_lag: AtomicU32,
    offboarded: AtomicBool,
    fork_every: AtomicU32,
    fork_next: AtomicBool,
    equivocate: AtomicBool,
    repeat_ancestry: AtomicBool,
    heads_per_relay_block: AtomicU32,
    /// Bytes of a requested burst; 0 for none.
    burst: AtomicU32,
}

impl ChainFaults {
    pub(crate) fn new(config: &Config) -> Self {
        let JustificationOddities { equivocation, repeated_header } = config.justifications;
        Self {
            finality_lag: config.finality_lag.into(),
            fork_every: config.fork_every.into(),
            equivocate: equivocation.into(),
            repeat_ancestry: repeated_header.into(),
            heads_per_relay_block: config.heads_per_relay_block.into(),
            ..Self::default()
        }
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

    /// Requests one fork, as soon as there are blocks to retract.
    pub(crate) fn fork_next(&self, wanted: bool) {
        self.fork_next.store(wanted, Relaxed);
    }

    pub(crate) fn wants_fork(&self) -> bool {
        self.fork_next.load(Relaxed)
    }

    pub(crate) fn equivocate(&self) {
        self.equivocate.store(true, Relaxed);
    }

    pub(crate) fn repeat_ancestry(&self) {
        self.repeat_ancestry.store(true, Relaxed);
    }

    pub(crate) fn justifications(&self) -> JustificationOddities {
        JustificationOddities {
            equivocation: self.equivocate.load(Relaxed),
            repeated_header: self.repeat_ancestry.load(Relaxed),
        }
    }

    pub(crate) fn set_heads_per_relay_block(&self, heads: u32) {
        self.heads_per_relay_block.store(heads, Relaxed);
    }

    pub(crate) fn heads_per_relay_block(&self) -> u32 {
        self.heads_per_relay_block.load(Relaxed).max(1)
    }

    pub(crate) fn burst(&self, bytes: u32) {
        self.burst.store(bytes, Relaxed);
    }

    /// Takes the bytes of a requested burst.
    pub(crate) fn take_burst(&self) -> Option<u32> {
        Some(self.burst.swap(0, Relaxed)).filter(|bytes| *bytes > 0)
    }

    pub(crate) fn heal(&self) {
        self.equivocate.store(false, Relaxed);
        self.repeat_ancestry.store(false, Relaxed);
        self.set_heads_per_relay_block(1);
        self.burst(0);
        self.lag_finality(0);
        self.offboard(false);
        self.fork_every(0);
        self.fork_next(false);
    }
}
