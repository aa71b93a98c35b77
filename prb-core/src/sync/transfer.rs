//! A bound on the chain data on its way to all workers together, with a share of its own for workers at the
//! tip.
//!
//! A step passes two gates. First it takes a permit to fetch ([`TransferBudget::fetch_permit`]), then it pays
//! for what it fetched ([`TransferBudget::charge`]) and gives the permit back. Each lane has permits and bytes
//! of its own, and each gate is first come, first served within its lane: any number of workers that catch up
//! takes nothing from a worker at the tip.
//!
//! Memory: at most [`TransferLimits::max_bytes`] are charged, and beside them each permit stands for one body
//! that is fetched and not yet charged, of at most one batch. A body that is larger than its lane's whole share
//! is let through alone.

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

/// Which share of a [`TransferBudget`] a step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The worker is near the tip: small batches that must not wait, or it misses heartbeats.
    Tip,
    /// The worker has history to catch up with: batches as large as they may be.
    CatchUp,
}

impl Lane {
    /// The lane of a worker that is `lag` blocks behind: the tip's within `within` blocks. An unknown lag
    /// counts as catch-up.
    pub const fn of(lag: Option<u32>, within: u32) -> Self {
        match lag {
            Some(lag) if lag <= within => Self::Tip,
            _ => Self::CatchUp,
        }
    }

    /// Its name in metrics.
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
/// One part in so many of all bytes is the tip's.
const TIP_SHARE: usize = 8;

/// Bounds of a [`TransferBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferLimits {
    /// Bytes on their way to workers at once, in both lanes together.
    pub max_bytes: usize,
    /// How many of them only workers at the tip may use.
    pub tip_bytes: usize,
    /// Bodies that workers in catch-up fetch, or have fetched and wait to send, at once.
    pub catch_up_fetches: usize,
    /// The same for workers at the tip.
    pub tip_fetches: usize,
}

impl TransferLimits {
    /// At most `max_bytes` on their way, an eighth of it for the tip, with the default numbers of fetches.
    pub const fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            tip_bytes: max_bytes / TIP_SHARE,
            catch_up_fetches: CATCH_UP_FETCHES,
            tip_fetches: TIP_FETCHES,
        }
    }
}

/// The bound on chain data on its way to all workers. Clones share it.
#[derive(Clone, Debug)]
pub struct TransferBudget {
    shared: Arc<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    tip: Gate,
    catch_up: Gate,
    /// What is charged or waits to be: one entry a body, so at most one a step under way.
    bodies: Mutex<HashMap<Key, Weak<Body>>>,
}

#[derive(Debug)]
struct Gate {
    fetches: Arc<Semaphore>,
    units: Arc<Semaphore>,
    all_units: u32,
}

/// A lane, and where the body lies in memory. The [`Body`] keeps it there, so that no other can take its place.
type Key = (Lane, usize, usize);

/// A body that is paid for, or in line to be, once for all who send it.
struct Body {
    bytes: Bytes,
    lane: Lane,
    /// Its place in line, kept while any of those who wait for it remains.
    granted: Shared<BoxFuture<'static, Arc<Charge>>>,
    lanes: Arc<Lanes>,
}

/// Units taken, until dropped.
#[derive(Debug)]
struct Charge {
    permit: Option<OwnedSemaphorePermit>,
    /// Whose units they are; the tip may use those of catch-up that are free.
    lane: Lane,
}

/// The right to fetch one body; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct FetchPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A body that is paid for while this lives.
#[must_use]
pub struct InFlight {
    _body: Option<Arc<Body>>,
    _charge: Option<Arc<Charge>>,
}

impl TransferBudget {
    /// A budget with these bounds. Each is at least one (fetch, KiB), and the tip gets at most half of the
    /// bytes.
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

    /// Waits for the right to fetch one body. It is to be kept until the body is charged.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in line.
    pub async fn fetch_permit(&self, lane: Lane) -> FetchPermit {
        let fetches = Arc::clone(&self.shared.gate(lane).fetches);
        // The semaphore is never closed, so there is always a permit in the end.
        FetchPermit { _permit: fetches.acquire_owned().await.ok() }
    }

    /// Waits until `body` fits, then holds its bytes. Those who send the same body (the same bytes in memory,
    /// not equal ones) share one place in line and one charge; only a worker that catches up does not share
    /// that of one at the tip, which it might hold for long.
    ///
    /// # Cancel safety
    /// Safe; the place in line stays with the others who wait for the same body, if there are any.
    pub async fn charge(&self, lane: Lane, body: &Bytes) -> InFlight {
        if body.is_empty() {
            return InFlight { _body: None, _charge: None };
        }
        let body = self.shared.body(lane, body);
        let charge = body.granted.clone().await;
        InFlight { _body: Some(body), _charge: Some(charge) }
    }

    /// Waits until `bytes` that nobody else sends fit, then holds them.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in line.
    pub async fn reserve(&self, lane: Lane, bytes: usize) -> InFlight {
        let charge = self.shared.acquire(lane, units(bytes)).await;
        InFlight { _body: None, _charge: Some(Arc::new(charge)) }
    }

    /// Bytes of a lane's share that are free now.
    pub fn free_bytes(&self, lane: Lane) -> usize {
        self.shared.gate(lane).units.available_permits() * UNIT_BYTES
    }

    /// Bytes of a lane's share.
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

    fn take_now(&self, units: u32) -> Option<OwnedSemaphorePermit> {
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
        // What does not fit into the tip's share may go where catch-up leaves room, but never waits there.
        if lane == Lane::Tip
            && let Some(permit) = self.tip.take_now(units)
        {
            return Charge::new(Some(permit), Lane::Tip);
        }
        if lane == Lane::Tip
            && let Some(permit) = self.catch_up.take_now(units)
        {
            return Charge::new(Some(permit), Lane::CatchUp);
        }
        let gate = self.gate(lane);
        let wanted = units.min(gate.all_units);
        // Never closed: see `fetch_permit`.
        Charge::new(Arc::clone(&gate.units).acquire_many_owned(wanted).await.ok(), lane)
    }

    fn bodies(&self) -> MutexGuard<'_, HashMap<Key, Weak<Body>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(self: &Arc<Self>, lane: Lane, bytes: &Bytes) -> Arc<Body> {
        // Declared first, so that it is dropped after the lock, which a body's end takes.
        let in_line: Option<Arc<Body>>;
        let mut bodies = self.bodies();
        let known = |lane| bodies.get(&key(lane, bytes)).and_then(Weak::upgrade);
        if let Some(body) = known(lane) {
            return body;
        }
        if lane == Lane::Tip {
            in_line = known(Lane::CatchUp);
            // One that is still in line with catch-up is of no use: the tip does not wait for it.
            if let Some(body) = in_line.as_ref().filter(|body| body.granted.peek().is_some()) {
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
        // Another may have come for the same bytes since the last who held this one let go of it.
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
        // Far below 2^53.
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
