//! TCP, noise, and two multiplexers: ours and the originals'.

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

mod yamux;

use yamux::Yamux;

/// Time for a connection's handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A frame over 1 MiB ends an original's connection; fewer frames are fewer of their delays.
const MPLEX_FRAME_BYTES: usize = 1024 * 1024;
/// Streams of a yamux connection, both ways together; one more ends it. Each holds up to 256 KiB that nobody has
/// read, so the connection holds up to 32 MiB.
pub(super) const MAX_STREAMS: usize = 128;
/// Streams of an mplex connection, both ways together: those of the other side beyond are reset, ours wait. Each holds
/// a frame of up to 1 MiB before its connection is read no further, so the connection holds up to 97 MiB.
const MPLEX_MAX_STREAMS: usize = 96;
/// Frames beyond which a stream's reader holds up its connection.
const MPLEX_WAITING_FRAMES: usize = 1;

pub(super) fn build(key: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let mut mplex = libp2p_mplex::Config::new();
    mplex
        .set_split_send_size(MPLEX_FRAME_BYTES)
        .set_max_num_streams(MPLEX_MAX_STREAMS)
        .set_max_buffer_size(MPLEX_WAITING_FRAMES);
    // V1Lazy saves a round trip for each negotiation; originals take it.
    Ok(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(|stream, _| Prompt(stream))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(SelectUpgrade::new(Yamux::new(MAX_STREAMS), mplex))
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

/// A TCP stream that acknowledges at once.
///
/// Originals leave Nagle's algorithm on and write a message in several pieces: each waits for the
/// acknowledgement of the one before it, which Linux delays by 40 ms. The switch falls back by itself, so it
/// is set again after each read and write: a call to the JavaScript peer of the tests takes 1 ms then, and 45 ms
/// without (medians of 1,000 on a kept connection).
struct Prompt(tcp::tokio::TcpStream);

impl Prompt {
    fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        // Without it the stream is slower, and no less right.
        let _ = SockRef::from(&self.0.0).set_tcp_quickack(true);
    }

    fn after<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.acknowledge();
        }
        result
    }
}

impl AsyncRead for Prompt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.0).poll_read(cx, buf);
        self.after(result)
    }
}

impl AsyncWrite for Prompt {
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
