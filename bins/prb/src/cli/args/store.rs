//! Arguments of `prb store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ChangeOptions;

/// Heading of the flags that name the store.
const STORE: &str = "Block store";

/// `prb store`.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// Data folder of a `prb all`, which contains the block store.
    #[arg(long, env = "PRB_DATA", value_name = "DIR", global = true, help_heading = STORE)]
    pub data: Option<PathBuf>,
    /// Folder of a data provider's block store; ignored if --data is given.
    #[arg(
        long,
        env = "PHALA_LOCAL_DB_PATH",
        default_value = "/var/data/0",
        value_name = "DIR",
        global = true,
        help_heading = STORE
    )]
    pub local_db_path: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: StoreAction,
}

/// Commands for a block store.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreAction {
    /// Check everything stored: hashes, chains, justifications, proofs, digests. Reports each fault and its
    /// remedy; exit code 1 if there are faults.
    Verify,
    /// Export the store to an archive; an existing archive is extended.
    Export {
        /// Folder of the archive; created if missing.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Zstandard level: higher levels take longer and give smaller files.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
        level: i32,
        /// File size in MiB after which the next file is begun.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        file_mib: u64,
    },
    /// Verify an archive's blocks and store them; the store may be new or have some of them.
    Import {
        /// Folder of the archive.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Hash of parachain block 1 of the expected chain; archives of other chains are rejected.
        #[arg(long, value_name = "HASH")]
        chain_identity: Option<String>,
    },
    /// Return free space in the store to the disk. Needs space for a second copy while it runs.
    Compact,
    /// Drop blocks from a number on, to be fetched or imported again.
    Drop {
        /// Relay blocks from this one on, down to the justified one before it.
        #[arg(long, value_name = "BLOCK", required_unless_present = "para_from")]
        relay_from: Option<u32>,
        /// Storage changes of parachain blocks from this one on.
        #[arg(long, value_name = "BLOCK")]
        para_from: Option<u32>,
        /// Drop parachain headers too.
        #[arg(long, requires = "para_from")]
        headers: bool,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
}
