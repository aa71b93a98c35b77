//! `import --update`: computes the differences between a file and the existing entries, shows them, and applies them.

use std::collections::HashMap;

use anyhow::bail;
use prb_core::primitives::{AccountId, PHALA_SS58_PREFIX};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    args::ChangeOptions,
    client::Client,
    confirm,
    import::{FileKind, Row, WORKERS, send},
    json, print, resumed,
    table::{cell, clean, pha},
};

/// The changes of an import, by entry.
struct Plan<'a> {
    /// The request's items, with the rows that they come from.
    items: Vec<(Value, &'a Row)>,
    /// A line for each item, for people.
    lines: Vec<String>,
    /// The same for programs.
    added: Vec<Value>,
    changed: Vec<Value>,
    unchanged: usize,
}

/// Adds new entries and changes existing ones, as one edit. It is refused as a whole if one of them has changed since
/// it was read.
pub(super) async fn run(
    client: &Client,
    kind: &FileKind,
    rows: &[Row],
    options: ChangeOptions,
    as_json: bool,
) -> anyhow::Result<()> {
    let listed = client.list(kind.plural, &[]).await?;
    let plan = Plan::new(kind, rows, &listed)?;
    let mut answer = Value::Null;
    if !plan.items.is_empty() {
        if !as_json {
            print(&plan.lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
        if !plan.changed.is_empty() {
            confirm(options, &format!("Change {} {}?", plan.changed.len(), kind.plural))?;
        }
        let items: Vec<&Value> = plan.items.iter().map(|(item, _)| item).collect();
        let row_of = |index: usize| plan.items.get(index).map(|(_, row)| *row);
        answer = send(client, Method::PATCH, kind, options, &json!({ "items": items }), row_of).await?;
    }
    let Plan { added, changed, unchanged, .. } = plan;
    if as_json {
        let mut done =
            json!({ "dry_run": options.dry_run, "added": added, "changed": changed, "unchanged": unchanged });
        if kind.plural == WORKERS.plural {
            done["resumed_goals"] = resumed_goals(&answer);
        }
        return print(&json(&done)?);
    }
    let dry = if options.dry_run { "dry run, nothing was changed: " } else { "" };
    let (added, changed) = (added.len(), changed.len());
    print(&format!("{dry}{added} added, {changed} changed, {unchanged} as they were\n{}", resumed(&answer)))
}

/// Returns the goals that added workers go on with, by name.
fn resumed_goals(answer: &Value) -> Value {
    let workers = answer["workers"].as_array().into_iter().flatten();
    let goal =
        |worker: &Value| Some((worker["name"].as_str()?.to_owned(), worker.get("resumed_goal")?.clone()));
    Value::Object(workers.filter_map(goal).collect())
}

impl<'a> Plan<'a> {
    fn new(kind: &FileKind, rows: &'a [Row], listed: &[Value]) -> anyhow::Result<Self> {
        let key = |entry: &Value| entry.get(kind.key).filter(|key| !key.is_null()).map(plain);
        let known: HashMap<String, &Value> =
            listed.iter().filter_map(|entry| Some((key(entry)?, entry))).collect();
        let mut seen: HashMap<String, &Row> = HashMap::new();
        let mut plan = Self {
            items: Vec::new(),
            lines: Vec::new(),
            added: Vec::new(),
            changed: Vec::new(),
            unchanged: 0,
        };
        for row in rows {
            let named = key(&row.entry);
            if let Some(named) = &named
                && let Some(first) = seen.insert(named.clone(), row)
            {
                // Only one of them could take effect.
                let (one, by) = (kind.singular, kind.key);
                bail!(
                    "nothing was imported: {} and {} name the same {one} ({by} {named})",
                    first.position,
                    row.position
                );
            }
            match named.and_then(|named| known.get(&named)) {
                Some(entry) => plan.change(kind, row, entry),
                None => plan.add(kind, row),
            }
        }
        Ok(plan)
    }

    fn add(&mut self, kind: &FileKind, row: &'a Row) {
        let name = shown_key(kind, &row.entry);
        self.lines.push(format!("+ {} {name} ({})", kind.singular, row.position));
        self.added.push(json!(name));
        self.items.push((json!({ "add": row.entry }), row));
    }

    fn change(&mut self, kind: &FileKind, row: &'a Row, entry: &Value) {
        let Some(fields) = row.entry.as_object() else {
            // The daemon reports what is wrong with it.
            return self.add(kind, row);
        };
        let differs = |(name, value): &(&String, &Value)| !is_same(name, value, &entry[name.as_str()]);
        let set: Map<String, Value> =
            fields.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect();
        if set.is_empty() {
            self.unchanged += 1;
            return;
        }
        let name = shown_key(kind, entry);
        let line = set.iter().map(|(field, value)| difference(field, &entry[field.as_str()], value));
        self.lines.push(format!(
            "~ {} {name} ({}): {}",
            kind.singular,
            row.position,
            line.collect::<Vec<_>>().join(", ")
        ));
        let shown = |(field, value): (&String, &Value)| {
            let value = if field == "secret" { &Value::Null } else { value };
            (field.clone(), json!({ "from": entry[field.as_str()], "to": value }))
        };
        let fields: Map<String, Value> = set.iter().map(shown).collect();
        self.changed.push(json!({ kind.key: entry[kind.key], "fields": fields }));
        // With the version that the printed difference is based on: what is applied is what was confirmed.
        self.items.push((json!({ "id": entry["id"], "version": entry["version"], "set": set }), row));
    }
}

/// Returns a text, or a number as text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shown_key(kind: &FileKind, entry: &Value) -> String {
    entry.get(kind.key).map_or_else(|| "without a name".to_owned(), |key| clean(&plain(key)))
}

/// Whether an entry already has a file's value.
fn is_same(field: &str, of_file: &Value, of_entry: &Value) -> bool {
    let account = |value: &Value| {
        let address = value.as_str().and_then(|text| AccountId::from_address(text.trim()).ok());
        address.map(|account| account.to_ss58(PHALA_SS58_PREFIX))
    };
    match (field, of_file) {
        // Addresses are compared as accounts: one account has an address for every network prefix. A secret
        // always differs, because an entry never shows its own.
        ("proxied", Value::String(text)) if text.trim().is_empty() => of_entry.is_null(),
        ("proxied", Value::String(_)) => account(of_file).is_some() && account(of_file) == account(of_entry),
        // An amount may be written as a number.
        ("stake", Value::Number(_)) => plain(of_file) == plain(of_entry),
        _ => of_file == of_entry,
    }
}

/// Formats a difference, such as `stake 1 PHA → 2 PHA`. A secret is never shown.
fn difference(field: &str, from: &Value, to: &Value) -> String {
    let text = |value: &Value| match field {
        "stake" => format!("{} PHA", pha(value)),
        _ => clean(&cell(value)),
    };
    match field {
        "secret" => "another secret".to_owned(),
        _ => format!("{field} {} → {}", text(from), text(to)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::import::POOLS, *};

    fn rows(entries: &[Value]) -> Vec<Row> {
        let row =
            |(n, entry): (usize, &Value)| Row { position: format!("line {}", n + 2), entry: entry.clone() };
        entries.iter().enumerate().map(row).collect()
    }

    #[test]
    fn only_what_differs_is_sent_with_the_version_that_was_read() {
        let listed = [
            json!({ "id": "1", "version": "v1", "name": "a", "stake": "5", "endpoints": [], "after_stop": null }),
            json!({ "id": "2", "version": "v2", "name": "b", "stake": "5000000000000", "enabled": true }),
        ];
        let rows = rows(&[
            json!({ "name": "a", "stake": 5, "endpoints": [], "after_stop": null }),
            json!({ "name": "b", "stake": "1500000000000", "enabled": true }),
            json!({ "name": "c", "stake": "1" }),
            json!({ "stake": "1" }),
        ]);
        let plan = Plan::new(&WORKERS, &rows, &listed).unwrap();
        let items: Vec<_> =
            plan.items.iter().map(|(item, row)| (item.clone(), row.position.as_str())).collect();
        assert_eq!(
            items,
            [
                (json!({ "id": "2", "version": "v2", "set": { "stake": "1500000000000" } }), "line 3"),
                (json!({ "add": { "name": "c", "stake": "1" } }), "line 4"),
                (json!({ "add": { "stake": "1" } }), "line 5"),
            ]
        );
        assert_eq!((plan.unchanged, plan.changed.len(), plan.added.len()), (1, 1, 2));
        assert_eq!(plan.lines[0], "~ worker b (line 3): stake 5 PHA → 1.5 PHA");
        let twice = self::rows(&[json!({ "name": "a" }), json!({ "name": "a" })]);
        let error = Plan::new(&WORKERS, &twice, &listed).err().unwrap().to_string();
        assert!(error.contains("line 2 and line 3 name the same worker"), "{error}");
    }

    #[test]
    fn accounts_are_compared_and_secrets_are_not_shown() {
        let owner = AccountId([9; 32]);
        let listed =
            [json!({ "id": "1", "version": "v", "pid": 7, "proxied": owner.to_ss58(PHALA_SS58_PREFIX) })];
        let rows = rows(&[json!({ "pid": 7, "proxied": owner.to_ss58(0), "secret": "bottom drive" })]);
        let plan = Plan::new(&POOLS, &rows, &listed).unwrap();
        assert_eq!(plan.items[0].0["set"], json!({ "secret": "bottom drive" }));
        let shown = format!("{:?}{:?}", plan.lines, plan.changed);
        assert!(shown.contains("another secret") && !shown.contains("bottom"), "{shown}");
    }
}
