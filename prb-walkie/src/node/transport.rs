//! The transport: TCP, noise, and two multiplexers, ours and the originals'.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::Boxed,
        upgrade::{SelectUpgrade, Version},
    },
    identity::Keypair,
    noise, tcp,
};
use socket2::SockRef;

mod closing;
mod frames;
mod handshakes;
mod mplex;
#[cfg(test)]
mod tests;
mod yamux;

use closing::Closing;
use handshakes::Displaceable;
pub(super) use handshakes::Handshakes;
use mplex::Mplex;
use yamux::Yamux;

/// Timeout of a connection's handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent bytes may be unacknowledged. The peer's system acknowledges, however slow the peer is; so this is the
/// network, or the machine. Pings alone take up to 40 s to notice it: the first one that fails is forgiven.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);
/// Most streams of a yamux connection in both directions; one more ends the connection. Each buffers up to
/// 256 KiB, so a connection buffers up to 32 MiB.
pub(super) const MAX_STREAMS: usize = 128;

pub(super) fn build(
    key: &Keypair,
    handshakes: Handshakes,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    // V1Lazy saves a round trip for each negotiation, and originals accept it.
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(|stream, _| {
            end_when_unacknowledged(&stream);
            QuickAckStream(stream)
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(multiplexers())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer))));
    Ok(Displaceable::new(transport, handshakes).boxed())
}

fn multiplexers() -> SelectUpgrade<Yamux, Mplex> {
    SelectUpgrade::new(Yamux::new(MAX_STREAMS), Mplex::new())
}

/// Ends a connection early whose other end is gone without a word.
fn end_when_unacknowledged(stream: &tcp::tokio::TcpStream) {
    #[cfg(target_os = "linux")]
    // Best effort: without it, only the pings notice.
    let _ = SockRef::from(&stream.0).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// A TCP stream without delayed acknowledgements.
///
/// Originals leave Nagle's algorithm on and write a message in several pieces: each waits for the
/// acknowledgement of the previous one, which Linux would delay by 40 ms. Linux resets the option by itself,
/// so it is set again after each read and write. Measured with the tests' JavaScript peer, a call takes 1 ms
/// instead of 45 ms (medians of 1,000 on one connection).
struct QuickAckStream(tcp::tokio::TcpStream);

impl QuickAckStream {
    fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        // Best effort: without it the stream is slower, but works.
        let _ = SockRef::from(&self.0.0).set_tcp_quickack(true);
    }

    fn after<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.acknowledge();
        }
        result
    }
}

impl AsyncRead for QuickAckStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.0).poll_read(cx, buf);
        self.after(result)
    }
}

impl AsyncWrite for QuickAckStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.0).poll_write(cx, buf);
        self.after(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        self.after(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
