//! Arguments of the commands that ask a running daemon.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use prb_core::{inventory::AfterExternalStop, inventory::UnknownAfterExternalStop};

/// Where the daemon is, and how answers are shown.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Address of the daemon's management API.
    #[arg(
        long,
        env = "PRB_API_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:3001",
        value_name = "URL",
        global = true
    )]
    pub api: String,
    /// File whose first line is the API's token. Else it is taken from the variable PRB_API_TOKEN, else from the
    /// file that the daemon made in its data folder.
    #[arg(long, env = "PRB_API_TOKEN_FILE", value_name = "FILE", global = true)]
    pub api_token_file: Option<PathBuf>,
    /// Data folder of a `prb all` on this machine, for the token that it made.
    #[arg(long, env = "PRB_DATA", value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Folder of pools and workers of a `prb lifecycle` on this machine, for the token that it made.
    #[arg(
        long,
        env = "PHALA_LOCAL_DB_PATH",
        default_value = "/var/data/local.db",
        value_name = "DIR",
        global = true
    )]
    pub local_db_path: PathBuf,
    /// Send the token to another machine without encryption.
    #[arg(long, global = true)]
    pub allow_plain_http: bool,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

/// `prb status` and `prb provider list`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// Show it again every two seconds.
    #[arg(long)]
    pub watch: bool,
}

/// `prb worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// What to do.
    #[command(subcommand)]
    pub action: WorkerAction,
}

/// Which workers.
#[derive(Clone, Debug, Default, Args)]
pub struct Selection {
    /// Names, ids, or patterns with * and ? (in quotes, or the shell reads them).
    #[arg(value_name = "WORKER")]
    pub workers: Vec<String>,
    /// Workers of the pool of this number; of those named, where some are.
    #[arg(long, value_name = "PID")]
    pub pool: Option<u64>,
}

/// How to change something.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Caution {
    /// Say what would happen, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nothing.
    #[arg(long, short)]
    pub yes: bool,
}

/// What to do with workers.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkerAction {
    /// List workers with their status.
    List {
        /// Which.
        #[command(flatten)]
        selection: Selection,
        /// Those in this state, such as `S_ERROR`.
        #[arg(long)]
        state: Option<String>,
        /// Those for this reason: a code of docs/worker-states.md.
        #[arg(long)]
        reason: Option<String>,
        /// Show them again every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show everything that is known of a worker, and what happened to it.
    Show {
        /// Its name or id.
        worker: String,
        /// Show it again every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Add a worker.
    Add {
        /// Its name.
        name: String,
        /// Its fields.
        #[command(flatten)]
        fields: WorkerFields,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
    /// Change workers' fields.
    Set {
        /// Which.
        #[command(flatten)]
        selection: Selection,
        /// The new name, of one worker.
        #[arg(long)]
        rename: Option<String>,
        /// What to change.
        #[command(flatten)]
        fields: WorkerFields,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
    /// Remove workers from the inventory. On chain nothing is stopped by that.
    Remove(Told),
    /// Add the workers of a file, all or none.
    Import {
        /// CSV with a line of field names, JSON or YAML; - for standard input.
        file: PathBuf,
        /// Its format, where its name does not say.
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
    /// Print workers as `import` reads them.
    Export {
        /// Which; all where none is given.
        #[command(flatten)]
        selection: Selection,
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
    },
    /// Compute: register, add to the pool and start, as far as that is not so yet.
    Start(Told),
    /// Stop computing. The stake stays locked for the cool-down.
    Stop(Told),
    /// Free the stake of stopped workers when the cool-down is over, and leave them stopped.
    Reclaim(Told),
    /// Take stopped workers out of their pool on chain.
    LeavePool(Told),
    /// Register again with a fresh attestation.
    RegisterAgain(Told),
    /// Forget what failed and observe everything anew.
    Restart(Told),
    /// Make workers' processes exit; their supervisors start them again.
    Kick(Told),
    /// Have workers keep their state on their disks.
    Checkpoint(Told),
    /// Accept the keys that answer at the workers' endpoints in place of the last ones.
    ConfirmKey(Told),
}

/// Workers, and how to tell them.
#[derive(Clone, Debug, Default, Args)]
pub struct Told {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// How.
    #[command(flatten)]
    pub caution: Caution,
}

/// A worker's fields; those that are absent stay, or have their default.
#[derive(Clone, Debug, Default, Args)]
pub struct WorkerFields {
    /// Number of its pool on chain.
    #[arg(long)]
    pub pid: Option<u64>,
    /// Its pRuntime's URL.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The stake to compute with: in 10^-12 PHA, or with the unit, such as 30000PHA.
    #[arg(long, value_name = "AMOUNT")]
    pub stake: Option<String>,
    /// Whether it runs.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enabled: Option<bool>,
    /// Sync it, send nothing on chain.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub sync_only: Option<bool>,
    /// A gatekeeper: registered and synced, not put to computing.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub gatekeeper: Option<bool>,
    /// URLs that it announces on chain, by comma; an empty value announces none.
    #[arg(long, value_name = "URLS")]
    pub announce: Option<String>,
    /// After a stop from elsewhere: stay-stopped, reclaim, start-again, or inherit (the pool's setting).
    #[arg(long, value_name = "SETTING", value_parser = after_stop)]
    pub after_stop: Option<Setting>,
}

/// What happens after a stop from elsewhere; `None` inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting(pub Option<AfterExternalStop>);

fn after_stop(text: &str) -> Result<Setting, String> {
    if text == "inherit" {
        return Ok(Setting(None));
    }
    text.parse()
        .map(|setting| Setting(Some(setting)))
        .map_err(|error: UnknownAfterExternalStop| format!("{error}, or inherit"))
}

/// `prb pool`.
#[derive(Clone, Debug, Args)]
pub struct PoolsArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// What to do.
    #[command(subcommand)]
    pub action: PoolAction,
}

/// What to do with pools.
#[derive(Clone, Debug, Subcommand)]
pub enum PoolAction {
    /// List pools, with what the chain says of them.
    List {
        /// Show them again every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show a pool.
    Show {
        /// Its number on chain, name or id.
        pool: String,
    },
    /// Add a pool. The operator's mnemonic is asked for on the terminal where no other source is named.
    Add {
        /// Its number on chain.
        pid: u64,
        /// Its fields.
        #[command(flatten)]
        fields: PoolFields,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
    /// Change a pool's fields.
    Set {
        /// Its number on chain, name or id.
        pool: String,
        /// The new number on chain.
        #[arg(long)]
        pid: Option<u64>,
        /// Ask on the terminal for another operator's mnemonic.
        #[arg(long)]
        secret: bool,
        /// What to change.
        #[command(flatten)]
        fields: PoolFields,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
    /// Remove a pool from the inventory.
    Remove {
        /// Its number on chain, name or id.
        pool: String,
        /// Even where workers belong to it: they stop, and wait for it.
        #[arg(long)]
        force: bool,
        /// How.
        #[command(flatten)]
        caution: Caution,
    },
}

/// A pool's fields; those that are absent stay, or have their default.
#[derive(Clone, Debug, Default, Args)]
pub struct PoolFields {
    /// Its name.
    #[arg(long)]
    pub name: Option<String>,
    /// File whose first line is the operator's mnemonic or secret URI.
    #[arg(long, value_name = "FILE", conflicts_with = "secret_stdin")]
    pub secret_file: Option<PathBuf>,
    /// Read the operator's mnemonic or secret URI from standard input.
    #[arg(long)]
    pub secret_stdin: bool,
    /// Address of the account that owns the pool, where the operator is its proxy; an empty value for none.
    #[arg(long, value_name = "ADDRESS")]
    pub proxied: Option<String>,
    /// Whether its workers run.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enabled: Option<bool>,
    /// Sync its workers, send nothing on chain.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub sync_only: Option<bool>,
    /// After a stop from elsewhere: stay-stopped, reclaim, start-again, or inherit (the fleet's setting).
    #[arg(long, value_name = "SETTING", value_parser = after_stop)]
    pub after_stop: Option<Setting>,
}

/// `prb job`.
#[derive(Clone, Debug, Args)]
pub struct JobsArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// What to do.
    #[command(subcommand)]
    pub action: JobAction,
}

/// What to do with jobs of the trade queue.
#[derive(Clone, Debug, Subcommand)]
pub enum JobAction {
    /// List jobs, newest first.
    List {
        /// Those in this state: waiting, delayed, active, succeeded or failed.
        #[arg(long)]
        state: Option<String>,
        /// Those of the pool of this number.
        #[arg(long, value_name = "PID")]
        pool: Option<u64>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Show them again every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show a job with its calls and history.
    Show {
        /// Its number.
        job: u64,
    },
    /// Put failed jobs in line again.
    Retry {
        /// Their numbers.
        #[arg(required = true)]
        jobs: Vec<u64>,
    },
    /// Forget jobs. What was sent for them is not undone.
    Remove {
        /// Their numbers.
        #[arg(required = true)]
        jobs: Vec<u64>,
    },
}

/// `prb provider`.
#[derive(Clone, Debug, Args)]
pub struct ProvidersArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ProviderAction,
}

/// What to do with data providers.
#[derive(Clone, Debug, Subcommand)]
pub enum ProviderAction {
    /// List the data providers that the daemon has met.
    List(StatusArgs),
}

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

/// `prb completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// `prb man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this folder; else the first page is printed.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// A file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line of field names, then a line for each entry.
    Csv,
    /// A list of objects.
    Json,
    /// A list of maps.
    Yaml,
}
