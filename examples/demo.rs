//! `cargo demo`: a devnet, its workers, and a `prb all` that registers, syncs and starts them.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use prb::{
    all::{Bridge, Failure},
    config::{Cli, Command},
    progress::{Display, Progress, table},
    signals, telemetry,
};
use prb_core::worker::State;
use prb_devnet::{
    Config, Devnet, Epoch,
    runtime::types::WorkerState,
    truth,
    worker::{self, WorkerHandle},
};
use tokio_util::sync::CancellationToken;

/// Demonstrates Runtime Bridge: a relay chain, a parachain and verifying workers on this machine, and `prb
/// all`, which syncs the workers, registers them and starts them.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", max_term_width = 110)]
struct Demo {
    /// Number of workers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    workers: u32,
    /// Number of stake pools.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=100))]
    pools: u64,
    /// Number of relay blocks before the start.
    #[arg(long, default_value_t = 200)]
    history: u32,
    /// Relay block time in ms; every second relay block has a parachain block.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..))]
    block_ms: u64,
    /// Seed of the devnet's keys.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for the block store and keys, kept afterwards; a temporary folder by default.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Exit with 0 once every worker computes at the tip, or with 1 after the timeout.
    #[arg(long)]
    until_active: bool,
    /// Timeout of `--until-active`, in seconds.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
    /// Log level or filter.
    #[arg(long, env = "PHALA_LOGGER_LEVEL", default_value = "warn", value_parser = telemetry::log_level)]
    log_level: telemetry::LogLevel,
}

/// Maximum lag of a worker that counts as at the tip, in blocks.
const AT_TIP: u32 = 2;
/// Interval of progress checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The stake of each worker: 100 PHA.
const STAKE: u128 = 100_000_000_000_000;

fn main() -> ExitCode {
    let demo = Demo::parse();
    let display = Display::detect();
    let run = || -> anyhow::Result<bool> {
        let _flush = telemetry::init(Some(&demo.log_level), true, telemetry::Stream::Daemon, &display)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let active = runtime.block_on(demo.run(&display))?;
        // Bounded: a blocking task, such as a name resolution, cannot be cancelled and must not delay the exit.
        runtime.shutdown_timeout(Duration::from_millis(500));
        Ok(active)
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Demo {
    async fn run(&self, display: &Display) -> anyhow::Result<bool> {
        let stop = CancellationToken::new();
        let signals = tokio::spawn(signals::listen(stop.clone(), None));
        println!("authoring {} relay blocks and their parachain blocks…", self.history);
        let devnet = tokio::select! {
            devnet = Devnet::start(self.devnet()) => devnet.context("cannot start the devnet")?,
            () = stop.cancelled() => return Ok(true),
        };
        // From here on blocks are produced at the configured pace.
        devnet.spawn_ticker().await;
        let workers = worker::spawn_all(self.seed.to_string(), self.workers, 0, None).await?;
        let temporary = tempfile::tempdir()?;
        let data = self.data.clone().unwrap_or_else(|| temporary.path().to_owned());
        std::fs::create_dir_all(&data)?;
        let fleet = write_fleet(&data, &devnet, &workers)?;
        let bridge = start_bridge(&devnet, &data, &fleet).await?;
        match bridge.console() {
            Some(address) => println!("console       http://{address}"),
            None => println!("no console: its port is in use (set another with PRB_CONSOLE_LISTEN)"),
        }
        if let Some(address) = bridge.queue_page() {
            println!("trade queue   http://{address}");
        }
        println!("relay chain   {}   parachain {}", devnet.relay().url(), devnet.para().url());
        println!("{} workers from {} on; Ctrl-C ends the demo", self.workers, workers[0].endpoint());
        let active = self.watch(&devnet, &workers, bridge, display, &stop).await;
        // The bridge has stopped: only now may what it depends on end.
        for worker in workers {
            worker.shutdown().await;
        }
        devnet.shutdown().await;
        signals.abort();
        active
    }

    fn devnet(&self) -> Config {
        Config {
            seed: self.seed,
            history: self.history,
            block_ms: self.block_ms,
            epoch: Epoch::HistoryEndsNow,
            pools: self.pools,
            ..Config::default()
        }
    }

    /// Shows progress until a signal, the requested state, or the timeout.
    async fn watch(
        &self,
        devnet: &Devnet,
        workers: &[WorkerHandle],
        mut bridge: Bridge,
        display: &Display,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let start = Instant::now();
        let limit = Duration::from_secs(self.timeout);
        let mut progress = Progress::new(display);
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        let mut announced = false;
        let result = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(true),
                error = bridge.ended() => break Err(error),
                _ = checks.tick() => {}
            }
            let view = bridge.view().await;
            progress.show(bridge.view().await);
            if !announced && all_active(devnet, workers, &view.fleet)? {
                announced = true;
                let line = format!(
                    "all {} workers compute at the tip after {:.1} s",
                    self.workers,
                    start.elapsed().as_secs_f64()
                );
                display.print(&line);
            }
            // Without `--until-active` the demo runs until a signal.
            if self.until_active && announced {
                break Ok(true);
            }
            if self.until_active && start.elapsed() > limit {
                break Ok(false);
            }
        };
        progress.finish();
        if matches!(result, Ok(false)) {
            eprintln!("not every worker computes at the tip after {} s:", self.timeout);
            eprint!("{}", table(&bridge.view().await.fleet));
        }
        bridge.stop().await;
        result
    }
}

/// Asks the devnet's chain and the workers themselves, not the bridge, whether all workers compute.
fn all_active(
    devnet: &Devnet,
    workers: &[WorkerHandle],
    fleet: &prb_core::fleet::FleetStatus,
) -> anyhow::Result<bool> {
    if fleet.count(State::Active) < workers.len() {
        return Ok(false);
    }
    let tip = devnet.para().finalized_number();
    for worker in workers {
        let truth = truth::worker(devnet.para(), worker.public_key().0)?;
        let next_block = worker.info().blocknum;
        // "Idle" is the chain's name for a worker that computes and has no challenge to answer.
        if truth.session != Some(WorkerState::WorkerIdle) || next_block + AT_TIP <= tip {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the fleet file that an operator would write.
fn write_fleet(data: &Path, devnet: &Devnet, workers: &[WorkerHandle]) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = data.join("fleet.toml");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // The file contains the operators' mnemonics.
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for pool in devnet.pools() {
        writeln!(file, "[[pools]]\npid = {}\noperator = \"{}\"\n", pool.pid, pool.mnemonic)?;
    }
    // The workers are distributed evenly over the pools.
    for (worker, pool) in workers.iter().zip(devnet.pools().iter().cycle()) {
        writeln!(
            file,
            "[[workers]]\nname = \"worker-{}\"\npid = {}\nendpoint = \"{}\"\nstake = \"{STAKE}\"\n",
            worker.index(),
            pool.pid,
            worker.endpoint()
        )?;
    }
    Ok(path)
}

/// Starts `prb all` with an operator's arguments.
async fn start_bridge(devnet: &Devnet, data: &Path, fleet: &Path) -> anyhow::Result<Bridge> {
    let (relay, para) = (devnet.relay().url(), devnet.para().url());
    let cli = Cli::try_parse_from([
        "prb".as_ref(),
        "all".as_ref(),
        "--parent-chain-endpoint".as_ref(),
        relay.as_ref() as &std::ffi::OsStr,
        "--chain-endpoint".as_ref(),
        para.as_ref(),
        "--data".as_ref(),
        data.as_os_str(),
        "--fleet".as_ref(),
        fleet.as_os_str(),
    ])?;
    let Command::All(args) = cli.command else { unreachable!("the command is `all`") };
    match Bridge::start(&args).await {
        Ok(bridge) => Ok(bridge),
        Err(Failure::Configuration(error) | Failure::Run(error)) => Err(error),
    }
}
