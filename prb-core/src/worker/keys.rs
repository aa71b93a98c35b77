//! Which worker has which public key, and which keys the chain reader follows.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    chain::ChainReader,
    primitives::WorkerKey,
    sync::{Backoff, BackoffConfig},
};

/// The fleet's public keys. Each belongs to the worker that claimed it first.
#[derive(Debug)]
pub(crate) struct Keys {
    chain: Arc<dyn ChainReader>,
    books: Mutex<Books>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Books {
    holders: HashMap<WorkerKey, (Uuid, Arc<str>)>,
    /// Claimed, and not followed yet.
    untracked: HashSet<WorkerKey>,
    /// Why the last attempt to follow more keys failed.
    problem: Option<Arc<str>>,
}

impl Keys {
    pub(crate) fn new(chain: Arc<dyn ChainReader>) -> Self {
        Self { chain, books: Mutex::default(), wanted: Notify::new() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a key for a worker and has it followed; gives the holder's name where another one has it.
    pub(crate) fn claim(
        self: &Arc<Self>,
        key: WorkerKey,
        id: Uuid,
        name: &str,
    ) -> Result<KeyClaim, Arc<str>> {
        let mut books = self.books();
        match books.holders.get(&key) {
            Some((holder, name)) if *holder != id => return Err(Arc::clone(name)),
            _ => {}
        }
        books.holders.insert(key, (id, name.into()));
        books.untracked.insert(key);
        drop(books);
        self.wanted.notify_one();
        Ok(KeyClaim { keys: Arc::clone(self), key })
    }

    /// What keeps keys from being followed, if anything does.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        self.books().problem.clone()
    }

    /// Has claimed keys followed, many at once, until cancelled.
    pub(crate) async fn track(&self, backoff: BackoffConfig, cancel: CancellationToken) {
        let mut backoff = Backoff::new(backoff);
        loop {
            let batch: Vec<WorkerKey> = self.books().untracked.iter().copied().collect();
            if batch.is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = self.wanted.notified() => continue,
                }
            }
            let tracked = tokio::select! {
                () = cancel.cancelled() => return,
                tracked = self.chain.track(&batch) => tracked,
            };
            match tracked {
                Ok(()) => {
                    backoff.reset();
                    self.tracked(&batch);
                }
                Err(error) => {
                    let wait = backoff.fail();
                    if backoff.attempts() == 1 {
                        warn!(%error, workers = batch.len(), "workers cannot be followed on chain");
                    }
                    self.books().problem = Some(error.to_string().into());
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn tracked(&self, batch: &[WorkerKey]) {
        let mut books = self.books();
        books.problem = None;
        for key in batch {
            books.untracked.remove(key);
        }
        // Given up while they were being tracked.
        let gone: Vec<_> = batch.iter().filter(|k| !books.holders.contains_key(*k)).copied().collect();
        if !gone.is_empty() {
            self.chain.untrack(&gone);
        }
    }
}

/// A worker's hold on its key; given up when dropped.
#[derive(Debug)]
pub(crate) struct KeyClaim {
    keys: Arc<Keys>,
    key: WorkerKey,
}

impl KeyClaim {
    pub(crate) const fn key(&self) -> WorkerKey {
        self.key
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        let mut books = self.keys.books();
        books.holders.remove(&self.key);
        books.untracked.remove(&self.key);
        // Under the lock: another worker that claims the key next must be followed after this.
        self.keys.chain.untrack(&[self.key]);
    }
}
