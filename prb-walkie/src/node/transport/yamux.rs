//! yamux with a small window for a whole connection, which libp2p's wrapper leaves at 1 GiB.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use yamux::{Connection, ConnectionError, DEFAULT_CREDIT, Mode, Stream};

use super::frames::Metered;

/// Bytes that a stream buffers at most.
#[cfg(test)]
pub(super) const INITIAL_WINDOW: usize = DEFAULT_CREDIT as usize;

/// Upgrades a connection to `/yamux/1.0.0`.
#[derive(Clone, Debug)]
pub(super) struct Yamux(yamux::Config);

impl Yamux {
    /// Creates an upgrade with this many streams in both directions, each with its initial window only.
    pub(super) fn new(max_streams: usize) -> Self {
        let mut config = yamux::Config::default();
        // The order matters: the setters assert that the window covers the streams at every moment.
        config.set_max_num_streams(max_streams);
        config.set_max_connection_receive_window(Some(max_streams * DEFAULT_CREDIT as usize));
        Self(config)
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(Metered::new(socket), self.0, Mode::Server))))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(Metered::new(socket), self.0, Mode::Client))))
    }
}

/// A connection's streams.
pub(super) struct Muxer<C> {
    connection: Connection<Metered<C>>,
    /// Inbound streams that arrived while the connection was polled for another purpose; bounded by the number of
    /// streams.
    opened: VecDeque<Stream>,
    acceptor: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    const fn new(connection: Connection<Metered<C>>) -> Self {
        Self { connection, opened: VecDeque::new(), acceptor: None }
    }

    /// Reads and writes what is ready; returns the next inbound stream.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.opened.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.drive(cx);
        if next.is_pending() {
            self.acceptor = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        loop {
            match self.drive(cx) {
                Poll::Ready(Ok(stream)) => {
                    self.opened.push_back(stream);
                    // This call's waker is not the one that `poll_inbound` registered, and `poll_inbound` has
                    // to be polled again.
                    if let Some(acceptor) = self.acceptor.take() {
                        acceptor.wake();
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
