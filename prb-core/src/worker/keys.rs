//! Which worker has which public key, and what the chain reader follows for the fleet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use crate::{
    chain::{ChainReader, Followed},
    primitives::WorkerKey,
};

/// The fleet's public keys. Each belongs to the worker that claimed it first and still sees it.
#[derive(Debug)]
pub(crate) struct Keys {
    chain: Arc<dyn ChainReader>,
    claims: Mutex<Claims>,
}

#[derive(Debug, Default)]
struct Claims {
    holders: HashMap<WorkerKey, Holder>,
    generation: u64,
}

#[derive(Debug)]
struct Holder {
    id: Uuid,
    name: Arc<str>,
    /// Tells a claim from an older one of the same worker that is dropped later.
    generation: u64,
}

impl Keys {
    pub(crate) fn new(chain: Arc<dyn ChainReader>) -> Self {
        Self { chain, claims: Mutex::default() }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a key for a worker and has it followed; gives the holder's name where another one has it.
    pub(crate) fn claim(
        self: &Arc<Self>,
        key: WorkerKey,
        id: Uuid,
        name: &str,
    ) -> Result<KeyClaim, Arc<str>> {
        let mut claims = self.claims();
        match claims.holders.get(&key) {
            Some(holder) if holder.id != id => return Err(Arc::clone(&holder.name)),
            _ => {}
        }
        claims.generation += 1;
        let generation = claims.generation;
        claims.holders.insert(key, Holder { id, name: name.into(), generation });
        self.follow(&claims);
        Ok(KeyClaim { keys: Arc::clone(self), key, generation })
    }

    /// Under the lock, so that an older set never replaces a newer one.
    fn follow(&self, claims: &Claims) {
        let workers = claims.holders.keys().copied().collect();
        self.chain.follow(Followed { workers, ..Followed::default() });
    }
}

/// A worker's hold on its key; given up when dropped.
#[derive(Debug)]
pub(crate) struct KeyClaim {
    keys: Arc<Keys>,
    key: WorkerKey,
    generation: u64,
}

impl KeyClaim {
    pub(crate) const fn key(&self) -> WorkerKey {
        self.key
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        let mut claims = self.keys.claims();
        if claims.holders.get(&self.key).is_some_and(|holder| holder.generation == self.generation) {
            claims.holders.remove(&self.key);
            self.keys.follow(&claims);
        }
    }
}
