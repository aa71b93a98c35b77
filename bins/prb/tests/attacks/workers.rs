//! Workers that somebody else runs: endpoints that never answer, answer without end, a byte at a time, or send the
//! manager elsewhere.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prb_walkie::{
    proto::{db, lifecycle as lm},
    rpc::Client,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::support::STAKE;

/// Workers of each kind.
const EACH: usize = 4;

#[derive(Clone, Copy)]
enum Kind {
    Silent,
    Endless,
    Slow,
    Elsewhere,
}

/// The endpoints, until dropped.
pub(crate) struct HostileWorkers {
    endpoints: Vec<String>,
    asked: Arc<AtomicU32>,
    led_elsewhere: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl HostileWorkers {
    pub(crate) async fn start(ip: IpAddr) -> Self {
        let (asked, led_elsewhere) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (mut endpoints, mut tasks) = (Vec::new(), JoinSet::new());
        let (listener, elsewhere) = bind(ip).await;
        let count = led_elsewhere.clone();
        tasks.spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        for kind in [Kind::Silent, Kind::Endless, Kind::Slow, Kind::Elsewhere].repeat(EACH) {
            let (listener, address) = bind(ip).await;
            endpoints.push(format!("http://{address}"));
            let count = asked.clone();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(answer(kind, stream, elsewhere));
                    while connections.try_join_next().is_some() {}
                }
            });
        }
        Self { endpoints, asked, led_elsewhere, _tasks: tasks }
    }

    /// Adds them to a pool of the manager.
    pub(crate) async fn join(&self, client: &Client, pid: u64) {
        let worker = |(number, endpoint): (usize, &String)| db::Worker {
            pid,
            name: format!("z-hostile-{number}"),
            endpoint: endpoint.clone(),
            enabled: true,
            stake: STAKE.to_string(),
            ..db::Worker::default()
        };
        let workers = self.endpoints.iter().enumerate().map(worker).collect();
        client.create_workers(lm::CreateWorker { workers }).await.unwrap();
    }

    /// Panics if they were not asked, or if one has led the manager elsewhere.
    pub(crate) fn had_no_success(&self) {
        assert!(self.asked.load(Ordering::Relaxed) as usize >= self.endpoints.len(), "they were not asked");
        assert_eq!(self.led_elsewhere.load(Ordering::Relaxed), 0, "a redirection was followed");
    }
}

async fn bind(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn answer(kind: Kind, mut stream: TcpStream, elsewhere: SocketAddr) {
    let mut request = [0; 4096];
    if !stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        return;
    }
    let head = match kind {
        Kind::Silent => String::new(),
        Kind::Endless | Kind::Slow => "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n".into(),
        Kind::Elsewhere => {
            format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
            )
        }
    };
    let mut open = stream.write_all(head.as_bytes()).await.is_ok();
    while open {
        open = match kind {
            Kind::Endless => stream.write_all(&[0; 64 * 1024]).await.is_ok(),
            Kind::Slow => {
                sleep(Duration::from_millis(500)).await;
                stream.write_all(&[0]).await.is_ok()
            }
            Kind::Silent | Kind::Elsewhere => stream.read(&mut request).await.is_ok_and(|read| read > 0),
        };
    }
}
