//! Acknowledgements without delay.

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

/// Tells the system to acknowledge at once what has been read. To be called after each read: the switch falls
/// back by itself.
///
/// Originals leave Nagle's algorithm on and write a frame's length and body one after the other: the body waits
/// for the acknowledgement of the length, which Linux delays by 40 ms.
pub(super) fn acknowledge(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    // Without it the connection is slower, and no less right.
    let _ = SockRef::from(socket).set_tcp_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}
