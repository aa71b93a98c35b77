//! Reads the SQLite database of the original bridge (PRB v2).
//!
//! Tables, as created by Sequelize: `pools` (`id` UUID, `pid`, `name`, `proxiedAccountSs58`,
//! `encryptedOperator`, `enabled`, `syncOnly`) and `workers` (`id`, `name`, `endpoint`, `stake`, `enabled`,
//! `syncOnly`, `poolId`). Columns that older versions lack have their defaults.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, ensure};
use prb_core::inventory::Limits;
use prb_walkie::{identity::Identity, vault::original};
use rusqlite::{Connection, OpenFlags, Row, types::ValueRef};

use super::plan::{PoolRow, Rows, WorkerRow};

/// Most rows of a table: one more than an inventory holds, so that the excess is reported.
const MAX_ROWS: usize = Limits::WORKERS + 1;
/// Longest value of a column, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Reads all rows.
///
/// # Errors
/// It is not such a database. Errors of a row are reported with the row.
pub(super) fn read(database: &Path, identity: &Identity) -> anyhow::Result<Rows> {
    let shown = database.display();
    ensure!(database.is_file(), "there is no file {shown}");
    ensure!(
        crate::legacy_files::is_sqlite(database),
        "{shown} is not an SQLite database (the first releases of PRB v2 encrypted theirs: start its last release on it \
         once)"
    );
    crate::legacy_files::check_journals(database).with_context(|| format!("{shown} is not imported"))?;
    // Read-only, because the original program may be started on its database again. Without SQLite's own mutex:
    // the connection stays on this thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(database, flags).with_context(|| format!("cannot open {shown}"))?;
    rows(&connection, identity).with_context(|| format!("cannot read {shown}"))
}

fn rows(connection: &Connection, identity: &Identity) -> anyhow::Result<Rows> {
    let mut rows = Rows::default();
    let mut pids = HashMap::new();
    for mut columns in table(connection, "pools")? {
        let row = pool(&mut columns, identity);
        if let Ok(pid) = row.pid {
            pids.insert(row.id.clone(), pid);
        }
        rows.pools.push(row);
    }
    let workers = table(connection, "workers")?.into_iter().map(|mut columns| worker(&mut columns, &pids));
    rows.workers.extend(workers);
    Ok(rows)
}

/// The columns of a row, by name.
struct Columns(HashMap<String, Value>);

enum Value {
    Missing,
    Text(String),
    Bytes(Vec<u8>),
    TooLong,
}

fn table(connection: &Connection, name: &str) -> anyhow::Result<Vec<Columns>> {
    // All columns: older versions lack some, and naming them would be an error. The name is a constant.
    let mut statement = connection.prepare(&format!("SELECT * FROM {name} LIMIT {MAX_ROWS}"))?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| Columns::of(&names, row))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Columns {
    fn of(names: &[String], row: &Row<'_>) -> rusqlite::Result<Self> {
        let value = |(index, name): (usize, &String)| Ok((name.clone(), Value::of(row.get_ref(index)?)));
        names.iter().enumerate().map(value).collect::<rusqlite::Result<_>>().map(Self)
    }

    fn take(&mut self, name: &str) -> Value {
        self.0.remove(name).unwrap_or(Value::Missing)
    }

    /// Returns a text or number; empty if there is none, which the check of the value reports.
    fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name) {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => String::from_utf8(bytes).ok(),
            Value::Missing | Value::TooLong => None,
        }
    }

    fn yes(&mut self, name: &str, default: bool) -> bool {
        self.text(name).map_or(default, |text| text != "0")
    }
}

impl Value {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Missing,
            ValueRef::Integer(number) => Self::Text(number.to_string()),
            ValueRef::Real(number) => Self::Text(number.to_string()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.len() > MAX_VALUE_BYTES => Self::TooLong,
            ValueRef::Text(bytes) => Self::Text(String::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Blob(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}

fn pool(columns: &mut Columns, identity: &Identity) -> PoolRow {
    let pid = columns.text("pid").unwrap_or_default();
    let secret = match columns.take("encryptedOperator") {
        Value::Bytes(bytes) => original::open(identity, &bytes).map(Some).map_err(|_| {
            format!(
                "its operator's key cannot be opened with this identity ({}): it was sealed with another one",
                identity.peer_id()
            )
        }),
        Value::Missing => Err("it has no operator's key".into()),
        Value::Text(_) | Value::TooLong => Err("its operator's key has an unknown format".into()),
    };
    PoolRow {
        id: columns.text("id").unwrap_or_default(),
        pid: pid.trim().parse().map_err(|_| "its number (pid) is not a whole number".into()),
        name: columns.text("name").unwrap_or_default(),
        secret,
        account: None,
        proxied: columns.text("proxiedAccountSs58"),
        enabled: columns.yes("enabled", true),
        sync_only: columns.yes("syncOnly", false),
    }
}

fn worker(columns: &mut Columns, pids: &HashMap<String, u64>) -> WorkerRow {
    let pool = columns.text("poolId").unwrap_or_default();
    WorkerRow {
        id: columns.text("id").unwrap_or_default(),
        pid: pids.get(&pool).copied().ok_or_else(|| "it belongs to no pool of the database".into()),
        name: columns.text("name").unwrap_or_default(),
        endpoint: columns.text("endpoint").unwrap_or_default(),
        stake: columns.text("stake").unwrap_or_default(),
        enabled: columns.yes("enabled", true),
        sync_only: columns.yes("syncOnly", false),
        gatekeeper: false,
    }
}
