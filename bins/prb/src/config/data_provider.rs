//! `prb data-provider`.

use std::path::PathBuf;

use clap::Args;

use super::{
    HistoryArgs, OpsArgs, WalkieArgs,
    values::{NodeUrl, whole, ws_url},
};

/// The original's, where nobody chooses another.
const BLOB_MAX_RANGE_COUNT: u32 = 60;

/// `prb data-provider`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chains and blobs")]
pub struct DataProviderArgs {
    /// WebSocket endpoints of the parachain's nodes, by comma; the first that works is used. Without nodes of
    /// either chain, what --history has is served: enough for a chain that has ended.
    #[arg(
        long,
        env = "PHALA_CHAIN_ENDPOINT",
        value_delimiter = ',',
        value_parser = ws_url,
        hide_env_values = true
    )]
    pub chain_endpoint: Vec<NodeUrl>,
    /// WebSocket endpoints of the relay chain's nodes, by comma; the first that works is used.
    #[arg(
        long,
        env = "PHALA_PARENT_CHAIN_ENDPOINT",
        value_delimiter = ',',
        value_parser = ws_url,
        hide_env_values = true
    )]
    pub parent_chain_endpoint: Vec<NodeUrl>,
    /// Where blocks of the past come from.
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Folder of the block store; made where it is missing.
    #[arg(long, env = "PHALA_LOCAL_DB_PATH", default_value = "/var/data/0", value_name = "DIR")]
    pub local_db_path: PathBuf,
    /// TCP port of the blob server, on every address of the machine; 0 takes a free one. The variable may
    /// also be called PHALA_DATA_PROVIDER_LOCAL_SERVER.
    #[arg(long, env = "PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", default_value_t = 8012, value_parser = whole(0u16..=u16::MAX))]
    pub local_server_port: u16,
    /// Taken for the original's sake, without effect: ranges are not stored here but cut when asked for, and
    /// end at the next justified header, or with the authority set. Another value than the default is warned of.
    #[arg(long, env = "PHALA_DATA_PROVIDER_BLOB_MAX_RANGE_COUNT", default_value_t = BLOB_MAX_RANGE_COUNT, value_parser = whole(1u32..=100_000))]
    pub blob_max_range_count: u32,
    /// Parachain blocks at most in one of its range blobs.
    #[arg(long, env = "PHALA_DATA_PROVIDER_BLOB_MAX_PARA_BLOCK_RANGE_COUNT", default_value_t = 15, value_parser = whole(1u32..=10_000))]
    pub blob_max_para_block_range_count: u32,
    /// MiB of answers that one blob connection may hold at once.
    #[arg(long, env = "PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY", default_value_t = 64, value_parser = whole(1u32..=65_536))]
    pub blob_server_session_max_memory: u32,
    /// Its place among its peers.
    #[command(flatten)]
    pub walkie: WalkieArgs,
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
}

impl DataProviderArgs {
    /// Says in the log what was chosen and has no effect.
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
