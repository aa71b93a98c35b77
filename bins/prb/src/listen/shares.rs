//! A bounded number of slots (connections, requests, streams) with a share per address and a reserve for this machine.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prb_walkie::node::share_of;

/// The number of slots, and how they are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// All slots.
    pub(crate) total: usize,
    /// For one address of another machine: an IPv4 address, or a share of an IPv6 /48.
    pub(crate) per_address: usize,
    /// Slots that other machines cannot take from this one, from which health checks and the command line connect;
    /// and that this one cannot take from them, as a reverse proxy here may connect on behalf of everybody.
    pub(crate) reserve: usize,
}

impl Limits {
    /// At most `most` slots for this machine and `most` for all others together, a quarter of that for one address
    /// of the others, and a quarter on top as the reserve.
    pub(crate) const fn of(most: usize) -> Self {
        Self { total: most + most / 4, per_address: most / 4, reserve: most / 4 }
    }
}

/// Counts the slots in use by address. Clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    limits: Limits,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    by_this_machine: usize,
    by_others: HashMap<IpAddr, usize>,
    total: usize,
}

/// A slot, released when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    holder: Option<IpAddr>,
    held: Arc<Mutex<Held>>,
}

/// Returns whose share an address counts against, `None` for this machine. Only the two addresses of `localhost` are
/// this machine: others of 127.0.0.0/8 may belong to containers or to forwarded connections.
fn holder(ip: IpAddr) -> Option<IpAddr> {
    (!is_this_machine(ip)).then(|| share_of(ip))
}

/// Whether an address is one of `localhost`.
pub(crate) fn is_this_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // A poisoned lock is still used: no code that can panic runs between changes of the counts.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shares {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, held: Arc::default() }
    }

    /// Takes a slot if the address's share has one left.
    pub(crate) fn take(&self, ip: IpAddr) -> Option<Slot> {
        let Limits { total, per_address, reserve } = self.limits;
        let holder = holder(ip);
        let mut held = lock(&self.held);
        let of_group = match holder {
            None => held.by_this_machine,
            Some(_) => held.total - held.by_this_machine,
        };
        let of_address = holder.and_then(|ip| held.by_others.get(&ip)).copied().unwrap_or(0);
        if held.total >= total || of_group >= total - reserve || of_address >= per_address {
            return None;
        }
        held.total += 1;
        match holder {
            None => held.by_this_machine += 1,
            Some(ip) => *held.by_others.entry(ip).or_default() += 1,
        }
        Some(Slot { holder, held: Arc::clone(&self.held) })
    }

    /// Returns how many slots the share of an address has taken; `None` for this machine.
    pub(super) fn held_by(&self, ip: IpAddr) -> Option<usize> {
        holder(ip).map(|holder| self.held_by_holder(holder))
    }

    /// The same for [`Slot::holder`].
    pub(super) fn held_by_holder(&self, holder: IpAddr) -> usize {
        lock(&self.held).by_others.get(&holder).copied().unwrap_or(0)
    }
}

impl Slot {
    /// Returns whose share it counts against; `None` for this machine.
    pub(super) const fn holder(&self) -> Option<IpAddr> {
        self.holder
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.total -= 1;
        let Some(ip) = self.holder else {
            held.by_this_machine -= 1;
            return;
        };
        match held.by_others.get_mut(&ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.by_others.remove(&ip)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fill(shares: &Shares, ip: IpAddr) -> Vec<Slot> {
        std::iter::from_fn(|| shares.take(ip)).collect()
    }

    #[test]
    fn no_address_takes_all_and_this_machine_has_a_reserve() {
        let shares = Shares::new(Limits { total: 16, per_address: 4, reserve: 4 });
        let all: Vec<_> = (2..20).map(|n| fill(&shares, IpAddr::from([127, 0, 0, n]))).collect();
        let held: Vec<_> = all.iter().map(Vec::len).take(4).collect();
        assert_eq!(held, [4, 4, 4, 0], "others leave the reserve");
        assert_eq!(fill(&shares, ip("127.0.0.1")).len(), 4);
        drop(all);
        let local = fill(&shares, ip("::1"));
        assert_eq!(local.len(), 12, "a proxy here leaves others their slots");
        assert_eq!(fill(&shares, ip("10.0.0.1")).len(), 4);
        drop(local);
        assert_eq!(shares.held.lock().unwrap().total, 0);
        assert!(shares.held.lock().unwrap().by_others.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_the_same_as_ipv4() {
        let shares = Shares::new(Limits { total: 16, per_address: 2, reserve: 2 });
        let held = [shares.take(ip("2001:db8::1")), shares.take(ip("2001:db8::2"))];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(ip("2001:db8::3")).is_none());
        assert!(shares.take(ip("2001:db8:0:1::1")).is_some());
        let held = fill(&shares, ip("10.0.0.1"));
        assert!(shares.take(ip("::ffff:10.0.0.1")).is_none());
        drop(held);
        assert_eq!(fill(&shares, ip("::ffff:127.0.0.1")).len(), 14, "this machine");
    }
}
