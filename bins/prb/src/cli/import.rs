//! Files of workers and of pools: CSV, JSON and YAML.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::{
    args::{ChangeOptions, Format, ImportArgs},
    client::{Client, Refusal, fault},
    print_change,
    table::to_base_units,
    update,
};
use crate::{config::first_line, redact};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The largest file of a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;

/// The kind of a file's entries.
pub(super) struct FileKind {
    /// Its name in the API's lists and addresses.
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    /// The field that identifies an entry.
    pub(super) key: &'static str,
    /// The fields of a written file, in order.
    fields: &'static [&'static str],
}

pub(super) static WORKERS: FileKind = FileKind {
    plural: "workers",
    singular: "worker",
    key: "name",
    fields: &[
        "name",
        "pid",
        "endpoint",
        "stake",
        "enabled",
        "sync_only",
        "gatekeeper",
        "endpoints",
        "after_stop",
    ],
};

pub(super) static POOLS: FileKind = FileKind {
    plural: "pools",
    singular: "pool",
    key: "pid",
    fields: &["pid", "name", "proxied", "enabled", "sync_only", "after_stop"],
};

/// An entry of a file, with its position for messages.
#[derive(PartialEq)]
pub(super) struct Row {
    pub(super) position: String,
    pub(super) entry: Value,
}

/// Reads a file's entries, whose values the daemon checks.
fn read(kind: &FileKind, file: &Path, format: Option<Format>) -> anyhow::Result<Vec<Row>> {
    let shown = file.display();
    let format = match (format, file.extension().and_then(|end| end.to_str())) {
        (Some(format), _) => format,
        (None, Some("csv")) => Format::Csv,
        (None, Some("json")) => Format::Json,
        (None, Some("yaml" | "yml")) => Format::Yaml,
        _ => bail!("the extension of {shown} is not csv, json or yaml: give --format"),
    };
    let mut text = String::new();
    let reader: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).with_context(|| format!("cannot open {shown}"))?),
    };
    reader
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {shown}"))?;
    ensure!(text.len() as u64 <= MAX_FILE_BYTES, "{shown} has more than {MAX_FILE_BYTES} bytes");
    let mut rows = parse(kind, &text, format).with_context(|| format!("in {shown}"))?;
    ensure!(!rows.is_empty(), "{shown} names no {}", kind.singular);
    let folder = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
    // Here and not by the daemon, which may run on another machine or as a user who cannot read the files.
    rows.iter_mut().try_for_each(|row| read_secret(row, &folder))?;
    Ok(rows)
}

/// Replaces `secret_file` by the contents of the file that it names, relative to the folder of the list.
fn read_secret(row: &mut Row, folder: &Path) -> anyhow::Result<()> {
    let Some(fields) = row.entry.as_object_mut() else { return Ok(()) };
    let Some(file) = fields.remove("secret_file") else { return Ok(()) };
    let file = file
        .as_str()
        .map(PathBuf::from)
        .with_context(|| format!("{}: secret_file is no text", row.position))?;
    ensure!(!fields.contains_key("secret"), "{}: it has a secret and a secret_file", row.position);
    let secret = first_line(&folder.join(file), MAX_SECRET_BYTES).with_context(|| row.position.clone())?;
    fields.insert("secret".into(), json!(secret.expose_secret()));
    Ok(())
}

fn parse(kind: &FileKind, text: &str, format: Format) -> anyhow::Result<Vec<Row>> {
    let value: Value = match format {
        Format::Csv => return parse_csv(text),
        Format::Json => serde_json::from_str(text)?,
        Format::Yaml => serde_saphyr::from_str(text).map_err(|error| yaml_error(&error))?,
    };
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove(kind.plural) {
            Some(Value::Array(list)) => list,
            _ => bail!("there must be a list of {0}, or an object with a list named {0}", kind.plural),
        },
        _ => bail!("there must be a list of {}", kind.plural),
    };
    let row = |(index, mut entry): (usize, Value)| {
        if let Some(Value::String(stake)) = entry.get_mut("stake") {
            *stake = to_base_units(stake);
        }
        Row { position: format!("{} {}", kind.singular, index + 1), entry }
    };
    Ok(list.into_iter().enumerate().map(row).collect())
}

/// Describes a syntax error by its position. The parser's own message could quote a secret.
fn yaml_error(error: &serde_saphyr::Error) -> anyhow::Error {
    match error.location() {
        Some(at) => anyhow::anyhow!("it is not YAML: line {}, column {}", at.line(), at.column()),
        None => anyhow::anyhow!("it is not YAML"),
    }
}

fn parse_csv(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let names = reader.headers()?.clone();
    check_separator(&names)?;
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        bail!("line 1 has two columns named {}: remove one of them", redact::shown(twice));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let position = format!("line {}", record.position().map_or(0, |position| line(text, position)));
        // An empty cell is an absent field: one table can have entries with and without a value.
        let cells = names.iter().zip(record.iter()).filter(|(_, cell)| !cell.is_empty());
        let entry: Map<_, _> = cells.map(|(name, cell)| (name.to_owned(), csv_value(name, cell))).collect();
        rows.push(Row { position, entry: Value::Object(entry) });
    }
    Ok(rows)
}

/// Refuses columns that are separated by something else than commas, as spreadsheet programs of some languages do.
fn check_separator(names: &csv::StringRecord) -> anyhow::Result<()> {
    let only = names.get(0).filter(|_| names.len() == 1).unwrap_or_default();
    match [(';', "semicolons"), ('\t', "tabs")].into_iter().find(|(separator, _)| only.contains(*separator)) {
        Some((_, separators)) => {
            bail!("line 1: the columns are separated by {separators}: separate them by commas")
        }
        None => Ok(()),
    }
}

/// Returns the line of a record. The reader's position is the end of the previous record, before empty
/// lines.
fn line(text: &str, position: &csv::Position) -> u64 {
    let rest = usize::try_from(position.byte()).ok().and_then(|byte| text.get(byte..)).unwrap_or_default();
    let empty = rest.bytes().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| *byte == b'\n');
    position.line() + empty.count() as u64
}

/// Converts a cell to a JSON value. A cell that cannot be converted stays text, and the daemon reports
/// it.
fn csv_value(name: &str, cell: &str) -> Value {
    match name {
        "pid" => cell.parse::<u64>().map_or_else(|_| json!(cell), Value::from),
        "stake" => json!(to_base_units(cell)),
        "enabled" | "sync_only" | "gatekeeper" => match cell.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => json!(true),
            "false" | "no" | "0" => json!(false),
            _ => json!(cell),
        },
        "endpoints" => json!(cell.split_whitespace().collect::<Vec<_>>()),
        // An empty cell leaves the field as it is; these clear it.
        "after_stop" if cell == "inherit" => Value::Null,
        "proxied" if cell == "none" => Value::Null,
        _ => json!(unguarded(cell)),
    }
}

/// Characters with which a cell begins that spreadsheet programs evaluate as a formula.
const FORMULA_STARTS: [char; 4] = ['=', '+', '-', '@'];

/// Returns a text for a cell: with an apostrophe before it if a spreadsheet program would evaluate it, or if
/// [`unguarded`] would remove one.
fn guarded(text: &str) -> Cow<'_, str> {
    if is_guarded_or_formula(text) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// Reverses [`guarded`].
fn unguarded(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|text| is_guarded_or_formula(text)).unwrap_or(cell)
}

fn is_guarded_or_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(FORMULA_STARTS)
}

/// Adds a file's entries, all or none; with `--update`, also changes existing ones.
pub(super) async fn run(
    client: &Client,
    kind: &FileKind,
    args: ImportArgs,
    as_json: bool,
) -> anyhow::Result<()> {
    let ImportArgs { file, format, update, options } = args;
    let rows = read(kind, &file, format)?;
    if update {
        return update::run(client, kind, &rows, options, as_json).await;
    }
    let entries: Vec<&Value> = rows.iter().map(|row| &row.entry).collect();
    let body = json!({ kind.plural: entries });
    let answer = send(client, Method::POST, kind, options, &body, |index| rows.get(index)).await?;
    print_change(&answer, as_json, options, &format!("{} {} were added", rows.len(), kind.plural))
}

/// Sends an edit; a refusal names each faulty row. `row_of` returns the row of an entry by its index in the request.
pub(super) async fn send<'a>(
    client: &Client,
    method: Method,
    kind: &FileKind,
    options: ChangeOptions,
    body: &Value,
    row_of: impl Fn(usize) -> Option<&'a Row>,
) -> anyhow::Result<Value> {
    let query = [("dry_run", options.dry_run.to_string())];
    let answer = client.ask(method, &[kind.plural], &query, Some(body)).await;
    let answer = answer.map_err(|error| match error.downcast::<Refusal>() {
        Ok(refusal) if !refusal.entries().is_empty() => {
            anyhow::anyhow!("{}", refusal_with_positions(&refusal, row_of))
        }
        Ok(refusal) => refusal.into(),
        Err(error) => error,
    })?;
    Ok(answer.body)
}

/// Formats a refusal with the positions of the faulty rows.
fn refusal_with_positions<'a>(refusal: &Refusal, row_of: impl Fn(usize) -> Option<&'a Row>) -> String {
    let lines = refusal.entries().iter().map(|entry| {
        let row = entry["index"].as_u64().and_then(|index| row_of(usize::try_from(index).ok()?));
        let position = row.map_or_else(String::new, |row| format!("{}: ", row.position));
        format!("\n  {position}{}", fault(entry))
    });
    format!("nothing was imported:{}", lines.collect::<String>())
}

/// Formats entries such that [`read`] can read them.
pub(super) fn write(kind: &FileKind, entries: &[Value], format: Format) -> anyhow::Result<String> {
    let fields = |entry: &Value| -> Map<String, Value> {
        let named = kind.fields.iter().map(|name| ((*name).to_owned(), entry[*name].clone()));
        named.filter(|(_, value)| !value.is_null()).collect()
    };
    let list: Vec<_> = entries.iter().map(fields).collect();
    match format {
        Format::Json => super::json(&json!(list)),
        // JSON's strings, numbers and lists are valid YAML.
        Format::Yaml => {
            let entry = |fields: &Map<String, Value>| -> String {
                let line = |(index, (name, value)): (usize, (&String, &Value))| {
                    format!("{} {name}: {value}\n", if index == 0 { "-" } else { " " })
                };
                fields.iter().enumerate().map(line).collect()
            };
            Ok(list.iter().map(entry).collect())
        }
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(kind.fields)?;
            for entry in &list {
                writer.write_record(kind.fields.iter().map(|name| csv_cell(entry.get(*name))))?;
            }
            Ok(String::from_utf8(writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?)?)
        }
    }
}

fn csv_cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => guarded(text).into_owned(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exported_workers_can_be_imported() {
        let workers = vec![
            json!({ "name": "a, \"b\"", "pid": 1, "endpoint": "http://a", "stake": "340282366920938463463374607431768211455",
                    "enabled": false, "sync_only": true, "gatekeeper": false, "endpoints": ["http://x", "http://y"],
                    "after_stop": "reclaim" }),
            json!({ "name": "yes", "pid": 2, "endpoint": "http://b", "stake": "1", "enabled": true,
                    "sync_only": false, "gatekeeper": true, "endpoints": [] }),
        ];
        for format in [Format::Csv, Format::Json, Format::Yaml] {
            let text = write(&WORKERS, &workers, format).unwrap();
            let rows = parse(&WORKERS, &text, format).unwrap();
            for (row, worker) in rows.iter().zip(&workers) {
                let mut expected = worker.clone();
                if format == Format::Csv && worker["endpoints"] == json!([]) {
                    expected.as_object_mut().unwrap().remove("endpoints");
                }
                assert_eq!(row.entry, expected, "{format:?}\n{text}");
            }
            assert_eq!(rows.len(), 2);
        }
    }

    /// A name must not run as a formula in a spreadsheet, and come back as it was.
    #[test]
    fn formulas_are_guarded_in_exports() {
        for name in ["=cmd|' /C calc'!A0", "+1", "-rack", "@x", "'=x", "''-y", "'quoted'", "a=b", "'"] {
            let text = write(&WORKERS, &[json!({ "name": name, "stake": "1" })], Format::Csv).unwrap();
            let cell = text.lines().nth(1).unwrap().trim_start_matches('"');
            assert!(!cell.starts_with(FORMULA_STARTS), "{cell}");
            assert_eq!(parse(&WORKERS, &text, Format::Csv).unwrap()[0].entry["name"], name);
        }
    }

    #[test]
    fn column_that_is_there_twice_is_refused() {
        for (heading, shown) in [("name,pid,stake,stake", "'stake'"), ("name, pid,pid ", "'pid'")] {
            let error =
                parse(&WORKERS, &format!("{heading}\na,1,5,6\n"), Format::Csv).err().unwrap().to_string();
            assert!(error.contains("line 1") && error.contains(shown), "{error}");
        }
    }

    #[test]
    fn other_separators_than_commas_are_named() {
        for (heading, separators) in [("name;pid;stake", "semicolons"), ("name\tpid", "tabs")] {
            let error = parse(&WORKERS, &format!("{heading}\na\n"), Format::Csv).err().unwrap().to_string();
            assert!(error.contains(separators) && error.contains("commas"), "{error}");
        }
    }

    #[test]
    fn rows_know_their_lines_and_unreadable_cells_stay() {
        let rows =
            parse(&WORKERS, "name,pid,stake,enabled\n\nw1, 7 ,1.5PHA,maybe\nw2,x,,\n", Format::Csv).unwrap();
        assert_eq!(rows[0].position, "line 3");
        assert_eq!(
            rows[0].entry,
            json!({ "name": "w1", "pid": 7, "stake": "1500000000000", "enabled": "maybe" })
        );
        assert_eq!(rows[1].entry, json!({ "name": "w2", "pid": "x" }));
        assert!(parse(&WORKERS, "name,pid\na\n", Format::Csv).err().unwrap().to_string().contains("line: 2"));
        assert!(
            parse(&WORKERS, "workers: 3", Format::Yaml).is_err()
                && parse(&WORKERS, "3", Format::Json).is_err()
        );
    }
}
