//! mDNS in the originals' format, which is libp2p's older one.
//!
//! libp2p's own crate implements the newer format, which no peer of this service uses, and remembers whatever
//! anybody on the network announces for as long as the announcement demands. Nothing is remembered here:
//! discovered peers are passed to the driver, whose table is bounded and soon forgets peers that were never
//! met.
//!
//! A query asks for the PTR of `ipfs.local`, with id 0. An answer has all its records in the answer section,
//! with a time to live of 120 s:
//!
//! ```text
//! ipfs.local       PTR   ID.ipfs.local
//! ID.ipfs.local    SRV   10 1 PORT HOSTNAME
//! ID.ipfs.local    TXT   ID
//! HOSTNAME         A     192.0.2.1             one for each address, loopback ones too
//! HOSTNAME         AAAA  2001:db8::1
//! ```
//! It has room for one port, so a node that listens on several sends an answer for each. IPv4 multicast only,
//! as in the originals.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdSocket},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::loopback;

mod packet;

pub(super) use packet::Found;

#[cfg(feature = "fuzzing")]
pub(crate) fn read_for_fuzzing(bytes: &[u8]) {
    packet::read(bytes);
}

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
const TO: SocketAddr = SocketAddr::V4(SocketAddrV4::new(GROUP, PORT));
/// Longest packet that mDNS allows.
const MAX_PACKET_BYTES: usize = 9000;
/// Capacity of the channel for discovered peers.
const FOUND: usize = 64;
/// Least time between two answers, regardless of the number of queries.
const ANSWER_PAUSE: Duration = Duration::from_millis(250);

/// Creates the channel for discovered peers.
pub(super) fn channel() -> (mpsc::Sender<Found>, mpsc::Receiver<Found>) {
    mpsc::channel(FOUND)
}

/// Sends queries and answers until it is cancelled.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) me: PeerId,
    pub(super) hostname: String,
    pub(super) interval: Duration,
    pub(super) listen: watch::Receiver<Vec<Multiaddr>>,
    pub(super) found: mpsc::Sender<Found>,
}

impl Responder {
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut warned = false;
        while !cancel.is_cancelled() {
            let result = match bind() {
                Ok(socket) => cancel.run_until_cancelled(self.serve(socket)).await.unwrap_or(Ok(())),
                Err(error) => Err(error),
            };
            if let Err(error) = result
                && !std::mem::replace(&mut warned, true)
            {
                warn!(error = %prb_core::text::describe(&error), port = PORT, "mDNS is not available; retrying");
            }
            cancel.run_until_cancelled(tokio::time::sleep(self.interval)).await;
        }
    }

    /// Serves until the socket fails.
    async fn serve(&mut self, socket: UdpSocket) -> io::Result<()> {
        let mut joined = HashSet::new();
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let mut query = tokio::time::interval(self.interval);
        // An unsolicited announcement at the start and whenever the node's addresses change.
        let mut answer_at = Some(Instant::now());
        loop {
            tokio::select! {
                _ = query.tick() => {
                    join(&socket, &mut joined);
                    send(&socket, &joined, &packet::query()).await;
                }
                () = due(answer_at) => {
                    answer_at = None;
                    join(&socket, &mut joined);
                    let listen = self.listen.borrow_and_update().clone();
                    for answer in packet::answers(self.me, &self.hostname, &listen) {
                        send(&socket, &joined, &answer).await;
                    }
                    tokio::time::sleep(ANSWER_PAUSE).await;
                }
                Ok(()) = self.listen.changed() => answer_at = Some(Instant::now()),
                received = socket.recv_from(&mut buffer) => {
                    let (n, _from) = received?;
                    if self.take(&buffer[..n]) {
                        answer_at = Some(Instant::now());
                    }
                }
            }
        }
    }

    /// Handles a packet; returns whether it asks for an answer.
    fn take(&self, packet: &[u8]) -> bool {
        match packet::read(packet) {
            Some(packet::Packet::Query) => true,
            Some(packet::Packet::Answer(found)) => {
                if found.peer != self.me {
                    // If the channel is full, a later announcement will do.
                    let _ = self.found.try_send(found);
                }
                false
            }
            None => false,
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Binds the socket; other programs on this machine share the port.
fn bind() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    // Peers on this machine need the packets, too.
    socket.set_multicast_loop_v4(true)?;
    UdpSocket::from_std(StdSocket::from(socket))
}

/// Joins the group on every interface, including new ones.
fn join(socket: &UdpSocket, joined: &mut HashSet<Ipv4Addr>) {
    let now: HashSet<_> = loopback::interfaces()
        .into_iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    for interface in &now {
        // An interface that went away and returned has lost its membership; for one that stayed, joining again fails
        // harmlessly.
        match socket.join_multicast_v4(GROUP, *interface) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
                debug!(%interface, error = %e, "cannot join the mDNS group");
            }
            _ => {}
        }
    }
    *joined = now;
}

/// Sends on every interface; one that is down loses the packet.
async fn send(socket: &UdpSocket, interfaces: &HashSet<Ipv4Addr>, packet: &[u8]) {
    for interface in interfaces {
        let sent = match SockRef::from(socket).set_multicast_if_v4(interface) {
            Ok(()) => socket.send_to(packet, TO).await.map(drop),
            Err(e) => Err(e),
        };
        if let Err(error) = sent {
            debug!(%interface, %error, "cannot send by mDNS");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Anybody on the network can announce any number of peers, and the driver may be busy.
    #[test]
    fn announcements_that_wait_for_the_driver_are_bounded() {
        let (found, mut waiting) = channel();
        let (me, (_, listen)) = (PeerId::random(), watch::channel(Vec::new()));
        let interval = Duration::from_secs(1);
        let responder = Responder { me, hostname: String::new(), interval, listen, found };
        let at: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        for _ in 0..1000 {
            for answer in packet::answers(PeerId::random(), "any", std::slice::from_ref(&at)) {
                assert!(!responder.take(&answer));
            }
        }
        let count = std::iter::from_fn(|| waiting.try_recv().ok()).count();
        assert_eq!(count, 64);
    }
}
