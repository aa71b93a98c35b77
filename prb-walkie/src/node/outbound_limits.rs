//! Limits concurrent calls to each peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use libp2p::PeerId;
use tokio::sync::Semaphore;

/// A semaphore for each peer, created on demand.
#[derive(Debug)]
pub(super) struct PeerLimits {
    permits: usize,
    max_idle: usize,
    by_peer: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl PeerLimits {
    /// Creates semaphores with this many permits. Beyond `max_idle` entries, unused ones are removed.
    pub(super) fn new(permits: usize, max_idle: usize) -> Self {
        Self { permits, max_idle, by_peer: Mutex::default() }
    }

    pub(super) fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if by_peer.len() >= self.max_idle {
            // An entry that only this map references has no holder and no waiter.
            by_peer.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        Arc::clone(by_peer.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.permits))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_semaphores_are_removed() {
        let limits = PeerLimits::new(2, 8);
        let held: Vec<_> = (0..4).map(|_| limits.of(PeerId::random())).collect();
        (0..100).for_each(|_| drop(limits.of(PeerId::random())));
        let by_peer = limits.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(by_peer.len() <= 8 && held.iter().all(|one| Arc::strong_count(one) == 2));
    }
}
