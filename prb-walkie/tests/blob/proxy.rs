//! A proxy that forwards connections and tampers with the answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::lookups::LOOPBACK;

/// What the proxy does to answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    None,
    /// Flips the last bit of each read.
    Flip,
    /// Closes the connection in the middle of an answer.
    Truncate,
    /// Delays everything.
    Delay(Duration),
    /// Forwards nothing any more, without closing.
    Swallow,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    tampering: Arc<Mutex<Tampering>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr, tampering: Tampering) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tampering = Arc::new(Mutex::new(tampering));
        let shared = tampering.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, to, shared.clone()));
            }
        });
        Self { address, tampering, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn set(&self, tampering: Tampering) {
        *self.tampering.lock().unwrap() = tampering;
    }
}

async fn pass(peer: TcpStream, to: SocketAddr, tampering: Arc<Mutex<Tampering>>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (mut peer_in, mut peer_out) = peer.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let up = async { tokio::io::copy(&mut peer_in, &mut server_out).await.map(drop) };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = server_in.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            let bytes = &mut buffer[..read];
            let now = *tampering.lock().unwrap();
            match now {
                Tampering::None => {}
                Tampering::Flip => bytes[read - 1] ^= 1,
                Tampering::Truncate => {
                    peer_out.write_all(&bytes[..read / 2]).await?;
                    return Ok(());
                }
                Tampering::Delay(time) => tokio::time::sleep(time).await,
                Tampering::Swallow => continue,
            }
            peer_out.write_all(bytes).await?;
        }
    };
    let _ = tokio::select! { done = up => done, done = down => done };
}
