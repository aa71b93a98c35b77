//! Test lookups and servers.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{Error, memory::MemorySource},
    conformance::blob::Sample,
};
use prb_walkie::blob::{
    Lookup,
    client::{self, Bounds, Client},
    server::{self, Server, Stats},
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Any loopback port.
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Far beyond what any test takes: a failure, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const BOUNDS: Bounds = Bounds { max_bytes: 64 << 20, timeout: LONG };

/// `size:{n}:{fill}` is a blob of `n` bytes; `wait:{name}` completes when a permit is added; `fail` fails.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) fixed: HashMap<String, Bytes>,
    pub(crate) gates: HashMap<String, Arc<Semaphore>>,
}

#[async_trait]
impl Lookup for Blobs {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        if let Some(gate) = self.gates.get(key) {
            gate.acquire().await.unwrap().forget();
            return Ok(Some(Bytes::from(key.to_owned())));
        }
        if let Some(blob) = self.fixed.get(key) {
            return Ok(Some(blob.clone()));
        }
        let mut parts = key.split(':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("size"), Some(size), Some(fill)) => {
                Ok(Some(vec![fill.parse().unwrap(); size.parse().unwrap()].into()))
            }
            (Some("fail"), ..) => Err(Error::Storage("the disk is gone".into())),
            _ => Ok(None),
        }
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        key.split(':').nth(1).and_then(|size| size.parse().ok()).unwrap_or(1024)
    }
}

/// A server that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stats: Arc<Stats>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    _guard: DropGuard,
}

impl Running {
    pub(crate) async fn start(lookup: Arc<dyn Lookup>, config: server::Config) -> Self {
        Self::start_at(LOOPBACK, lookup, config).await
    }

    pub(crate) async fn start_at(at: SocketAddr, lookup: Arc<dyn Lookup>, config: server::Config) -> Self {
        let server = Server::bind(at, lookup, config).await.unwrap();
        let (address, stats, stop) = (server.local_addr(), server.stats(), CancellationToken::new());
        let task = tokio::spawn(server.run(stop.clone()));
        Self { address, stats, task, _guard: stop.clone().drop_guard(), stop }
    }

    pub(crate) fn client(&self) -> Client {
        Client::start(self.address, "provider", client::Config::default())
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < LONG, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A source with the whole sample.
pub(crate) fn source_of(sample: &Sample) -> Arc<MemorySource> {
    let source = Arc::new(MemorySource::new(sample.genesis()));
    for (header, changes) in sample.para.iter().zip(&sample.changes) {
        source.push_para_header(header);
        if header.number > 0 {
            source.push_changes(changes);
        }
    }
    sample.relay.iter().for_each(|block| source.push_relay(&block.header, block.justified.clone()));
    source
}
