//! Configuration of the daemons: flags, and the environment variables of the original with the same meaning.
//!
//! Everything is read and checked before anything is opened; an error names the variable, its value and what
//! is allowed. An empty variable counts as not set, as in the original.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, value_parser,
};

use files::Origins;

use crate::{
    redact,
    telemetry::{LogLevel, log_level},
};

mod all;
mod api;
mod blob_cache;
mod data_provider;
mod effective;
mod files;
mod history;
mod import;
mod keys;
mod lifecycle;
mod listeners;
mod monitor;
mod ops;
mod pages;
mod pccs;
mod refusal;
mod retired;
mod secret;
mod sending;
mod trader;
mod trusted;
mod values;
mod walkie;
mod workers;

pub use all::AllArgs;
pub use api::ApiArgs;
pub use blob_cache::BlobCacheArgs;
pub use data_provider::DataProviderArgs;
pub use history::{HistoryArgs, HistoryLocation};
pub use import::{ImportArgs, ImportFrom, ImportInto, V2Args, V3Args};
pub use keys::{BackupArgs, KeyRole, KeysAction, KeysArgs, PassphraseArgs, RestoreArgs, RotateArgs};
pub use lifecycle::LifecycleArgs;
pub(crate) use listeners::Listener;
pub use monitor::{MONITOR_PORT, MonitorArgs};
pub use ops::{HealthArgs, OpsArgs};
pub use pages::{PageArgs, TOKEN_VARIABLE};
pub use pccs::PccsArgs;
pub use retired::retired_variables;
pub use secret::ReadOnce;
pub(crate) use secret::first_line;
pub use sending::SendingArgs;
pub use trader::TraderArgs;
pub use trusted::Trusted;
pub(crate) use values::host_only;
pub use values::{NodeUrl, OpsListen, RedisUrl};
pub use walkie::{BootNode, PSK_VARIABLE, PeerName, WalkieArgs};
pub use workers::WorkerArgs;

/// Exit code of an invalid configuration, the same as clap's.
pub const BAD_CONFIGURATION: u8 = 2;
/// The variable that selects the daemon if no argument does.
const MODULE: &str = "PHALA_MODULE";
/// Alternative names of variables.
const ALIASES: [(&str, &str); 1] =
    [("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", "PHALA_DATA_PROVIDER_LOCAL_SERVER")];
/// Variables that are read, but not by an argument.
/// A variable that is missing here is reported as a typing error at each start.
const OTHERS: [&str; 5] = [MODULE, PSK_VARIABLE, TOKEN_VARIABLE, "PRB_KEYS_PASSPHRASE", ALIASES[0].1];

/// Heading of the global flags.
const GLOBAL: &str = "Global options";

/// Runtime Bridge for Phala Network: feeds fleets of TEE workers and submits their transactions.
#[derive(Debug, Parser)]
#[command(
    name = "prb",
    version,
    about,
    max_term_width = 110,
    after_help = "If no command is given, the variable PHALA_MODULE selects it: data_provider, lifecycle, trade, \
                  monitor or all.\n\nExit codes: 0 ended as requested; 1 failure, a restart may help; 2 invalid \
                  configuration; 130 ended at once by a second signal.",
    mut_subcommands(without_daemon_flags)
)]
pub struct Cli {
    /// Log format: `development` for text, anything else for JSON.
    #[arg(long, env = "NODE_ENV", default_value = "production", global = true, help_heading = GLOBAL)]
    pub node_env: String,
    /// Log level (trace, debug, info, warn, error, fatal, or bunyan's numbers 10 to 60), or a filter such as
    /// info,prb_core=debug. A level applies to the daemon itself; libraries log warnings and errors unless the
    /// filter names them. A filter without a level adds to info.
    #[arg(long, env = "PHALA_LOGGER_LEVEL", global = true, value_parser = log_level, help_heading = GLOBAL)]
    pub log_level: Option<LogLevel>,
    /// Configuration file of the daemons (TOML): one line for each setting, with the name of its flag, at the top
    /// level or in a table with the daemon's name. Variables and flags take precedence. --check prints such a
    /// file.
    #[arg(long, env = "PRB_CONFIG", value_name = "FILE", global = true, help_heading = GLOBAL)]
    pub config: Option<PathBuf>,
    /// Check the configuration and all files as a start would, print the effective settings as TOML, with their
    /// sources and without secrets, and exit.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub check: bool,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
    /// The effective settings, as TOML.
    #[arg(skip)]
    pub effective: String,
    /// Flags with a password or key in their value, which every user of the machine can read.
    #[arg(skip)]
    pub exposed: Vec<String>,
}

/// The daemons and other commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Data provider, lifecycle manager and trader in one process.
    All(Box<AllArgs>),
    /// Fetch both chains, verify and store them, and serve them to lifecycle managers.
    DataProvider(Box<DataProviderArgs>),
    /// Manage workers with the chain data of discovered data providers.
    Lifecycle(Box<LifecycleArgs>),
    /// Send the on-chain operations of lifecycle managers, from the queue in Redis.
    Trader(Box<TraderArgs>),
    /// Show discovered data providers and lifecycle managers, and manage their workers in a browser.
    Monitor(Box<MonitorArgs>),
    /// Show the peer ids of identity keys; back up, restore and rotate keys.
    Keys(KeysArgs),
    /// Import pools and workers of the original bridge (PRB v2) or of Phala's worker manager (PRB v3).
    Import(ImportArgs),
    /// Check whether the daemon named by PHALA_MODULE or PRB_OPS_LISTEN is alive, for health checks of
    /// containers.
    Healthcheck(HealthArgs),
    /// A request to a running daemon.
    #[command(flatten)]
    Request(crate::cli::Request),
}

/// Hides the global flags that only daemons have from the help of another command.
fn without_daemon_flags(command: clap::Command) -> clap::Command {
    if files::DAEMONS.contains(&command.get_name()) {
        return command;
    }
    // clap adds a global flag to each command that has none of that name. Both flags are still parsed: --check is refused
    // with an explanation, and --config has no effect.
    let hidden = |name: &'static str| Arg::new(name).long(name).global(true).hide(true);
    let check = hidden("check").action(ArgAction::SetTrue);
    command.args([check, hidden("config").value_parser(value_parser!(PathBuf))])
}

impl Cli {
    /// Reads arguments and environment.
    ///
    /// # Errors
    /// An error for [`clap::Error::print`], or the requested help or version.
    pub fn read(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let mut command = Self::command();
        if First::of(&arguments) == First::Other
            && let Some(module) = variable(MODULE)
        {
            // In front of all flags, which then belong to the command.
            arguments.insert(1.min(arguments.len()), subcommand_of(&module)?.into());
        }
        let mut origins = Origins::new();
        if let First::Command(daemon) = First::of(&arguments)
            && files::DAEMONS.contains(&daemon)
        {
            (command, origins) =
                files::apply(command, &arguments, daemon).map_err(|text| value_error(&text))?;
        }
        // Afterwards: an empty variable does not hide the one that names its file.
        command = files::without_empty_variables(command, &ALIASES).map_err(|text| value_error(&text))?;
        let read = command
            .try_get_matches_from_mut(&arguments)
            .and_then(|matches| Self::from_arg_matches(&matches).map(|cli| (cli, matches)));
        let (mut cli, matches) =
            read.map_err(|error| refusal::explained(error, &command, &arguments, &origins))?;
        cli.effective = effective::toml(&command, &matches, &origins);
        // Both from the matches: the parsed arguments do not tell where a value comes from.
        cli.exposed = effective::exposed(&command, &matches);
        if cli.check && cli.command.is_no_daemon() {
            return Err(value_error(&cli.command.no_check()));
        }
        // Not by clap's parsers, whose errors quote the value.
        cli.command.check()?;
        Ok(cli)
    }
}

impl Cli {
    /// Logs settings that are probably not meant: misspelled or retired variables, and flags that show a secret.
    pub fn warn(&self) {
        for flag in &self.exposed {
            tracing::warn!(
                flag,
                "every user of this machine can read this flag's value, which contains a password or an access key: use \
                 its variable, or a file named by that variable with _FILE at its end"
            );
        }
        for name in unknown_variables() {
            tracing::warn!(variable = name, "this variable looks like a setting, but is not one");
        }
        for (variable, why) in retired_variables() {
            tracing::warn!(variable, why, "this variable of the original has no effect");
        }
    }
}

impl Command {
    /// Whether this is a command that ends by itself.
    const fn is_no_daemon(&self) -> bool {
        matches!(self, Self::Keys(_) | Self::Import(_) | Self::Healthcheck(_) | Self::Request(_))
    }

    /// Explains that `--check` has no effect on this command.
    fn no_check(&self) -> String {
        use crate::cli::Request;
        let has_dry_run = match self {
            Self::Import(_) => true,
            Self::Request(request) => {
                matches!(request, Request::Worker(_) | Request::Pool(_) | Request::Job(_) | Request::Store(_))
            }
            _ => false,
        };
        let tip = if has_dry_run { "; --dry-run shows what this command would change" } else { "" };
        format!("--check checks the settings of a daemon ({}){tip}", files::DAEMONS.join(", "))
    }

    /// Checks that involve several values, or values that must not be quoted. A start and `--check` share them, so
    /// whatever needs no file belongs here.
    fn check(&self) -> Result<(), clap::Error> {
        check_nodes(self)?;
        listeners::check(&self.listeners()).map_err(|text| value_error(&text))?;
        match self {
            Self::DataProvider(args) => {
                check_psk(&args.walkie)?;
                check_chains(args)
            }
            Self::Lifecycle(args) => {
                check_psk(&args.walkie)?;
                check_token(&args.pages)?;
                check_queue(args)
            }
            Self::Trader(args) => {
                check_token(&args.pages)?;
                check_redis(&args.q_redis_endpoint)
            }
            Self::Monitor(args) => {
                check_psk(&args.walkie)?;
                check_token(&args.pages)
            }
            Self::All(args) => check_token(&args.pages),
            Self::Keys(_) | Self::Import(_) | Self::Healthcheck(_) | Self::Request(_) => Ok(()),
        }
    }
}

/// Checks that each node is listed once, and for one chain.
fn check_nodes(command: &Command) -> Result<(), clap::Error> {
    const PARA: &str = "PHALA_CHAIN_ENDPOINT";
    const RELAY: &str = "PHALA_PARENT_CHAIN_ENDPOINT";
    let (para, relay): (&[NodeUrl], &[NodeUrl]) = match command {
        Command::All(args) => (&args.chain_endpoint, &args.parent_chain_endpoint),
        Command::DataProvider(args) => (&args.chain_endpoint, &args.parent_chain_endpoint),
        // They do not use the relay chain.
        Command::Lifecycle(args) => (&args.chain_endpoint, &[]),
        Command::Trader(args) => (&args.chain_endpoint, &[]),
        _ => return Ok(()),
    };
    for (setting, urls) in [(PARA, para), (RELAY, relay)] {
        for (index, url) in urls.iter().enumerate() {
            if let Some(first) = urls[..index].iter().position(|first| first.is_same_node(url)) {
                return Err(value_error(&format!(
                    "{setting} lists one node twice, as its items {} and {} ({url:?}): it would count as two where nodes \
                     disagree; remove one",
                    first + 1,
                    index + 1
                )));
            }
        }
    }
    match para.iter().find(|url| relay.iter().any(|other| other.is_same_node(url))) {
        None => Ok(()),
        Some(url) => Err(value_error(&format!(
            "{PARA} and {RELAY} both list {url:?}, which can serve only one of the chains"
        ))),
    }
}

/// Checks that a data provider has nodes of both chains, or of none and a history source.
fn check_chains(args: &DataProviderArgs) -> Result<(), clap::Error> {
    match (args.chain_endpoint.is_empty(), args.parent_chain_endpoint.is_empty()) {
        (true, false) | (false, true) => Err(value_error(
            "nodes of one chain are not sufficient: set both PHALA_CHAIN_ENDPOINT and PHALA_PARENT_CHAIN_ENDPOINT, \
             or neither if PRB_HISTORY has the whole history",
        )),
        (true, true) if args.history.history.is_empty() => Err(value_error(
            "no chain nodes are configured: set PHALA_CHAIN_ENDPOINT and PHALA_PARENT_CHAIN_ENDPOINT (or --chain-endpoint and \
             --parent-chain-endpoint), or PRB_HISTORY if that has the whole history",
        )),
        _ => Ok(()),
    }
}

fn check_psk(args: &WalkieArgs) -> Result<(), clap::Error> {
    args.psk().map(drop).map_err(|error| value_error(&format!("{error:#}")))
}

fn check_token(args: &PageArgs) -> Result<(), clap::Error> {
    args.token().map(drop).map_err(|error| value_error(&format!("{error:#}")))
}

fn check_redis(url: &RedisUrl) -> Result<(), clap::Error> {
    url.check().map_err(|text| value_error(&format!("the value of PHALA_Q_REDIS_ENDPOINT {text}")))
}

fn check_queue(args: &LifecycleArgs) -> Result<(), clap::Error> {
    match (&args.q_redis_endpoint, args.use_built_in_trader) {
        (None, false) if !args.lifecycle_config_mode => Err(value_error(
            "no trade queue is configured: set PHALA_Q_REDIS_ENDPOINT (a Redis URL such as \
             redis://127.0.0.1:6379/0, where a trader works too), or USE_BUILT_IN_TRADER=true",
        )),
        (Some(url), _) => check_redis(url),
        (None, _) => Ok(()),
    }
}

fn value_error(message: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, message)
}

fn variable(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The first argument apart from global flags.
#[derive(Debug, PartialEq, Eq)]
enum First<'a> {
    /// Help or the version.
    Help,
    /// A command.
    Command(&'a str),
    /// A flag of an unnamed command, or nothing.
    Other,
}

impl<'a> First<'a> {
    fn of(arguments: &'a [OsString]) -> Self {
        // Must name every global flag of `Cli` that has a value, or its value is taken for the command.
        const WITH_VALUE: [&str; 3] = ["--node-env", "--log-level", "--config"];
        let mut rest = arguments.iter().skip(1);
        while let Some(argument) = rest.next() {
            let Some(text) = argument.to_str() else { return Self::Other };
            // Only global flags may precede a command.
            match text.split_once('=').map_or(text, |(flag, _)| flag) {
                flag if WITH_VALUE.contains(&flag) => {
                    if flag == text {
                        rest.next();
                    }
                }
                "--check" => {}
                "-h" | "--help" | "-V" | "--version" => return Self::Help,
                _ if text.starts_with('-') => return Self::Other,
                _ => return Self::Command(text),
            }
        }
        Self::Other
    }
}

/// The value of `PHALA_MODULE`.
pub(crate) fn module_name() -> Option<OsString> {
    variable(MODULE)
}

/// The subcommand selected by `PHALA_MODULE`.
pub(crate) fn module() -> Result<Option<&'static str>, clap::Error> {
    variable(MODULE).map(|module| subcommand_of(&module)).transpose()
}

fn subcommand_of(module: &OsStr) -> Result<&'static str, clap::Error> {
    match module.to_str() {
        Some("data_provider" | "data-provider") => Ok("data-provider"),
        Some("lifecycle") => Ok("lifecycle"),
        Some("trade" | "trader") => Ok("trader"),
        Some("monitor") => Ok("monitor"),
        Some("all") => Ok("all"),
        _ => Err(value_error(&format!(
            "{MODULE} is {}; it must be data_provider, lifecycle, trade, monitor or all",
            redact::shown(&module.to_string_lossy())
        ))),
    }
}

/// Returns variables that look like settings but are not read: probably typing errors.
pub fn unknown_variables() -> Vec<String> {
    fn collect(command: &clap::Command, known: &mut Vec<OsString>) {
        known.extend(command.get_arguments().filter_map(Arg::get_env).map(OsStr::to_owned));
        known.extend(command.get_arguments().filter_map(files::file_variable));
        command.get_subcommands().for_each(|sub| collect(sub, known));
    }
    let mut known: Vec<OsString> = OTHERS.map(Into::into).to_vec();
    collect(&Cli::command(), &mut known);
    let mut unknown: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name) && !name.to_str().is_some_and(retired::is_retired))
        .filter_map(|name| name.into_string().ok())
        .filter(|name| ["PHALA_", "PRB_", "PRPC_"].iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    unknown.sort();
    unknown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn all(args: &[&str]) -> Result<AllArgs, clap::Error> {
        let base = ["prb", "all", "--data", "/tmp/x", "--fleet", "f.toml"];
        Cli::read(base.iter().chain(args)).map(|cli| match cli.command {
            Command::All(args) => *args,
            other => panic!("{other:?}"),
        })
    }

    const ENDPOINTS: [&str; 4] =
        ["--chain-endpoint", "ws://a:1,ws://b:2", "--parent-chain-endpoint", "wss://r"];

    #[test]
    fn flags_with_secrets_are_found() {
        let exposed = |endpoint: &str| {
            let args = ["prb", "lifecycle", "--use-built-in-trader", "--chain-endpoint", endpoint];
            Cli::read(args).unwrap().exposed
        };
        for open in ["ws://a:1,ws://u:hunter2@b:2", "ws://hunter2@a", "wss://a/rpc?key=hunter2"] {
            assert_eq!(exposed(open), ["--chain-endpoint"], "{open}");
        }
        assert!(exposed("ws://a:1,ws://b:2/rpc").is_empty());
    }

    #[test]
    fn lists_and_defaults() {
        let args = all(&ENDPOINTS).unwrap();
        let urls: Vec<_> = args.chain_endpoint.iter().map(NodeUrl::as_str).collect();
        assert_eq!(urls, ["ws://a:1", "ws://b:2"]);
        assert_eq!(args.workers.prpc_request_timeout, Duration::from_secs(8));
        assert_eq!(args.workers.runner_max_worker_number, 150);
        assert!(!args.workers.sync_only);
        let args = all(&[&ENDPOINTS[..], &["--sync-only"]].concat()).unwrap();
        assert!(args.workers.sync_only);
    }

    #[test]
    fn invalid_values_are_refused() {
        assert!(all(&[]).is_err());
        assert!(all(&["--chain-endpoint", "http://a", "--parent-chain-endpoint", "ws://r"]).is_err());
        for bad in [["--prpc-request-timeout", "0"], ["--runner-max-worker-number", "0"]] {
            assert!(all(&[&ENDPOINTS[..], &bad].concat()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subcommand_is_found_after_global_flags() {
        let lacks =
            |args: &[&str]| First::of(&args.iter().map(Into::into).collect::<Vec<_>>()) == First::Other;
        assert!(lacks(&["prb"]));
        assert!(lacks(&["prb", "--log-level", "all"]) && lacks(&["prb", "--config", "all"]));
        assert!(lacks(&["prb", "--check", "--sync-only"]));
        for given in [&["prb", "all"][..], &["prb", "--log-level=info", "keys", "show"], &["prb", "--help"]] {
            assert!(!lacks(given), "{given:?}");
        }
    }

    #[test]
    fn command_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
