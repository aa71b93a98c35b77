//! A proxy in front of a Redis server that makes the server look older, and lets connections go dead or closes them.
//!
//! Included by this crate's tests and by those of the daemons (`bins/prb/tests/redis_conditions.rs`).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::sleep,
};

/// The proxy; it ends, with its connections, on drop.
pub struct Proxy {
    pub port: u16,
    faults: Arc<Faults>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Faults {
    is_older: AtomicBool,
    /// The number of connections accepted so far.
    accepted: AtomicUsize,
    /// Connections below this number stay open but forward nothing any more.
    dead_below: AtomicUsize,
    /// Connections below this number are closed.
    closed_below: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy in front of the server at this port of the loopback address.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::<Faults>::default();
        let of_task = Arc::clone(&faults);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let number = of_task.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                connections.spawn(pump(near_in, far_out, number, Arc::clone(&of_task)));
                connections.spawn(pump(far_in, near_out, number, Arc::clone(&of_task)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, faults, _task: task }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Whether the server's version reads 6.0.16 from now on, which is too old for the queue.
    pub fn set_older(&self, is_older: bool) {
        self.faults.is_older.store(is_older, Ordering::SeqCst);
    }

    /// Silences all current connections without closing them.
    pub fn silence(&self) {
        self.faults.up_to_now(&self.faults.dead_below);
    }

    /// Closes all current connections.
    pub fn close(&self) {
        self.faults.up_to_now(&self.faults.closed_below);
    }
}

impl Faults {
    fn up_to_now(&self, limit: &AtomicUsize) {
        limit.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Starts a proxy that keeps its clients' connections and connects to the server anew when that closes one: a new session,
/// of which the client has no knowledge. Returns its port; it ends when the set is dropped.
pub async fn keeping_connections(server: u16) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            connections.spawn(keep(near, server));
        }
    });
    (port, task)
}

async fn keep(mut near: TcpStream, server: u16) {
    let (mut near_in, mut near_out) = near.split();
    loop {
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (mut far_in, mut far_out) = far.split();
        tokio::select! {
            from_client = tokio::io::copy(&mut near_in, &mut far_out) => if from_client.is_ok() { return },
            _ = tokio::io::copy(&mut far_in, &mut near_out) => {}
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize, faults: Arc<Faults>) {
    let is_below = |limit: &AtomicUsize| number < limit.load(Ordering::SeqCst);
    let closed = async {
        while !is_below(&faults.closed_below) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let pumped = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            if is_below(&faults.dead_below) {
                continue;
            }
            let part = &mut buffer[..bytes];
            if faults.is_older.load(Ordering::SeqCst)
                && let Some(at) = part.windows(14).position(|words| words == b"redis_version:")
            {
                part[at + 14..at + 20].copy_from_slice(b"6.0.16");
            }
            if to.write_all(part).await.is_err() {
                break;
            }
        }
        if is_below(&faults.dead_below) {
            // Neither end learns that the other has gone.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! { () = closed => {}, () = pumped => {} }
}
