//! [`Identity`]: the public key that answers at a worker's endpoint, and the entry's claim on it.

use std::sync::Arc;

use tracing::warn;

use crate::{
    chain::ChainView,
    inventory,
    primitives::WorkerKey,
    prpc::PhactoryInfo,
    worker::{
        Keys,
        key_registry::{Claim, Title},
    },
};

/// The worker's key, and whether this entry may use it.
#[derive(Default)]
pub(super) struct Identity {
    /// The key that answers.
    key: Option<WorkerKey>,
    /// The key that answered last, kept while none does.
    last: Option<WorkerKey>,
    claim: Option<Claim<WorkerKey>>,
    /// The other worker of this fleet that holds the key, if any.
    pub(super) holder: Option<Arc<str>>,
}

impl Identity {
    /// Applies the worker's info; returns whether the key differs from the last one that answered, however
    /// long ago that was.
    pub(super) fn update(&mut self, info: &PhactoryInfo) -> bool {
        let key = public_key(info);
        if self.key == key {
            return false;
        }
        let changed = key.is_some() && self.last.is_some() && self.last != key;
        *self = Self { key, last: key.or(self.last), ..Self::default() };
        changed
    }

    /// Releases the key of an unreachable worker: the same machine may answer at another entry now.
    pub(super) fn release(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// The key, if this entry holds it.
    pub(super) fn claimed(&self) -> Option<WorkerKey> {
        self.claim.as_ref().map(|claim| *claim.subject())
    }

    /// The key that answers, whether or not this entry holds it.
    pub(super) const fn key(&self) -> Option<WorkerKey> {
        self.key
    }

    /// Claims the key, unless this entry already holds it. `recorded` is the entry's last known key, and `view` tells
    /// whether the chain assigns it to the entry's pool.
    pub(super) fn claim(
        &mut self,
        keys: &Arc<Keys>,
        worker: &inventory::Worker,
        recorded: Option<WorkerKey>,
        view: Option<&ChainView>,
    ) {
        // The worker with the stronger title has taken it over.
        self.claim.take_if(|claim| !claim.is_current());
        let (Some(key), None) = (self.key, &self.claim) else { return };
        let assigned = || view?.workers.get(&key)?.as_ref().ok()?.pool;
        let title = match recorded == Some(key) {
            false => Title::Answers,
            true if assigned() == Some(worker.pid) => Title::Assigned,
            true => Title::Recorded,
        };
        match keys.claim(key, worker.id, &worker.name, title) {
            Ok(claim) => {
                self.claim = Some(claim);
                self.holder = None;
            }
            Err(holder) => {
                // Once, not at each attempt: the claim is repeated with every answer and view.
                if self.holder.is_none() {
                    warn!(worker = %worker.name, %holder, %key, "two workers have the same public key");
                }
                self.holder = Some(holder);
            }
        }
    }
}

/// The public key of an initialised worker.
pub(super) fn public_key(info: &PhactoryInfo) -> Option<WorkerKey> {
    info.public_key.as_ref().filter(|_| info.initialized)?.parse().ok()
}
