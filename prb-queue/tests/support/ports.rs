//! Free ports for servers and daemons under test, here and in `bins/prb/tests`.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// Returns a free port that this process does not return again, nor another one while this one runs, below those that
/// Linux gives to outgoing connections: such a connection could take the port before the daemon starts, or while it is
/// restarted.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    /// Held as long as this process runs; the daemons use TCP only.
    static RESERVED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    loop {
        let step = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + step as u16;
        let Ok(reserved) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            RESERVED.lock().unwrap().push(reserved);
            return port;
        }
    }
}
