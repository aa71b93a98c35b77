//! The command line of `prb-devnet`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use prb_devnet::{Config, DEFAULT_EPOCH_MS, Devnet, Epoch, ProofLimit, worker::WorkerHandle};
use prb_devnet_runtime::{PHA, pallets::computation, types::TokenomicParameters};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

mod faults;

/// A relay chain, a parachain and verifying workers in one process, on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs until SIGINT or SIGTERM; prints its endpoints as one line of JSON once it is ready.
    Run(Box<Run>),
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Run {
    /// Port of the relay chain's RPC; 0 = any
    #[arg(long, default_value_t = 0)]
    relay_port: u16,
    /// Port of the parachain's RPC; 0 = any
    #[arg(long, default_value_t = 0)]
    para_port: u16,
    /// Port of the first worker, the others follow; 0 = any
    #[arg(long, default_value_t = 0)]
    worker_base_port: u16,
    /// Number of workers
    #[arg(long, default_value_t = 0)]
    workers: u32,
    /// Number of relay blocks authored at the start
    #[arg(long, default_value_t = 100)]
    history: u32,
    /// Relay block time in milliseconds; every second relay block has a parachain block
    #[arg(long, default_value_t = 6000)]
    block_ms: u64,
    /// Time of relay block 0 in milliseconds since 1970, or `now` for a history that ends now
    #[arg(long, default_value_t = DEFAULT_EPOCH_MS.to_string())]
    epoch: String,
    /// Length of an authority set in relay blocks; 0 keeps the first set forever
    #[arg(long, default_value_t = 50)]
    set_length: u32,
    /// Interval in blocks at which relay blocks keep their justification, besides set changes; 1 = all, 0 = set
    /// changes only
    #[arg(long, default_value_t = 1)]
    justification_period: u32,
    /// Number of values written in every parachain block
    #[arg(long, default_value_t = 10)]
    changes_per_block: u32,
    /// Length of each value, in bytes
    #[arg(long, default_value_t = 100)]
    change_bytes: u32,
    /// Number of pools, numbered from 1
    #[arg(long, default_value_t = 1)]
    pools: u64,
    /// Number of operators that share the pools in turn; 0 = one for each pool
    #[arg(long, default_value_t = 0)]
    operators: u64,
    /// Number of pools, counted from the last, that are owned by a proxied account
    #[arg(long, default_value_t = 0)]
    proxied_pools: u64,
    /// Number of vaults, numbered after the pools and owned by the first pool's owner
    #[arg(long, default_value_t = 0)]
    vaults: u64,
    /// Free stake of each pool, in PHA
    #[arg(long, default_value_t = 1_000_000)]
    free_stake: u64,
    /// Balance of each operator, in PHA
    #[arg(long, default_value_t = 1_000_000)]
    operator_balance: u64,
    /// Maximum number of workers in a pool
    #[arg(long, default_value_t = 200)]
    max_pool_workers: u32,
    /// Factor of the minimum stake, in PHA: a worker's minimum stake is this times the square root of its score;
    /// Phala's is 100
    #[arg(long, default_value_t = 1)]
    stake_factor: u32,
    /// Seconds of chain time after which a queued withdrawal lets anybody stop its pool's workers
    #[arg(long, default_value_t = 604_800)]
    grace_period: u64,
    /// Seed of all keys: the same seed and flags produce the same chain
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The parachain's id
    #[arg(long, default_value_t = 2004)]
    para_id: u32,
    /// Duration of a benchmark, in parachain blocks
    #[arg(long, default_value_t = 8)]
    benchmark_duration: u32,
    /// Mean parachain blocks between two heartbeat challenges of one worker
    #[arg(long, default_value_t = 20)]
    heartbeat_interval: u32,
    /// Parachain blocks within which a challenged worker must answer
    #[arg(long, default_value_t = 10)]
    heartbeat_window: u32,
    /// Seconds of chain time between a session's end and the return of its stake
    #[arg(long, default_value_t = 600)]
    cool_down: u64,
    /// Refuse workers without an attestation
    #[arg(long)]
    attestation_required: bool,
    /// Accept reports of the retired attestation service, also with the first registration call
    #[arg(long)]
    ias: bool,
    /// Minimum version of workers, major.minor.patch; older ones exit
    #[arg(long, default_value = "0.0.0", value_parser = version)]
    min_pruntime: (u32, u32, u32),
    /// Declare the weights of the real pallets, which are zero for most calls
    #[arg(long)]
    real_weights: bool,
    /// Maximum proof size of a parachain block in bytes, with each call counted as 32 KiB; Khala's is 3932160; 0
    /// = no limit
    #[arg(long, default_value_t = 0)]
    proof_limit: u64,
    /// Author no parachain blocks after the history: the heads do not advance
    #[arg(long)]
    pause_para: bool,
    #[command(flatten)]
    faults: faults::FaultFlags,
    /// Directory to record each worker's requests in, one per line: method and body in hex
    #[arg(long)]
    record: Option<PathBuf>,
}

fn version(text: &str) -> Result<(u32, u32, u32), String> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    match parts.as_deref() {
        Ok([major, minor, patch]) => Ok((*major, *minor, *patch)),
        _ => Err("must be major.minor.patch, for example 2.2.0".into()),
    }
}

/// A running devnet.
pub(crate) struct Running {
    devnet: Devnet,
    workers: Vec<WorkerHandle>,
}

impl Run {
    fn config(&self) -> anyhow::Result<Config> {
        let epoch = match self.epoch.as_str() {
            "now" => Epoch::HistoryEndsNow,
            // Fixed by default, so that the same flags produce the same chain.
            text => Epoch::Fixed(text.parse()?),
        };
        Ok(self.faults.config(Config {
            relay_port: self.relay_port,
            para_port: self.para_port,
            seed: self.seed,
            para_id: self.para_id,
            history: self.history,
            block_ms: self.block_ms,
            epoch,
            set_length: self.set_length,
            justification_period: self.justification_period,
            changes_per_block: self.changes_per_block,
            change_bytes: self.change_bytes,
            pools: self.pools,
            operators: self.operators,
            proxied_pools: self.proxied_pools,
            vaults: self.vaults,
            free_stake: u128::from(self.free_stake) * PHA,
            operator_balance: u128::from(self.operator_balance) * PHA,
            max_pool_workers: self.max_pool_workers,
            grace_secs: self.grace_period,
            none_attestation: !self.attestation_required,
            ias_attestation: self.ias,
            minimum_pruntime_version: self.min_pruntime,
            weigh_calls: !self.real_weights,
            proof_limit: (self.proof_limit > 0)
                .then_some(ProofLimit { limit_bytes: self.proof_limit, ..ProofLimit::KHALA }),
            benchmark_duration: self.benchmark_duration,
            computation: computation::pallet::Parameters {
                heartbeat_interval: self.heartbeat_interval,
                heartbeat_window: self.heartbeat_window,
                tokenomics: TokenomicParameters::default().with_k(self.stake_factor),
            },
            cool_down_secs: self.cool_down,
            ..Config::default()
        }))
    }

    pub(crate) async fn start(self) -> anyhow::Result<Running> {
        let devnet = Devnet::start(self.config()?).await?;
        devnet.pause_para(self.pause_para);
        let workers = devnet.spawn_workers(self.workers, self.worker_base_port, self.record).await?;
        // Before the ticker, so that the first block after the history already shows them.
        self.faults.start(&devnet).await?;
        devnet.spawn_ticker().await;
        Ok(Running { devnet, workers })
    }
}

impl Running {
    /// Describes all endpoints as one line of JSON.
    pub(crate) fn describe(&self) -> Value {
        let pools: Vec<Value> = self
            .devnet
            .pools()
            .iter()
            .map(|pool| {
                json!({
                    "pid": pool.pid,
                    "mnemonic": pool.mnemonic,
                    "operator": pool.operator.to_string(),
                    "owner": pool.owner.to_string(),
                    "proxied": pool.proxied,
                    "freeStake": pool.free_stake.to_string(),
                })
            })
            .collect();
        let workers: Vec<Value> = self
            .workers
            .iter()
            .map(|worker| json!({ "endpoint": worker.endpoint(), "publicKey": worker.public_key().to_string() }))
            .collect();
        json!({
            "relay": self.devnet.relay().url(),
            "para": self.devnet.para().url(),
            "paraId": self.devnet.para_id(),
            "pools": pools,
            "workers": workers,
        })
    }

    pub(crate) async fn shutdown(self) {
        let workers = self.workers.into_iter().map(WorkerHandle::shutdown);
        tokio::join!(futures::future::join_all(workers), self.devnet.shutdown());
    }
}

/// Waits for SIGINT or SIGTERM.
pub(crate) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
