//! One fetch for all who ask for the same at the same time.
//!
//! Whoever waits drives the fetch, so that it goes on when others leave, and ends when all have left.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

type Known<K, V> = Mutex<HashMap<K, Weak<Flight<K, V>>>>;

/// The fetches under way: at most one a caller.
pub(super) struct Flights<K: Hash + Eq, V: Clone>(Arc<Known<K, V>>);

struct Flight<K: Hash + Eq, V: Clone> {
    key: K,
    answer: Shared<BoxFuture<'static, V>>,
    known: Arc<Known<K, V>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }

    /// Waits for the fetch of `key` that is under way, or for a new one; gives whether it is new.
    ///
    /// # Cancel safety
    /// Safe; the fetch goes on for others who wait for it.
    pub(super) async fn join(&self, key: K, fetch: impl Future<Output = V> + Send + 'static) -> (V, bool) {
        let (flight, new) = self.flight(key, fetch);
        (flight.answer.clone().await, new)
    }

    fn flight(&self, key: K, fetch: impl Future<Output = V> + Send + 'static) -> (Arc<Flight<K, V>>, bool) {
        // Declared first, so that it is dropped after the lock, which a flight's end takes.
        let ended;
        let mut known = lock(&self.0);
        if let Some(flight) = known.get(&key).and_then(Weak::upgrade) {
            // Its answer is for those who waited, not for who comes after it.
            if flight.answer.peek().is_none() {
                return (flight, false);
            }
            ended = flight;
            debug_assert!(ended.answer.peek().is_some());
        }
        let answer = fetch.boxed().shared();
        let flight = Arc::new(Flight { key: key.clone(), answer, known: Arc::clone(&self.0) });
        known.insert(key, Arc::downgrade(&flight));
        (flight, true)
    }
}

impl<K: Hash + Eq, V: Clone> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let mut known = lock(&self.known);
        // A new one may have taken its place.
        if known.get(&self.key).is_some_and(|flight| flight.strong_count() == 0) {
            known.remove(&self.key);
        }
    }
}

fn lock<K: Hash + Eq, V: Clone>(known: &Known<K, V>) -> MutexGuard<'_, HashMap<K, Weak<Flight<K, V>>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
