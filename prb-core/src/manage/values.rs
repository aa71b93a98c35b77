//! Input values of pools and workers, and selectors.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::Error;
use crate::{
    inventory::{AfterExternalStop, Pool, Worker, clean_name, shown_name},
    primitives::{AccountId, Balance, PoolId, parse_amount},
    text::shorten,
};

/// Maximum length of a value in an error, in bytes.
const MAX_SHOWN_BYTES: usize = 64;

/// The desired values of a pool. In an update, an `Option` field that is `None` keeps its value; in a new
/// pool it has its default. All other fields are replaced.
///
/// [`PoolValue::new`] creates an enabled pool. `PoolValue::default()` is a disabled one, as in the wire's messages:
/// an update with it stops the pool's workers unless [`enabled`](Self::enabled) is set.
#[derive(Clone, Debug, Default, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct PoolValue {
    /// Its number on chain.
    pub pid: PoolId,
    /// Its name.
    pub name: String,
    /// The operator's mnemonic or secret URI; blank counts as none. Required for a new pool, unless it only
    /// syncs; in an update, none keeps the operator.
    pub secret: Option<SecretString>,
    /// Address of the account that owns the pool, if the operator is its proxy; blank counts as none.
    pub proxied: String,
    /// Whether its workers run. False in `PoolValue::default()`, and replaced by every update.
    pub enabled: bool,
    /// Only sync its workers; send nothing on chain.
    pub sync_only: bool,
    /// What happens to its workers after an external stop; `Some(None)` inherits the fleet's setting.
    pub after_stop: Option<Option<AfterExternalStop>>,
}

impl PoolValue {
    /// Creates the values of an enabled pool without a secret.
    pub fn new(pid: PoolId, name: impl Into<String>) -> Self {
        Self { pid, name: name.into(), enabled: true, ..Self::default() }
    }

    /// Writes the value to a pool, except for the operator.
    pub(super) fn write_to(&self, pool: &mut Pool, entry: &Entry) -> Result<(), Error> {
        pool.pid = self.pid;
        pool.name = clean_name(&self.name);
        // Not an `Option`: a proxy that is left out is removed, as in the original's messages.
        pool.proxied = self.proxied(entry)?;
        (pool.enabled, pool.sync_only) = (self.enabled, self.sync_only);
        if let Some(after_stop) = self.after_stop {
            pool.after_stop = after_stop;
        }
        Ok(())
    }

    pub(super) fn secret(&self) -> Option<&SecretString> {
        self.secret.as_ref().filter(|secret| !secret.expose_secret().trim().is_empty())
    }

    fn proxied(&self, entry: &Entry) -> Result<Option<AccountId>, Error> {
        match self.proxied.trim() {
            "" => Ok(None),
            address => AccountId::from_address(address).map(Some).map_err(|_| {
                let reason = "it must be an SS58 address; its value is not shown because it may be a secret";
                entry.invalid("proxied account", reason.to_owned())
            }),
        }
    }
}

/// The desired values of a worker. In an update, an `Option` field that is `None` keeps its value; in a new
/// worker it has its default. All other fields are replaced.
///
/// [`WorkerValue::new`] creates an enabled worker. `WorkerValue::default()` is a disabled one, as in the wire's
/// messages: an update with it stops the worker unless [`enabled`](Self::enabled) is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct WorkerValue {
    /// Its pool's number; the pool must exist.
    pub pid: PoolId,
    /// Its name.
    pub name: String,
    /// Its pRuntime's URL.
    pub endpoint: String,
    /// The stake to compute with, as operators write it: an integer in 10^-12 PHA, or an amount such as `1500 PHA` (see
    /// [`parse_amount`]).
    pub stake: String,
    /// Whether it runs. False in `WorkerValue::default()`, and replaced by every update.
    pub enabled: bool,
    /// Only sync it; send nothing on chain.
    pub sync_only: bool,
    /// Whether it is a gatekeeper: registered and synced, but not computing.
    pub gatekeeper: Option<bool>,
    /// The URLs that it announces on chain; if the list is empty, none are announced.
    pub endpoints: Option<Vec<String>>,
    /// What happens after an external stop; `Some(None)` inherits the pool's setting.
    pub after_stop: Option<Option<AfterExternalStop>>,
}

impl WorkerValue {
    /// Creates the values of an enabled worker that computes with `stake`, in 10^-12 PHA.
    pub fn new(pid: PoolId, name: impl Into<String>, endpoint: impl Into<String>, stake: Balance) -> Self {
        let (name, endpoint, stake) = (name.into(), endpoint.into(), stake.to_string());
        Self { pid, name, endpoint, stake, enabled: true, ..Self::default() }
    }

    /// Writes the value to a worker.
    pub(super) fn write_to(&self, worker: &mut Worker, entry: &Entry) -> Result<(), Error> {
        worker.pid = self.pid;
        worker.name = clean_name(&self.name);
        worker.endpoint = self.endpoint.trim().to_owned();
        worker.stake = self.stake(entry)?;
        (worker.enabled, worker.sync_only) = (self.enabled, self.sync_only);
        if let Some(gatekeeper) = self.gatekeeper {
            worker.gatekeeper = gatekeeper;
        }
        if let Some(endpoints) = &self.endpoints {
            worker.endpoints = endpoints.iter().map(|url| url.trim().to_owned()).collect();
        }
        if let Some(after_stop) = self.after_stop {
            worker.after_stop = after_stop;
        }
        Ok(())
    }

    fn stake(&self, entry: &Entry) -> Result<Balance, Error> {
        parse_amount(&self.stake).map_err(|error| entry.invalid("stake", error.to_string()))
    }
}

/// Selects a pool or a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// By its id.
    Id(Uuid),
    /// By its name.
    Name(String),
    /// A pool, by its number on chain. Does not select workers.
    Pid(PoolId),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => write!(f, "{:?}", shorten(&shown_name(name), MAX_SHOWN_BYTES)),
            Self::Pid(pid) => write!(f, "with pid {pid}"),
        }
    }
}

/// The change of an entry.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// Replaces the whole value.
    Put(T),
    /// Removes the entry.
    Delete,
}

/// One entry of an edit that adds, changes and removes.
#[derive(Clone, Debug)]
pub enum Item<T> {
    /// Adds an entry.
    Create(T),
    /// Changes or removes the selected entry.
    Update(Selector, Change<T>),
}

impl<T> From<(Selector, Change<T>)> for Item<T> {
    fn from((selector, change): (Selector, Change<T>)) -> Self {
        Self::Update(selector, change)
    }
}

impl<T> Item<T> {
    /// The entry that it selects, unless it adds one, and the value, unless it removes one.
    pub(super) fn into_parts(self) -> (Option<Selector>, Option<T>) {
        match self {
            Self::Create(value) => (None, Some(value)),
            Self::Update(selector, Change::Put(value)) => (Some(selector), Some(value)),
            Self::Update(selector, Change::Delete) => (Some(selector), None),
        }
    }
}

/// An entry of a call as errors refer to it: `workers[2] "rack-1-a"`.
#[derive(Clone, Debug)]
pub(super) struct Entry(String);

impl Entry {
    pub(super) fn new(list: &str, index: usize, name: &str) -> Self {
        match name.trim() {
            "" => Self(format!("{list}[{index}]")),
            name => Self(format!("{list}[{index}] {:?}", shorten(&shown_name(name), MAX_SHOWN_BYTES))),
        }
    }

    pub(super) fn invalid(&self, field: &str, reason: String) -> Error {
        Error::Invalid { entry: self.to_string(), field: field.to_owned(), reason }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
