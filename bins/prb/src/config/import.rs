//! Settings of `prb import`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `prb import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The source.
    #[command(subcommand)]
    pub from: ImportFrom,
}

/// The source of an import.
#[derive(Clone, Debug, Subcommand)]
pub enum ImportFrom {
    /// Pools, workers and operators' keys of the original bridge (PRB v2).
    V2(V2Args),
    /// Pools and workers of Phala's worker manager (PRB v3), from the output of its configuration program.
    V3(V3Args),
}

/// `prb import v2`.
#[derive(Clone, Debug, Args)]
pub struct V2Args {
    /// Its SQLite database (PHALA_LOCAL_DB_PATH of the original, by default /var/data/local.db). It is only read.
    #[arg(value_name = "FILE")]
    pub database: PathBuf,
    /// The destination.
    #[command(flatten)]
    pub into: ImportInto,
}

/// `prb import v3`.
#[derive(Clone, Debug, Args)]
pub struct V3Args {
    /// Output of `get-all-pools-with-workers` of its configuration program (JSON).
    #[arg(value_name = "FILE")]
    pub pools: PathBuf,
    /// Output of `get-all-pool-operators` (JSON): operators' accounts, and the accounts whose proxies they are.
    #[arg(long, value_name = "FILE")]
    pub operators: Option<PathBuf>,
    /// Operators' keys, which that program does not print: a TOML file with a line for each pool, such as 12 = "its
    /// mnemonic". A pool without a line is imported without its key.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// The destination.
    #[command(flatten)]
    pub into: ImportInto,
}

/// The destination of an import.
#[derive(Clone, Debug, Args)]
pub struct ImportInto {
    /// Folder of the pools and workers: PHALA_LOCAL_DB_PATH of `prb lifecycle`, or the folder `inventory` in the
    /// data folder of a `prb all` without a fleet file. The daemon must not be running.
    #[arg(long, env = "PHALA_LOCAL_DB_PATH", default_value = "/var/data/local.db", value_name = "DIR")]
    pub to: PathBuf,
    /// Folder of the identity keys. LIFECYCLE in it opens the keys of a v2 database, and seals them for this
    /// program.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", default_value = "/var/data/keys/id", value_name = "DIR")]
    pub peer_id_prefix: PathBuf,
    /// Show what would be imported without changing anything.
    #[arg(long)]
    pub dry_run: bool,
    /// Skip a pool (by number) or a worker (by name or id), repeatable. A skipped pool's workers are skipped,
    /// too.
    #[arg(long, value_name = "NAME")]
    pub leave_out: Vec<String>,
}
