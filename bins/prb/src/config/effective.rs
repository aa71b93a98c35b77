//! Formats the effective settings, with their sources, as TOML.

use std::{fmt::Write as _, time::Duration};

use clap::{Arg, ArgMatches, parser::ValueSource};
use url::Url;

use crate::redact;

use super::{
    PSK_VARIABLE, TOKEN_VARIABLE,
    files::{NO_SETTINGS, Origins},
    values::host_only,
};

/// Returns lines of TOML: a table with the daemon's name, and a line for each setting.
///
/// Of values that may contain a secret only the host is shown; secrets in variables are shown as set.
pub(super) fn toml(command: &clap::Command, matches: &ArgMatches, origins: &Origins) -> String {
    let Some((name, matches)) = matches.subcommand() else { return String::new() };
    let Some(command) = command.find_subcommand(name) else { return String::new() };
    let mut text = format!("[{name}]\n");
    // Hidden arguments have no effect on this daemon.
    let is_setting = |arg: &&Arg| !arg.is_hide_set() && !NO_SETTINGS.contains(&arg.get_id().as_str());
    for arg in command.get_arguments().filter(is_setting) {
        let id = arg.get_id().as_str();
        let source = match matches.value_source(id) {
            None => {
                let _ = writeln!(text, "# {id} is not set{}", by_variable(arg));
                continue;
            }
            Some(ValueSource::EnvVariable) => variable(arg).unwrap_or_default(),
            Some(ValueSource::CommandLine) => format!("--{}", arg.get_long().unwrap_or(id)),
            Some(_) => origins.get(id).cloned().unwrap_or_else(|| "default".to_owned()),
        };
        let _ = writeln!(text, "{id} = {}  # {source}", value(arg, id, matches));
    }
    for secret in [PSK_VARIABLE, TOKEN_VARIABLE] {
        if super::variable(secret).is_some() {
            let _ = writeln!(text, "# {secret} is set");
        }
    }
    text
}

/// Returns the flags whose values contain a user, a password or a query, which may be an access key.
pub(super) fn exposed(command: &clap::Command, matches: &ArgMatches) -> Vec<String> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let Some(command) = command.find_subcommand(name) else { return Vec::new() };
    let is_secret = |value: &std::ffi::OsStr| {
        let url = Url::parse(&value.to_string_lossy());
        url.is_ok_and(|url| !url.username().is_empty() || url.password().is_some() || url.query().is_some())
    };
    let exposed = command.get_arguments().filter(|arg| {
        let id = arg.get_id().as_str();
        arg.is_hide_env_values_set()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches.get_raw(id).into_iter().flatten().any(is_secret)
    });
    exposed.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
}

fn variable(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

fn by_variable(arg: &Arg) -> String {
    variable(arg).map(|name| format!(" ({name})")).unwrap_or_default()
}

fn value(arg: &Arg, id: &str, matches: &ArgMatches) -> String {
    // An `Arg` does not tell the type of its value, so the types in use are tried.
    if let Ok(Some(yes)) = matches.try_get_one::<bool>(id) {
        return yes.to_string();
    }
    if let Ok(Some(number)) = matches.try_get_one::<u32>(id) {
        return number.to_string();
    }
    if let Ok(Some(number)) = matches.try_get_one::<u16>(id) {
        return number.to_string();
    }
    // The original's variables are in milliseconds.
    if let Ok(Some(time)) = matches.try_get_one::<Duration>(id) {
        return time.as_millis().to_string();
    }
    let shown = |raw: &std::ffi::OsStr| {
        let text = raw.to_string_lossy();
        let text = match id {
            _ if arg.is_hide_env_values_set() => host_only(&text),
            // The secret itself may stand in the place of its file.
            _ if id.ends_with("_file") => redact::shown_path(text.as_ref().as_ref()),
            _ => text.into_owned(),
        };
        // TOML's basic strings have the escapes of JSON.
        serde_json::Value::from(text).to_string()
    };
    let mut raw = matches.get_raw(id).into_iter().flatten();
    if arg.get_value_delimiter().is_some() {
        return format!("[{}]", raw.map(shown).collect::<Vec<_>>().join(", "));
    }
    raw.next().map(shown).unwrap_or_default()
}
