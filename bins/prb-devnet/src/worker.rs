//! Verifying pRuntime workers: they refuse what a real one refuses, with the same texts.
//!
//! A worker only knows what it receives over HTTP: it has no access to the devnet's chains. It checks GRANDPA
//! justifications against the authority set that it tracks, read proofs against relay state roots, and every
//! block's storage changes against the parachain header's state root, on its own trie (nodes are shared
//! between the workers of one process, see [`Shared`]). It registers, runs benchmarks and answers heartbeat
//! challenges through the message queue in the dispatched blocks. Its keys survive a loss of state, like those that a real
//! one seals outside its checkpoint.
//!
//! Differences from a real one: there is no enclave. There is no attestation or, if requested and configured,
//! an IAS report or a DCAP quote that only the devnet's registry accepts (see
//! [`prb_devnet_runtime::types::report`]; a quote needs collateral, from [`DevnetCollateral`]), and
//! iterations are computed from chain time at a configured rate.
//!
//! ```no_run
//! # async fn example() -> Result<(), prb_devnet::worker::Error> {
//! use prb_devnet::worker::{Worker, WorkerConfig};
//!
//! let worker = Worker::spawn(WorkerConfig::new("seed", 0)).await?;
//! println!("{} is {}", worker.endpoint(), worker.public_key());
//! worker.go_away(true).await;
//! worker.come_back().await?;
//! worker.shutdown().await;
//! # Ok(())
//! # }
//! ```

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use codec::{Decode, Encode};
use prb_core::{
    attestation::{self, CollateralSource},
    primitives::WorkerKey,
    prpc::{Method, PhactoryInfo},
    wire::{Collateral, MessageOrigin},
};
use prb_devnet_runtime::types::report;
use sp_core::sr25519;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::{faults::Faults, refusal::Refusal, shared::Shared};
use self::{
    identity::Identity,
    process::{Command, Parts, Process, supervise},
    record::Recorder,
    verifier::Options,
};

mod api;
mod egress;
mod faults;
mod http;
mod identity;
mod json;
mod justification;
mod keys;
mod light_client;
mod process;
mod proof;
mod record;
mod refusal;
mod shared;
mod sync;
mod system;
mod trie;
mod verifier;

#[cfg(test)]
mod tests;

/// Default score of a worker.
pub const DEFAULT_SCORE: u64 = 2000;
/// Pause between a worker's exit and its restart.
pub const DEFAULT_RESTART_DELAY: Duration = Duration::from_millis(200);
/// Default version of pRuntime.
pub const DEFAULT_VERSION: (u32, u32, u32) = (2, 2, 0);
/// Capacity of the supervisor's channel of exits and faults.
const COMMANDS: usize = 16;

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The worker cannot listen on its address.
    #[error("worker {index} cannot listen on {address}")]
    Listen {
        /// The worker.
        index: u32,
        /// Its address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Requests cannot be recorded.
    #[error("requests of worker {index} cannot be recorded")]
    Record {
        /// The worker.
        index: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The ports would go past the highest one.
    #[error("no port for worker {index}")]
    Port {
        /// The worker.
        index: u32,
    },
    /// The worker's supervisor has ended.
    #[error("worker {index} is shut down")]
    Ended {
        /// The worker.
        index: u32,
    },
}

/// The state that a worker restarts with after an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Its latest state, as if a checkpoint had been taken at the last moment.
    #[default]
    Kept,
    /// The last checkpoint (`TakeCheckpoint`), if any.
    Checkpoint,
    /// Only its keys.
    Lost,
}

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The seed from which the worker's keys are derived along with the index.
    /// [`Devnet::spawn_workers`](crate::Devnet::spawn_workers) uses the decimal text of
    /// [`Config::seed`](crate::Config::seed): `0` by default.
    pub seed: Vec<u8>,
    /// Number of the worker in its devnet.
    pub index: u32,
    /// Address to listen on; port 0 selects a free one, once. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// Directory for `worker-N.log`, the worker's requests. Default: none.
    pub record: Option<PathBuf>,
    /// The state after an exit. Default: `Kept`.
    pub restart: Restart,
    /// Pause between an exit and the restart. Default: 200 ms.
    pub restart_delay: Duration,
    /// Benchmark iterations per 6 s of chain time. Default: 2,000.
    pub score: u64,
    /// Reported as `supported_attestation_methods`: `epid` and `dcap` enable the devnet's own reports; without
    /// them there is no attestation. Default: none.
    pub attestation_methods: Vec<String>,
    /// Returns IAS reports and registration info for the first version's call, like old pRuntimes. Default: false.
    pub first_version: bool,
    /// pRuntime's version; the worker exits if the chain requires a newer one. Default: 2.2.0.
    pub version: (u32, u32, u32),
    /// State shared with the other workers of its chain.
    pub shared: Shared,
}

impl WorkerConfig {
    /// Returns the settings of worker `index` on a free loopback port, without sharing.
    pub fn new(seed: impl AsRef<[u8]>, index: u32) -> Self {
        Self {
            seed: seed.as_ref().to_vec(),
            index,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            record: None,
            restart: Restart::default(),
            restart_delay: DEFAULT_RESTART_DELAY,
            score: DEFAULT_SCORE,
            attestation_methods: Vec::new(),
            first_version: false,
            version: DEFAULT_VERSION,
            shared: Shared::default(),
        }
    }
}

/// Starts workers.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Starts a worker, which serves requests when this returns.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Record`].
    pub async fn spawn(config: WorkerConfig) -> Result<WorkerHandle, Error> {
        let (index, wanted) = (config.index, config.listen);
        let listen = |source| Error::Listen { index, address: wanted, source };
        // Bound before the task starts: the endpoint is known, and connections queue until the supervisor
        // accepts them.
        let listener = TcpListener::bind(wanted).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        // Opened here: a folder that cannot be written is an error of the start, not of a request.
        let recorder = config.record.map(|dir| Recorder::open(dir, index)).transpose();
        let (commands, received) = mpsc::channel(COMMANDS);
        let faults = Faults::default();
        let process = Arc::new(Process::new(Parts {
            address,
            index,
            restart: config.restart,
            restart_delay: config.restart_delay,
            options: Arc::new(Options {
                identity: Identity::derive(&config.seed, index),
                score: config.score,
                attestation_methods: config.attestation_methods,
                first_version: config.first_version,
                version: config.version,
                work_faults: faults.work_faults(),
                shared: config.shared,
            }),
            faults,
            recorder: recorder.map_err(|source| Error::Record { index, source })?,
            commands,
        }));
        let cancel = CancellationToken::new();
        let task = tokio::spawn(supervise(process.clone(), listener, received, cancel.clone()));
        Ok(WorkerHandle { process, task, cancel: cancel.drop_guard() })
    }
}

/// Starts workers 0 to `count` − 1 on the ports from `base_port` on (0 for any free ones), sharing state. `seed` and
/// `record` are those of [`WorkerConfig`].
///
/// # Errors
/// [`Error::Listen`], [`Error::Record`], [`Error::Port`]; workers already started are stopped.
pub async fn spawn_all(
    seed: impl AsRef<[u8]>,
    count: u32,
    base_port: u16,
    record: Option<PathBuf>,
) -> Result<Vec<WorkerHandle>, Error> {
    spawn_like(&WorkerConfig { record, ..WorkerConfig::new(seed, 0) }, count, base_port).await
}

/// Starts workers 0 to `count` − 1 with these settings on the ports from `base_port` on (0 for any free
/// ones), sharing the state in `config`.
///
/// # Errors
/// [`Error::Listen`], [`Error::Record`], [`Error::Port`]; workers already started are stopped.
pub async fn spawn_like(
    config: &WorkerConfig,
    count: u32,
    base_port: u16,
) -> Result<Vec<WorkerHandle>, Error> {
    let mut workers = Vec::new();
    for index in 0..count {
        // Port 0 stays 0: the system selects a free port for each worker.
        let offset = if base_port == 0 { 0 } else { index };
        let port = u16::try_from(u32::from(base_port) + offset).map_err(|_| Error::Port { index })?;
        let mut config = WorkerConfig { index, ..config.clone() };
        config.listen.set_port(port);
        workers.push(Worker::spawn(config).await?);
    }
    Ok(workers)
}

/// Returns the collateral that the devnet's registry accepts with the devnet's own quotes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DevnetCollateral;

#[async_trait]
impl CollateralSource for DevnetCollateral {
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, attestation::Error> {
        let collateral = report::collateral();
        // The same check as on the chain, so that a wrong quote is refused before a call is paid for.
        report::read_quote(quote, &collateral)
            .map_err(|refused| attestation::Error::Quote { reason: format!("{refused:?}") })?;
        Collateral::decode(&mut &*collateral.encode())
            .map_err(|error| attestation::Error::Quote { reason: error.to_string() })
    }
}

/// A running worker; it ends on drop.
#[derive(Debug)]
pub struct WorkerHandle {
    process: Arc<Process>,
    task: JoinHandle<()>,
    cancel: DropGuard,
}

impl WorkerHandle {
    /// Its URL, without a trailing slash; the same after restarts.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.process.address)
    }

    /// Its number in the devnet.
    pub fn index(&self) -> u32 {
        self.process.index()
    }

    /// Its identity, whether initialised or not.
    pub fn public_key(&self) -> WorkerKey {
        self.process.options().identity.public()
    }

    /// The answer of `GetInfo`, without counting, recording or faults.
    pub fn info(&self) -> PhactoryInfo {
        self.process.run().core.lock().info()
    }

    /// Closes the worker's port and connections, and waits until that is done.
    ///
    /// # Cancel safety
    /// If the future is dropped, the worker may or may not go away.
    pub async fn go_away(&self, keep_state: bool) {
        let (done, gone) = oneshot::channel();
        self.process.command(Command::GoAway { keep_state, done }).await;
        // An error means that the supervisor has ended, and with it the port and all connections.
        let _ = gone.await;
    }

    /// Serves again on the same port.
    ///
    /// # Errors
    /// [`Error::Listen`] if the port is taken, [`Error::Ended`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the worker may or may not come back.
    pub async fn come_back(&self) -> Result<(), Error> {
        let (index, address) = (self.index(), self.process.address);
        let (done, back) = oneshot::channel();
        self.process.command(Command::ComeBack { done }).await;
        let result = back.await.map_err(|_| Error::Ended { index })?;
        result.map_err(|source| Error::Listen { index, address, source })
    }

    /// Sets the state that the worker restarts with after its next exits.
    pub fn set_restart(&self, restart: Restart) {
        self.process.set_restart(restart);
    }

    /// Number of requests to `/kick`.
    pub fn kick_count(&self) -> u64 {
        self.process.kicks()
    }

    /// Number of exits for whatever reason, and of times away.
    pub fn restart_count(&self) -> u64 {
        self.process.restarts()
    }

    /// Number of calls of a method, over all restarts.
    pub fn calls(&self, method: Method) -> u64 {
        self.process.calls.count_of(method)
    }

    /// Number of sync or dispatch calls during another one, which a bridge must never make.
    pub fn overlapping_calls(&self) -> u64 {
        self.process.calls.overlapping()
    }

    /// Makes the worker send a message as another sender, as gatekeepers and workers of a cluster do: it is
    /// signed with `pair` and queued for egress. A restart without state drops it.
    ///
    /// # Errors
    /// The worker is not initialised.
    pub fn send_as(
        &self,
        sender: &MessageOrigin,
        pair: &sr25519::Pair,
        destination: &[u8],
        payload: Vec<u8>,
    ) -> Result<(), Refusal> {
        self.process.run().core.lock().send_as(sender, pair, destination, payload)
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.process.faults
    }

    /// Ends the worker and waits until its port is free.
    pub async fn shutdown(self) {
        let Self { cancel, task, .. } = self;
        // Ends the supervisor, which closes the port and all connections.
        drop(cancel);
        if let Err(error) = task.await {
            tracing::error!(%error, "a worker's supervisor failed");
        }
    }
}
