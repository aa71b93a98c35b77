//! Settings of `prb trader`.

use std::path::PathBuf;

use clap::Args;
use prb_core::primitives::Hash;

use super::{
    OpsArgs, OpsListen, PageArgs, SendingArgs,
    values::{NodeUrl, RedisUrl, block_hash, redis_url, ws_url},
};

/// `prb trader`.
#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "Chain and trade queue",
    mut_arg("console_listen", |arg| arg.hide(true))
)]
pub struct TraderArgs {
    /// WebSocket endpoints of the parachain's nodes, separated by commas. The best one is used for each request, and the
    /// others if it fails.
    #[arg(long, env = "PHALA_CHAIN_ENDPOINT", value_delimiter = ',', required = true, value_parser = ws_url, hide_env_values = true)]
    pub chain_endpoint: Vec<NodeUrl>,
    /// Accepted for compatibility with the original; a trader does not use relay chain nodes.
    #[arg(long, env = "PHALA_PARENT_CHAIN_ENDPOINT", value_delimiter = ',', value_parser = ws_url, hide_env_values = true)]
    pub parent_chain_endpoint: Vec<NodeUrl>,
    /// Genesis hash of the parachain, as `chain_getBlockHash` of block 0 returns it: nodes with another one are
    /// refused. Without it, the nodes must agree, or most of them.
    #[arg(long, env = "PRB_CHAIN_GENESIS", value_name = "HASH", value_parser = block_hash)]
    pub chain_genesis: Option<Hash>,
    /// Folder of the identity keys. A trader needs a copy of the lifecycle manager's key (`prb keys backup`), to
    /// open the secrets that the manager has sealed.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", default_value = "/var/data/keys/id", value_name = "DIR")]
    pub peer_id_prefix: PathBuf,
    /// File with the pools whose operators sign for jobs that name only their pool, as those of original
    /// lifecycle managers do (a fleet file; its workers are ignored).
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
    /// The web pages.
    #[command(flatten)]
    pub pages: PageArgs,
}

impl TraderArgs {
    /// Logs settings that have no effect.
    pub(crate) fn warn_of_no_effect(&self) {
        if let Some(OpsListen::At(address)) = self.pages.console_listen {
            tracing::warn!(
                variable = "PRB_CONSOLE_LISTEN",
                value = %address,
                "this setting has no effect: a trader has no console; remove it"
            );
        }
    }
}
