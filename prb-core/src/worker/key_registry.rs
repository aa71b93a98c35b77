//! [`Keys`]: registry of the public keys that workers hold, and of what the chain reader follows for the
//! fleet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    chain::{ChainReader, Followed},
    primitives::{AccountId, PoolId, WorkerKey},
    wire::MessageOrigin,
};

/// How long changes are batched before the reader is notified: a fleet that starts claims thousands of keys
/// within moments, and each notification carries a copy of the whole set.
const BATCH_WINDOW: Duration = Duration::from_millis(20);

/// The fleet's public keys and message senders. Each belongs to the worker that claimed it first, for as long
/// as that worker answers with it, unless another has a stronger [`Title`].
#[derive(Debug)]
pub(crate) struct Keys {
    chain: Arc<dyn ChainReader>,
    registry: Mutex<Registry>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    keys: HashMap<WorkerKey, Holder>,
    senders: HashMap<MessageOrigin, Holder>,
    interests: HashMap<Uuid, Interest>,
    generation: u64,
}

#[derive(Debug)]
struct Holder {
    id: Uuid,
    name: Arc<str>,
    /// Distinguishes a claim from an older one of the same worker that is dropped later.
    generation: u64,
    /// That of the claim.
    title: Title,
}

/// Why a key belongs to a worker's entry, the weakest title first. Of equal ones, the first claim counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Title {
    /// The worker answers with it, as anybody can with the key of another.
    Answers,
    /// It is also recorded for the entry.
    Recorded,
    /// Moreover, the chain assigns it to the entry's pool. Where a key is recorded for two entries, the one in the wrong
    /// pool would relay no heartbeats.
    Assigned,
}

/// What one worker needs followed besides the key that it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Its pool.
    pub(crate) pool: PoolId,
    /// The account that pays its fees.
    pub(crate) payer: Option<AccountId>,
    /// The last known key of the worker's entry.
    pub(crate) last_key: Option<WorkerKey>,
}

impl Keys {
    pub(crate) fn new(chain: Arc<dyn ChainReader>) -> Self {
        Self { chain, registry: Mutex::default(), changed: Notify::new() }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a key for a worker and has it followed. Returns the holder's name if another worker holds it.
    pub(crate) fn claim(
        self: &Arc<Self>,
        key: WorkerKey,
        id: Uuid,
        name: &str,
        title: Title,
    ) -> Result<Claim<WorkerKey>, Arc<str>> {
        self.claim_in(|registry| &mut registry.keys, key, (id, name), title)
    }

    /// Claims the messages of a sender that several workers relay for, such as a gatekeeper.
    pub(crate) fn claim_sender(
        self: &Arc<Self>,
        sender: MessageOrigin,
        id: Uuid,
        name: &str,
    ) -> Result<Claim<MessageOrigin>, Arc<str>> {
        self.claim_in(|registry| &mut registry.senders, sender, (id, name), Title::Answers)
    }

    fn claim_in<K: Clone + Eq + std::hash::Hash>(
        self: &Arc<Self>,
        table: fn(&mut Registry) -> &mut HashMap<K, Holder>,
        subject: K,
        (id, name): (Uuid, &str),
        title: Title,
    ) -> Result<Claim<K>, Arc<str>> {
        let mut registry = self.registry();
        match table(&mut registry).get(&subject) {
            Some(holder) if holder.id != id && holder.title >= title => {
                return Err(Arc::clone(&holder.name));
            }
            _ => {}
        }
        registry.generation += 1;
        let generation = registry.generation;
        table(&mut registry).insert(subject.clone(), Holder { id, name: name.into(), generation, title });
        drop(registry);
        self.changed.notify_one();
        Ok(Claim { keys: Arc::clone(self), table, subject, generation })
    }

    /// Returns the name of the worker that holds a key, unless that is `id`.
    pub(crate) fn other_holder(&self, key: WorkerKey, id: Uuid) -> Option<Arc<str>> {
        let registry = self.registry();
        let holder = registry.keys.get(&key).filter(|holder| holder.id != id)?;
        Some(Arc::clone(&holder.name))
    }

    /// Sets what a worker needs followed; `None` when the worker ends.
    pub(crate) fn set_interest(&self, id: Uuid, interest: Option<Interest>) {
        let mut registry = self.registry();
        let changed = match interest {
            Some(interest) if registry.interests.get(&id) == Some(&interest) => false,
            Some(interest) => {
                registry.interests.insert(id, interest);
                true
            }
            None => registry.interests.remove(&id).is_some(),
        };
        drop(registry);
        if changed {
            self.changed.notify_one();
        }
    }

    /// Reports every change to the reader, until cancelled.
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.changed.notified() => {}
            }
            // Called outside of the lock: the reader is an embedder's code and may block.
            let followed = self.registry().followed();
            self.chain.follow(followed);
            tokio::select! {
                () = cancel.cancelled() => return,
                // After the notification rather than before: a single change is reported at once.
                () = tokio::time::sleep(BATCH_WINDOW) => {}
            }
        }
    }
}

impl Registry {
    fn followed(&self) -> Followed {
        let interests = || self.interests.values();
        Followed {
            workers: self.keys.keys().copied().chain(interests().filter_map(|i| i.last_key)).collect(),
            pools: interests().map(|i| i.pool).collect(),
            accounts: interests().filter_map(|i| i.payer).collect(),
            senders: self.senders.keys().cloned().collect(),
        }
    }
}

/// A worker's exclusive claim on a key or on a sender's messages; released when dropped.
#[derive(Debug)]
pub(crate) struct Claim<K: Clone + Eq + std::hash::Hash> {
    keys: Arc<Keys>,
    table: fn(&mut Registry) -> &mut HashMap<K, Holder>,
    subject: K,
    generation: u64,
}

impl<K: Clone + Eq + std::hash::Hash> Claim<K> {
    pub(crate) const fn subject(&self) -> &K {
        &self.subject
    }

    /// Whether it is still valid: another worker may have the better claim.
    pub(crate) fn is_current(&self) -> bool {
        let mut registry = self.keys.registry();
        (self.table)(&mut registry)
            .get(&self.subject)
            .is_some_and(|holder| holder.generation == self.generation)
    }
}

impl<K: Clone + Eq + std::hash::Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        let mut registry = self.keys.registry();
        let table = (self.table)(&mut registry);
        // A newer claim of the same worker may have replaced this one.
        if table.get(&self.subject).is_some_and(|holder| holder.generation == self.generation) {
            table.remove(&self.subject);
            drop(registry);
            self.keys.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chain::memory::MemoryChain;

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_dropped_late_takes_no_newer_one_with_it() {
        let keys = Arc::new(Keys::new(Arc::new(MemoryChain::default())));
        let (key, one, other) = (WorkerKey([1; 32]), Uuid::from_u128(1), Uuid::from_u128(2));
        let first = keys.claim(key, one, "one", Title::Answers).ok();
        let second = keys.claim(key, one, "one", Title::Answers).ok();
        assert!(first.is_some() && second.is_some(), "a worker may claim its key again");
        drop(first);
        assert_eq!(keys.claim(key, other, "other", Title::Answers).err().as_deref(), Some("one"));
        assert_eq!(keys.other_holder(key, other).as_deref(), Some("one"));
        assert_eq!(keys.other_holder(key, one), None);
        drop(second);
        assert!(keys.claim(key, other, "other", Title::Answers).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_recorded_key_cannot_be_taken_by_who_answers_first() {
        let keys = Arc::new(Keys::new(Arc::new(MemoryChain::default())));
        let (key, owner, thief) = (WorkerKey([1; 32]), Uuid::from_u128(1), Uuid::from_u128(2));
        let stolen = keys.claim(key, thief, "thief", Title::Answers).unwrap();
        let recovered = keys.claim(key, owner, "owner", Title::Recorded).unwrap();
        assert!(recovered.is_current() && !stolen.is_current());
        drop(stolen);
        for title in [Title::Answers, Title::Recorded] {
            assert_eq!(keys.claim(key, thief, "thief", title).err().as_deref(), Some("owner"));
        }
        assert!(recovered.is_current());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_recorded_twice_belongs_to_the_entry_in_its_pool() {
        let keys = Arc::new(Keys::new(Arc::new(MemoryChain::default())));
        let (key, in_pool, elsewhere) = (WorkerKey([1; 32]), Uuid::from_u128(1), Uuid::from_u128(2));
        let wrong = keys.claim(key, elsewhere, "elsewhere", Title::Recorded).unwrap();
        let right = keys.claim(key, in_pool, "in pool", Title::Assigned).unwrap();
        assert!(right.is_current() && !wrong.is_current());
        assert!(keys.claim(key, elsewhere, "elsewhere", Title::Recorded).is_err());
    }
}
