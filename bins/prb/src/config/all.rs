//! Settings of `prb all`.

use std::path::PathBuf;

use clap::Args;
use prb_core::primitives::Hash;

use super::{
    ApiArgs, BlobCacheArgs, HistoryArgs, OpsArgs, PageArgs, SendingArgs, WorkerArgs,
    values::{NodeUrl, block_hash, ws_url},
};

/// `prb all`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chains and files")]
pub struct AllArgs {
    /// WebSocket endpoints of the parachain's nodes, separated by commas. All are used: the best one for each request,
    /// and all of them for the history.
    #[arg(long, env = "PHALA_CHAIN_ENDPOINT", value_delimiter = ',', required = true, value_parser = ws_url, hide_env_values = true)]
    pub chain_endpoint: Vec<NodeUrl>,
    /// WebSocket endpoints of the relay chain's nodes, separated by commas. All are used: the best one for each request,
    /// and all of them for the history.
    #[arg(
        long,
        env = "PHALA_PARENT_CHAIN_ENDPOINT",
        value_delimiter = ',',
        required = true,
        value_parser = ws_url,
        hide_env_values = true
    )]
    pub parent_chain_endpoint: Vec<NodeUrl>,
    /// Genesis hash of the parachain, as `chain_getBlockHash` of block 0 returns it: nodes with another one are
    /// refused. Without it, the nodes must agree, or most of them.
    #[arg(long, env = "PRB_CHAIN_GENESIS", value_name = "HASH", value_parser = block_hash)]
    pub chain_genesis: Option<Hash>,
    /// Genesis hash of the relay chain.
    #[arg(long, env = "PRB_PARENT_CHAIN_GENESIS", value_name = "HASH", value_parser = block_hash)]
    pub parent_chain_genesis: Option<Hash>,
    /// History sources.
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Folder of the block store and of the workers' saved state; created if it does not exist.
    #[arg(long, env = "PRB_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// Folder of the identity key that seals operators' keys; by default `id` in the data folder.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", value_name = "DIR")]
    pub peer_id_prefix: Option<PathBuf>,
    /// File with pools and workers (TOML, or JSON if its name ends in .json). Without it, they are stored in the
    /// data folder and edited over the management API.
    #[arg(long, env = "PRB_FLEET", value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// The cache of blobs.
    #[command(flatten)]
    pub blob_cache: BlobCacheArgs,
    /// How transactions are sent.
    #[command(flatten)]
    pub sending: SendingArgs,
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
