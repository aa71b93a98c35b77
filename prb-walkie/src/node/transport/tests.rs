//! How much a stranger can make a node buffer with one connection.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::poll_fn;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerExt, SubstreamBox},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use tokio::{
    io::DuplexStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;

const MIB: usize = 1024 * 1024;
const FRAME: usize = mplex::FRAME_BYTES;
/// Bytes on the way between the two ends, and in the stranger's own buffers.
const ON_THE_WAY: usize = 2 * MIB;
/// Paused time passes only while nothing can be written.
const BLOCKED: Duration = Duration::from_secs(1);

type Pipe = Compat<DuplexStream>;

/// A connection of a stranger to a node.
struct Connection {
    opened: UnboundedReceiver<SubstreamBox>,
    accepted: UnboundedReceiver<SubstreamBox>,
    ends: JoinSet<()>,
}

impl Connection {
    /// Connects a stranger that opens `streams` with a multiplexer of its own, whose name the node knows.
    async fn of<U>(multiplexer: U, streams: usize) -> Self
    where
        U: OutboundConnectionUpgrade<Pipe> + UpgradeInfo<Info = &'static str>,
        U::Output: StreamMuxer<Substream: Send + 'static, Error: Send + Sync> + Send + 'static,
        U::Error: std::fmt::Debug,
    {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let info = multiplexer.protocol_info().into_iter().next().unwrap();
        let own = multiplexers();
        let same = own.protocol_info().find(|own| *own.as_ref().into_inner() == info).unwrap();
        let own = own.upgrade_inbound(near.compat(), same).await.unwrap_or_else(|_| panic!());
        let stranger = multiplexer.upgrade_outbound(far.compat(), info).await.unwrap();
        let (mut ends, (to_opened, opened), (to_accepted, accepted)) =
            (JoinSet::new(), unbounded_channel(), unbounded_channel());
        ends.spawn(drive(StreamMuxerBox::new(own), 0, to_accepted));
        ends.spawn(drive(StreamMuxerBox::new(stranger), streams, to_opened));
        Self { opened, accepted, ends }
    }

    /// Returns the stranger's streams, opened or as many as the node lets it have.
    async fn streams(&mut self) -> Vec<SubstreamBox> {
        let mut streams = Vec::new();
        while let Ok(Some(stream)) = timeout(BLOCKED, self.opened.recv()).await {
            streams.push(stream);
        }
        streams
    }

    /// Returns the number of streams that the node has accepted, and holds.
    async fn accepted(&mut self) -> Vec<SubstreamBox> {
        let mut streams = Vec::new();
        while let Ok(Some(stream)) = timeout(BLOCKED, self.accepted.recv()).await {
            streams.push(stream);
        }
        streams
    }
}

/// Polls of one end without a moment's rest after which it counts as busy waiting.
const MAX_POLLS: usize = 100_000;

/// Opens streams, and passes these and those of the other end on; ends with the connection.
async fn drive(mut muxer: StreamMuxerBox, open: usize, streams: UnboundedSender<SubstreamBox>) {
    let mut opened = 0;
    let (mut at, mut polls) = (Instant::now(), 0);
    poll_fn(|cx| {
        // Paused time stands still while a task is busy.
        polls = if std::mem::replace(&mut at, Instant::now()) == at { polls + 1 } else { 0 };
        if polls > MAX_POLLS {
            return Poll::Ready(());
        }
        loop {
            if opened < open
                && let Poll::Ready(Ok(stream)) = muxer.poll_outbound_unpin(cx)
            {
                opened += 1;
                let _ = streams.send(stream);
                continue;
            }
            match muxer.poll_inbound_unpin(cx) {
                Poll::Ready(Ok(stream)) => {
                    let _ = streams.send(stream);
                    continue;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            match muxer.poll_unpin(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Writes until the node takes no more, or `most` bytes; returns how many it has taken.
async fn write(stream: &mut SubstreamBox, most: usize) -> usize {
    let bytes = vec![0; FRAME];
    let mut written = 0;
    while written < most {
        match timeout(BLOCKED, stream.write(&bytes[..FRAME.min(most - written)])).await {
            Ok(Ok(more @ 1..)) => written += more,
            _ => break,
        }
    }
    let _ = timeout(BLOCKED, stream.flush()).await;
    written
}

/// Writes up to `rounds` frames to each stream in turn.
async fn write_to_all(streams: &mut [SubstreamBox], rounds: usize) {
    for _ in 0..rounds {
        for stream in &mut *streams {
            write(stream, FRAME).await;
        }
    }
}

/// Returns the number of bytes that the node has buffered, and which were on the way.
async fn buffered(streams: &mut [SubstreamBox]) -> usize {
    let mut buffer = vec![0; FRAME];
    let mut bytes = 0;
    for stream in streams {
        while let Ok(Ok(more @ 1..)) = timeout(BLOCKED, stream.read(&mut buffer)).await {
            bytes += more;
        }
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn unread_mplex_streams_are_bounded_in_number_and_bytes() {
    let mut stranger = libp2p_mplex::Config::new();
    stranger.set_max_num_streams(4 * mplex::MAX_STREAMS).set_split_send_size(FRAME);
    let mut connection = Connection::of(stranger, mplex::MAX_STREAMS + 8).await;
    let mut streams = connection.streams().await;
    assert_eq!(streams.len(), mplex::MAX_STREAMS + 8);
    write_to_all(&mut streams, 3).await;
    assert!(connection.ends.try_join_next().is_none(), "an end has waited busily");
    let mut accepted = connection.accepted().await;
    assert_eq!(accepted.len(), mplex::MAX_STREAMS);
    let (bytes, bound) = (buffered(&mut accepted).await, (mplex::MAX_STREAMS + 1) * FRAME);
    assert!(bytes <= bound + ON_THE_WAY, "{} MiB", bytes / MIB);
    assert!(bytes >= bound / 2, "{} MiB: less than a frame for each stream", bytes / MIB);
}

#[tokio::test(start_paused = true)]
async fn unread_yamux_streams_are_bounded_also_after_a_fast_reader() {
    let mut connection = Connection::of(Yamux::new(4 * MAX_STREAMS), MAX_STREAMS).await;
    let mut streams = connection.streams().await;
    assert_eq!(streams.len(), MAX_STREAMS);
    assert!(write(&mut streams[0], 1).await == 1);
    let mut first = connection.accepted().await.remove(0);
    // A node that reads fast would widen the stream's window, were there no bound.
    let (fast, rest) = streams.split_at_mut(1);
    let mut buffer = vec![0; FRAME];
    let read = async { while first.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {} };
    tokio::select! { () = read => panic!("the connection has ended"), bytes = write(&mut fast[0], 64 * MIB) => assert_eq!(bytes, 64 * MIB) }
    write(&mut fast[0], 64 * MIB).await;
    write_to_all(rest, 3).await;
    let mut accepted = connection.accepted().await;
    accepted.push(first);
    let (bytes, bound) = (buffered(&mut accepted).await, MAX_STREAMS * yamux::INITIAL_WINDOW);
    assert!(bytes <= bound + ON_THE_WAY, "{} MiB", bytes / MIB);
    assert!(bytes >= bound / 2, "{} MiB: less than the streams' windows", bytes / MIB);
}

#[tokio::test(start_paused = true)]
async fn yamux_connection_ends_with_too_many_streams() {
    let mut connection = Connection::of(Yamux::new(4 * MAX_STREAMS), MAX_STREAMS + 1).await;
    let mut streams = connection.streams().await;
    write_to_all(&mut streams, 1).await;
    let accepted = connection.accepted().await;
    assert!(accepted.len() <= MAX_STREAMS, "{} streams", accepted.len());
    assert_eq!(write(&mut streams[0], 1).await, 0, "the connection goes on");
}

/// A stranger's end of a yamux connection, for frames of its own making.
struct Frames {
    socket: Pipe,
    end: JoinSet<()>,
    accepted: UnboundedReceiver<SubstreamBox>,
}

const SYN: u16 = 1;

impl Frames {
    async fn start() -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let own = Yamux::new(MAX_STREAMS).upgrade_inbound(near.compat(), "/yamux/1.0.0").await.unwrap();
        let (mut end, (opened, accepted)) = (JoinSet::new(), unbounded_channel());
        end.spawn(drive(StreamMuxerBox::new(own), 0, opened));
        Self { socket: far.compat(), end, accepted }
    }

    /// Sends frames of a tag, with flags, of streams, and with bodies of that length; returns how many were taken.
    async fn send(&mut self, streams: impl IntoIterator<Item = u32>, tag: u8, flags: u16, len: u32) -> usize {
        let mut taken = 0;
        for stream in streams {
            let mut frame = vec![0, tag];
            frame
                .extend(flags.to_be_bytes().into_iter().chain(stream.to_be_bytes()).chain(len.to_be_bytes()));
            frame.resize(frame.len() + if tag == 0 { len as usize } else { 0 }, 0);
            let sent = self.socket.write_all(&frame);
            if !matches!(timeout(BLOCKED, sent).await, Ok(Ok(()))) {
                break;
            }
            taken += 1;
        }
        taken
    }
}

impl Frames {
    /// Whether the node ends the connection.
    async fn has_ended(&mut self) -> bool {
        matches!(timeout(BLOCKED, self.end.join_next()).await, Ok(Some(_)))
    }
}

/// The odd numbers, which are a client's streams.
fn ids(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(|n| 2 * n + 1)
}

#[tokio::test(start_paused = true)]
async fn unread_frames_of_a_byte_are_bounded() {
    let mut stranger = Frames::start().await;
    let streams = ids(100);
    assert_eq!(stranger.send(streams.clone(), 0, SYN, 0).await, 100);
    let tiny = stranger.send(streams.clone().cycle().take(100_000), 0, 0, 1).await;
    assert!((16_000..25_000).contains(&tiny), "{tiny} of 100,000");
    assert!(stranger.has_ended().await, "the connection goes on");
    // Peers at work send some, too.
    let mut peer = Frames::start().await;
    assert_eq!(peer.send(streams.clone(), 0, SYN, 0).await, 100);
    for _ in 0..10 {
        assert_eq!(peer.send(streams.clone().cycle().take(8_000), 0, 0, 1).await, 8_000);
        assert_eq!(peer.send(streams.clone().cycle().take(1_000), 0, 0, 256).await, 1_000);
    }
    assert!(peer.end.try_join_next().is_none());
    assert_eq!(peer.accepted.len(), 100);
}

/// A peer that takes no notice of `GoAway`.
#[tokio::test(start_paused = true)]
async fn connection_ends_with_the_first_stream_too_many() {
    let mut stranger = Frames::start().await;
    let opened = stranger.send(ids(100_000), 0, SYN, 0).await;
    assert!(opened < 10_000, "{opened}");
    assert!(stranger.has_ended().await, "the connection goes on");
    assert!(stranger.accepted.len() <= MAX_STREAMS);
}

/// Streams that are reset at once, pings, and window updates: nothing is kept of them, and the connection works.
#[tokio::test(start_paused = true)]
async fn resets_pings_and_window_updates_leave_nothing() {
    const RST: u16 = 8;
    let mut stranger = Frames::start().await;
    for stream in ids(20_000) {
        assert_eq!(stranger.send([stream], 0, SYN, 0).await + stranger.send([stream], 0, RST, 0).await, 2);
        // Dropped as soon as it has been accepted, as by a failed negotiation.
        while stranger.accepted.try_recv().is_ok() {}
    }
    let _ = timeout(BLOCKED, std::future::pending::<()>()).await;
    while stranger.accepted.try_recv().is_ok() {}
    assert!(stranger.end.try_join_next().is_none(), "within the bound");
    assert_eq!(stranger.send(std::iter::repeat_n(0, 1000), 2, SYN, 7).await, 1000);
    assert_eq!(stranger.send(std::iter::repeat_n(1, 1000), 1, 0, 7).await, 1000);
    assert_eq!(stranger.send([100_001], 0, SYN, 1).await, 1);
    let _ = timeout(BLOCKED, std::future::pending::<()>()).await;
    assert_eq!(stranger.accepted.len(), 1);
}

/// A stranger that reads nothing would otherwise keep the place of a connection that is to be closed.
#[tokio::test(start_paused = true)]
async fn closing_takes_a_second_at_most() {
    let (near, _far) = tokio::io::duplex(1);
    let own = Yamux::new(MAX_STREAMS).upgrade_inbound(near.compat(), "/yamux/1.0.0").await.unwrap();
    let began = Instant::now();
    let closed = timeout(10 * BLOCKED, Closing::new(own).close()).await;
    closed.expect("an end").unwrap();
    assert_eq!(began.elapsed().as_secs(), 1, "the other end has some time");
    // One that reads has it all, at once.
    let (near, mut far) = tokio::io::duplex(1);
    let own = Yamux::new(MAX_STREAMS).upgrade_inbound(near.compat(), "/yamux/1.0.0").await.unwrap();
    let (began, mut read) = (Instant::now(), Vec::new());
    let reads = tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read);
    let both = futures::future::join(Closing::new(own).close(), reads);
    let (closed, _) = timeout(10 * BLOCKED, both).await.expect("an end");
    closed.unwrap();
    assert_eq!((began.elapsed(), read.len()), (Duration::ZERO, 12), "a frame that says goodbye");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_end_when_nothing_is_acknowledged() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = tcp::tokio::TcpStream(stream);
    end_when_unacknowledged(&stream);
    assert_eq!(SockRef::from(&stream.0).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_TIMEOUT));
}
