//! Arguments of the commands over the management API.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use prb_core::{inventory::AfterExternalStop, inventory::UnknownAfterExternalStop};

mod store;

pub use store::{StoreAction, StoreArgs};

/// Heading of the flags that lead to a daemon or its data.
const CONNECTION: &str = "Connection";
/// Position of a global flag among a command's own ones: behind them, before --help.
const AFTER_OWN: usize = 900;

/// How to connect to the daemon, and the output format.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// Address of the daemon's management API.
    #[arg(
        long,
        env = "PRB_API_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:3001",
        value_name = "URL",
        global = true,
        help_heading = CONNECTION
    )]
    pub api: String,
    /// File whose first line is the API's token. By default it is taken from the variable PRB_API_TOKEN, or
    /// from the file that the daemon created in its data folder.
    #[arg(long, env = "PRB_API_TOKEN_FILE", value_name = "FILE", global = true, help_heading = CONNECTION)]
    pub api_token_file: Option<PathBuf>,
    /// Data folder of a `prb all` on this machine, to find its generated token.
    #[arg(long, env = "PRB_DATA", value_name = "DIR", global = true, help_heading = CONNECTION)]
    pub data: Option<PathBuf>,
    /// Folder of pools and workers of a `prb lifecycle` on this machine, to find its generated token.
    #[arg(
        long,
        env = "PHALA_LOCAL_DB_PATH",
        default_value = "/var/data/local.db",
        value_name = "DIR",
        global = true,
        help_heading = CONNECTION
    )]
    pub local_db_path: PathBuf,
    /// Send the token to another machine without encryption.
    #[arg(long, global = true, help_heading = CONNECTION)]
    pub allow_plain_http: bool,
    /// Print JSON, for programs.
    #[arg(long, global = true, display_order = AFTER_OWN)]
    pub json: bool,
}

/// Work without a running daemon.
#[derive(Clone, Debug, Default, Args)]
pub struct OfflineArgs {
    /// Work on the inventory of a stopped daemon: that of a `prb all` if --data (PRB_DATA) names its data folder,
    /// otherwise that of a `prb lifecycle` in --local-db-path (PHALA_LOCAL_DB_PATH). Refused while a daemon has it
    /// open.
    #[arg(long, global = true, help_heading = CONNECTION)]
    pub offline: bool,
    /// With --offline: folder of the identity that seals operators' keys [default: id in --data, otherwise
    /// /var/data/keys/id].
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", value_name = "DIR", global = true, help_heading = CONNECTION)]
    pub peer_id_prefix: Option<PathBuf>,
    /// With --offline: the fleet file of the `prb all`, if it has one; its pools and workers are edited there.
    #[arg(long, env = "PRB_FLEET", value_name = "FILE", global = true, help_heading = CONNECTION)]
    pub fleet: Option<PathBuf>,
}

/// `prb status` and `prb provider list`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// Refresh every two seconds.
    #[arg(long)]
    pub watch: bool,
}

/// `prb worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// The daemon.
    #[command(flatten)]
    pub remote: Remote,
    /// Without a daemon.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: WorkerAction,
}

/// Selects workers.
#[derive(Clone, Debug, Default, Args)]
pub struct Selection {
    /// Names, ids, or patterns with * and ? (quoted, so that the shell does not expand them).
    #[arg(value_name = "WORKER")]
    pub workers: Vec<String>,
    /// Only workers of the pool with this number.
    #[arg(long, value_name = "PID")]
    pub pool: Option<u64>,
}

/// Options of changes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ChangeOptions {
    /// Show what would happen, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    pub yes: bool,
}

/// Commands for workers.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkerAction {
    /// List workers with their status.
    List {
        /// The workers.
        #[command(flatten)]
        selection: Selection,
        /// Only workers in this state, such as `S_ERROR`.
        #[arg(long)]
        state: Option<String>,
        /// Only workers with this reason: a code of docs/worker-states.md.
        #[arg(long)]
        reason: Option<String>,
        /// Refresh every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show all known details of a worker, and its events.
    Show {
        /// Its name or id.
        worker: String,
        /// Refresh every two seconds.
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
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Change workers' fields.
    Set {
        /// The workers.
        #[command(flatten)]
        selection: Selection,
        /// The new name; for one worker only.
        #[arg(long)]
        rename: Option<String>,
        /// What to change.
        #[command(flatten)]
        fields: WorkerFields,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Remove workers from the inventory. This does not stop them on chain.
    Remove {
        /// The workers.
        #[command(flatten)]
        selection: Selection,
        /// Remove them even if they compute: their heartbeats end, and their stake is slashed.
        #[arg(long)]
        force: bool,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Add the workers of a file, all or none; with --update, also change existing ones, found by name.
    Import(ImportArgs),
    /// Print workers in a format that `import` reads.
    Export {
        /// The workers; all by default.
        #[command(flatten)]
        selection: Selection,
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
    },
    /// Start computing; registers workers and adds them to the pool first if needed.
    Start(CommandArgs),
    /// Stop computing. The stake stays locked during the cool-down.
    Stop(CommandArgs),
    /// Reclaim the stake of stopped workers after the cool-down, and leave them stopped.
    Reclaim(CommandArgs),
    /// Remove stopped workers from their pool on chain.
    LeavePool(CommandArgs),
    /// Register again with a fresh attestation.
    RegisterAgain(CommandArgs),
    /// Clear recorded failures and observe the workers again.
    Restart(CommandArgs),
    /// Make pRuntime exit; its supervisor starts it again.
    Kick(CommandArgs),
    /// Make workers write a checkpoint of their state to disk.
    Checkpoint(CommandArgs),
    /// Accept the keys that now answer at the workers' endpoints.
    ConfirmKey(CommandArgs),
}

/// A file of entries.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// CSV with a line of field names, JSON or YAML; - for standard input.
    pub file: PathBuf,
    /// Its format, if its extension is not csv, json, yaml or yml.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Also change existing entries. Fields and entries that the file does not have stay unchanged.
    #[arg(long)]
    pub update: bool,
    /// Options.
    #[command(flatten)]
    pub options: ChangeOptions,
}

/// The workers of a command, and its options.
#[derive(Clone, Debug, Default, Args)]
pub struct CommandArgs {
    /// The workers.
    #[command(flatten)]
    pub selection: Selection,
    /// Options.
    #[command(flatten)]
    pub options: ChangeOptions,
}

/// A worker's fields; absent ones keep their value or get their default.
#[derive(Clone, Debug, Default, Args)]
pub struct WorkerFields {
    /// Number of its pool on chain.
    #[arg(long)]
    pub pid: Option<u64>,
    /// Its pRuntime's URL.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The stake for computing: in 10^-12 PHA, or with a unit, such as 30000PHA.
    #[arg(long, value_name = "AMOUNT")]
    pub stake: Option<String>,
    /// Whether it runs.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enabled: Option<bool>,
    /// Sync it, send nothing on chain.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub sync_only: Option<bool>,
    /// A gatekeeper: registered and synced, but not started.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub gatekeeper: Option<bool>,
    /// URLs to announce on chain, separated by commas; an empty value announces none.
    #[arg(long, value_name = "URLS")]
    pub announce: Option<String>,
    /// What to do after a stop by somebody else: stay-stopped, reclaim, start-again, or inherit (the pool's
    /// setting).
    #[arg(long, value_name = "SETTING", value_parser = after_stop)]
    pub after_stop: Option<Setting>,
}

/// What to do after a stop by somebody else; `None` inherits.
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
    /// Without a daemon.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: PoolAction,
}

/// Commands for pools.
#[derive(Clone, Debug, Subcommand)]
pub enum PoolAction {
    /// List pools with their on-chain state.
    List {
        /// Refresh every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show a pool.
    Show {
        /// Its number on chain, name or id.
        pool: String,
    },
    /// Add a pool. Asks on the terminal for the operator's mnemonic unless another source is given.
    Add {
        /// Its number on chain.
        pid: u64,
        /// Its fields.
        #[command(flatten)]
        fields: PoolFields,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Change a pool's fields.
    Set {
        /// Its number on chain, name or id.
        pool: String,
        /// The new number on chain.
        #[arg(long)]
        pid: Option<u64>,
        /// Ask on the terminal for the mnemonic of a new operator.
        #[arg(long)]
        secret: bool,
        /// What to change.
        #[command(flatten)]
        fields: PoolFields,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Add the pools of a file, all or none; with --update, also change existing ones, found by number. A pool's field
    /// secret is its operator's mnemonic, secret_file a file whose first line is the mnemonic.
    Import(ImportArgs),
    /// Print pools in a format that `import` reads, without their operators' secrets.
    Export {
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
    },
    /// Remove a pool from the inventory.
    Remove {
        /// Its number on chain, name or id.
        pool: String,
        /// Remove it even if workers belong to it: until it exists again, they are not operated, and the stake of those
        /// that compute is slashed.
        #[arg(long)]
        force: bool,
        /// Options.
        #[command(flatten)]
        options: ChangeOptions,
    },
}

/// A pool's fields; absent ones keep their value or get their default.
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
    /// Address of the account that owns the pool, if the operator is its proxy; an empty value for none.
    #[arg(long, value_name = "ADDRESS")]
    pub proxied: Option<String>,
    /// Whether its workers run.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enabled: Option<bool>,
    /// Sync its workers, send nothing on chain.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub sync_only: Option<bool>,
    /// What to do after a stop by somebody else: stay-stopped, reclaim, start-again, or inherit (the fleet's
    /// setting).
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

/// Commands for jobs of the trade queue.
#[derive(Clone, Debug, Subcommand)]
pub enum JobAction {
    /// List jobs, newest first.
    List {
        /// Only jobs in this state: waiting, delayed, active, succeeded or failed.
        #[arg(long)]
        state: Option<String>,
        /// Only jobs of the pool with this number.
        #[arg(long, value_name = "PID")]
        pool: Option<u64>,
        /// Maximum number of jobs.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Refresh every two seconds.
        #[arg(long)]
        watch: bool,
    },
    /// Show a job with its calls and history.
    Show {
        /// Its number.
        job: u64,
    },
    /// Queue failed jobs again.
    Retry {
        /// Their numbers.
        #[arg(required = true)]
        jobs: Vec<u64>,
    },
    /// Remove jobs. Transactions that were sent for them are not undone.
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

/// Commands for data providers.
#[derive(Clone, Debug, Subcommand)]
pub enum ProviderAction {
    /// List the data providers that the daemon has discovered.
    List(StatusArgs),
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
    /// Folder to write a page for each command to; without it, the first page is printed.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// A file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A header line, then a line for each entry.
    Csv,
    /// A list of objects.
    Json,
    /// A list of maps.
    Yaml,
}
