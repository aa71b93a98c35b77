//! How workers are treated: the same for every daemon that has a fleet.

use std::time::Duration;

use clap::{ArgAction, Args};
use prb_core::{
    fleet,
    inventory::AfterExternalStop,
    pruntime::http::{BuildError, HttpConfig, HttpConnect},
    worker::Settings,
};

use super::{
    pccs::PccsArgs,
    values::{after_stop, millis, whole, yes_no},
};
use crate::limit::Limited;

/// How long workers' tasks may take to end: a daemon ends within five seconds, and they are its first part.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// How workers are treated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkerArgs {
    /// Workers of one runner.
    #[arg(long, env = "PHALA_RUNNER_MAX_WORKER_NUMBER", default_value_t = 150, value_parser = whole(1u32..=1_000_000))]
    pub runner_max_worker_number: u32,
    /// Sync every worker, send nothing on chain.
    #[arg(long, env = "PHALA_SYNC_ONLY", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub sync_only: bool,
    /// Initialise workers with the debug key and no attestation (development chains only).
    #[arg(long, env = "PHALA_DEV_SKIP_RA", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub dev_skip_ra: bool,
    /// Wait for, and register again until, the minimum score.
    #[arg(long, env = "PHALA_ENFORCE_MIN_BENCH_SCORE", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub enforce_min_bench_score: bool,
    /// The minimum score.
    #[arg(long, env = "PHALA_MIN_BENCH_SCORE", default_value_t = 50, value_parser = whole(0u32..=u32::MAX))]
    pub min_bench_score: u32,
    /// What happens to a worker that was stopped elsewhere, by its owner or by withdrawals: stay-stopped,
    /// reclaim (its stake, after the cool-down; it stays stopped) or start-again. Pools and workers may have
    /// a setting of their own.
    #[arg(long, env = "PRB_AFTER_STOP", default_value_t = AfterExternalStop::default(), value_parser = after_stop)]
    pub after_stop: AfterExternalStop,
    /// Time-out of pRuntime calls, in ms.
    #[arg(long, env = "PHALA_PRPC_REQUEST_TIMEOUT", default_value = "8000", value_parser = millis)]
    pub prpc_request_timeout: Duration,
    /// Time-out of sync and dispatch calls, in ms.
    #[arg(long, env = "PHALA_BLOB_REQUEST_TIMEOUT", default_value = "150000", value_parser = millis)]
    pub blob_request_timeout: Duration,
    /// pRuntime calls in flight, to all workers together.
    #[arg(long, env = "PRPC_QUEUE_SIZE", default_value_t = 65535, value_parser = whole(1u32..=1_000_000))]
    pub prpc_queue_size: u32,
    /// pRuntime calls in flight to one worker.
    #[arg(long, env = "PRPC_SUBQUEUE_SIZE", default_value_t = 10, value_parser = whole(1u32..=1_000_000))]
    pub prpc_subqueue_size: u32,
    /// Keep HTTP connections to workers open.
    #[arg(long, env = "WORKER_KEEPALIVE_ENABLED", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub worker_keepalive_enabled: bool,
    /// How long an idle connection is kept, in ms.
    #[arg(long, env = "WORKER_KEEPALIVE_TIMEOUT", default_value = "5000", value_parser = millis)]
    pub worker_keepalive_timeout: Duration,
    /// How workers attest.
    #[command(flatten)]
    pub pccs: PccsArgs,
}

impl WorkerArgs {
    /// The way to workers.
    ///
    /// # Errors
    /// Where the system refuses what an HTTP client needs.
    pub fn connect(&self) -> Result<Limited<HttpConnect>, BuildError> {
        let http = HttpConnect::new(self.http_config())?;
        Ok(Limited::new(http, self.prpc_queue_size, self.prpc_subqueue_size))
    }

    fn http_config(&self) -> HttpConfig {
        HttpConfig::default()
            .with_request_timeout(self.prpc_request_timeout)
            .with_sync_timeout(self.blob_request_timeout)
            .with_attestation_timeout(self.pccs.attestation_timeout)
            .with_keep_alive(self.worker_keepalive_enabled.then_some(self.worker_keepalive_timeout))
    }

    /// What holds for the fleet.
    pub fn fleet_config(&self) -> fleet::Config {
        let defaults = fleet::Config::default();
        defaults
            .with_max_workers_per_runner(self.runner_max_worker_number as usize)
            .with_stop_timeout(STOP_TIMEOUT)
            .with_settings(
                Settings::default()
                    .with_sync_only(self.sync_only)
                    .with_enforce_min_bench_score(self.enforce_min_bench_score)
                    .with_min_bench_score(self.min_bench_score)
                    .with_dev_skip_ra(self.dev_skip_ra)
                    .with_after_stop(self.after_stop),
            )
    }
}
