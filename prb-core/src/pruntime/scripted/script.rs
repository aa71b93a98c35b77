//! What a scripted worker is told to do, and what it counts.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::WorkerState;
use crate::{prpc::Method, wire::WorkerRegistrationInfoV2};

/// How long a caller waits before [`Failure::TimedOut`] and [`Failure::AnswerLost`] say so.
pub(super) const CALLERS_LIMIT: Duration = Duration::from_secs(8);

/// How a scripted call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// pRuntime answers this error.
    Refuse {
        /// HTTP status.
        status: u16,
        /// pRuntime's text.
        message: String,
    },
    /// Nobody answers.
    Unreachable,
    /// The client's time ran out; the worker has not done it.
    TimedOut,
    /// The worker does as asked, but its answer is lost.
    AnswerLost,
    /// Never answers.
    Hang,
}

impl Failure {
    /// An application error (status 500).
    pub fn refuse(message: &str) -> Self {
        Self::Refuse { status: 500, message: message.to_owned() }
    }
}

/// How long a worker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Bytes of blocks that it dispatches in a second.
    pub dispatch_bytes_per_sec: u64,
    /// How long it attests.
    pub attestation: Duration,
    /// How long it is away after an exit.
    pub restart: Duration,
}

impl Pace {
    /// No time at all, for benchmarks of what is around the worker.
    pub const INSTANT: Self =
        Self { dispatch_bytes_per_sec: u64::MAX, attestation: Duration::ZERO, restart: Duration::ZERO };

    /// In whole milliseconds, the timer's own grain.
    pub(super) fn dispatch(&self, bytes: usize) -> Duration {
        let millis = (bytes as u64).saturating_mul(1000) / self.dispatch_bytes_per_sec.max(1);
        Duration::from_millis(millis)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            dispatch_bytes_per_sec: 8 * 1024 * 1024,
            attestation: Duration::from_secs(1),
            restart: Duration::ZERO,
        }
    }
}

/// What a worker comes back with after an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// What `TakeCheckpoint` kept; without one, nothing but its key.
    #[default]
    Checkpoint,
    /// Everything, as if a checkpoint had been taken at the last moment.
    Kept,
    /// Nothing but its key.
    Lost,
}

type AfterDispatch = Box<dyn FnMut(&mut WorkerState) + Send>;
type AlterRegistration = Box<dyn FnMut(&mut WorkerRegistrationInfoV2) + Send>;

#[derive(Default)]
pub(super) struct Script {
    pub(super) next: HashMap<Method, VecDeque<Failure>>,
    pub(super) always: HashMap<Method, Failure>,
    pub(super) latency: BTreeMap<&'static str, Duration>,
    pub(super) pace: Pace,
    pub(super) down: bool,
    pub(super) restart: Restart,
    pub(super) dies_at: Option<u32>,
    pub(super) stuck: bool,
    pub(super) after_dispatch: Option<AfterDispatch>,
    pub(super) alter_registration: Option<AlterRegistration>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) calls: VecDeque<(Method, usize)>,
    pub(super) count: HashMap<Method, u64>,
    pub(super) kicks: u64,
    pub(super) exits: u64,
    pub(super) syncing: usize,
    pub(super) overlaps: u64,
}
