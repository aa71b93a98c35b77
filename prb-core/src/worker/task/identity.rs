//! [`Identity`]: the public key that answers at a worker's endpoint, and its claim on it.

use std::sync::Arc;

use tracing::warn;

use crate::{
    inventory,
    primitives::WorkerKey,
    prpc::PhactoryInfo,
    worker::{Keys, keys::Claim},
};

/// Which key the worker has, and whether it is this entry's to use.
#[derive(Default)]
pub(super) struct Identity {
    /// The key that answers.
    key: Option<WorkerKey>,
    /// The key that answered last, also while none does.
    last: Option<WorkerKey>,
    claim: Option<Claim<WorkerKey>>,
    /// The worker of this fleet that has the key.
    pub(super) holder: Option<Arc<str>>,
}

impl Identity {
    /// Takes in what the worker says of itself; gives whether another key answers than last, however long ago
    /// that was.
    pub(super) fn saw(&mut self, info: &PhactoryInfo) -> bool {
        let key = public_key(info);
        if self.key == key {
            return false;
        }
        let changed = key.is_some() && self.last.is_some() && self.last != key;
        *self = Self { key, last: key.or(self.last), ..Self::default() };
        changed
    }

    /// The worker is out of sight: its key is free for another entry, where the same machine may answer now.
    pub(super) fn lose_sight(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// The key, where it is this entry's.
    pub(super) fn claimed(&self) -> Option<WorkerKey> {
        self.claim.as_ref().map(|claim| *claim.subject())
    }

    /// The key that answers, whoever has it.
    pub(super) const fn key(&self) -> Option<WorkerKey> {
        self.key
    }

    /// Claims the key, where that has not been done.
    pub(super) fn claim(&mut self, keys: &Arc<Keys>, worker: &inventory::Worker) {
        let (Some(key), None) = (self.key, &self.claim) else { return };
        match keys.claim(key, worker.id, &worker.name) {
            Ok(claim) => {
                self.claim = Some(claim);
                self.holder = None;
            }
            Err(holder) => {
                if self.holder.is_none() {
                    warn!(worker = %worker.name, %holder, %key, "two workers have the same public key");
                }
                self.holder = Some(holder);
            }
        }
    }
}

/// The key of a worker that is initialised.
pub(super) fn public_key(info: &PhactoryInfo) -> Option<WorkerKey> {
    info.public_key.as_ref().filter(|_| info.initialized)?.parse().ok()
}
