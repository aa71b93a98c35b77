//! Details of a fleet beyond the original's messages, converted from and to the manager's types.
//!
//! [`Sources`] provides a manager's details that the [`Manager`] does not have; missing sources leave their
//! parts of the answer absent. The messages are in [`crate::proto::detail`].
//!
//! # Bounds
//!
//! A worker takes about 1 KB without its events, so 5,000 workers take about 5 MB of the 128 MiB that an answer
//! may have. Texts are shortened to [`MAX_TEXT_BYTES`], and there are at most [`MAX_NOTES`] notes. Events are
//! only sent for workers that are named, at most [`MAX_WITH_EVENTS`] of them with [`MAX_EVENTS`] each. Readers
//! enforce the same bounds.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prb_core::{
    blob::Heights,
    chain::ChainView,
    manage::Manager,
    primitives::{ParaNumber, RelayNumber},
    queue::Stats,
    text::shorten,
    worker::{Command, MAX_EVENTS, WorkerStatus},
};
use tokio::sync::watch;

use crate::proto::{
    detail as wire,
    provider_detail::{Detail, Provider},
};

mod chain;
mod event;
mod worker;

pub use chain::PoolDetail;
pub use worker::{WorkerDetail, encode_worker};

/// Most workers whose events one call returns.
pub const MAX_WITH_EVENTS: usize = 100;
/// The longest text that is sent, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Most notes that are sent.
pub const MAX_NOTES: usize = 64;
/// Most data providers, and most chain nodes, that are sent.
pub const MAX_PROVIDERS: usize = 256;

/// Returns the trade queue's statistics, if the queue answers.
type Jobs = Arc<dyn Fn() -> Option<Stats> + Send + Sync>;
/// Returns the data providers that were met.
type ProviderRows = Arc<dyn Fn() -> Vec<Provider> + Send + Sync>;
/// Returns the state of the chain nodes and of the disk. May block.
type ChainNodes = Arc<dyn Fn() -> Detail + Send + Sync>;

/// Sources of details besides the [`Manager`].
#[derive(Clone, Default)]
pub struct Sources {
    /// Heights of the chain data.
    pub heights: Option<watch::Receiver<Heights>>,
    /// The on-chain view.
    pub chain: Option<watch::Receiver<Option<Arc<ChainView>>>>,
    /// The trade queue's statistics.
    pub jobs: Option<Jobs>,
    /// The data providers that were met.
    pub providers: Option<ProviderRows>,
    /// The manager's own chain nodes and disk.
    pub chain_nodes: Option<ChainNodes>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("heights", &self.heights)
            .field("chain", &self.chain.is_some())
            .field("jobs", &self.jobs.is_some())
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// Returns the details of these workers and of the fleet.
    pub(super) fn fleet(
        &self,
        manager: &Manager,
        workers: &[Arc<WorkerStatus>],
        with_events: bool,
    ) -> wire::Fleet {
        let heights = self.heights.as_ref().map(|heights| *heights.borrow()).unwrap_or_default();
        let view = self.chain.as_ref().and_then(|chain| chain.borrow().clone());
        let mut notes: Vec<_> = view.iter().flat_map(|view| &view.unreadable).map(bounded_text).collect();
        if self.chain.is_some() && view.is_none() {
            notes.push("The chain's state has not been read yet.".to_owned());
        }
        notes.truncate(MAX_NOTES);
        let encode = |status: &Arc<WorkerStatus>| {
            // A worker that was removed in the meantime has none.
            let events = with_events.then(|| manager.events(status.worker.id).unwrap_or_default());
            worker::encode_worker(status, &events.unwrap_or_default())
        };
        let commands: &[Command] = if manager.fleet().is_some() { &Command::ALL } else { &[] };
        wire::Fleet {
            relay: heights.relay.map(|n| n.0),
            relay_target: heights.relay_target.map(|n| n.0),
            para: heights.para.map(|n| n.0),
            para_target: heights.para_target.map(|n| n.0),
            chain_block: view.as_ref().map(|view| view.block.0),
            notes,
            workers: workers.iter().map(encode).collect(),
            pools: manager.pools().iter().map(|pool| chain::encode_pool(pool, view.as_deref())).collect(),
            jobs: self.jobs.as_ref().and_then(|jobs| jobs()).map(encode_jobs),
            commands: commands.iter().map(ToString::to_string).collect(),
            takes_settings: true,
            providers: self.providers.as_ref().map(|rows| bounded(rows())).unwrap_or_default(),
            chain_nodes: self.chain_nodes.as_ref().map(|read| read()),
        }
    }
}

const fn encode_jobs(stats: Stats) -> wire::Jobs {
    wire::Jobs {
        waiting: stats.waiting as u64,
        delayed: stats.delayed as u64,
        active: stats.active as u64,
        succeeded: stats.succeeded,
        failed: stats.failed,
    }
}

impl wire::Fleet {
    /// The heights of the chain data.
    pub fn heights(&self) -> Heights {
        Heights {
            relay: self.relay.map(RelayNumber),
            relay_target: self.relay_target.map(RelayNumber),
            para: self.para.map(ParaNumber),
            para_target: self.para_target.map(ParaNumber),
        }
    }

    /// The trade queue's statistics, if it answered.
    pub fn job_stats(&self) -> Option<Stats> {
        let jobs = self.jobs?;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Some(Stats {
            waiting: count(jobs.waiting),
            delayed: count(jobs.delayed),
            active: count(jobs.active),
            succeeded: jobs.succeeded,
            failed: jobs.failed,
        })
    }

    /// The commands that the manager accepts and this version knows.
    pub fn known_commands(&self) -> impl Iterator<Item = Command> {
        Command::ALL.into_iter().filter(|known| self.commands.iter().any(|name| name == known.as_str()))
    }

    /// The notes, within the bounds.
    pub fn bounded_notes(&self) -> Vec<String> {
        self.notes.iter().take(MAX_NOTES).map(bounded_text).collect()
    }
}

/// Drops providers beyond [`MAX_PROVIDERS`] and shortens the texts of the others.
fn bounded(mut providers: Vec<Provider>) -> Vec<Provider> {
    providers.truncate(MAX_PROVIDERS);
    for text in providers.iter_mut().flat_map(|one| [&mut one.reason, &mut one.host, &mut one.address]) {
        *text = bounded_text(&*text);
    }
    providers
}

impl wire::Fleet {
    /// The data providers, within the bounds.
    pub fn bounded_providers(&mut self) -> Vec<Provider> {
        bounded(std::mem::take(&mut self.providers))
    }
}

/// Shortens a text to [`MAX_TEXT_BYTES`].
fn bounded_text(text: impl ToString) -> String {
    shorten(&text.to_string(), MAX_TEXT_BYTES)
}

/// Ms since the Unix epoch; 0 before it.
fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of ms since the Unix epoch; the epoch if it cannot be represented.
fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
}
