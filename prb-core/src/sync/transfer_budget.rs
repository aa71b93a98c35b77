//! A budget for the chain data in flight to all workers, with a reserved share for workers at the tip.
//!
//! A step passes two gates. First it takes a permit to fetch ([`TransferBudget::fetch_permit`]), then it
//! charges what it fetched ([`TransferBudget::charge`]) and releases the permit. Each lane has its own
//! permits and bytes, and each gate is first come, first served within its lane: any number of workers in
//! catch-up cannot starve a worker at the tip.
//!
//! Memory: at most [`TransferLimits::max_bytes`] are charged; in addition, each permit covers one body of
//! at most one batch that is fetched and not yet charged. A body larger than its lane's whole share is
//! admitted alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use metrics::gauge;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{UNIT_BYTES, units};

#[cfg(test)]
mod tests;

/// The share of a [`TransferBudget`] that a step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The worker is near the tip: small batches that must not wait, or it misses heartbeats.
    Tip,
    /// The worker catches up with history: batches are as large as permitted.
    CatchUp,
}

impl Lane {
    /// Returns the lane of a worker that is `lag` blocks behind: the tip's within `within` blocks. An unknown
    /// lag counts as catch-up.
    pub const fn of(lag: Option<u32>, within: u32) -> Self {
        match lag {
            Some(lag) if lag <= within => Self::Tip,
            _ => Self::CatchUp,
        }
    }

    /// The lane's label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tip => "tip",
            Self::CatchUp => "catch_up",
        }
    }
}

/// Default of [`TransferLimits::catch_up_fetches`].
pub const CATCH_UP_FETCHES: usize = 8;
/// Default of [`TransferLimits::tip_fetches`].
pub const TIP_FETCHES: usize = 64;
/// Divisor of the total bytes that yields the tip's share.
const TIP_SHARE: usize = 8;

/// Limits of a [`TransferBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct TransferLimits {
    /// Bytes in flight to workers, in both lanes together; [`TransferLimits::new`] takes it.
    #[setters(skip)]
    pub max_bytes: usize,
    /// Bytes of these that are reserved for workers at the tip.
    pub tip_bytes: usize,
    /// Bodies that workers in catch-up are fetching, or have fetched and not yet charged.
    pub catch_up_fetches: usize,
    /// The same for workers at the tip.
    pub tip_fetches: usize,
}

impl TransferLimits {
    /// At most `max_bytes` in flight, an eighth of them reserved for the tip, with the default numbers of
    /// fetches.
    pub const fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            tip_bytes: max_bytes / TIP_SHARE,
            catch_up_fetches: CATCH_UP_FETCHES,
            tip_fetches: TIP_FETCHES,
        }
    }
}

/// A budget for chain data in flight to all workers. Clones share it.
#[derive(Clone, Debug)]
pub struct TransferBudget {
    shared: Arc<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    tip: Gate,
    catch_up: Gate,
    /// Bodies that are charged or waiting to be: one entry per body, so at most one per step in flight.
    bodies: Mutex<HashMap<Key, Weak<Body>>>,
}

#[derive(Debug)]
struct Gate {
    fetches: Arc<Semaphore>,
    units: Arc<Semaphore>,
    all_units: u32,
}

/// A lane and the body's address and length. The [`Body`] keeps the bytes alive, so no other can have the
/// same address.
type Key = (Lane, usize, usize);

/// A body that is charged or waiting to be, once for all steps that send it.
struct Body {
    bytes: Bytes,
    lane: Lane,
    /// Its place in the queue, kept while any step waits for it.
    granted: Shared<BoxFuture<'static, Arc<Charge>>>,
    lanes: Arc<Lanes>,
}

/// Units held until dropped.
#[derive(Debug)]
struct Charge {
    permit: Option<OwnedSemaphorePermit>,
    /// The lane whose units are held; the tip may use free units of catch-up.
    lane: Lane,
}

/// The right to fetch one body; released when dropped.
#[derive(Debug)]
#[must_use]
pub struct FetchPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A body in flight: charged to the budget until dropped.
#[must_use]
pub struct InFlight {
    _body: Option<Arc<Body>>,
    _charge: Option<Arc<Charge>>,
}

impl TransferBudget {
    /// Creates a budget with these limits. Each is at least one (fetch, KiB), and the tip gets at most half
    /// of the bytes.
    pub fn new(limits: TransferLimits) -> Self {
        let all = units(limits.max_bytes).max(2);
        let tip = units(limits.tip_bytes).clamp(1, all / 2);
        let lanes = Lanes {
            tip: Gate::new(limits.tip_fetches, tip),
            catch_up: Gate::new(limits.catch_up_fetches, all - tip),
            bodies: Mutex::default(),
        };
        Self { shared: Arc::new(lanes) }
    }

    /// Waits for the right to fetch one body. Keep it until the body is charged.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in the queue.
    pub async fn fetch_permit(&self, lane: Lane) -> FetchPermit {
        let fetches = Arc::clone(&self.shared.gate(lane).fetches);
        // The semaphore is never closed, so acquiring cannot fail.
        FetchPermit { _permit: fetches.acquire_owned().await.ok() }
    }

    /// Waits until `body` fits, then charges its bytes. Steps that send the same body (the same bytes in
    /// memory, not equal ones) share one place in the queue and one charge; only a step in catch-up does not
    /// share the charge of one at the tip, which it might hold for a long time.
    ///
    /// # Cancel safety
    /// Safe; the place in the queue stays with the others that wait for the same body, if any.
    pub async fn charge(&self, lane: Lane, body: &Bytes) -> InFlight {
        if body.is_empty() {
            return InFlight { _body: None, _charge: None };
        }
        let body = self.shared.body(lane, body);
        let charge = body.granted.clone().await;
        InFlight { _body: Some(body), _charge: Some(charge) }
    }

    /// Waits until `bytes` that no other step sends fit, then charges them.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in the queue.
    pub async fn reserve(&self, lane: Lane, bytes: usize) -> InFlight {
        let charge = self.shared.acquire(lane, units(bytes)).await;
        InFlight { _body: None, _charge: Some(Arc::new(charge)) }
    }

    /// Bytes of a lane's share that are currently free.
    pub fn free_bytes(&self, lane: Lane) -> usize {
        self.shared.gate(lane).units.available_permits() * UNIT_BYTES
    }

    /// Total bytes of a lane's share.
    pub fn all_bytes(&self, lane: Lane) -> usize {
        self.shared.gate(lane).all_units as usize * UNIT_BYTES
    }
}

impl Gate {
    fn new(fetches: usize, all_units: u32) -> Self {
        Self {
            fetches: Arc::new(Semaphore::new(fetches.clamp(1, Semaphore::MAX_PERMITS))),
            units: Arc::new(Semaphore::new(all_units as usize)),
            all_units,
        }
    }

    fn try_take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.units).try_acquire_many_owned(units).ok()
    }
}

impl Lanes {
    const fn gate(&self, lane: Lane) -> &Gate {
        match lane {
            Lane::Tip => &self.tip,
            Lane::CatchUp => &self.catch_up,
        }
    }

    async fn acquire(&self, lane: Lane, units: u32) -> Charge {
        // A tip body that exceeds the tip's share may use free units of catch-up, but never waits for them.
        if lane == Lane::Tip
            && let Some(permit) = self.tip.try_take(units)
        {
            return Charge::new(Some(permit), Lane::Tip);
        }
        if lane == Lane::Tip
            && let Some(permit) = self.catch_up.try_take(units)
        {
            return Charge::new(Some(permit), Lane::CatchUp);
        }
        let gate = self.gate(lane);
        let wanted = units.min(gate.all_units);
        // Cannot fail: the semaphore is never closed, see `fetch_permit`.
        Charge::new(Arc::clone(&gate.units).acquire_many_owned(wanted).await.ok(), lane)
    }

    fn bodies(&self) -> MutexGuard<'_, HashMap<Key, Weak<Body>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(self: &Arc<Self>, lane: Lane, bytes: &Bytes) -> Arc<Body> {
        // Declared before the guard so that it is dropped after it: dropping the last `Arc<Body>` takes the
        // same lock.
        let queued: Option<Arc<Body>>;
        let mut bodies = self.bodies();
        let known = |lane| bodies.get(&key(lane, bytes)).and_then(Weak::upgrade);
        if let Some(body) = known(lane) {
            return body;
        }
        if lane == Lane::Tip {
            queued = known(Lane::CatchUp);
            // A body still queued in catch-up is of no use: the tip must not wait for it.
            if let Some(body) = queued.as_ref().filter(|body| body.granted.peek().is_some()) {
                return Arc::clone(body);
            }
        }
        let (lanes, wanted) = (Arc::clone(self), units(bytes.len()));
        let granted = async move { Arc::new(lanes.acquire(lane, wanted).await) }.boxed().shared();
        let body = Arc::new(Body { bytes: bytes.clone(), lane, granted, lanes: Arc::clone(self) });
        bodies.insert(key(lane, bytes), Arc::downgrade(&body));
        body
    }
}

fn key(lane: Lane, bytes: &Bytes) -> Key {
    (lane, bytes.as_ptr().addr(), bytes.len())
}

impl Drop for Body {
    fn drop(&mut self) {
        let key = key(self.lane, &self.bytes);
        let mut bodies = self.lanes.bodies();
        // A new entry for the same bytes may have been inserted after the last strong reference was dropped.
        if bodies.get(&key).is_some_and(|body| body.strong_count() == 0) {
            bodies.remove(&key);
        }
    }
}

impl Charge {
    fn new(permit: Option<OwnedSemaphorePermit>, lane: Lane) -> Self {
        let charge = Self { permit, lane };
        gauge!("prb_sync_in_flight_bytes", "lane" => lane.as_str()).increment(charge.bytes());
        charge
    }

    fn bytes(&self) -> f64 {
        let bytes = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT_BYTES;
        // Exact: far below 2^53.
        bytes as f64
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        gauge!("prb_sync_in_flight_bytes", "lane" => self.lane.as_str()).decrement(self.bytes());
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("bytes", &self.bytes.len())
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("charge", &self._charge).finish_non_exhaustive()
    }
}
