//! mplex with a small buffer for each stream, and without busy waiting.
//!
//! `libp2p_mplex` stops reading a connection while the buffer of a stream is full. If nobody reads that stream
//! at the moment, it wakes its own task at once, again and again: a peer that leaves our answers unread and
//! goes on sending would cost a core. Tasks that only wake themselves pause here.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncWrite, TryFutureExt,
    future::{MapOk, Ready},
};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use libp2p_mplex::{Config, Multiplex, Substream};
use tokio::time::{Sleep, sleep};

/// An original closes the connection on a frame over 1 MiB; large frames suffer fewer of its delays.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// Most streams of a connection in both directions: further ones of the other side are reset, ours wait. Each
/// buffers a frame of up to 1 MiB before reading stops, so a connection buffers up to 97 MiB.
pub(super) const MAX_STREAMS: usize = 96;
/// Buffered frames of a stream at which reading from its connection stops.
const WAITING_FRAMES: usize = 1;
/// Polls in a row that wake their own task and achieve nothing, before a pause. A connection at work has a few
/// of them, because it lets the readers of its streams run after each frame.
const MAX_IDLE_POLLS: u32 = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// Upgrades a connection to `/mplex/6.7.0`.
#[derive(Clone, Debug)]
pub(super) struct Mplex(Config);

impl Mplex {
    pub(super) fn new() -> Self {
        let mut config = Config::new();
        config
            .set_split_send_size(FRAME_BYTES)
            .set_max_num_streams(MAX_STREAMS)
            .set_max_buffer_size(WAITING_FRAMES);
        Self(config)
    }
}

impl UpgradeInfo for Mplex {
    type Info = &'static str;
    type InfoIter = <Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

type Upgraded<C> = MapOk<Ready<io::Result<Multiplex<C>>>, fn(Multiplex<C>) -> Muxer<C>>;

impl<C> InboundConnectionUpgrade<C> for Mplex
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Upgraded<C>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(socket, info).map_ok(Muxer::new)
    }
}

impl<C> OutboundConnectionUpgrade<C> for Mplex
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Upgraded<C>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(socket, info).map_ok(Muxer::new)
    }
}

/// A connection's streams.
pub(super) struct Muxer<C> {
    connection: Multiplex<C>,
    inbound: Turns,
    outbound: Turns,
}

impl<C> Muxer<C> {
    fn new(connection: Multiplex<C>) -> Self {
        Self { connection, inbound: Turns::default(), outbound: Turns::default() }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream<C>;
    type Error = io::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream<C>>> {
        let Self { connection, inbound, .. } = self.get_mut();
        inbound.poll(cx, |cx| Pin::new(&mut *connection).poll_inbound(cx)).map_ok(Stream::new)
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream<C>>> {
        let Self { connection, outbound, .. } = self.get_mut();
        outbound.poll(cx, |cx| Pin::new(&mut *connection).poll_outbound(cx)).map_ok(Stream::new)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.connection).poll(cx)
    }
}

/// A stream of a connection.
pub(super) struct Stream<C: AsyncRead + AsyncWrite + Unpin> {
    stream: Substream<C>,
    reading: Turns,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Stream<C> {
    fn new(stream: Substream<C>) -> Self {
        Self { stream, reading: Turns::default() }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Drop for Stream<C> {
    /// Takes what is buffered: `libp2p_mplex` would wait for ever for the reader of a stream that was dropped with a full
    /// buffer, as after a request that is too large, and read nothing more from the connection.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut taken, mut buffer) = (0, [0; 4096]);
        // The frame that is being read, and those that wait.
        while taken < (WAITING_FRAMES + 1) * FRAME_BYTES {
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buffer) {
                Poll::Ready(Ok(count)) if count > 0 => taken += count,
                _ => break,
            }
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, reading } = self.get_mut();
        reading.poll(cx, |cx| Pin::new(&mut *stream).poll_read(cx, buffer))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Polls something that may wake its own task, and pauses if it does nothing else.
#[derive(Default)]
struct Turns {
    waker: Option<Arc<Observed>>,
    idle: u32,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Turns {
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let observed = match self.waker.take() {
            Some(observed) if observed.task.will_wake(cx.waker()) => observed,
            _ => Arc::new(Observed::of(cx.waker().clone())),
        };
        observed.woken.store(false, Ordering::SeqCst);
        observed.polling.store(true, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&observed));
        let result = poll(&mut Context::from_waker(&waker));
        observed.polling.store(false, Ordering::SeqCst);
        let wakes_itself = observed.woken.swap(false, Ordering::SeqCst) && result.is_pending();
        self.waker = Some(observed);
        if !wakes_itself {
            (self.idle, self.pause) = (0, None);
            return result;
        }
        self.idle += 1;
        if self.idle <= MAX_IDLE_POLLS {
            cx.waker().wake_by_ref();
        } else if self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE))).as_mut().poll(cx).is_ready() {
            (self.idle, self.pause) = (0, None);
            cx.waker().wake_by_ref();
        }
        result
    }
}

/// A task's waker that keeps back what happens within a poll.
struct Observed {
    task: Waker,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl Observed {
    const fn of(task: Waker) -> Self {
        Self { task, polling: AtomicBool::new(false), woken: AtomicBool::new(false) }
    }
}

impl Wake for Observed {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        // Another thread may do so after the end of a poll.
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake_by_ref();
        }
    }
}
