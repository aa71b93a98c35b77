//! State shared by the workers of one process, so that fifty of them cost little more than one.

use std::sync::Arc;

use super::{justification::Verdicts, trie::Tries};

/// Trie nodes and verdicts on justifications, shared by the workers of one chain.
///
/// Sharing saves work, not checks: entries are keyed by hashes of all bytes that they were computed from.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tries: Arc<Tries>,
    verdicts: Verdicts,
}

impl Shared {
    /// Size of the stored trie nodes, in bytes.
    pub fn trie_bytes(&self) -> usize {
        self.0.tries.size_bytes()
    }

    pub(crate) fn tries(&self) -> &Arc<Tries> {
        &self.0.tries
    }

    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.0.verdicts
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Recent states hold a reference to their store, which would keep each other alive.
        self.tries.forget_all();
    }
}
