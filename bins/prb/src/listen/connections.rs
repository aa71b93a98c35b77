//! The connections that a port serves, each with its slot; a newcomer may displace one of an address that has more.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::{
    task::{AbortHandle, Id},
    time::Instant,
};

use super::{Activity, Phase, Shares, Slot};

/// Minimum age of a connection that may be displaced: an honest client has sent its request by then.
const GRACE: Duration = Duration::from_millis(200);
/// Minimum age of a connection whose request is being processed, if it is to be displaced.
const WORK: Duration = Duration::from_secs(5);

/// The connections that are served now.
#[derive(Debug)]
pub(super) struct Connections {
    shares: Shares,
    open: HashMap<Id, Open>,
}

#[derive(Debug)]
struct Open {
    slot: Slot,
    since: Instant,
    activity: Activity,
    task: AbortHandle,
}

impl Open {
    fn can_be_displaced(&self, now: Instant) -> bool {
        let age = now.duration_since(self.since);
        age >= if self.activity.is(Phase::Working) { WORK } else { GRACE }
    }
}

impl Connections {
    pub(super) fn new(shares: Shares) -> Self {
        Self { shares, open: HashMap::new() }
    }

    /// Takes a slot for a new connection. If all slots are taken, closes the oldest connection of the address that has
    /// the most, provided that the newcomer's address has fewer. A client with many addresses can thus fill the port,
    /// but cannot keep others out.
    pub(super) fn admit(&mut self, ip: IpAddr) -> Option<Slot> {
        if let Some(slot) = self.shares.take(ip) {
            return Some(slot);
        }
        let own = self.shares.held_by(ip)?;
        let now = Instant::now();
        let others =
            self.open.iter().filter(|(_, open)| open.can_be_displaced(now)).filter_map(|(id, open)| {
                Some((self.shares.held_by_holder(open.slot.holder()?), *id, open.since))
            });
        let (held, id, _) = others.max_by_key(|(held, _, since)| (*held, now.duration_since(*since)))?;
        if held <= own {
            return None;
        }
        // Its slot is free as soon as it is removed.
        self.open.remove(&id)?.task.abort();
        self.shares.take(ip)
    }

    pub(super) fn opened(&mut self, slot: Slot, activity: Activity, task: AbortHandle) {
        self.open.insert(task.id(), Open { slot, since: Instant::now(), activity, task });
    }

    pub(super) fn ended(&mut self, id: Id) {
        self.open.remove(&id);
    }
}
