//! A byte budget that addresses share: each may hold a part that shrinks with the number of others, and one that
//! cannot get its part takes it from an address that holds more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long an address waits for its part before it displaces a connection, and how long that connection must have
/// held bytes: a reader that is not slow has taken them by then.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that holds bytes.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) ip: IpAddr,
    /// Cancelled to end the connection, which releases its bytes.
    pub(super) displaced: CancellationToken,
}

/// A budget of bytes. Clones share it.
///
/// An address may hold a third of what is free: a quarter of the budget if it is alone, and one part in `n + 3` if `n`
/// of them hold all they may. A newcomer then has one part in `n + 4`, its fair part, whatever the others do: where
/// earlier ones hold more, from a time when they were fewer, it displaces the slowest connection among them. An address
/// that holds nothing does so for an answer of any size.
#[derive(Clone, Debug)]
pub(super) struct SharedBudget {
    state: Arc<Mutex<State>>,
}

impl SharedBudget {
    pub(super) fn new(max_bytes: usize, max_of_address: usize) -> Self {
        let state = State {
            max_bytes,
            max_of_address: max_of_address.min(max_bytes),
            free: max_bytes,
            last_id: 0,
            addresses: HashMap::new(),
            holding: 0,
            queue: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the address may hold that many bytes more, then holds them. A request for more than an address may
    /// ever hold holds all of that. Requests of an address are granted in order.
    ///
    /// # Cancel safety
    /// Safe; a cancelled call loses its place in the queue.
    pub(super) async fn hold(&self, holder: &Holder, bytes: usize) -> Lease {
        let (lease, granted) = self.enqueue(holder, bytes);
        while timeout(PATIENCE, granted.notified()).await.is_err() {
            self.lock().displace_for(holder.ip);
        }
        lease
    }

    fn enqueue(&self, holder: &Holder, bytes: usize) -> (Lease, Arc<Notify>) {
        let mut state = self.lock();
        state.last_id += 1;
        let (id, ip, granted) = (state.last_id, holder.ip, Arc::new(Notify::new()));
        let bytes = bytes.min(state.max_of_address);
        let displaced = holder.displaced.clone();
        let waiter = Waiter { id, bytes, displaced, granted: Arc::clone(&granted), has_waited: false };
        state.change(ip, |address| address.waiting.push_back(waiter));
        state.grant();
        (Lease { budget: self.clone(), ip, id }, granted)
    }

    /// How many bytes more the address would get without waiting.
    pub(super) fn room(&self, ip: IpAddr) -> usize {
        let state = self.lock();
        let held = state.addresses.get(&ip).map_or(0, |address| address.held);
        let is_next = state.queue.first().is_none_or(|(wanted, _)| *wanted > held);
        if is_next { state.threshold().saturating_sub(held) } else { 0 }
    }

    /// How many bytes the address can hold whatever others do.
    pub(super) fn fair_part(&self, ip: IpAddr) -> usize {
        self.lock().fair_part(ip)
    }
}

/// Bytes held from a [`SharedBudget`], or a place in its queue; released when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    budget: SharedBudget,
    ip: IpAddr,
    id: u64,
}

impl Lease {
    /// Releases everything beyond `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.budget.lock().release(self.ip, self.id, bytes);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.change(self.ip, |address| {
            address.held -= address.leases.remove(&self.id).map_or(0, |lease| lease.bytes);
            address.waiting.retain(|waiter| waiter.id != self.id);
        });
        state.grant();
    }
}

#[derive(Debug)]
struct State {
    max_bytes: usize,
    max_of_address: usize,
    free: usize,
    last_id: u64,
    /// Addresses that hold bytes or wait for some.
    addresses: HashMap<IpAddr, Address>,
    /// How many of them hold bytes.
    holding: usize,
    /// Waiting addresses, ordered by the bytes that each would hold: the one that would hold least is granted next.
    queue: BTreeSet<(usize, IpAddr)>,
}

#[derive(Debug, Default)]
struct Address {
    held: usize,
    leases: BTreeMap<u64, Granted>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Granted {
    bytes: usize,
    since: Instant,
    displaced: CancellationToken,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    bytes: usize,
    displaced: CancellationToken,
    granted: Arc<Notify>,
    /// Longer than [`PATIENCE`]: it may get what exceeds its address's part.
    has_waited: bool,
}

impl Address {
    /// What it would hold with the first request that waits.
    fn wanted(&self) -> Option<usize> {
        Some(self.held + self.waiting.front()?.bytes)
    }
}

impl State {
    /// The most that an address may hold now.
    fn threshold(&self) -> usize {
        (self.free / 3).min(self.max_of_address)
    }

    fn fair_part(&self, ip: IpAddr) -> usize {
        let is_holding = self.addresses.get(&ip).is_some_and(|address| address.held > 0);
        let others = self.holding - usize::from(is_holding);
        (self.max_bytes / (others + 4)).min(self.max_of_address)
    }

    /// Changes an address, and what is counted of it.
    fn change<T>(&mut self, ip: IpAddr, change: impl FnOnce(&mut Address) -> T) -> T {
        let address = self.addresses.entry(ip).or_default();
        let (held, wanted) = (address.held, address.wanted());
        let result = change(address);
        self.free = self.free + held - address.held;
        self.holding = self.holding + usize::from(address.held > 0) - usize::from(held > 0);
        if wanted != address.wanted() {
            wanted.map(|wanted| self.queue.remove(&(wanted, ip)));
            self.queue.extend(address.wanted().map(|wanted| (wanted, ip)));
        }
        if address.leases.is_empty() && address.waiting.is_empty() {
            self.addresses.remove(&ip);
        }
        result
    }

    /// Reduces a lease to `bytes`.
    fn release(&mut self, ip: IpAddr, id: u64, bytes: usize) {
        self.change(ip, |address| {
            if let Some(lease) = address.leases.get_mut(&id) {
                let surplus = lease.bytes.saturating_sub(bytes);
                lease.bytes -= surplus;
                address.held -= surplus;
            }
        });
        self.grant();
    }

    /// Grants what fits. If the first in the queue does not, nor do the others, which would hold more.
    fn grant(&mut self) {
        while let Some((_, ip)) = self.queue.first().copied()
            && self.grant_to(ip)
        {}
    }

    /// Grants an address's first request if it fits. Returns whether it does.
    fn grant_to(&mut self, ip: IpAddr) -> bool {
        let (free, threshold) = (self.free, self.threshold());
        self.change(ip, |address| {
            let Some(waiter) = address.waiting.front() else { return false };
            let is_alone = address.held == 0 && waiter.has_waited && waiter.bytes <= free;
            if address.held + waiter.bytes > threshold && !is_alone {
                return false;
            }
            let Some(Waiter { id, bytes, displaced, granted, .. }) = address.waiting.pop_front() else {
                return false;
            };
            address.held += bytes;
            address.leases.insert(id, Granted { bytes, since: Instant::now(), displaced });
            granted.notify_one();
            true
        })
    }

    /// Ends the connection that has held bytes for longest, of addresses that hold more than the fair part, for an
    /// address that wants no more than that or holds nothing.
    fn displace_for(&mut self, ip: IpAddr) {
        let fair = self.fair_part(ip);
        if let Some(waiter) = self.addresses.get_mut(&ip).and_then(|address| address.waiting.front_mut()) {
            waiter.has_waited = true;
        }
        let is_due = |address: &Address| address.held == 0 || address.wanted().is_some_and(|all| all <= fair);
        if self.grant_to(ip) || !self.addresses.get(&ip).is_some_and(is_due) {
            return;
        }
        let others = self.addresses.iter().filter(|(other, address)| **other != ip && address.held > fair);
        let oldest = others.filter_map(|(_, address)| {
            address.leases.values().find(|lease| lease.bytes > 0 && !lease.displaced.is_cancelled())
        });
        let slow = oldest.filter(|lease| lease.since.elapsed() >= PATIENCE);
        if let Some(lease) = slow.min_by_key(|lease| lease.since) {
            lease.displaced.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

    use super::*;

    const MAX: usize = 1 << 20;

    fn holder(host: u16) -> Holder {
        let [high, low] = host.to_be_bytes();
        Holder { ip: [192, 0, high, low].into(), displaced: CancellationToken::new() }
    }

    /// Requests of an address that are granted at once; what waits is given up.
    fn taken(budget: &SharedBudget, holder: &Holder, bytes: usize) -> Vec<Lease> {
        std::iter::from_fn(|| budget.hold(holder, bytes).now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn parts_shrink_with_the_number_of_addresses_and_come_back() {
        let budget = SharedBudget::new(MAX, MAX);
        let alone = taken(&budget, &holder(1), 1024);
        assert_eq!(alone.len(), MAX / 1024 / 4, "a quarter");
        let second = taken(&budget, &holder(2), 1024);
        assert!(second.len() > alone.len() / 2 && second.len() < alone.len());
        // The first holds more than it may now, and another one waits for it.
        assert_eq!(budget.room(holder(1).ip), 0);
        let third = holder(3);
        let mut more = Box::pin(budget.hold(&third, MAX / 2));
        assert!(more.as_mut().now_or_never().is_none());
        assert!(budget.hold(&holder(1), 1).now_or_never().is_none());
        drop((alone, second));
        assert!(more.now_or_never().is_none(), "half of it is more than a third of what is free");
        assert_eq!(taken(&budget, &holder(4), 1024).len(), MAX / 1024 / 4);
        let state = budget.lock();
        assert_eq!((state.free, state.holding), (MAX, 0));
        assert!(state.addresses.is_empty() && state.queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_are_granted_least_first_and_shrunk_leases_wake_them() {
        let budget = SharedBudget::new(MAX, MAX);
        let mut first = budget.hold(&holder(1), MAX / 4).now_or_never().unwrap();
        let _second = budget.hold(&holder(2), MAX / 4).now_or_never().unwrap();
        let (large, small) = (holder(3), holder(4));
        let mut large = Box::pin(budget.hold(&large, MAX / 4));
        let mut small = Box::pin(budget.hold(&small, MAX / 5));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
        first.shrink(MAX / 8);
        assert!(large.as_mut().now_or_never().is_none());
        let small = small.now_or_never().unwrap();
        drop((first, small));
        assert!(large.now_or_never().is_some());
    }

    /// However many addresses hold all they can, and for ever, a new one has its fair part soon: the older ones are
    /// displaced as far as they hold more than that.
    #[tokio::test(start_paused = true)]
    async fn newcomer_displaces_those_that_hold_more_than_the_fair_part() {
        for others in [1, 4, 16, 100, 1000] {
            let budget = SharedBudget::new(MAX, MAX / 4);
            let mut held = FuturesUnordered::new();
            for host in 0..others {
                // Two connections each, with a request that waits for ever.
                for _ in 0..2 {
                    let holder = holder(host);
                    let leases = taken(&budget, &holder, 256);
                    let budget = budget.clone();
                    held.push(async move {
                        let holds = async {
                            let _lease = budget.hold(&holder, 256).await;
                            std::future::pending::<()>().await;
                        };
                        holder.displaced.run_until_cancelled(holds).await;
                        drop(leases);
                        holder.ip
                    });
                }
            }
            let newcomer = holder(5000);
            let fair = budget.fair_part(newcomer.ip);
            assert!(fair >= MAX / (usize::from(others) + 4));
            let began = Instant::now();
            let gets = budget.hold(&newcomer, fair);
            tokio::pin!(gets);
            let granted = async {
                loop {
                    tokio::select! {
                        biased;
                        lease = &mut gets => break lease,
                        _ = held.next(), if !held.is_empty() => {}
                    }
                }
            };
            let lease = timeout(PATIENCE * 3, granted).await.unwrap();
            assert!(began.elapsed() <= PATIENCE * 2, "{others}: {:?}", began.elapsed());
            assert!(held.len() >= usize::from(others), "{others}: {} of twice that are left", held.len());
            drop(lease);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn quick_readers_and_fair_holders_are_not_displaced() {
        let budget = SharedBudget::new(MAX, MAX);
        let (fair, quick, newcomer) = (holder(1), holder(2), holder(3));
        let at_ease = budget.hold(&fair, MAX / 16).now_or_never().unwrap();
        let some = || taken(&budget, &quick, 1024).into_iter().take(200).collect::<Vec<_>>();
        let mut more = some();
        let gets = budget.hold(&newcomer, MAX);
        tokio::pin!(gets);
        // It takes its answers, and asks for others.
        for _ in 0..20 {
            assert!(timeout(PATIENCE / 4, &mut gets).await.is_err());
            more.clear();
            more = some();
            assert_eq!(more.len(), 200);
        }
        assert!(!fair.displaced.is_cancelled() && !quick.displaced.is_cancelled());
        drop((more, at_ease));
        // An answer larger than its part, once there is room.
        timeout(PATIENCE * 2, gets).await.unwrap();
    }
}
