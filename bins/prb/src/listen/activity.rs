//! [`Activity`]: what a connection waits for, which decides whether another one may take its place.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Its client has to send a request, or the rest of one.
    Receiving,
    /// This daemon has to answer.
    Working,
    /// Its client has to read the answer.
    Answering,
}

/// A connection's current [`Phase`]. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<AtomicU8>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Phase::Receiving as u8)))
    }
}

impl Activity {
    pub(super) fn set(&self, phase: Phase) {
        // Relaxed: it only helps to choose which connection goes, and no other data depends on it.
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.0.load(Ordering::Relaxed) == phase as u8
    }
}
