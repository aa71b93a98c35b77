//! Accepts the server's connections, and can take one over to send a message without end.

use std::{
    future::pending,
    io,
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use jsonrpsee::{
    core::middleware::RpcServiceBuilder,
    server::{Methods, ServerConfig, ServerHandle, StopHandle, serve_with_graceful_shutdown, stop_channel},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::middleware::Guard;
use crate::node::Node;

/// Payload bytes of each frame of an endless text message; the headers of its first frame and of all others.
// The headers are those of RFC 6455: opcode 1 (text) or 0 (continuation), FIN unset, no mask, 16-bit length.
const FRAME_BYTES: usize = 0x8000;
const FIRST: [u8; 4] = [0x01, 126, 0x80, 0];
const NEXT: [u8; 4] = [0x00, 126, 0x80, 0];

/// Serves a node's methods on a listener until the handle is stopped.
pub(super) fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    methods: Methods,
    config: ServerConfig,
) -> ServerHandle {
    let (stop, handle) = stop_channel();
    let builder = jsonrpsee::server::Server::builder().set_config(config).to_service_builder();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let stopped = stop.clone().shutdown();
            let stream = tokio::select! {
                () = stopped => break,
                Some(_) = connections.join_next() => continue,
                // Unlimited here: the service refuses connections over the limit with HTTP 429.
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a connection");
                        continue;
                    }
                },
            };
            // Without it, small answers wait for earlier ones to be acknowledged.
            let _ = stream.set_nodelay(true);
            let connection = Arc::new(Connection::new(stream, stop.clone()));
            let (guarded, node) = (Arc::clone(&connection), Arc::clone(&node));
            let middleware = RpcServiceBuilder::new()
                .layer_fn(move |service| Guard::new(service, node.clone(), guarded.clone()));
            let service = builder.clone().set_rpc_middleware(middleware).build(methods.clone(), stop.clone());
            let stopped = stop.clone().shutdown();
            connections.spawn(async move {
                if let Err(error) = serve_with_graceful_shutdown(Io::new(connection), service, stopped).await
                {
                    tracing::debug!(%error, "a connection failed");
                }
            });
        }
        // Freed first: the server may be started again on the same port.
        drop(listener);
        // Each ends once its calls are answered.
        while connections.join_next().await.is_some() {}
    });
    handle
}

/// A connection, shared by the server and by the fault that takes it over.
pub(super) struct Connection {
    stream: TcpStream,
    stop: StopHandle,
    /// Set once only the endless message is sent.
    is_taken_over: AtomicBool,
    /// Cancelled when that ends, which ends the connection.
    ended: CancellationToken,
}

impl Connection {
    fn new(stream: TcpStream, stop: StopHandle) -> Self {
        Self { stream, stop, is_taken_over: AtomicBool::new(false), ended: CancellationToken::new() }
    }

    /// Sends one text message that does not end, until the client or the server goes away.
    pub(super) async fn send_without_end(&self) {
        if self.is_taken_over.swap(true, Ordering::AcqRel) {
            // A second call must not write frames into the middle of the first one's.
            return pending().await;
        }
        // Also when the call is dropped because its connection ended.
        let _ended = self.ended.clone().drop_guard();
        tokio::select! {
            () = self.stop.clone().shutdown() => {}
            result = self.send_frames() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "an endless answer has ended");
                }
            }
        }
    }

    async fn send_frames(&self) -> io::Result<()> {
        let mut frame = [b' '; NEXT.len() + FRAME_BYTES];
        frame[..FIRST.len()].copy_from_slice(&FIRST);
        loop {
            let mut sent = 0;
            while sent < frame.len() {
                self.stream.writable().await?;
                match self.stream.try_write(&frame[sent..]) {
                    Ok(bytes) => sent += bytes,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            frame[..NEXT.len()].copy_from_slice(&NEXT);
        }
    }
}

/// The server's view of a connection.
struct Io {
    connection: Arc<Connection>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Io {
    fn new(connection: Arc<Connection>) -> Self {
        let ended = Box::pin(connection.ended.clone().cancelled_owned());
        Self { connection, ended }
    }

    /// Waits while the endless message occupies the connection, and fails once that has ended.
    fn poll_taken_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.ended.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.connection.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.connection.is_taken_over.load(Ordering::Acquire) {
            return self.poll_taken_over(cx).map(Err);
        }
        let stream = &self.connection.stream;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&self.connection.stream).shutdown(Shutdown::Write))
    }
}
