//! The slots of connections: a share for each address; a newcomer may displace a connection of an address that has
//! more.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Shared, metrics, shares::Holder, turns::Turns};

/// How long a connection is never displaced: an honest one has sent a request by then.
const GRACE: Duration = Duration::from_secs(1);

/// The connections that are served now.
#[derive(Debug)]
pub(super) struct Slots {
    began: Instant,
    made: u64,
    open: HashMap<u64, Open>,
    /// Connected addresses.
    addresses: HashMap<IpAddr, Connected>,
}

#[derive(Debug, Default)]
struct Connected {
    connections: usize,
    turns: Arc<Turns>,
}

#[derive(Debug)]
struct Open {
    ip: IpAddr,
    since: Instant,
    /// When it sent its last request, in milliseconds since the server began.
    asked: Arc<AtomicU64>,
    displaced: CancellationToken,
}

impl Default for Slots {
    fn default() -> Self {
        Self { began: Instant::now(), made: 0, open: HashMap::new(), addresses: HashMap::new() }
    }
}

impl Slots {
    fn held_by(&self, ip: IpAddr) -> usize {
        self.addresses.get(&ip).map_or(0, |connected| connected.connections)
    }

    fn remove(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        match self.addresses.get_mut(&open.ip) {
            Some(connected) if connected.connections > 1 => connected.connections -= 1,
            _ => drop(self.addresses.remove(&open.ip)),
        }
        Some(open)
    }

    /// Closes the connection that has not asked for longest, among those of the address with the most connections, if
    /// that has more than `own`.
    fn displace(&mut self, own: usize) -> bool {
        let old = self.open.iter().filter(|(_, open)| open.since.elapsed() >= GRACE);
        let ranked = old.map(|(id, open)| {
            let asked = open.asked.load(Ordering::Relaxed);
            (self.held_by(open.ip), std::cmp::Reverse(asked), *id)
        });
        let Some((_, _, id)) = ranked.max().filter(|(held, ..)| *held > own) else { return false };
        if let Some(open) = self.remove(id) {
            open.displaced.cancel();
        }
        true
    }
}

/// A connection's slot, free again when dropped.
pub(super) struct Slot {
    shared: Arc<Shared>,
    id: u64,
    began: Instant,
    asked: Arc<AtomicU64>,
    /// The turns of its address.
    pub(super) turns: Arc<Turns>,
    /// Its address, and what is cancelled when another address takes the slot or its bytes.
    pub(super) holder: Holder,
}

fn lock(shared: &Shared) -> MutexGuard<'_, Slots> {
    shared.slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only called under the lock, so that the count stays consistent with the slots.
fn count(shared: &Shared, slots: &Slots) {
    shared.stats.connections.store(slots.open.len(), Ordering::Relaxed);
    metrics::connections(slots.open.len());
}

impl Slot {
    pub(super) fn take(shared: &Arc<Shared>, ip: IpAddr) -> Option<Self> {
        let mut slots = lock(shared);
        let own = slots.held_by(ip);
        if own >= shared.config.max_connections_per_ip
            || (slots.open.len() >= shared.config.max_connections && !slots.displace(own))
        {
            return None;
        }
        slots.made += 1;
        let (id, began) = (slots.made, slots.began);
        let asked = Arc::new(AtomicU64::new(millis_since(began)));
        let open = Open {
            ip,
            since: Instant::now(),
            asked: Arc::clone(&asked),
            displaced: CancellationToken::new(),
        };
        let displaced = open.displaced.clone();
        slots.open.insert(id, open);
        let connected = slots.addresses.entry(ip).or_default();
        connected.connections += 1;
        let turns = Arc::clone(&connected.turns);
        count(shared, &slots);
        let holder = Holder { ip, displaced };
        Some(Self { shared: Arc::clone(shared), id, began, asked, turns, holder })
    }

    /// Records that a request has come.
    pub(super) fn has_asked(&self) {
        self.asked.store(millis_since(self.began), Ordering::Relaxed);
    }
}

fn millis_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = lock(&self.shared);
        // A displaced connection's slot is another's already.
        if slots.remove(self.id).is_some() {
            count(&self.shared, &slots);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv6Addr;

    use super::*;
    use crate::{
        blob::{
            Lookup,
            server::{Config, Server},
        },
        provenance::share_of,
    };

    #[derive(Debug)]
    struct Nothing;

    #[async_trait::async_trait]
    impl Lookup for Nothing {
        async fn get(&self, _: &str) -> Result<Option<bytes::Bytes>, prb_core::blob::Error> {
            Ok(None)
        }
    }

    /// The server knows no peers, only addresses: those with few connections keep them, and newcomers have theirs.
    #[tokio::test(start_paused = true)]
    async fn a_thousand_sites_displace_nobody_who_has_less() {
        let config = Config::default().with_max_connections(1200);
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(Nothing), config);
        let shared = server.await.unwrap().shared;
        let of_site = |site: u16| share_of(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, 1).into());
        let flood = || (0..1500).filter_map(|n| Slot::take(&shared, of_site(n % 1000))).collect::<Vec<_>>();
        let at = |host: u8| Slot::take(&shared, [192, 0, 2, host].into());
        let mut honest = vec![at(1).unwrap()];
        let crowd = flood();
        assert_eq!(shared.stats.connections(), 1200);
        tokio::time::advance(GRACE).await;
        honest.extend((2..50).map(|host| at(host).unwrap()));
        let more = flood();
        assert!(honest.iter().all(|slot| !slot.holder.displaced.is_cancelled()));
        drop((crowd, more));
        assert_eq!(shared.stats.connections(), honest.len());
    }
}
