//! Keeps the port of a server that is away from other programs.

use std::{io, net::SocketAddr};

use tokio::net::TcpSocket;

/// A port that is bound and not listened on: connections to it are refused, and the system gives it to no other program.
///
/// Ports that the system chose are from the range of which outgoing connections get theirs, so that a server that is away
/// for seconds would not come back on a busy machine.
#[derive(Debug)]
pub(crate) struct ReservedPort(#[expect(dead_code, reason = "dropping it frees the port")] TcpSocket);

impl ReservedPort {
    /// Reserves the port of a server whose listener was closed. `None` if another program has been quicker.
    pub(crate) fn new(address: SocketAddr) -> Option<Self> {
        let reserve = || -> io::Result<TcpSocket> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of the closed listener may still be ending.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        reserve().map(Self).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn reserved_port_refuses_connections_and_is_free_for_its_server_alone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let open = TcpStream::connect(address).unwrap();
        drop(listener);
        let reserved = ReservedPort::new(address).unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let other = TcpSocket::new_v4().unwrap();
        assert_eq!(other.bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((reserved, open));
        TcpListener::bind(address).unwrap();
    }
}
