//! What is told of a fleet beyond the original's messages: made from the manager's types, and read back into them.
//!
//! [`Sources`] is where a manager's detail comes from besides the [`Manager`]; what is missing there is absent from
//! the answer. The messages are at [`crate::proto::detail`].
//!
//! # Bounds
//!
//! A worker has some 1 KB without its events, so that 5,000 workers have some 5 MB of the 128 MiB that an answer may
//! have. Texts are cut at [`MAX_TEXT_BYTES`], notes at [`MAX_NOTES`], and events come only for workers that are
//! named, at most [`MAX_WITH_EVENTS`] of them with [`MAX_EVENTS`] each. Readers hold others to the same.

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
    worker::{Command, MAX_EVENTS, WorkerStatus},
};
use tokio::sync::watch;

use crate::proto::detail as wire;

mod chain;
mod event;
mod worker;

pub use chain::PoolDetail;
pub use worker::{WorkerDetail, tell as encode_worker};

/// The most workers whose events one call gets.
pub const MAX_WITH_EVENTS: usize = 100;
/// The longest text that is told, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;
/// The most notes that are told.
pub const MAX_NOTES: usize = 64;

/// Gives the jobs of the trade queue, where it answers.
type Jobs = Arc<dyn Fn() -> Option<Stats> + Send + Sync>;

/// Where a manager's detail comes from, besides the [`Manager`].
#[derive(Clone, Default)]
pub struct Sources {
    /// How far the chain data is.
    pub heights: Option<watch::Receiver<Heights>>,
    /// What is read of the chain.
    pub chain: Option<watch::Receiver<Option<Arc<ChainView>>>>,
    /// The jobs of the trade queue.
    pub jobs: Option<Jobs>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("heights", &self.heights)
            .field("chain", &self.chain.is_some())
            .field("jobs", &self.jobs.is_some())
            .finish()
    }
}

impl Sources {
    /// The detail of these workers and of the fleet.
    pub(super) fn tell(
        &self,
        manager: &Manager,
        workers: &[Arc<WorkerStatus>],
        with_events: bool,
    ) -> wire::Fleet {
        let heights = self.heights.as_ref().map(|heights| *heights.borrow()).unwrap_or_default();
        let view = self.chain.as_ref().and_then(|chain| chain.borrow().clone());
        let mut notes: Vec<_> = view.iter().flat_map(|view| &view.unreadable).map(cut).collect();
        if self.chain.is_some() && view.is_none() {
            notes.push("The chain's state has not been read yet.".to_owned());
        }
        notes.truncate(MAX_NOTES);
        let tell = |status: &Arc<WorkerStatus>| {
            // One that has gone meanwhile has none.
            let events = with_events.then(|| manager.events(status.worker.id).unwrap_or_default());
            worker::tell(status, &events.unwrap_or_default())
        };
        let commands: &[Command] = if manager.fleet().is_some() { &Command::ALL } else { &[] };
        wire::Fleet {
            relay: heights.relay.map(|n| n.0),
            relay_target: heights.relay_target.map(|n| n.0),
            para: heights.para.map(|n| n.0),
            para_target: heights.para_target.map(|n| n.0),
            chain_block: view.as_ref().map(|view| view.block.0),
            notes,
            workers: workers.iter().map(tell).collect(),
            pools: manager.pools().iter().map(|pool| chain::tell_pool(pool, view.as_deref())).collect(),
            jobs: self.jobs.as_ref().and_then(|jobs| jobs()).map(tell_jobs),
            commands: commands.iter().map(ToString::to_string).collect(),
        }
    }
}

const fn tell_jobs(stats: Stats) -> wire::Jobs {
    wire::Jobs {
        waiting: stats.waiting as u64,
        delayed: stats.delayed as u64,
        active: stats.active as u64,
        succeeded: stats.succeeded,
        failed: stats.failed,
    }
}

impl wire::Fleet {
    /// How far the chain data is.
    pub fn heights(&self) -> Heights {
        Heights {
            relay: self.relay.map(RelayNumber),
            relay_target: self.relay_target.map(RelayNumber),
            para: self.para.map(ParaNumber),
            para_target: self.para_target.map(ParaNumber),
        }
    }

    /// The jobs of the trade queue, where that answers.
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

    /// The commands that the manager takes and this version knows.
    pub fn known_commands(&self) -> impl Iterator<Item = Command> {
        Command::ALL.into_iter().filter(|known| self.commands.iter().any(|name| name == known.as_str()))
    }

    /// The notes, as many and as long as they may be.
    pub fn bounded_notes(&self) -> Vec<String> {
        self.notes.iter().take(MAX_NOTES).map(cut).collect()
    }
}

/// A text of at most [`MAX_TEXT_BYTES`].
fn cut(text: impl ToString) -> String {
    let mut text = text.to_string();
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Ms since the Unix epoch; 0 before it.
fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of ms since the Unix epoch; the epoch for one that no clock can show.
fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
}
