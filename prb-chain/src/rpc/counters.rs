//! Counts requests to a chain's nodes.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::counter;

/// Numbers of round trips and calls; calls sent together count as one round trip.
#[derive(Debug)]
pub struct Counters {
    chain: &'static str,
    round_trips: AtomicU64,
    by_method: Mutex<BTreeMap<String, u64>>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests sent; requests sent together count once.
    pub round_trips: u64,
    /// Calls sent.
    pub calls: u64,
    /// Calls by method.
    pub by_method: BTreeMap<String, u64>,
}

impl Counters {
    pub(super) fn new(chain: &'static str) -> Self {
        Self { chain, round_trips: AtomicU64::new(0), by_method: Mutex::default() }
    }

    pub(super) fn record(&self, method: &str, calls: u64) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        counter!("prb_rpc_round_trips_total", "chain" => self.chain).increment(1);
        counter!("prb_rpc_calls_total", "chain" => self.chain, "method" => method.to_owned())
            .increment(calls);
        let mut by_method = self.by_method.lock().unwrap_or_else(PoisonError::into_inner);
        match by_method.get_mut(method) {
            Some(count) => *count += calls,
            None => {
                by_method.insert(method.to_owned(), calls);
            }
        }
    }

    /// Returns the current values.
    pub fn snapshot(&self) -> Snapshot {
        let by_method = self.by_method.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot {
            round_trips: self.round_trips.load(Ordering::Relaxed),
            calls: by_method.values().sum(),
            by_method,
        }
    }
}
