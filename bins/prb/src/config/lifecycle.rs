//! Settings of `prb lifecycle`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use prb_chain::verified;
use prb_core::{primitives::Hash, sync::BackoffConfig};
use prb_walkie::{blob::remote, node::Trust};

use super::{
    ApiArgs, BlobCacheArgs, OpsArgs, PageArgs, SendingArgs, Trusted, WalkieArgs, WorkerArgs,
    trusted::trusted,
    values::{NodeUrl, RedisUrl, block_hash, redis_url, whole, ws_url, yes_no},
};

/// Longest pause between two attempts to reach a data provider: a restarted one should be usable before the
/// next one fails.
const MAX_RECONNECT: Duration = Duration::from_secs(2);

/// `prb lifecycle`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chain, trade queue and blobs")]
pub struct LifecycleArgs {
    /// WebSocket endpoints of the parachain's nodes, separated by commas. The best one is used for each request, and the
    /// others if it fails.
    #[arg(long, env = "PHALA_CHAIN_ENDPOINT", value_delimiter = ',', required = true, value_parser = ws_url, hide_env_values = true)]
    pub chain_endpoint: Vec<NodeUrl>,
    /// Accepted for compatibility with the original; a lifecycle manager does not use relay chain nodes.
    #[arg(long, env = "PHALA_PARENT_CHAIN_ENDPOINT", value_delimiter = ',', value_parser = ws_url, hide_env_values = true)]
    pub parent_chain_endpoint: Vec<NodeUrl>,
    /// Genesis hash of the parachain, as `chain_getBlockHash` of block 0 returns it: nodes with another one are
    /// refused. Without it, the nodes must agree, or most of them.
    #[arg(long, env = "PRB_CHAIN_GENESIS", value_name = "HASH", value_parser = block_hash)]
    pub chain_genesis: Option<Hash>,
    /// Folder of the pools and workers; created if it does not exist.
    #[arg(long, env = "PHALA_LOCAL_DB_PATH", default_value = "/var/data/local.db", value_name = "DIR")]
    pub local_db_path: PathBuf,
    /// Redis server of the trade queue.
    #[arg(long, env = "PHALA_Q_REDIS_ENDPOINT", value_name = "URL", value_parser = redis_url, hide_env_values = true)]
    pub q_redis_endpoint: Option<RedisUrl>,
    /// Run a trader inside this process: with the trade queue in Redis if PHALA_Q_REDIS_ENDPOINT is set,
    /// otherwise in memory.
    #[arg(long, env = "USE_BUILT_IN_TRADER", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub use_built_in_trader: bool,
    /// Only accept edits of pools and workers; run no workers.
    #[arg(long, env = "PHALA_LIFECYCLE_CONFIG_MODE", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub lifecycle_config_mode: bool,
    /// Use data providers of any bridge identity.
    #[arg(long, env = "PHALA_PTP_IGNORE_BRIDGE_IDENTITY", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub ptp_ignore_bridge_identity: bool,
    /// Trusted data providers, separated by commas: peer ids, networks such as 10.0.0.0/8, or `any` for every
    /// peer that claims to be one. Always trusted are boot nodes, peers on this machine or on the whitelist, and
    /// those that know the pre-shared key.
    #[arg(long, env = "PRB_DATA_PROVIDERS", value_delimiter = ',', value_name = "PEERS", value_parser = trusted)]
    pub data_providers: Vec<Trusted>,
    /// Verify relay and parachain headers of data providers before a worker gets them. Without it, a false
    /// header is only noticed when a worker refuses it.
    #[arg(long, env = "PRB_VERIFY_HEADERS", default_value = "true", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub verify_headers: bool,
    /// Blob requests in flight, to each data provider.
    #[arg(long, env = "PHALA_LIFECYCLE_BLOB_QUEUE_SIZE", default_value_t = 36, value_parser = whole(1u32..=10_000))]
    pub lifecycle_blob_queue_size: u32,
    /// The cache of blobs.
    #[command(flatten)]
    pub blob_cache: BlobCacheArgs,
    /// How transactions are sent, by a trader inside this process.
    #[command(flatten)]
    pub sending: SendingArgs,
    /// Peer-to-peer settings.
    #[command(flatten)]
    pub walkie: WalkieArgs,
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
    /// The management API.
    #[command(flatten)]
    pub api: ApiArgs,
    /// The web pages.
    #[command(flatten)]
    pub pages: PageArgs,
    /// Settings of the workers.
    #[command(flatten)]
    pub workers: WorkerArgs,
}

impl LifecycleArgs {
    /// The configured trust in data providers.
    pub fn trust(&self) -> Trust {
        Trusted::all(&self.data_providers)
    }

    /// How headers of data providers are verified.
    pub fn verified_config(&self) -> verified::Config {
        let path = Some(self.local_db_path.join("authority-sets"));
        verified::Config::default().with_path(path)
    }

    /// How data providers are asked.
    pub fn remote_config(&self) -> remote::Config {
        let defaults = remote::Config::default();
        let client = defaults
            .client
            .with_max_in_flight(self.lifecycle_blob_queue_size as usize)
            .with_reconnect(BackoffConfig { max: MAX_RECONNECT, ..defaults.client.reconnect });
        defaults.with_client(client)
    }
}
