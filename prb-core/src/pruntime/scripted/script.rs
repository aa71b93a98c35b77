//! The script of a scripted worker, and the record of its calls.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::WorkerState;
use crate::{prpc::Method, wire::WorkerRegistrationInfoV2};

/// The timeout reported by [`Failure::TimedOut`] and [`Failure::AnswerLost`].
pub(super) const CALLER_TIMEOUT: Duration = Duration::from_secs(8);

/// A scripted failure of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// pRuntime answers with this error.
    Refuse {
        /// HTTP status.
        status: u16,
        /// The error text.
        message: String,
    },
    /// Nothing answers.
    Unreachable,
    /// The call times out; the worker has not executed it.
    TimedOut,
    /// The worker executes the call, but its answer is lost: the call times out.
    AnswerLost,
    /// The call never returns.
    Hang,
}

impl Failure {
    /// Creates an application error (status 500).
    pub fn refuse(message: &str) -> Self {
        Self::Refuse { status: 500, message: message.to_owned() }
    }
}

/// The duration of a worker's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Timings {
    /// Bytes of blocks dispatched per second. Default: 8 MiB.
    pub dispatch_bytes_per_sec: u64,
    /// Duration of an attestation. Default: 1 s.
    pub attestation: Duration,
    /// Time until the process is back after an exit. Default: 0 s.
    pub restart: Duration,
}

impl Timings {
    /// In whole milliseconds, the resolution of tokio's timer.
    pub(super) fn dispatch(&self, bytes: usize) -> Duration {
        let millis = (bytes as u64).saturating_mul(1000) / self.dispatch_bytes_per_sec.max(1);
        Duration::from_millis(millis)
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            dispatch_bytes_per_sec: 8 * 1024 * 1024,
            attestation: Duration::from_secs(1),
            restart: Duration::ZERO,
        }
    }
}

/// The state of a worker after an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// The state at the last `TakeCheckpoint`; without one, only its key.
    #[default]
    Checkpoint,
    /// All of its state, as if a checkpoint had been taken at the last moment.
    Kept,
    /// Only its key.
    Lost,
}

type AfterDispatch = Box<dyn FnMut(&mut WorkerState) + Send>;
type AlterRegistration = Box<dyn FnMut(&mut WorkerRegistrationInfoV2) + Send>;

#[derive(Default)]
pub(super) struct Script {
    pub(super) next: HashMap<Method, VecDeque<Failure>>,
    pub(super) always: HashMap<Method, Failure>,
    pub(super) latency: BTreeMap<&'static str, Duration>,
    pub(super) timings: Timings,
    pub(super) down: bool,
    pub(super) restart: Restart,
    pub(super) crashes_at: Option<u32>,
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
