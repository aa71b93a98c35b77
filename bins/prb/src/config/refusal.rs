//! Error messages of the command line: adds the variable or file of a value, or the variable for a missing
//! one, and removes quotes of possible secrets.

use std::ffi::OsString;

use clap::{
    Arg,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::redact;

use super::{files::Origins, variable};

/// Adds which variable or file a refused value comes from, and which variable would set a missing value.
pub(super) fn explained(
    mut error: clap::Error,
    command: &clap::Command,
    arguments: &[OsString],
    origins: &Origins,
) -> clap::Error {
    hide_secrets(&mut error);
    let missing = error.kind() == ErrorKind::MissingRequiredArgument;
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => Vec::new(),
    };
    let tips: Vec<StyledStr> =
        named.iter().filter_map(|arg| tip(arg, missing, command, arguments, origins)).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Removes quoted text from an error, unless it cannot be a secret.
fn hide_secrets(error: &mut clap::Error) {
    // An unexpected word: of a flag the name is shown, but not the value.
    let is_flag = error.kind() != ErrorKind::UnknownArgument;
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidSubcommand, ContextKind::InvalidArg] {
        // Without a subcommand, this is the name of the command that needs one.
        let is_command =
            kind == ContextKind::InvalidSubcommand && error.kind() == ErrorKind::MissingSubcommand;
        if kind == ContextKind::InvalidArg && is_flag || is_command {
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
        // The suggestion to pass the value behind `--` quotes it.
        error.remove(ContextKind::Suggested);
    }
}

fn is_long_flag(text: &str) -> bool {
    text.strip_prefix("--")
        .is_some_and(|name| name.len() <= 64 && name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
}

fn tip(
    shown: &str,
    missing: bool,
    command: &clap::Command,
    arguments: &[OsString],
    origins: &Origins,
) -> Option<StyledStr> {
    let long = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let (arg, name) = argument(command, long)?;
    if missing {
        return Some(
            format!("--{long} can also be set by the variable {name}, or by a line in a --config file")
                .into(),
        );
    }
    let mut names = arg.get_all_aliases().unwrap_or_default();
    names.push(long);
    let is_flag = |argument: &OsString| {
        let flag = argument.to_str().and_then(|text| text.strip_prefix("--")?.split('=').next());
        flag.is_some_and(|flag| names.contains(&flag))
    };
    if arguments.iter().any(is_flag) {
        return None;
    }
    if variable(&name).is_some() {
        return Some(format!("the value comes from the variable {name}").into());
    }
    // An argument's id is its long flag with underscores.
    let origin = origins.get(&long.replace('-', "_"))?;
    Some(format!("the value comes from {origin}").into())
}

/// Returns the argument of a flag, and its variable.
fn argument<'a>(command: &'a clap::Command, long: &str) -> Option<(&'a Arg, String)> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long));
    match own.and_then(|arg| Some((arg, arg.get_env()?))) {
        Some((arg, name)) => Some((arg, name.to_str()?.to_owned())),
        None => command.get_subcommands().find_map(|sub| argument(sub, long)),
    }
}
