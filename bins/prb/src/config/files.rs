//! Values that come neither from flags nor from variables: a configuration file, and files named by
//! variables.
//!
//! Both are set as clap's defaults, so that flags and variables take precedence, and values are checked by
//! the same parsers.
//!
//! A configuration file is TOML. A key is a flag's name, with `-` or `_`; at the top level it applies to
//! every daemon that has it, in a table such as `[lifecycle]` to that daemon only. `--check` prints such a
//! file.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use clap::{Arg, Command, builder::Resettable};
use secrecy::ExposeSecret;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{input, redact};

use super::{
    secret::{first_line, joined_lines},
    variable,
};

/// The variable with the file's path.
const CONFIG_VARIABLE: &str = "PRB_CONFIG";
/// The largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The largest file named by a variable, in bytes.
const MAX_SECRET_FILE_BYTES: u64 = 16 * 1024;
/// Similarity from which an unknown key is taken for a misspelled one.
const MIN_SIMILARITY: f64 = 0.8;
/// The commands with settings, as tables are named.
pub(super) const DAEMONS: [&str; 5] = ["all", "data-provider", "lifecycle", "trader", "monitor"];
/// Arguments that are not settings.
pub(super) const NO_SETTINGS: [&str; 4] = ["check", "config", "help", "version"];

/// Sources of values that clap takes for defaults, by the argument's id.
pub(super) type Origins = HashMap<String, String>;

/// The variable that names a file with the value of another variable.
pub(super) fn file_variable(arg: &Arg) -> Option<OsString> {
    // Only for values that may contain a secret, such as a container's mounted secrets.
    let mut name = arg.get_env().filter(|_| arg.is_hide_env_values_set())?.to_owned();
    name.push("_FILE");
    Some(name)
}

/// Adds values from a configuration file and from files named by variables, for the daemon that will run.
///
/// # Errors
/// An error with the file and the line.
pub(super) fn apply(
    command: Command,
    arguments: &[OsString],
    daemon: &str,
) -> Result<(Command, Origins), String> {
    let mut values = HashMap::new();
    let path = flag(arguments, "--config").or_else(|| variable(CONFIG_VARIABLE));
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        values = of_file(&command, Path::new(&path), daemon)?;
    }
    // After the file's values, which a variable's file overrides as the variable itself would.
    if let Some(sub) = command.find_subcommand(daemon) {
        values.extend(of_variables(sub)?);
    }
    let origins = values.iter().map(|(id, (_, origin))| (id.clone(), origin.clone())).collect();
    let set = |arg: Arg| match values.get(arg.get_id().as_str()) {
        Some((value, _)) => {
            let hidden = arg.is_hide_env_values_set();
            arg.default_value(value.clone()).required(false).hide_default_value(hidden)
        }
        None => arg,
    };
    Ok((command.mut_args(&set).mut_subcommand(daemon, |sub| sub.mut_args(&set)), origins))
}

/// Returns a flag's value.
fn flag(arguments: &[OsString], name: &str) -> Option<OsString> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str()?.split_once('=') {
            None if argument == name => return rest.next().cloned(),
            Some((flag, value)) if flag == name => return Some(value.into()),
            _ => {}
        }
    }
    None
}

type Values = HashMap<String, (String, String)>;

fn of_variables(command: &Command) -> Result<Values, String> {
    let mut values = Values::new();
    for arg in command.get_arguments() {
        let (Some(name), Some(file_name)) = (arg.get_env(), file_variable(arg)) else { continue };
        let Some(file) = variable(&file_name) else { continue };
        let (name, file_name) = (name.to_string_lossy(), file_name.to_string_lossy().into_owned());
        if variable(&*name).is_some() {
            return Err(format!("both {name} and {file_name} are set; set one"));
        }
        let file = Path::new(&file);
        let line = match arg.get_value_delimiter() {
            Some(delimiter) => joined_lines(file, MAX_SECRET_FILE_BYTES, delimiter),
            None => first_line(file, MAX_SECRET_FILE_BYTES),
        };
        let line = line.map_err(|error| format!("{file_name}: {error:#}"))?;
        values.insert(arg.get_id().to_string(), (line.expose_secret().to_owned(), file_name));
    }
    Ok(values)
}

fn of_file(command: &Command, path: &Path, daemon: &str) -> Result<Values, String> {
    let shown = redact::shown_path(path);
    let cannot = |error| format!("cannot read the configuration file {shown}: {error}");
    let input = input::read(path, MAX_FILE_BYTES).map_err(cannot)?;
    values(command, input.text().map_err(cannot)?, daemon, &shown)
        .map_err(|error| format!("in the configuration file {shown}: {error}"))
}

/// Returns the daemon's values, by argument, with their positions. Every key of the file is checked,
/// including those of other daemons.
fn values(command: &Command, text: &str, daemon: &str, shown: &str) -> Result<Values, String> {
    let table = DeTable::parse(text).map_err(|error| {
        let message = redact::scrubbed(error.message());
        let at = |span: std::ops::Range<usize>| format!("line {}: {message}", line_of(text, span.start));
        error.span().map_or_else(|| message.clone(), at)
    })?;
    let (common, own) = (Values::new(), Values::new());
    let mut file = FileValues { command, text, daemon, shown, lines: HashMap::new(), common, own };
    for (key, value) in table.into_inner() {
        match value.get_ref() {
            DeValue::Table(table) => file.read_daemon(&key, table)?,
            _ => file.read_common(&key, &value)?,
        }
    }
    Ok(file.finish())
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte].iter().filter(|byte| **byte == b'\n').count() + 1
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

/// The values of a file as far as it was read.
struct FileValues<'a> {
    command: &'a Command,
    text: &'a str,
    daemon: &'a str,
    shown: &'a str,
    /// Lines by table and key in one spelling. In two spellings, the same setting is not a duplicate to TOML.
    lines: HashMap<(&'static str, String), usize>,
    /// Of the top level.
    common: Values,
    /// Of the daemon's table.
    own: Values,
}

impl FileValues<'_> {
    /// Reads the table of a daemon.
    fn read_daemon(&mut self, key: &Key<'_>, table: &DeTable<'_>) -> Result<(), String> {
        let at = line_of(self.text, key.span().start);
        let name = daemon_of(key.get_ref()).ok_or_else(|| {
            let tip = suggestion(key.get_ref(), DAEMONS.into_iter());
            format!("line {at}: unknown daemon {}{tip}", redact::shown(key.get_ref()))
        })?;
        self.set_once("", name, at)?;
        let sub = self.command.find_subcommand(name).ok_or("a daemon is missing")?;
        for (key, value) in table {
            let at = line_of(self.text, key.span().start);
            let arg = argument([self.command, sub], key.get_ref())
                .map_err(|tip| unknown(at, key, Some(name), &tip))?;
            let value = self.read_value(name, arg, key, value)?;
            if name == self.daemon {
                self.own.insert(arg.get_id().to_string(), value);
            }
        }
        Ok(())
    }

    /// Reads a value of the top level.
    fn read_common(&mut self, key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        let at = line_of(self.text, key.span().start);
        let command = self.command;
        let subs = DAEMONS.iter().filter_map(|name| command.find_subcommand(name));
        // Of any daemon, so that one file can serve all of them.
        let arg = argument(std::iter::once(command).chain(subs), key.get_ref())
            .map_err(|tip| unknown(at, key, None, &tip))?;
        let value = self.read_value("", arg, key, value)?;
        self.common.insert(arg.get_id().to_string(), value);
        Ok(())
    }

    fn read_value(
        &mut self,
        table: &'static str,
        arg: &Arg,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(String, String), String> {
        let at = line_of(self.text, key.span().start);
        self.set_once(table, arg.get_id().as_str(), at)?;
        let value = value_of(arg, value).map_err(|error| format!("line {at}: {}: {error}", key.get_ref()))?;
        Ok((value, format!("{} line {at}", self.shown)))
    }

    fn set_once(&mut self, table: &'static str, name: &str, at: usize) -> Result<(), String> {
        match self.lines.insert((table, name.to_owned()), at) {
            Some(other) => Err(format!(
                "line {} and line {} both set {name} (- and _ are the same in a name): remove one",
                other.min(at),
                other.max(at)
            )),
            None => Ok(()),
        }
    }

    /// Returns the daemon's values.
    fn finish(mut self) -> Values {
        // At the top level for the daemons that use them; this one would warn that they have no effect.
        let sub = self.command.find_subcommand(self.daemon);
        let unused = sub.into_iter().flat_map(Command::get_arguments).filter(|arg| arg.is_hide_set());
        for arg in unused {
            self.common.remove(arg.get_id().as_str());
        }
        self.common.extend(self.own);
        self.common
    }
}

fn unknown(line: usize, key: &Key<'_>, daemon: Option<&str>, tip: &str) -> String {
    let of = daemon.map_or_else(|| "any daemon".to_owned(), |daemon| format!("[{daemon}]"));
    format!("line {line}: {} is not a setting of {of}{tip}", redact::shown(key.get_ref()))
}

/// Returns the daemon of a table's name, in any of the spellings of `PHALA_MODULE`.
fn daemon_of(name: &str) -> Option<&'static str> {
    let name = name.replace('_', "-");
    let name = if name == "trade" { "trader" } else { &name };
    DAEMONS.into_iter().find(|daemon| *daemon == name)
}

/// Returns the argument of a key; otherwise a suggestion.
fn argument<'a>(commands: impl IntoIterator<Item = &'a Command>, key: &str) -> Result<&'a Arg, String> {
    let key = key.replace('-', "_");
    let is_setting = |arg: &&Arg| arg.get_long().is_some() && !NO_SETTINGS.contains(&arg.get_id().as_str());
    let all: Vec<&Arg> = commands.into_iter().flat_map(Command::get_arguments).filter(is_setting).collect();
    let has_name = |arg: &&&Arg| {
        let earlier = arg.get_all_aliases().unwrap_or_default();
        arg.get_id().as_str() == key || earlier.iter().any(|name| name.replace('-', "_") == key)
    };
    match all.iter().find(has_name) {
        Some(arg) => Ok(arg),
        None => Err(suggestion(&key, all.iter().map(|arg| arg.get_id().as_str()))),
    }
}

fn suggestion<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> String {
    let alike = names
        .map(|name| (strsim::jaro_winkler(key, name), name))
        .filter(|(alike, _)| *alike >= MIN_SIMILARITY);
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default()
}

/// Returns the value in a flag's syntax.
fn value_of(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::Array(items) => {
            let Some(delimiter) = arg.get_value_delimiter() else {
                return Err("takes one value, not a list".into());
            };
            let items: Vec<_> = items.iter().map(|item| single(item.get_ref())).collect::<Result<_, _>>()?;
            // An empty list cannot be told from a value that is not set, and clap would split an item at its delimiter.
            if items.is_empty() || items.iter().any(|item| item.contains(delimiter)) {
                return Err(format!(
                    "takes a list of values without {delimiter:?} in them; remove the line for none"
                ));
            }
            Ok(items.join(&delimiter.to_string()))
        }
        value => single(value),
    }
}

fn single(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        // Its text is without the prefix.
        DeValue::Integer(number) if number.radix() != 10 => Err("takes decimal numbers only".into()),
        DeValue::Integer(number) => Ok(number.as_str().replace('_', "")),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Ok(yes.to_string()),
        _ => Err("takes a string, a number, true or false".into()),
    }
}

/// Removes empty variables from their arguments, and applies alternative names.
pub(super) fn without_empty_variables(
    command: Command,
    aliases: &'static [(&'static str, &'static str)],
) -> Result<Command, String> {
    for (name, alias) in aliases {
        if let (Some(value), Some(other)) = (variable(name), variable(alias))
            && value != other
        {
            return Err(format!("{name} and {alias} are both set and differ; set one"));
        }
    }
    let adapt = |arg: Arg| {
        let Some(name) = arg.get_env().map(OsStr::to_owned) else { return arg };
        match aliases.iter().find(|(first, _)| *first == name) {
            _ if variable(&name).is_some() => arg,
            Some((_, alias)) if variable(alias).is_some() => arg.env(*alias),
            // Set but empty: clap would take the empty text as the value, where the original takes its
            // default.
            _ if std::env::var_os(&name).is_some() => arg.env(Resettable::Reset),
            _ => arg,
        }
    };
    fn everywhere(command: Command, adapt: &impl Fn(Arg) -> Arg) -> Command {
        command.mut_args(adapt).mut_subcommands(|sub| everywhere(sub, adapt))
    }
    Ok(everywhere(command, &adapt))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;
    use crate::config::Cli;

    fn read(text: &str, daemon: &str) -> Result<Values, String> {
        values(&Cli::command(), text, daemon, "f")
    }

    #[test]
    fn own_table_precedes_top_level_and_other_tables_are_ignored() {
        let text = "min-bench-score = 1_000\nlru_cache_size = 5\n[lifecycle]\nmin_bench_score = 7\nsync-only = true\n\
                    chain_endpoint = [\"ws://a\", \"ws://b\"]\n[data_provider]\nlocal_server_port = 9\n";
        let values = read(text, "lifecycle").unwrap();
        assert_eq!(values["min_bench_score"], ("7".into(), "f line 4".into()));
        assert_eq!(values["lru_cache_size"].0, "5");
        assert_eq!(values["sync_only"].0, "true");
        assert_eq!(values["chain_endpoint"].0, "ws://a,ws://b");
        assert!(!values.contains_key("local_server_port"));
        assert_eq!(read(text, "all").unwrap()["min_bench_score"].0, "1000");
    }

    #[test]
    fn earlier_names_are_read_and_unused_settings_of_all_daemons_are_ignored() {
        for key in ["pccs_urls", "pccs-url", "pccs_url"] {
            let values = read(&format!("{key} = \"https://a\""), "lifecycle").unwrap();
            assert_eq!(values["pccs_urls"].0, "https://a", "{key}");
        }
        let text = "console_listen = \"127.0.0.1:1\"\nqueue_page_listen = \"127.0.0.1:2\"\n";
        let names = |text: &str, daemon| {
            let mut names: Vec<_> = read(text, daemon).unwrap().into_keys().collect();
            names.sort();
            names
        };
        assert_eq!(names(text, "all"), ["console_listen", "queue_page_listen"]);
        assert_eq!(names(text, "trader"), ["queue_page_listen"]);
        assert_eq!(names(text, "monitor"), ["console_listen"]);
        assert_eq!(names(&format!("[trader]\n{text}"), "trader"), ["console_listen", "queue_page_listen"]);
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        for (text, words) in [
            ("min_bench_scor = 1", &["line 1", "min_bench_scor", "did you mean min_bench_score?"][..]),
            ("\n[trader]\nlocal-db-path = \"/x\"", &["line 3", "is not a setting of [trader]"]),
            ("[lifecycel]\nx = 1", &["unknown daemon", "did you mean lifecycle?"]),
            ("check = true", &["line 1", "is not a setting"]),
            ("config = \"x\"", &["is not a setting"]),
            ("[all]\nfleet = [\"a\"]", &["line 2", "takes one value"]),
            ("[all]\nchain_endpoint = []", &["remove the line"]),
            ("[all]\nfleet = { x = 1 }", &["takes a string"]),
            ("hunter2 hunter2 hunter2 = 1", &["line 1"]),
        ] {
            let error = read(text, "all").unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn flag_is_found_in_both_forms() {
        let find = |args: &[&str]| flag(&args.iter().map(Into::into).collect::<Vec<_>>(), "--config");
        assert_eq!(find(&["prb", "all", "--config", "f"]), Some("f".into()));
        assert_eq!(find(&["prb", "--config=g", "all"]), Some("g".into()));
        assert_eq!(find(&["prb", "all", "--configure=f"]), None);
    }
}
