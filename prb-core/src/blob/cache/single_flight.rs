//! Request coalescing: concurrent callers with the same key share one fetch.
//!
//! Every waiting caller drives the fetch, so that it continues when others are cancelled, and is dropped with
//! the last.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

type InFlight<K, V> = Mutex<HashMap<K, Weak<Fetch<K, V>>>>;

/// The fetches in flight: at most one per caller.
pub(super) struct SingleFlight<K: Hash + Eq, V: Clone>(Arc<InFlight<K, V>>);

struct Fetch<K: Hash + Eq, V: Clone> {
    key: K,
    answer: Shared<BoxFuture<'static, V>>,
    in_flight: Arc<InFlight<K, V>>,
}

impl<K: Hash + Eq + Clone, V: Clone> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }

    /// Waits for the fetch of `key` in flight, or for a new one; returns whether it is new.
    ///
    /// # Cancel safety
    /// Safe; the fetch continues for the other callers that wait for it.
    pub(super) async fn join(&self, key: K, fetch: impl Future<Output = V> + Send + 'static) -> (V, bool) {
        let (flight, new) = self.flight(key, fetch);
        (flight.answer.clone().await, new)
    }

    fn flight(&self, key: K, fetch: impl Future<Output = V> + Send + 'static) -> (Arc<Fetch<K, V>>, bool) {
        // Declared before the guard so that it is dropped after it: dropping the last `Arc` takes the same
        // lock.
        let ended;
        let mut in_flight = lock(&self.0);
        if let Some(flight) = in_flight.get(&key).and_then(Weak::upgrade) {
            // A completed answer belongs to the callers that waited for it, not to later ones.
            if flight.answer.peek().is_none() {
                return (flight, false);
            }
            ended = flight;
            debug_assert!(ended.answer.peek().is_some());
        }
        let answer = fetch.boxed().shared();
        let flight = Arc::new(Fetch { key: key.clone(), answer, in_flight: Arc::clone(&self.0) });
        in_flight.insert(key, Arc::downgrade(&flight));
        (flight, true)
    }
}

impl<K: Hash + Eq, V: Clone> Drop for Fetch<K, V> {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.in_flight);
        // A new fetch may have taken its place.
        if in_flight.get(&self.key).is_some_and(|flight| flight.strong_count() == 0) {
            in_flight.remove(&self.key);
        }
    }
}

fn lock<K: Hash + Eq, V: Clone>(in_flight: &InFlight<K, V>) -> MutexGuard<'_, HashMap<K, Weak<Fetch<K, V>>>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}
