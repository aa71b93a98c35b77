//! What operators set: flags, and the environment variables of the original daemons with the same meaning.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, builder::BoolishValueParser};

/// Runtime Bridge for Phala Network: feeds fleets of TEE workers and speaks for them on chain.
#[derive(Debug, Parser)]
#[command(name = "prb", version, about, max_term_width = 110)]
pub struct Cli {
    /// How the log shows: `development` for people, anything else for machines.
    #[arg(long, env = "NODE_ENV", default_value = "production", global = true)]
    pub node_env: String,
    /// Log level (trace, debug, info, warn, error, fatal) or a filter such as info,prb_core=debug.
    #[arg(long, env = "PHALA_LOGGER_LEVEL", global = true)]
    pub log_level: Option<String>,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The daemons.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Data provider, lifecycle manager and trader in one process.
    All(Box<AllArgs>),
}

/// `prb all`.
#[derive(Clone, Debug, Args)]
pub struct AllArgs {
    /// WebSocket endpoints of the parachain's nodes, by comma; the first that works is used.
    #[arg(long, env = "PHALA_CHAIN_ENDPOINT", value_delimiter = ',', required = true, value_parser = ws_url)]
    pub chain_endpoint: Vec<String>,
    /// WebSocket endpoints of the relay chain's nodes, by comma; the first that works is used.
    #[arg(
        long,
        env = "PHALA_PARENT_CHAIN_ENDPOINT",
        value_delimiter = ',',
        required = true,
        value_parser = ws_url
    )]
    pub parent_chain_endpoint: Vec<String>,
    /// Folder of the block store; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Folder of the identity key that seals operators' keys; `id` in the data folder where absent.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", value_name = "DIR")]
    pub peer_id_prefix: Option<PathBuf>,
    /// File that names pools and workers (TOML, or JSON where its name ends in .json).
    #[arg(long, value_name = "FILE")]
    pub fleet: PathBuf,
    /// How workers are treated.
    #[command(flatten)]
    pub workers: WorkerArgs,
}

/// How workers are treated.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Workers of one runner.
    #[arg(long, env = "PHALA_RUNNER_MAX_WORKER_NUMBER", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..))]
    pub runner_max_worker_number: u32,
    /// Sync every worker, send nothing on chain.
    #[arg(long, env = "PHALA_SYNC_ONLY", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub sync_only: bool,
    /// Initialise workers with the debug key and no attestation (development chains only).
    #[arg(long, env = "PHALA_DEV_SKIP_RA", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub dev_skip_ra: bool,
    /// Wait for, and register again until, the minimum score.
    #[arg(long, env = "PHALA_ENFORCE_MIN_BENCH_SCORE", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub enforce_min_bench_score: bool,
    /// The minimum score.
    #[arg(long, env = "PHALA_MIN_BENCH_SCORE", default_value_t = 50)]
    pub min_bench_score: u32,
    /// Time-out of pRuntime calls, in ms.
    #[arg(long, env = "PHALA_PRPC_REQUEST_TIMEOUT", default_value = "8000", value_parser = millis)]
    pub prpc_request_timeout: Duration,
    /// Time-out of sync and dispatch calls, in ms.
    #[arg(long, env = "PHALA_BLOB_REQUEST_TIMEOUT", default_value = "150000", value_parser = millis)]
    pub blob_request_timeout: Duration,
    /// Keep HTTP connections to workers open.
    #[arg(long, env = "WORKER_KEEPALIVE_ENABLED", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub worker_keepalive_enabled: bool,
    /// How long an idle connection is kept, in ms.
    #[arg(long, env = "WORKER_KEEPALIVE_TIMEOUT", default_value = "5000", value_parser = millis)]
    pub worker_keepalive_timeout: Duration,
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) => Err("must be more than 0 ms".into()),
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => Err("must be a number of milliseconds".into()),
    }
}

fn ws_url(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.split_once("://") {
        Some(("ws" | "wss", host)) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("must be a WebSocket URL such as ws://127.0.0.1:9944".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(args: &[&str]) -> Result<AllArgs, clap::Error> {
        let base = ["prb", "all", "--data", "/tmp/x", "--fleet", "f.toml"];
        Cli::try_parse_from(base.iter().chain(args)).map(|cli| match cli.command {
            Command::All(args) => *args,
        })
    }

    const ENDPOINTS: [&str; 4] =
        ["--chain-endpoint", "ws://a:1,ws://b:2", "--parent-chain-endpoint", "wss://r"];

    #[test]
    fn lists_and_defaults() {
        let args = all(&ENDPOINTS).unwrap();
        assert_eq!(args.chain_endpoint, ["ws://a:1", "ws://b:2"]);
        assert_eq!(args.workers.prpc_request_timeout, Duration::from_secs(8));
        assert_eq!(args.workers.runner_max_worker_number, 150);
        assert!(!args.workers.sync_only);
        let args = all(&[&ENDPOINTS[..], &["--sync-only"]].concat()).unwrap();
        assert!(args.workers.sync_only);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(all(&[]).is_err());
        assert!(all(&["--chain-endpoint", "http://a", "--parent-chain-endpoint", "ws://r"]).is_err());
        for bad in [["--prpc-request-timeout", "0"], ["--runner-max-worker-number", "0"]] {
            assert!(all(&[&ENDPOINTS[..], &bad].concat()).is_err(), "{bad:?}");
        }
    }
}
