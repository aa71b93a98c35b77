//! Disables delayed TCP acknowledgements.

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

/// Makes the system acknowledge at once what has been read. Must be called after each read, because Linux
/// resets the option by itself.
///
/// The original bridge leaves Nagle's algorithm on and writes a frame's length and body separately: its body
/// waits for the acknowledgement of the length, which Linux would delay by 40 ms.
pub(super) fn acknowledge(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    // Best effort: without it the connection is slower, but works.
    let _ = SockRef::from(socket).set_tcp_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}
