//! Arguments of `prb store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Caution;

/// `prb store`.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// Data folder of a `prb all`, whose block store is in it.
    #[arg(long, env = "PRB_DATA", value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Folder of a data provider's block store; not read where --data is given.
    #[arg(
        long,
        env = "PHALA_LOCAL_DB_PATH",
        default_value = "/var/data/0",
        value_name = "DIR",
        global = true
    )]
    pub local_db_path: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: StoreAction,
}

/// What to do with a block store.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreAction {
    /// Check everything that is stored: hashes, chains, justifications, proofs, digests. Names each fault and what
    /// to do; exit code 1 where there is one.
    Verify,
    /// Write what is stored into an archive; one that is there is added to.
    Export {
        /// Folder of the archive; made where it is missing.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Zstandard's level: higher ones take longer for smaller files.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
        level: i32,
        /// MiB after which a file is closed and the next one begun.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        file_mib: u64,
    },
    /// Verify an archive's blocks and store them; the store may have some of them, or be new.
    Import {
        /// Folder of the archive.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Hash of parachain block 1 of the chain that is expected: another one is refused.
        #[arg(long, value_name = "HASH")]
        chain_identity: Option<String>,
    },
    /// Give the disk back what is free in the store. Takes room for a second copy until it is done.
    Compact,
    /// Drop blocks from a number on, to be fetched or imported again.
    Drop {
        /// Relay blocks from this one on, down to the justified one before it.
        #[arg(long, value_name = "BLOCK", required_unless_present = "para_from")]
        relay_from: Option<u32>,
        /// Parachain blocks from this one on: storage changes.
        #[arg(long, value_name = "BLOCK")]
        para_from: Option<u32>,
        /// Parachain headers too.
        #[arg(long, requires = "para_from")]
        headers: bool,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
}
