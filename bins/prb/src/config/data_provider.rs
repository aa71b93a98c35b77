//! Settings of `prb data-provider`.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use prb_core::primitives::Hash;
use prb_walkie::blob::server::DEFAULT_PORT;

use super::{
    HistoryArgs, OpsArgs, WalkieArgs,
    values::{NodeUrl, block_hash, whole, ws_url},
};

/// The original's default.
const BLOB_MAX_RANGE_COUNT: u32 = 60;

/// `prb data-provider`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chains and blobs")]
pub struct DataProviderArgs {
    /// WebSocket endpoints of the parachain's nodes, separated by commas. All are used: the best one for each request,
    /// and all of them for the history. Without nodes of either chain, only the blocks of --history are served, which
    /// suffices for a chain that has ended.
    #[arg(
        long,
        env = "PHALA_CHAIN_ENDPOINT",
        value_delimiter = ',',
        value_parser = ws_url,
        hide_env_values = true
    )]
    pub chain_endpoint: Vec<NodeUrl>,
    /// WebSocket endpoints of the relay chain's nodes, separated by commas. All are used: the best one for each request,
    /// and all of them for the history.
    #[arg(
        long,
        env = "PHALA_PARENT_CHAIN_ENDPOINT",
        value_delimiter = ',',
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
    /// Folder of the block store; created if it does not exist.
    #[arg(long, env = "PHALA_LOCAL_DB_PATH", default_value = "/var/data/0", value_name = "DIR")]
    pub local_db_path: PathBuf,
    /// Address on which the blob server listens [default: every address of the machine]. Peers are told the port
    /// only: they must reach it at an address of this peer.
    #[arg(long, env = "PRB_BLOB_SERVER_ADDRESS", value_name = "IP")]
    pub blob_server_address: Option<IpAddr>,
    /// TCP port of the blob server; 0 selects a free one. The variable may also
    /// be called PHALA_DATA_PROVIDER_LOCAL_SERVER.
    #[arg(long, env = "PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", default_value_t = DEFAULT_PORT, value_parser = whole(0u16..=u16::MAX))]
    pub local_server_port: u16,
    /// Accepted for compatibility with the original, without effect: ranges are not stored but assembled on
    /// request, and end at the next justified header or with the authority set. A value other than the default
    /// causes a warning.
    #[arg(long, env = "PHALA_DATA_PROVIDER_BLOB_MAX_RANGE_COUNT", default_value_t = BLOB_MAX_RANGE_COUNT, value_parser = whole(1u32..=100_000))]
    pub blob_max_range_count: u32,
    /// Maximum number of parachain blocks in one range blob of the original.
    #[arg(long, env = "PHALA_DATA_PROVIDER_BLOB_MAX_PARA_BLOCK_RANGE_COUNT", default_value_t = 15, value_parser = whole(1u32..=10_000))]
    pub blob_max_para_block_range_count: u32,
    /// Maximum size of pending answers of one blob connection, in MiB.
    #[arg(long, env = "PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY", default_value_t = 64, value_parser = whole(1u32..=65_536))]
    pub blob_server_session_max_memory: u32,
    /// Peer-to-peer settings.
    #[command(flatten)]
    pub walkie: WalkieArgs,
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
}

impl DataProviderArgs {
    /// Logs settings that have no effect.
    pub(crate) fn warn_of_no_effect(&self) {
        if self.blob_max_range_count != BLOB_MAX_RANGE_COUNT {
            tracing::warn!(
                variable = "PHALA_DATA_PROVIDER_BLOB_MAX_RANGE_COUNT",
                value = self.blob_max_range_count,
                "this variable has no effect: ranges of headers end at a justified header or with the authority \
                 set, however many there are; remove it"
            );
        }
    }
}
