//! HTTP ports: opened as configured, and served within limits.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{Sleep, timeout},
};

use crate::config::OpsListen;

/// Most concurrent connections; further ones wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take to send a request.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may accept no data.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Reserved connections, and their maximum lifetime.
const RESERVED_CONNECTIONS: usize = 16;
const RESERVED_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a request's head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The same on ports with pages: the console's URLs name up to 500 workers.
const MAX_PAGE_HEAD_BYTES: usize = 32 * 1024;
/// Pause if the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A port of a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// Its name in the log.
    pub(crate) name: &'static str,
    /// The variable that configures it.
    pub(crate) variable: &'static str,
    /// Its default address.
    pub(crate) default: SocketAddr,
}

impl Port {
    /// Opens the port; `None` if it is disabled, or its default address is taken.
    ///
    /// # Errors
    /// A configured address is not available.
    pub(crate) async fn open(self, chosen: Option<OpsListen>) -> anyhow::Result<Option<TcpListener>> {
        let Self { name, variable, default } = self;
        let address = match chosen {
            Some(OpsListen::Off) => return Ok(None),
            Some(OpsListen::At(address)) => address,
            None => default,
        };
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if chosen.is_none() => {
                tracing::warn!(%address, %error, "no {name}: its default address is taken; set another one with {variable}");
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot open the {name} at {address} ({variable})"))
            }
        }
    }
}

/// Serves connections, a bounded number at a time, until dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, name: &'static str) {
    serve_within(listener, router, name, None, MAX_PAGE_HEAD_BYTES).await;
}

/// As [`serve`], with reserved connections for the routes of `reserve`, used briefly while all others are
/// taken.
pub(crate) async fn serve_with(
    listener: TcpListener,
    router: Router,
    name: &'static str,
    reserve: Option<Router>,
) {
    serve_within(listener, router, name, reserve, MAX_HEAD_BYTES).await;
}

async fn serve_within(
    listener: TcpListener,
    router: Router,
    name: &'static str,
    reserve: Option<Router>,
    head_bytes: usize,
) {
    let (mut connections, mut short) = (JoinSet::new(), JoinSet::new());
    let mut oldest = VecDeque::new();
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            accepted = listener.accept(), if room || reserve.is_some() => match (accepted, &reserve) {
                (Ok((stream, _)), Some(reserve)) if !room => {
                    if short.len() >= RESERVED_CONNECTIONS {
                        oldest.pop_front().inspect(AbortHandle::abort);
                    }
                    let served = connection(stream, reserve.clone(), name, RESERVED_TIMEOUT, head_bytes);
                    oldest.push_back(short.spawn(served));
                    oldest.retain(|task| !task.is_finished());
                }
                (Ok((stream, _)), _) => {
                    connections.spawn(connection(stream, router.clone(), name, CONNECTION_TIMEOUT, head_bytes));
                }
                (Err(error), _) => pause(error, name).await,
            },
            Some(_) = connections.join_next() => {}
            Some(_) = short.join_next() => {}
        }
    }
}

async fn pause(error: io::Error, name: &str) {
    tracing::debug!(%error, "{name}: cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves one connection for at most `limit`; a request in progress then gets the same time again.
async fn connection(stream: TcpStream, router: Router, name: &str, limit: Duration, head_bytes: usize) {
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT.min(limit))
        .max_buf_size(head_bytes)
        .serve_connection(TokioIo::new(TimedWrites::new(stream)), service);
    let mut serving = pin!(serving);
    let served = match timeout(limit, serving.as_mut()).await {
        Ok(served) => served,
        Err(_) => {
            serving.as_mut().graceful_shutdown();
            match timeout(limit.max(WRITE_TIMEOUT), serving).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!("{name}: a connection was closed after its time limit"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "{name}: a connection failed");
    }
}

/// A stream that fails if its peer accepts no data for [`WRITE_TIMEOUT`].
struct TimedWrites {
    stream: TcpStream,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl TimedWrites {
    const fn new(stream: TcpStream) -> Self {
        Self { stream, stuck: None }
    }

    fn timed<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for TimedWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TimedWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.timed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
