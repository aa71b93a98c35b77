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
    places: usize,
    max_idle: usize,
    rooms: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl PeerLimits {
    /// Creates semaphores with this many permits. Beyond `max_idle` entries, unused ones are removed.
    pub(super) fn new(places: usize, max_idle: usize) -> Self {
        Self { places, max_idle, rooms: Mutex::default() }
    }

    pub(super) fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= self.max_idle {
            // An entry that only this map references has no holder and no waiter.
            rooms.retain(|_, room| Arc::strong_count(room) > 1);
        }
        Arc::clone(rooms.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.places))))
    }
}
