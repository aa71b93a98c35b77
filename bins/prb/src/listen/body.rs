//! Request bodies that must have come in time: a client that sends a byte now and then holds a slot for no longer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::IsProcessing;

/// A body that breaks where it is not there whole in time.
pub(super) struct TimedBody {
    inner: Incoming,
    /// Made with the first look for bytes: until then nobody waits for them.
    deadline: Option<Pin<Box<Sleep>>>,
    within: Duration,
    is_processing: IsProcessing,
}

impl TimedBody {
    pub(super) const fn new(inner: Incoming, within: Duration, is_processing: IsProcessing) -> Self {
        Self { inner, deadline: None, within, is_processing }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        self.is_processing.set(polled.is_ready());
        if let Poll::Ready(frame) = polled {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let within = self.within;
        // Never reset: the limit is for the whole body, so single bytes do not extend it.
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(deadline.as_mut().poll(context));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the request's body did not come in time");
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
