//! Settings of the workers, for all daemons with a fleet.

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
use crate::{daemon::stop, pruntime_limit::Limited};

/// Settings of the workers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkerArgs {
    /// Number of workers of one runner.
    #[arg(long, env = "PHALA_RUNNER_MAX_WORKER_NUMBER", default_value_t = 150, value_parser = whole(1u32..=1_000_000))]
    pub runner_max_worker_number: u32,
    /// Sync every worker without any on-chain operation.
    #[arg(long, env = "PHALA_SYNC_ONLY", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub sync_only: bool,
    /// Initialise workers with the debug key and no attestation (development chains only).
    #[arg(long, env = "PHALA_DEV_SKIP_RA", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub dev_skip_ra: bool,
    /// Register workers again until they reach the minimum score.
    #[arg(long, env = "PHALA_ENFORCE_MIN_BENCH_SCORE", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub enforce_min_bench_score: bool,
    /// The minimum score.
    #[arg(long, env = "PHALA_MIN_BENCH_SCORE", default_value_t = 50, value_parser = whole(0u32..=u32::MAX))]
    pub min_bench_score: u32,
    /// What to do with a worker that was stopped externally, by its owner or by withdrawals: stay-stopped,
    /// reclaim (its stake, after the cool-down; it stays stopped) or start-again. Pools and workers may have
    /// their own setting.
    #[arg(long, env = "PRB_AFTER_STOP", default_value_t = AfterExternalStop::default(), value_parser = after_stop)]
    pub after_stop: AfterExternalStop,
    /// Act on an older state of the chain than this manager has acted on before. Only for one start, and only if the
    /// chain was set back for good: with a node that merely lags, stopped workers may be started again.
    #[arg(long, env = "PRB_CHAIN_SET_BACK", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub chain_set_back: bool,
    /// Timeout of pRuntime calls, in ms.
    #[arg(long, env = "PHALA_PRPC_REQUEST_TIMEOUT", default_value = "8000", value_parser = millis)]
    pub prpc_request_timeout: Duration,
    /// Timeout of sync and dispatch calls, in ms.
    #[arg(long, env = "PHALA_BLOB_REQUEST_TIMEOUT", default_value = "150000", value_parser = millis)]
    pub blob_request_timeout: Duration,
    /// Maximum number of pRuntime calls in flight to all workers together.
    #[arg(long, env = "PRPC_QUEUE_SIZE", default_value_t = 65535, value_parser = whole(1u32..=1_000_000))]
    pub prpc_queue_size: u32,
    /// Maximum number of pRuntime calls in flight to one worker.
    #[arg(long, env = "PRPC_SUBQUEUE_SIZE", default_value_t = 10, value_parser = whole(1u32..=1_000_000))]
    pub prpc_subqueue_size: u32,
    /// Keep HTTP connections to workers open.
    #[arg(long, env = "WORKER_KEEPALIVE_ENABLED", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub worker_keepalive_enabled: bool,
    /// How long an idle connection is kept, in ms.
    #[arg(long, env = "WORKER_KEEPALIVE_TIMEOUT", default_value = "5000", value_parser = millis)]
    pub worker_keepalive_timeout: Duration,
    /// Attestation.
    #[command(flatten)]
    pub pccs: PccsArgs,
}

impl WorkerArgs {
    /// Creates the connector to workers.
    ///
    /// # Errors
    /// The HTTP client cannot be created.
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

    /// The configuration of the fleet.
    pub fn fleet_config(&self) -> fleet::Config {
        let defaults = fleet::Config::default();
        defaults
            .with_max_workers_per_runner(self.runner_max_worker_number as usize)
            .with_stop_timeout(stop::WORKERS)
            .with_chain_set_back(self.chain_set_back)
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
