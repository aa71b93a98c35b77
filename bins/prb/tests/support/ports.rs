//! Free ports for daemons and servers under test.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// Returns a free port that this process does not return again, below those that Linux gives to outgoing
/// connections: such a connection could take the port before the daemon starts, or while it is restarted.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + step as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}
