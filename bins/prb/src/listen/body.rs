//! Bodies of requests, which must arrive in time (a client that sends a byte now and then holds a slot for no longer),
//! and of answers, which are known to be written when they are dropped.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body as AxumBody, Bytes},
};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{Activity, Phase};

/// A body that breaks where it is not there whole in time.
pub(super) struct TimedBody {
    inner: Incoming,
    /// Made with the first look for bytes: until then nobody waits for them.
    deadline: Option<Pin<Box<Sleep>>>,
    within: Duration,
    activity: Activity,
}

impl TimedBody {
    pub(super) const fn new(inner: Incoming, within: Duration, activity: Activity) -> Self {
        Self { inner, deadline: None, within, activity }
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
        self.activity.set(if polled.is_ready() { Phase::Working } else { Phase::Receiving });
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

/// An answer's body, which holds something until it is written.
pub(super) struct Held<T> {
    inner: AxumBody,
    _until_written: T,
}

/// Lets a connection receive again when dropped.
pub(super) struct ReceivesOnDrop(pub(super) Activity);

impl Drop for ReceivesOnDrop {
    fn drop(&mut self) {
        self.0.set(Phase::Receiving);
    }
}

impl<T> Held<T> {
    pub(super) const fn new(inner: AxumBody, until_written: T) -> Self {
        Self { inner, _until_written: until_written }
    }
}

impl<T: Unpin> Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
