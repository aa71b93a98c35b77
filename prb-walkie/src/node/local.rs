//! Which addresses are this machine's own.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long the interfaces' addresses are taken for what they are.
const FRESH: Duration = Duration::from_secs(5);

/// The addresses of this machine's interfaces, looked up now and then.
#[derive(Debug, Default)]
pub(super) struct LocalAddresses(Mutex<Option<(Instant, Vec<IpAddr>)>>);

impl LocalAddresses {
    /// Whether an address is this machine's: a loopback one, or an interface's.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return true;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((at, addresses)) if at.elapsed() < FRESH => addresses.contains(&ip),
            _ => {
                let addresses = interfaces();
                let found = addresses.contains(&ip);
                *known = Some((Instant::now(), addresses));
                found
            }
        }
    }
}

/// The addresses of all interfaces; none where they cannot be read.
pub(super) fn interfaces() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|i| i.ip()).collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the interfaces' addresses");
            Vec::new()
        }
    }
}
