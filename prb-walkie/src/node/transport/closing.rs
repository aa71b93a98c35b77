//! [`Closing`]: a connection that is closed within a limited time.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::{Sleep, sleep};

/// Time for the other end to take what is buffered for it when a connection is closed.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A multiplexer that closes at the latest when its time is over.
///
/// libp2p waits until everything is written, however slowly the other end reads, and counts the connection meanwhile: a
/// stranger whose connections are displaced could so take the places that are reserved for others.
pub(super) struct Closing<M> {
    muxer: M,
    /// Runs since the connection is closed.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl<M> Closing<M> {
    pub(super) const fn new(muxer: M) -> Self {
        Self { muxer, timeout: None }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Closing<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_inbound(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        let closed = Pin::new(&mut self.muxer).poll_close(cx);
        let timeout = self.timeout.get_or_insert_with(|| Box::pin(sleep(TIMEOUT)));
        // The socket is closed when this is dropped, with or without what it still holds.
        if closed.is_pending() && timeout.as_mut().poll(cx).is_ready() { Poll::Ready(Ok(())) } else { closed }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}
