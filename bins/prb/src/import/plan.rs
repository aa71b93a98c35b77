//! Checks imported rows and converts them to inventory entries, reporting every error.

use std::collections::{HashMap, HashSet};

use prb_chain::keys::OperatorKey;
use prb_core::{
    inventory::{self, Limits, Pool, Snapshot, Worker, normal_endpoint},
    primitives::{AccountId, PoolId},
};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::{cli::table, redact};

/// The imported rows.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) pools: Vec<PoolRow>,
    pub(super) workers: Vec<WorkerRow>,
}

/// An imported pool. Values that could not be read have their error.
pub(super) struct PoolRow {
    /// Its id in the source.
    pub(super) id: String,
    pub(super) pid: Result<u64, String>,
    pub(super) name: String,
    /// The operator's key, if there is one.
    pub(super) secret: Result<Option<SecretString>, String>,
    /// The operator's account, if it is known apart from the key.
    pub(super) account: Option<String>,
    /// The account whose proxy the operator is.
    pub(super) proxied: Option<String>,
    pub(super) enabled: bool,
    pub(super) sync_only: bool,
}

/// An imported worker.
pub(super) struct WorkerRow {
    pub(super) id: String,
    /// The number of its pool.
    pub(super) pid: Result<u64, String>,
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) stake: String,
    pub(super) enabled: bool,
    pub(super) sync_only: bool,
    pub(super) gatekeeper: bool,
}

/// A valid pool, with the key to seal for it.
pub(super) struct CheckedPool {
    pub(super) pool: Pool,
    pub(super) key: Option<(AccountId, SecretString)>,
}

/// What will be imported if no row has an error.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) pools: Vec<CheckedPool>,
    pub(super) workers: Vec<Worker>,
    pool_table: Vec<Vec<String>>,
    worker_table: Vec<Vec<String>>,
    faults: Vec<String>,
}

/// Values in use, each with its owner.
#[derive(Default)]
struct UsedValues(HashMap<(&'static str, String), String>);

impl UsedValues {
    /// Claims a value for a row; returns a message if it is in use.
    fn take(&mut self, what: &'static str, value: String, row: &str) -> Option<String> {
        let holder = self.0.insert((what, value), row.to_owned())?;
        Some(format!("its {what} is also that of {holder}"))
    }

    fn of(present: &Snapshot) -> Self {
        let mut taken = Self::default();
        for pool in &present.pools {
            let holder = format!("pool {} in the inventory", pool.pid);
            taken.take("number", pool.pid.to_string(), &holder);
            taken.take("pool name", pool.name.clone(), &holder);
            taken.take("id", pool.id.to_string(), &holder);
        }
        for worker in &present.workers {
            let holder = format!("worker {:?} in the inventory", worker.name);
            taken.take("worker name", worker.name.clone(), &holder);
            taken.take("endpoint", normal_endpoint(&worker.endpoint), &holder);
            taken.take("id", worker.id.to_string(), &holder);
        }
        taken
    }
}

impl Rows {
    /// Checks every row against the others and against the inventory.
    pub(super) fn checked(mut self, present: &Snapshot, leave_out: &[String]) -> Plan {
        let mut plan = Plan::default();
        let unused = self.leave_out(leave_out);
        plan.faults.extend(unused.into_iter().map(|name| format!("--leave-out {name}: no such row")));
        let mut taken = UsedValues::of(present);
        // Also those of faulty pools: a worker whose pool is listed is not at fault itself.
        let mut pids: HashSet<u64> = present.pools.iter().map(|pool| pool.pid.0).collect();
        pids.extend(self.pools.iter().filter_map(|pool| pool.pid.as_ref().ok()));
        for row in self.pools {
            plan.pool(row, &mut taken);
        }
        for row in self.workers {
            plan.worker(row, &pids, &mut taken);
        }
        let limits = Limits::default();
        for (what, count, limit) in [
            ("pools", present.pools.len() + plan.pool_table.len(), limits.pools),
            ("workers", present.workers.len() + plan.worker_table.len(), limits.workers),
        ] {
            if count > limit {
                plan.faults
                    .push(format!("{count} {what} would be in the inventory, which holds {limit} at most"));
            }
        }
        plan
    }

    /// Removes rows by name; returns the names without a match.
    fn leave_out(&mut self, names: &[String]) -> Vec<String> {
        let mut used = HashSet::new();
        let mut out = |names_of_row: &[&str]| {
            let found = names.iter().find(|name| names_of_row.contains(&name.as_str()));
            found.is_some_and(|name| {
                used.insert(name.clone());
                true
            })
        };
        let mut pools = HashSet::new();
        self.pools.retain(|row| {
            let pid = row.pid.as_ref().map(u64::to_string).unwrap_or_default();
            let left = out(&[&pid, &row.id]);
            if let (true, Ok(pid)) = (left, &row.pid) {
                pools.insert(*pid);
            }
            !left
        });
        // Another row may have the same number.
        for row in &self.pools {
            row.pid.as_ref().map(|pid| pools.remove(pid)).ok();
        }
        self.workers.retain(|row| {
            let with_pool = row.pid.as_ref().is_ok_and(|pid| pools.contains(pid));
            !out(&[&row.name, &row.id]) && !with_pool
        });
        names.iter().filter(|name| !used.contains(*name)).cloned().collect()
    }
}

impl Plan {
    fn pool(&mut self, row: PoolRow, taken: &mut UsedValues) {
        let mut faults = Vec::new();
        let (shown_pid, pid) = match &row.pid {
            Ok(pid) => (pid.to_string(), *pid),
            Err(fault) => {
                faults.push(fault.clone());
                ("?".into(), 0)
            }
        };
        let label = format!("pool {shown_pid} (id {})", redact::shown(&row.id));
        let id = id(&row.id, &mut faults);
        let mut pool = Pool::new(id, PoolId(pid), row.name.clone());
        (pool.enabled, pool.sync_only) = (row.enabled, row.sync_only);
        faults.extend(pool.check().err().map(|error| error.to_string()));
        faults.extend(taken.take("id", id.to_string(), &label));
        if row.pid.is_ok() {
            faults.extend(taken.take("number", pid.to_string(), &label));
        }
        faults.extend(taken.take("pool name", row.name.clone(), &label));
        pool.proxied = account("the proxied account", row.proxied.as_deref(), &mut faults);
        let stated = account("the operator's account", row.account.as_deref(), &mut faults);
        let key = key(row.secret, stated, &mut faults);
        let operator = match (&key, stated) {
            (Some((account, _)), _) => account.address(),
            (None, Some(account)) => format!("{}, key missing", account.address()),
            (None, None) => "none".into(),
        };
        self.pool_table.push(vec![
            shown_pid,
            row.name,
            operator,
            pool.proxied.map_or_else(|| "-".into(), |account| account.address()),
            yes_no(row.enabled),
            yes_no(row.sync_only),
            problem(&faults),
        ]);
        self.faults.extend(faults.into_iter().map(|fault| format!("{label}: {fault}")));
        self.pools.push(CheckedPool { pool, key });
    }

    fn worker(&mut self, row: WorkerRow, pids: &HashSet<u64>, taken: &mut UsedValues) {
        let mut faults = Vec::new();
        let pid = match &row.pid {
            Ok(pid) if pids.contains(pid) => *pid,
            Ok(pid) => {
                faults.push(format!("its pool {pid} does not exist"));
                *pid
            }
            Err(fault) => {
                faults.push(fault.clone());
                0
            }
        };
        let label = format!("worker {:?} (id {})", row.name, redact::shown(&row.id));
        let id = id(&row.id, &mut faults);
        let stake = row.stake.trim().parse().unwrap_or_else(|_| {
            let shown = redact::shown(row.stake.trim());
            faults.push(format!("its stake {shown} is not an integer number of 10^-12 PHA"));
            0
        });
        let mut worker = Worker::new(id, PoolId(pid), row.name.clone(), row.endpoint.trim(), stake);
        (worker.enabled, worker.sync_only, worker.gatekeeper) = (row.enabled, row.sync_only, row.gatekeeper);
        let checked = worker.check();
        // An invalid endpoint may contain a password, so it is not shown.
        let endpoint = if checked.is_ok() { worker.endpoint.as_str() } else { redact::HIDDEN };
        faults.extend(taken.take("id", id.to_string(), &label));
        faults.extend(taken.take("worker name", row.name.clone(), &label));
        faults.extend(taken.take("endpoint", normal_endpoint(&worker.endpoint), &label));
        self.worker_table.push(vec![
            row.name,
            row.pid.as_ref().map_or_else(|_| "?".into(), u64::to_string),
            endpoint.to_owned(),
            table::pha(&json!(stake.to_string())),
            yes_no(row.enabled),
            yes_no(row.sync_only),
            yes_no(row.gatekeeper),
            problem(&faults),
        ]);
        faults.extend(checked.err().map(|error| refusal(&error)));
        self.faults.extend(faults.into_iter().map(|fault| format!("{label}: {fault}")));
        self.workers.push(worker);
    }

    /// Formats every row for display.
    pub(super) fn shown(&self) -> String {
        let pools = ["PID", "NAME", "OPERATOR", "PROXIED ACCOUNT", "ENABLED", "SYNC ONLY", ""];
        let workers = ["WORKER", "PID", "ENDPOINT", "STAKE (PHA)", "ENABLED", "SYNC ONLY", "GATEKEEPER", ""];
        format!(
            "{}\n{}\n",
            table::table(&pools, &self.pool_table),
            table::table(&workers, &self.worker_table)
        )
    }

    /// Formats the errors, one per line; `None` if there are none.
    pub(super) fn faults(&self) -> Option<String> {
        let lines: Vec<_> = self.faults.iter().map(|fault| format!("\n  {}", table::clean(fault))).collect();
        (!lines.is_empty()).then(|| lines.concat())
    }
}

/// The inventory's error without possible secrets.
fn refusal(error: &inventory::Error) -> String {
    redact::scrubbed(&error.to_string())
}

fn problem(faults: &[String]) -> String {
    if faults.is_empty() { String::new() } else { "<- see below".into() }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn id(text: &str, faults: &mut Vec<String>) -> Uuid {
    text.parse().unwrap_or_else(|_| {
        faults.push("its id is not a UUID".into());
        // A placeholder, so that the other checks of the row go on; with a fault nothing is imported.
        Uuid::new_v4()
    })
}

fn account(what: &str, address: Option<&str>, faults: &mut Vec<String>) -> Option<AccountId> {
    let address = address.map(str::trim).filter(|address| !address.is_empty())?;
    let read = AccountId::from_address(address);
    if read.is_err() {
        faults.push(format!("{what} {} is not an SS58 address", redact::shown(address)));
    }
    read.ok()
}

fn key(
    secret: Result<Option<SecretString>, String>,
    stated: Option<AccountId>,
    faults: &mut Vec<String>,
) -> Option<(AccountId, SecretString)> {
    let secret = match secret {
        Ok(secret) => secret?,
        Err(fault) => {
            faults.push(fault);
            return None;
        }
    };
    let account = match OperatorKey::from_secret(&secret) {
        Ok(key) => key.account(),
        Err(error) => {
            faults.push(format!("its operator's key cannot be read: {error}"));
            return None;
        }
    };
    if let Some(stated) = stated.filter(|stated| *stated != account) {
        let (account, stated) = (account.address(), stated.address());
        faults.push(format!("its operator's key belongs to {account}, not to {stated}"));
        return None;
    }
    Some((account, secret))
}
