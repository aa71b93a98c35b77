//! The file with pools and workers for `prb all` (TOML, or JSON if its name ends in `.json`).
//!
//! It is read and checked completely before anything starts. Unknown keys are refused, and so are duplicate
//! names, endpoints and pool numbers: ids are derived from names, so a duplicate would replace the first
//! entry. Mnemonics may be in the file, or in environment variables that it names; they are sealed at once
//! and never shown.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use prb_core::{
    inventory::{AfterExternalStop, Worker, clean_name, shown_name},
    primitives::{Balance, ParseError, PoolId, parse_amount},
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;
use uuid::Uuid;

mod changes;
mod edits;
mod position;

use crate::{input, redact};
pub(crate) use changes::Changes;
use position::{Position, Positioned, Unique};

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Namespace of the ids derived from names. Must never change: with other ids, a start would replace all pools and
/// workers and delete the saved state of the workers. Entries of other sources have random ids (see `changes`).
const NAMESPACE: Uuid = Uuid::from_u128(0x9f1c_6f6e_4d3a_4f0e_8b52_70f6_a1d9_3c11);

/// The file, checked.
#[derive(Debug, Default)]
pub struct FleetFile {
    remove_unlisted: bool,
    pools: Vec<Positioned<PoolEntry>>,
    workers: Vec<Worker>,
}

/// The file's structure; `P` and `W` are the entries, with their positions if the format has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "P: Deserialize<'de>, W: Deserialize<'de>"))]
struct Written<P, W> {
    /// Confirms that entries are removed which the file does not name, even if they are all workers or come from
    /// elsewhere.
    #[serde(default, alias = "remove_all")]
    remove_unlisted: bool,
    #[serde(default = "Vec::new")]
    pools: Vec<P>,
    #[serde(default = "Vec::new")]
    workers: Vec<W>,
}

/// A pool's entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolEntry {
    /// Its number on chain.
    pid: u64,
    /// Its name; `pool-{pid}` where absent.
    name: Option<String>,
    /// The operator's mnemonic or secret URI.
    #[serde(default, deserialize_with = "secret")]
    operator: Option<SecretString>,
    /// Name of the environment variable that holds the operator's secret.
    operator_env: Option<String>,
    /// File whose first line is the operator's secret.
    operator_file: Option<PathBuf>,
    /// SS58 address of the pool's owner, if the operator is its proxy.
    proxied: Option<String>,
    /// Whether its workers run.
    #[serde(default = "yes")]
    enabled: bool,
    /// Whether its workers only sync, without on-chain operations.
    #[serde(default)]
    sync_only: bool,
    /// What to do with its workers after an external stop; by default the fleet's setting.
    after_stop: Option<AfterExternalStop>,
}

impl PoolEntry {
    fn name(&self) -> String {
        self.name.as_deref().map_or_else(|| format!("pool-{}", self.pid), clean_name)
    }

    fn id(&self) -> Uuid {
        Uuid::new_v5(&NAMESPACE, format!("pool:{}", self.pid).as_bytes())
    }
}

impl fmt::Debug for PoolEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolEntry").field("pid", &self.pid).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A worker's entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkerEntry {
    /// Its name; its endpoint where absent.
    name: Option<String>,
    /// Its pool's number.
    pid: u64,
    /// Its pRuntime's URL.
    endpoint: String,
    /// The stake to compute with: an amount with its unit, or in 10^-12 PHA as a string or an integer.
    stake: Stake,
    /// Whether it runs.
    #[serde(default = "yes")]
    enabled: bool,
    /// Whether it only syncs, without on-chain operations.
    #[serde(default)]
    sync_only: bool,
    /// Whether it is a gatekeeper: registered and synced, but not computing.
    #[serde(default)]
    gatekeeper: bool,
    /// URLs that it announces on chain.
    #[serde(default)]
    endpoints: Vec<String>,
    /// What to do after an external stop; by default its pool's setting.
    after_stop: Option<AfterExternalStop>,
}

impl WorkerEntry {
    /// Converts an entry; the error names the worker and the field.
    fn into_worker(self) -> anyhow::Result<Worker> {
        let stake = self.stake.0.map_err(|error| {
            // Not the endpoint in place of a name: it may contain a password.
            let name =
                self.name.as_deref().map_or_else(String::new, |name| format!(" {:?}", shown_name(name)));
            anyhow::anyhow!("worker{name}: the stake is not valid: {error}")
        })?;
        let endpoint = self.endpoint.trim().to_owned();
        let name = self.name.map_or_else(|| endpoint.clone(), |name| clean_name(&name));
        let id = Uuid::new_v5(&NAMESPACE, format!("worker:{name}").as_bytes());
        let mut worker = Worker::new(id, PoolId(self.pid), name, endpoint, stake);
        (worker.enabled, worker.sync_only) = (self.enabled, self.sync_only);
        worker.gatekeeper = self.gatekeeper;
        worker.endpoints = self.endpoints.iter().map(|url| url.trim().to_owned()).collect();
        worker.after_stop = self.after_stop;
        Ok(worker)
    }
}

const fn yes() -> bool {
    true
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(SecretString::from))
}

/// An amount from a number or a string, because not every parser keeps large integers exact. What is wrong with it is told
/// with the worker's name and position, which are not known while it is read.
struct Stake(Result<Balance, ParseError>);

impl<'de> Deserialize<'de> for Stake {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Stake;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a stake: an amount such as 30000 PHA, in quotes, or an integer in 10^-12 PHA")
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Stake, E> {
                Ok(Stake(Ok(v.into())))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Stake, E> {
                Ok(Stake(parse_amount(&v.to_string())))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Stake, E> {
                // With its point (`30.0`), so that it is refused.
                Ok(Stake(parse_amount(&format!("{v:?}"))))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Stake, E> {
                Ok(Stake(parse_amount(v)))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl FleetFile {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Names the file, and the line or the entries with an error.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read(path: &Path) -> anyhow::Result<Self> {
        let path = path.to_owned();
        // A pipe may block for a while, and a signal must be able to end the daemon meanwhile.
        tokio::task::spawn_blocking(move || Self::read_blocking(&path)).await?
    }

    /// Reads and checks the file, if there is one.
    pub(crate) async fn read_optional(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        match path {
            Some(path) => Self::read(path).await.map(Some),
            None => Ok(None),
        }
    }

    fn read_blocking(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let cannot = || format!("cannot read the fleet file {shown}");
        let input = input::read(path, MAX_FILE_BYTES).with_context(cannot)?;
        let text = input.text().with_context(cannot)?;
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let file = Self::parse(text, json).with_context(|| format!("in the fleet file {shown}"))?;
        if file.pools.iter().any(|pool| pool.entry.operator.is_some()) {
            warn_if_open(path, &input.meta);
        }
        Ok(file)
    }

    /// Parses and checks a text.
    ///
    /// # Errors
    /// Names the line or the entries with an error, without quoting the text, which may contain a mnemonic.
    pub fn parse(text: &str, json: bool) -> anyhow::Result<Self> {
        if json {
            let written: Written<PoolEntry, WorkerEntry> = serde_json::from_str(text)
                .map_err(|e| anyhow::anyhow!("{}", redact::scrubbed(&e.to_string())))?;
            let workers = Positioned::by_index(written.workers);
            return Self::checked(written.remove_unlisted, Positioned::by_index(written.pools), workers);
        }
        // The entries with their positions: what is wrong with two of them together is only found afterwards.
        let written: Written<Spanned<PoolEntry>, Spanned<WorkerEntry>> =
            toml::from_str(text).map_err(|e: toml::de::Error| match e.span() {
                Some(span) => {
                    anyhow::anyhow!("{}: {}", Position::line(text, span.start), redact::scrubbed(e.message()))
                }
                None => anyhow::anyhow!("{}", redact::scrubbed(e.message())),
            })?;
        let workers = Positioned::by_line(text, written.workers);
        Self::checked(written.remove_unlisted, Positioned::by_line(text, written.pools), workers)
    }

    fn checked(
        remove_unlisted: bool,
        pools: Vec<Positioned<PoolEntry>>,
        workers: Vec<Positioned<WorkerEntry>>,
    ) -> anyhow::Result<Self> {
        check_pools(&pools)?;
        let worker = |written: Positioned<WorkerEntry>| {
            let position = written.position;
            let worker = written.entry.into_worker().with_context(|| format!("at {position}"))?;
            anyhow::Ok(Positioned { position, entry: worker })
        };
        let workers = workers.into_iter().map(worker).collect::<Result<Vec<_>, _>>()?;
        check_workers(&workers, &pools)?;
        Ok(Self { remove_unlisted, pools, workers: workers.into_iter().map(|worker| worker.entry).collect() })
    }

    /// Whether it has neither pools nor workers, as a truncated or wrong file.
    pub const fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.workers.is_empty()
    }
}

fn check_pools(pools: &[Positioned<PoolEntry>]) -> anyhow::Result<()> {
    let (mut pids, mut names) = (Unique::default(), Unique::default());
    for Positioned { position, entry } in pools {
        let pid = entry.pid;
        if let Some(first) = pids.insert(pid.to_string(), *position) {
            bail!("pool {pid} is listed twice, at {first} and at {position}: remove one of them");
        }
        if let Some(first) = names.insert(entry.name(), *position) {
            let name = entry.name();
            let name = shown_name(&name);
            bail!("two pools have the name {name:?}, at {first} and at {position}: rename one of them");
        }
    }
    Ok(())
}

fn check_workers(workers: &[Positioned<Worker>], pools: &[Positioned<PoolEntry>]) -> anyhow::Result<()> {
    let pids: HashSet<PoolId> = pools.iter().map(|pool| PoolId(pool.entry.pid)).collect();
    let (mut names, mut endpoints) = (Unique::default(), Unique::default());
    for Positioned { position, entry: worker } in workers {
        let (name, endpoint, pid) = (shown_name(&worker.name), &worker.endpoint, worker.pid);
        // Checked first: an endpoint may contain a password, and must not be quoted then.
        worker.check().with_context(|| format!("the worker at {position}"))?;
        // Checked before the names: a worker without a name uses its endpoint as one.
        if let Some(first) = endpoints.insert(prb_core::inventory::normal_endpoint(endpoint), *position) {
            bail!(
                "two workers have the endpoint {endpoint}, at {first} and at {position}: remove one of them"
            );
        }
        if let Some(first) = names.insert(worker.name.clone(), *position) {
            bail!("two workers have the name {name:?}, at {first} and at {position}: rename one of them");
        }
        if !pids.contains(&pid) {
            bail!("worker {name:?} at {position} belongs to pool {pid}, which the file does not name");
        }
    }
    Ok(())
}

#[cfg(unix)]
fn warn_if_open(path: &Path, meta: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            mode = format!("{mode:o}"),
            "the fleet file contains mnemonics and is readable by others: run `chmod 600` on it"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_open(_: &Path, _: &std::fs::Metadata) {}
