//! Files of workers: CSV, JSON and YAML.

use std::{io::Read, path::Path};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    args::{Caution, Format},
    client::{Client, Refusal, fault},
    table::units,
    workers::done,
};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// A worker's fields, in the order of files.
const FIELDS: [&str; 9] =
    ["name", "pid", "endpoint", "stake", "enabled", "sync_only", "gatekeeper", "endpoints", "after_stop"];

/// A worker of a file, and its position there.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    place: String,
    worker: Value,
}

/// Reads a file's workers. The daemon checks their content.
pub(super) fn read(file: &Path, format: Option<Format>) -> anyhow::Result<Vec<Row>> {
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
    let rows = parse(&text, format).with_context(|| format!("in {shown}"))?;
    ensure!(!rows.is_empty(), "{shown} names no worker");
    Ok(rows)
}

fn parse(text: &str, format: Format) -> anyhow::Result<Vec<Row>> {
    let value: Value = match format {
        Format::Csv => return parse_csv(text),
        Format::Json => serde_json::from_str(text)?,
        Format::Yaml => serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove("workers") {
            Some(Value::Array(list)) => list,
            _ => bail!("it must be a list of workers, or an object with a list named workers"),
        },
        _ => bail!("it must be a list of workers"),
    };
    let row = |(index, mut worker): (usize, Value)| {
        if let Some(Value::String(stake)) = worker.get_mut("stake") {
            *stake = units(stake);
        }
        Row { place: format!("worker {}", index + 1), worker }
    };
    Ok(list.into_iter().enumerate().map(row).collect())
}

fn parse_csv(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let names = reader.headers()?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let place = format!("line {}", record.position().map_or(0, |position| line(text, position)));
        let cells = names.iter().zip(record.iter()).filter(|(_, cell)| !cell.is_empty());
        let worker: Map<_, _> = cells.map(|(name, cell)| (name.to_owned(), csv_value(name, cell))).collect();
        rows.push(Row { place, worker: Value::Object(worker) });
    }
    Ok(rows)
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
        "stake" => json!(units(cell)),
        "enabled" | "sync_only" | "gatekeeper" => match cell.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => json!(true),
            "false" | "no" | "0" => json!(false),
            _ => json!(cell),
        },
        "endpoints" => json!(cell.split_whitespace().collect::<Vec<_>>()),
        _ => json!(cell),
    }
}

/// Adds the workers, all or none.
pub(super) async fn send(
    client: &Client,
    rows: Vec<Row>,
    caution: Caution,
    as_json: bool,
) -> anyhow::Result<()> {
    let workers: Vec<&Value> = rows.iter().map(|row| &row.worker).collect();
    let query = [("dry_run", caution.dry_run.to_string())];
    let answer = client.ask(Method::POST, &["workers"], &query, Some(&json!({ "workers": workers }))).await;
    let answer = answer.map_err(|error| match error.downcast::<Refusal>() {
        Ok(refusal) if !refusal.entries().is_empty() => anyhow::anyhow!("{}", placed(&refusal, &rows)),
        Ok(refusal) => refusal.into(),
        Err(error) => error,
    })?;
    done(&answer.body, as_json, caution, &format!("{} workers were added", rows.len()))
}

/// Formats a refusal with the positions of the faulty rows.
fn placed(refusal: &Refusal, rows: &[Row]) -> String {
    let lines = refusal.entries().iter().map(|entry| {
        let row = entry["index"].as_u64().and_then(|index| rows.get(usize::try_from(index).ok()?));
        let place = row.map_or_else(String::new, |row| format!("{}: ", row.place));
        format!("\n  {place}{}", fault(entry))
    });
    format!("nothing was imported:{}", lines.collect::<String>())
}

/// Formats workers so that [`read`] can read them.
pub(super) fn write(workers: &[Value], format: Format) -> anyhow::Result<String> {
    let fields = |worker: &Value| -> Map<String, Value> {
        let named = FIELDS.iter().map(|name| ((*name).to_owned(), worker[*name].clone()));
        named.filter(|(_, value)| !value.is_null()).collect()
    };
    let list: Vec<_> = workers.iter().map(fields).collect();
    match format {
        Format::Json => super::json(&json!(list)),
        // JSON's strings, numbers and lists are valid YAML.
        Format::Yaml => {
            let entry = |worker: &Map<String, Value>| -> String {
                let line = |(place, (name, value)): (usize, (&String, &Value))| {
                    format!("{} {name}: {value}\n", if place == 0 { "-" } else { " " })
                };
                worker.iter().enumerate().map(line).collect()
            };
            Ok(list.iter().map(entry).collect())
        }
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(FIELDS)?;
            for worker in &list {
                writer.write_record(FIELDS.map(|name| csv_cell(worker.get(name))))?;
            }
            Ok(String::from_utf8(writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?)?)
        }
    }
}

fn csv_cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
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
            let text = write(&workers, format).unwrap();
            let rows = parse(&text, format).unwrap();
            for (row, worker) in rows.iter().zip(&workers) {
                let mut expected = worker.clone();
                if format == Format::Csv && worker["endpoints"] == json!([]) {
                    expected.as_object_mut().unwrap().remove("endpoints");
                }
                assert_eq!(row.worker, expected, "{format:?}\n{text}");
            }
            assert_eq!(rows.len(), 2);
        }
    }

    #[test]
    fn rows_have_line_numbers_and_unparsable_cells_stay_text() {
        let rows = parse("name,pid,stake,enabled\n\nw1, 7 ,1.5PHA,maybe\nw2,x,,\n", Format::Csv).unwrap();
        assert_eq!(rows[0].place, "line 3");
        assert_eq!(
            rows[0].worker,
            json!({ "name": "w1", "pid": 7, "stake": "1500000000000", "enabled": "maybe" })
        );
        assert_eq!(rows[1].worker, json!({ "name": "w2", "pid": "x" }));
        assert!(parse("name,pid\na\n", Format::Csv).unwrap_err().to_string().contains("line: 2"));
        assert!(parse("workers: 3", Format::Yaml).is_err() && parse("3", Format::Json).is_err());
    }
}
