//! `prb trader`.

use std::path::PathBuf;

use clap::Args;

use super::{
    OpsArgs, PageArgs, SendingArgs,
    values::{NodeUrl, RedisUrl, redis_url, ws_url},
};

/// `prb trader`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chain and trade queue")]
pub struct TraderArgs {
    /// WebSocket endpoints of the parachain's nodes, by comma; the first that works is used.
    #[arg(long, env = "PHALA_CHAIN_ENDPOINT", value_delimiter = ',', required = true, value_parser = ws_url, hide_env_values = true)]
    pub chain_endpoint: Vec<NodeUrl>,
    /// Taken for the original's sake; a trader asks no relay chain node.
    #[arg(long, env = "PHALA_PARENT_CHAIN_ENDPOINT", value_delimiter = ',', value_parser = ws_url, hide_env_values = true)]
    pub parent_chain_endpoint: Vec<NodeUrl>,
    /// Folder of the identity keys. A trader needs a copy of the lifecycle manager's (`prb keys backup`): it
    /// opens what that has sealed.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", default_value = "/var/data/keys/id", value_name = "DIR")]
    pub peer_id_prefix: PathBuf,
    /// File of the pools whose operators sign for jobs that name only their pool, as those of original lifecycle
    /// managers do (a fleet file; its workers do not matter).
    #[arg(long, env = "PRB_TRADER_POOLS", value_name = "FILE")]
    pub trader_pools: Option<PathBuf>,
    /// Redis server of the trade queue.
    #[arg(
        long,
        env = "PHALA_Q_REDIS_ENDPOINT",
        required = true,
        value_name = "URL",
        value_parser = redis_url,
        hide_env_values = true
    )]
    pub q_redis_endpoint: RedisUrl,
    /// How transactions are sent.
    #[command(flatten)]
    pub sending: SendingArgs,
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
    /// The pages for people.
    #[command(flatten)]
    pub pages: PageArgs,
}
