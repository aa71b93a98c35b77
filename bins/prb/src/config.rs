//! What operators set: flags, and the environment variables of the original daemons with the same meaning.
//!
//! Everything is read and checked before anything is opened; what is wrong is named with its variable, its
//! value and what is allowed. An empty variable counts as one that is not set, as in the original.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use anyhow::{Context, bail};
use clap::{
    Arg, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{Resettable, StyledStr},
    error::{ContextKind, ContextValue, ErrorKind},
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    redact,
    telemetry::{LogLevel, log_level},
};

mod all;
mod api;
mod data_provider;
mod effective;
mod history;
mod keys;
mod lifecycle;
mod monitor;
mod ops;
mod pages;
mod pccs;
mod trader;
mod values;
mod walkie;
mod workers;

pub use all::AllArgs;
pub use api::ApiArgs;
pub use data_provider::DataProviderArgs;
pub use history::{HistoryArgs, HistoryPlace};
pub use keys::{BackupArgs, KeyRole, KeysAction, KeysArgs, PassphraseArgs, RestoreArgs};
pub use lifecycle::LifecycleArgs;
pub use monitor::{MONITOR_PORT, MonitorArgs};
pub use ops::OpsArgs;
pub use pages::{PageArgs, TOKEN_VARIABLE};
pub use pccs::PccsArgs;
pub use trader::TraderArgs;
pub(crate) use values::host_only;
pub use values::{NodeUrl, OpsListen, RedisUrl};
pub use walkie::{BootNode, PSK_VARIABLE, PeerName, WalkieArgs};
pub use workers::WorkerArgs;

/// Exit code for a bad configuration, as clap's own.
pub const BAD_CONFIGURATION: u8 = 2;
/// The variable that names the daemon where no argument does.
const MODULE: &str = "PHALA_MODULE";
/// Second names of variables.
const ALIASES: [(&str, &str); 1] =
    [("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", "PHALA_DATA_PROVIDER_LOCAL_SERVER")];
/// Variables that are read, but by no argument.
const OTHERS: [&str; 5] = [MODULE, PSK_VARIABLE, TOKEN_VARIABLE, "PRB_KEYS_PASSPHRASE", ALIASES[0].1];

/// Runtime Bridge for Phala Network: feeds fleets of TEE workers and speaks for them on chain.
#[derive(Debug, Parser)]
#[command(
    name = "prb",
    version,
    about,
    max_term_width = 110,
    after_help = "Where no command is given, the variable PHALA_MODULE picks it: data_provider, lifecycle, trade, \
                  monitor or all.\n\nExit codes: 0 ended as it was told to; 1 something broke, a restart may help; 2 the \
                  configuration is to be changed; 130 ended at once by a second signal."
)]
pub struct Cli {
    /// How the log shows: `development` for people, anything else for machines.
    #[arg(long, env = "NODE_ENV", default_value = "production", global = true)]
    pub node_env: String,
    /// Log level (trace, debug, info, warn, error, fatal, or bunyan's numbers 10 to 60), or a filter such as
    /// info,prb_core=debug. A level is for the daemon itself; libraries log from warnings on unless they are named.
    #[arg(long, env = "PHALA_LOGGER_LEVEL", global = true, value_parser = log_level)]
    pub log_level: Option<LogLevel>,
    /// Check what a start would check, files included; show the settings that count as TOML, with where each comes
    /// from and without secrets; and end.
    #[arg(long, global = true)]
    pub check: bool,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
    /// The settings that count, as TOML.
    #[arg(skip)]
    pub effective: String,
}

/// The daemons, and what is done beside them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Data provider, lifecycle manager and trader in one process.
    All(Box<AllArgs>),
    /// Fetch both chains, verify and store them, and serve them to lifecycle managers.
    DataProvider(Box<DataProviderArgs>),
    /// Manage workers with the data of the data providers that are found.
    Lifecycle(Box<LifecycleArgs>),
    /// Send what lifecycle managers want on chain, from the queue in Redis.
    Trader(Box<TraderArgs>),
    /// Show the data providers and lifecycle managers that are found, and manage their workers in a browser.
    Monitor(Box<MonitorArgs>),
    /// Show identity keys' peer ids, back keys up, restore them.
    Keys(KeysArgs),
    /// What is asked of a running daemon.
    #[command(flatten)]
    Request(crate::cli::Request),
}

impl Cli {
    /// Reads arguments and environment.
    ///
    /// # Errors
    /// What is wrong, for [`clap::Error::print`]; or help and version, which were asked for.
    pub fn read(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let mut command = with_environment(Self::command())?;
        if lacks_subcommand(&arguments)
            && let Some(module) = variable(MODULE)
        {
            arguments.insert(1.min(arguments.len()), subcommand_of(&module)?.into());
        }
        let read = command
            .try_get_matches_from_mut(&arguments)
            .and_then(|matches| Self::from_arg_matches(&matches).map(|cli| (cli, matches)));
        let (mut cli, matches) = read.map_err(|error| explained(error, &command, &arguments))?;
        cli.effective = effective::toml(&command, &matches);
        cli.command.check()?;
        Ok(cli)
    }
}

impl Command {
    /// Checks what takes more than one value to see, or must not be quoted.
    fn check(&self) -> Result<(), clap::Error> {
        match self {
            Self::DataProvider(args) => {
                check_psk(&args.walkie)?;
                check_chains(args)
            }
            Self::Lifecycle(args) => {
                check_psk(&args.walkie)?;
                check_token(&args.pages)?;
                check_desk(args)
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
            Self::Keys(_) | Self::Request(_) => Ok(()),
        }
    }
}

/// A data provider has nodes of both chains, or of none and something else to take blocks from.
fn check_chains(args: &DataProviderArgs) -> Result<(), clap::Error> {
    match (args.chain_endpoint.is_empty(), args.parent_chain_endpoint.is_empty()) {
        (true, false) | (false, true) => Err(wrong(
            "nodes of one chain alone are of no use: set both PHALA_CHAIN_ENDPOINT and PHALA_PARENT_CHAIN_ENDPOINT, \
             or neither where PRB_HISTORY has the whole history",
        )),
        _ => Ok(()),
    }
}

fn check_psk(args: &WalkieArgs) -> Result<(), clap::Error> {
    args.psk().map(drop).map_err(|error| wrong(&format!("{error:#}")))
}

fn check_token(args: &PageArgs) -> Result<(), clap::Error> {
    args.token().map(drop).map_err(|error| wrong(&format!("{error:#}")))
}

fn check_redis(url: &RedisUrl) -> Result<(), clap::Error> {
    url.check().map_err(|allowed| wrong(&format!("the value of PHALA_Q_REDIS_ENDPOINT {allowed}")))
}

fn check_desk(args: &LifecycleArgs) -> Result<(), clap::Error> {
    match (&args.q_redis_endpoint, args.use_built_in_trader) {
        (None, false) if !args.lifecycle_config_mode => Err(wrong(
            "there is no trade queue: set PHALA_Q_REDIS_ENDPOINT (a Redis URL such as \
             redis://127.0.0.1:6379/0, where a trader works too), or USE_BUILT_IN_TRADER=true",
        )),
        (Some(url), _) => check_redis(url),
        (None, _) => Ok(()),
    }
}

fn wrong(message: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, message)
}

fn variable(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Takes empty variables away from their arguments, and reads second names.
fn with_environment(command: clap::Command) -> Result<clap::Command, clap::Error> {
    for (name, alias) in ALIASES {
        if let (Some(value), Some(other)) = (variable(name), variable(alias))
            && value != other
        {
            return Err(wrong(&format!("{name} and {alias} are both set and differ; set one")));
        }
    }
    let adapt = |arg: Arg| {
        let Some(name) = arg.get_env().map(OsStr::to_owned) else { return arg };
        match ALIASES.iter().find(|(first, _)| *first == name) {
            _ if variable(&name).is_some() => arg,
            Some((_, alias)) if variable(alias).is_some() => arg.env(*alias),
            _ if std::env::var_os(&name).is_some() => arg.env(Resettable::Reset),
            _ => arg,
        }
    };
    fn everywhere(command: clap::Command, adapt: &impl Fn(Arg) -> Arg) -> clap::Command {
        command.mut_args(adapt).mut_subcommands(|sub| everywhere(sub, adapt))
    }
    Ok(everywhere(command, &adapt))
}

/// Whether the arguments name no subcommand and do not ask for help or version.
fn lacks_subcommand(arguments: &[OsString]) -> bool {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--node-env" | "--log-level") => {
                rest.next();
            }
            Some("--check") => {}
            Some(text) if text.starts_with("--node-env=") || text.starts_with("--log-level=") => {}
            Some("-h" | "--help" | "-V" | "--version") => return false,
            Some(text) => return text.starts_with('-'),
            None => return false,
        }
    }
    true
}

fn subcommand_of(module: &OsStr) -> Result<&'static str, clap::Error> {
    match module.to_str() {
        Some("data_provider" | "data-provider") => Ok("data-provider"),
        Some("lifecycle") => Ok("lifecycle"),
        Some("trade" | "trader") => Ok("trader"),
        Some("monitor") => Ok("monitor"),
        Some("all") => Ok("all"),
        _ => Err(wrong(&format!(
            "{MODULE} is {}; it must be data_provider, lifecycle, trade, monitor or all",
            redact::shown(&module.to_string_lossy())
        ))),
    }
}

/// Says which variable a refused value is from, and which one would give a missing value.
fn explained(mut error: clap::Error, command: &clap::Command, arguments: &[OsString]) -> clap::Error {
    hide_secrets(&mut error);
    let missing = error.kind() == ErrorKind::MissingRequiredArgument;
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => Vec::new(),
    };
    let tips: Vec<StyledStr> = named.iter().filter_map(|arg| tip(arg, missing, command, arguments)).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Takes out of a refusal what it quotes, unless that cannot be a secret.
fn hide_secrets(error: &mut clap::Error) {
    // A word in an unknown place: of a flag its name is shown, but not its value.
    let is_flag = error.kind() != ErrorKind::UnknownArgument;
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidSubcommand, ContextKind::InvalidArg] {
        if kind == ContextKind::InvalidArg && is_flag {
            continue;
        }
        let Some(ContextValue::String(value)) = error.get(kind) else { continue };
        let shown = match value.split_once('=') {
            Some((flag, _)) if redact::is_harmless(flag) && flag.starts_with("--") => flag,
            _ if redact::is_harmless(value) || is_long_flag(value) => continue,
            _ => redact::HIDDEN,
        };
        error.insert(kind, ContextValue::String(shown.to_owned()));
    }
    if error.kind() == ErrorKind::UnknownArgument || error.kind() == ErrorKind::InvalidSubcommand {
        // It proposes to pass the value behind `--`, and quotes it.
        error.remove(ContextKind::Suggested);
    }
}

fn is_long_flag(text: &str) -> bool {
    text.strip_prefix("--")
        .is_some_and(|name| name.len() <= 64 && name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
}

fn tip(shown: &str, missing: bool, command: &clap::Command, arguments: &[OsString]) -> Option<StyledStr> {
    let long = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let name = environment_name(command, long)?;
    if missing {
        return Some(format!("the variable {name} gives --{long} too").into());
    }
    let flag = format!("--{long}");
    let is_flag = |argument: &OsString| {
        argument.to_str().is_some_and(|text| text == flag || text.starts_with(&format!("{flag}=")))
    };
    let from_environment = variable(&name).is_some() && !arguments.iter().any(is_flag);
    from_environment.then(|| format!("the value is that of the variable {name}").into())
}

fn environment_name(command: &clap::Command, long: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long)).and_then(Arg::get_env);
    match own {
        Some(name) => name.to_str().map(str::to_owned),
        None => command.get_subcommands().find_map(|sub| environment_name(sub, long)),
    }
}

/// Variables that look like ours and are read by nothing: typing mistakes, most likely.
pub fn unknown_variables() -> Vec<String> {
    fn collect(command: &clap::Command, known: &mut Vec<OsString>) {
        known.extend(command.get_arguments().filter_map(Arg::get_env).map(OsStr::to_owned));
        command.get_subcommands().for_each(|sub| collect(sub, known));
    }
    let mut known: Vec<OsString> = OTHERS.map(Into::into).to_vec();
    collect(&Cli::command(), &mut known);
    let mut unknown: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name))
        .filter_map(|name| name.into_string().ok())
        .filter(|name| ["PHALA_", "PRB_", "PRPC_"].iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    unknown.sort();
    unknown
}

/// The first line of a file that holds a secret.
pub(crate) fn first_line(path: &Path, max_bytes: u64) -> anyhow::Result<SecretString> {
    use std::io::Read;
    let shown = redact::shown_path(path);
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {shown}"))?;
    // Large enough from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(max_bytes as usize + 1));
    file.take(max_bytes + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() as u64 > max_bytes {
        bail!("{shown} has more than {max_bytes} bytes");
    }
    Ok(SecretString::from(text.lines().next().unwrap_or_default()))
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
    fn nonsense_is_refused() {
        assert!(all(&[]).is_err());
        assert!(all(&["--chain-endpoint", "http://a", "--parent-chain-endpoint", "ws://r"]).is_err());
        for bad in [["--prpc-request-timeout", "0"], ["--runner-max-worker-number", "0"]] {
            assert!(all(&[&ENDPOINTS[..], &bad].concat()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_subcommand_is_seen_behind_the_global_flags() {
        let lacks = |args: &[&str]| lacks_subcommand(&args.iter().map(Into::into).collect::<Vec<_>>());
        assert!(lacks(&["prb"]));
        assert!(lacks(&["prb", "--log-level", "all"]));
        assert!(lacks(&["prb", "--check", "--sync-only"]));
        for given in [&["prb", "all"][..], &["prb", "--log-level=info", "keys", "show"], &["prb", "--help"]] {
            assert!(!lacks(given), "{given:?}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
