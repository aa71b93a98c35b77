//! Forwards connections, so that a port of this machine can be reached at another address.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// A port at `ip` that forwards to one of 127.0.0.1; open until dropped.
pub struct Forward {
    pub address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Forward {
    pub async fn start(ip: Ipv4Addr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, to));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }

    /// Forwards a URL's port, and returns the new URL.
    pub async fn url(ip: Ipv4Addr, url: &str) -> (Self, String) {
        let (scheme, place) = url.split_once("://").unwrap();
        let forward = Self::start(ip, place.trim_end_matches('/').parse().unwrap()).await;
        let url = format!("{scheme}://{}", forward.address);
        (forward, url)
    }
}

async fn pass(mut stream: TcpStream, to: SocketAddr) {
    if let Ok(mut server) = TcpStream::connect(to).await {
        // Either side may close.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
    }
}
