//! A test double of a worker, for tests, benchmarks and examples.
//!
//! [`ScriptedWorker`] follows a real pRuntime's rules for block *numbers* (what it skips, accepts and
//! refuses, with the same error texts), applies the batches that it is sent, and takes a realistic time: a
//! dispatch takes time in proportion to its bytes, during which other sync calls are refused, and an
//! attestation takes the time in [`Timings`]. Dropping a call does not stop its processing. It verifies no
//! header, proof or state root. Failures, delays and its on-chain life cycle are scripted.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use self::{
    identity::Identity,
    script::{Record, Script},
};
use super::{Connect, ConnectError, Error, PRuntimeClient};
use crate::{primitives::WorkerKey, prpc::Method, wire::WorkerRegistrationInfoV2};

mod identity;
mod rules;
mod script;
mod serve;
mod state;

pub use script::{Failure, Restart, Timings};
pub use state::WorkerState;

/// Number of calls recorded; older ones are dropped.
const MAX_RECORDED_CALLS: usize = 4096;
/// A dispatch in progress, even if its caller no longer waits.
#[derive(Clone, Copy, Debug)]
struct Dispatching {
    until: Instant,
    /// The next block needed afterwards.
    next_block: u32,
    /// Whether the process exits at its end.
    crashes: bool,
}

struct Inner {
    state: WorkerState,
    checkpoint: Option<WorkerState>,
    dispatching: Option<Dispatching>,
    unreachable_until: Option<Instant>,
    script: Script,
    record: Record,
    /// Incremented at each exit: calls being answered are aborted.
    exit_signal: watch::Sender<u64>,
}

impl Inner {
    /// Applies a dispatch that has ended.
    fn apply_dispatch(&mut self) {
        let Some(ended) = self.dispatching.take_if(|d| d.until <= Instant::now()) else { return };
        if ended.crashes {
            return self.exit(self.script.restart);
        }
        let moved = ended.next_block > self.state.info.blocknum;
        self.state.info.blocknum = ended.next_block;
        if let Some(hook) = self.script.after_dispatch.as_mut().filter(|_| moved) {
            hook(&mut self.state);
        }
    }

    fn exit(&mut self, how: Restart) {
        self.record.exits += 1;
        // Breaks the connections of calls that are being answered.
        self.exit_signal.send_modify(|exits| *exits += 1);
        self.dispatching = None;
        self.unreachable_until = Some(Instant::now() + self.script.timings.restart);
        self.state = match how {
            Restart::Kept => self.state.clone(),
            Restart::Checkpoint => self.checkpoint.clone().unwrap_or_else(|| self.state.wiped()),
            Restart::Lost => {
                self.checkpoint = None;
                self.state.wiped()
            }
        };
    }

    fn is_unreachable(&self) -> bool {
        self.script.down || self.unreachable_until.is_some_and(|until| until > Instant::now())
    }
}

/// A test double of a worker. Clones share one worker.
#[derive(Clone)]
pub struct ScriptedWorker {
    identity: Identity,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for ScriptedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedWorker").field("key", &self.key()).finish_non_exhaustive()
    }
}

impl ScriptedWorker {
    /// Creates an uninitialised worker; its key is derived from `seed`.
    pub fn new(seed: u32) -> Self {
        let inner = Inner {
            state: WorkerState::new(),
            checkpoint: None,
            dispatching: None,
            unreachable_until: None,
            script: Script::default(),
            record: Record::default(),
            exit_signal: watch::Sender::new(0),
        };
        Self { identity: Identity::new(seed), inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.apply_dispatch();
        inner
    }

    /// Its public key.
    pub fn key(&self) -> WorkerKey {
        self.identity.key()
    }

    /// Its current state.
    pub fn state(&self) -> WorkerState {
        self.lock().state.clone()
    }

    /// The next parachain block that it needs.
    pub fn next_block(&self) -> u32 {
        self.lock().state.info.blocknum
    }

    /// Changes its state.
    pub fn edit(&self, edit: impl FnOnce(&mut WorkerState)) {
        edit(&mut self.lock().state);
    }

    /// Discards all state, like a worker that restarts on an empty disk. The key is kept.
    pub fn lose_state(&self) {
        let mut inner = self.lock();
        inner.checkpoint = None;
        inner.dispatching = None;
        inner.state = inner.state.wiped();
    }

    /// Sets a hook that runs after each dispatch that accepted a block, for example to change its on-chain
    /// state.
    pub fn after_dispatch(&self, hook: impl FnMut(&mut WorkerState) + Send + 'static) {
        self.lock().script.after_dispatch = Some(Box::new(hook));
    }

    /// Sets a hook that alters its registration data: another operator, key or chain than configured.
    pub fn alter_registration(&self, alter: impl FnMut(&mut WorkerRegistrationInfoV2) + Send + 'static) {
        self.lock().script.alter_registration = Some(Box::new(alter));
    }

    /// Sets the duration of its operations.
    pub fn set_timings(&self, timings: Timings) {
        self.lock().script.timings = timings;
    }

    /// Makes the process exit whenever it dispatches this block; `None` disables it.
    pub fn set_crashes_at(&self, block: Option<u32>) {
        self.lock().script.crashes_at = block;
    }

    /// If set, sync calls are answered as successful, but change nothing.
    pub fn set_stuck(&self, stuck: bool) {
        self.lock().script.stuck = stuck;
    }

    /// Makes the next call of `method` without a scripted failure fail.
    pub fn fail_next(&self, method: Method, failure: Failure) {
        self.lock().script.next.entry(method).or_default().push_back(failure);
    }

    /// Makes every call of `method` fail; `None` disables it.
    pub fn fail_always(&self, method: Method, failure: Option<Failure>) {
        let always = &mut self.lock().script.always;
        match failure {
            Some(failure) => always.insert(method, failure),
            None => always.remove(&method),
        };
    }

    /// Delays the answers of `method`.
    pub fn set_latency(&self, method: Method, latency: Duration) {
        self.lock().script.latency.insert(method.name(), latency);
    }

    /// Makes it unreachable, or reachable again.
    pub fn set_down(&self, down: bool) {
        self.lock().script.down = down;
    }

    /// Sets the state that it has after its next exits.
    pub fn set_restart(&self, restart: Restart) {
        self.lock().script.restart = restart;
    }

    /// The recorded calls with the sizes of their bodies, oldest first.
    pub fn calls(&self) -> Vec<(Method, usize)> {
        self.lock().record.calls.iter().copied().collect()
    }

    /// The number of calls of `method`.
    pub fn count(&self, method: Method) -> u64 {
        self.lock().record.count.get(&method).copied().unwrap_or_default()
    }

    /// The number of kicks.
    pub fn kicks(&self) -> u64 {
        self.lock().record.kicks
    }

    /// The number of exits, for any reason.
    pub fn exits(&self) -> u64 {
        self.lock().record.exits
    }

    /// The number of sync or dispatch calls received while another was being answered: must stay 0.
    pub fn overlaps(&self) -> u64 {
        self.lock().record.overlaps
    }

    fn record_call(&self, method: Method, size: usize) -> (Option<Failure>, Option<Duration>) {
        let mut inner = self.lock();
        let is_unreachable = inner.is_unreachable();
        let Inner { script, record, .. } = &mut *inner;
        if record.calls.len() == MAX_RECORDED_CALLS {
            record.calls.pop_front();
        }
        record.calls.push_back((method, size));
        *record.count.entry(method).or_default() += 1;
        if is_sync(method) {
            record.overlaps += u64::from(record.syncing > 0);
            record.syncing += 1;
        }
        let failure = if is_unreachable {
            Some(Failure::Unreachable)
        } else {
            let next = script.next.get_mut(&method).and_then(VecDeque::pop_front);
            next.or_else(|| script.always.get(&method).cloned())
        };
        (failure, script.latency.get(method.name()).copied())
    }

    fn unreachable(&self, connected: bool) -> Error {
        Error::Unreachable {
            endpoint: format!("scripted worker {}", self.key()),
            connected,
            source: if connected { "connection reset" } else { "connection refused" }.into(),
        }
    }
}

/// Counts a sync call as ended, even if its future is dropped.
struct Syncing<'a>(&'a ScriptedWorker);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.lock().record.syncing -= 1;
    }
}

#[async_trait]
impl PRuntimeClient for ScriptedWorker {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let limit_bytes = method.body_limit_bytes();
        if body.len() > limit_bytes {
            return Err(Error::TooLarge { method: method.name(), size_bytes: body.len(), limit_bytes });
        }
        let mut exit_signal = self.lock().exit_signal.subscribe();
        tokio::select! {
            biased;
            // The process has exited, which breaks its connections. The sender lives as long as the worker.
            _ = exit_signal.changed() => Err(self.unreachable(true)),
            answer = self.serve(method, body) => answer,
        }
    }

    async fn kick(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.is_unreachable() {
            drop(inner);
            return Err(self.unreachable(false));
        }
        inner.record.kicks += 1;
        let how = inner.script.restart;
        inner.exit(how);
        Ok(())
    }
}

/// [`Connect`] to scripted workers, by endpoint.
#[derive(Clone, Debug, Default)]
pub struct ScriptedConnect(Arc<Mutex<HashMap<String, ScriptedWorker>>>);

impl ScriptedConnect {
    /// Adds a worker at an endpoint.
    pub fn add(&self, endpoint: &str, worker: ScriptedWorker) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.to_owned(), worker);
    }
}

impl Connect for ScriptedConnect {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match workers.get(endpoint) {
            Some(worker) => Ok(Arc::new(worker.clone())),
            None => Err(ConnectError::endpoint(endpoint, "no scripted worker is there")),
        }
    }
}

const fn is_sync(method: Method) -> bool {
    matches!(
        method,
        Method::SyncHeader | Method::SyncParaHeader | Method::SyncCombinedHeaders | Method::DispatchBlocks
    )
}
