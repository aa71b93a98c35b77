//! How much may go on with each peer at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use libp2p::PeerId;
use tokio::sync::Semaphore;

/// A room for each peer, made when it is asked for.
#[derive(Debug)]
pub(super) struct PeerLimits {
    places: usize,
    max_idle: usize,
    rooms: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl PeerLimits {
    /// PeerLimits of so many places. More than `max_idle` rooms are kept only while they are in use.
    pub(super) fn new(places: usize, max_idle: usize) -> Self {
        Self { places, max_idle, rooms: Mutex::default() }
    }

    pub(super) fn of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= self.max_idle {
            // Nobody is in, or waits for, a room that only this map knows.
            rooms.retain(|_, room| Arc::strong_count(room) > 1);
        }
        Arc::clone(rooms.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.places))))
    }
}
