//! A worker in the same process, for tests, benchmarks and examples of those who embed the engines.
//!
//! [`ScriptedWorker`] keeps a real pRuntime's rules on block *numbers* (what it drops, takes and refuses,
//! with the same error texts), follows the batches that it is given, and takes its time: a dispatch as long as
//! its bytes need, during which other sync calls are refused, and an attestation as long as [`Pace`] says. A
//! caller that stops waiting does not stop it. It verifies no header, proof or state root. Failures, delays and
//! its life on chain are scripted.

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

pub use script::{Failure, Pace, Restart};
pub use state::WorkerState;

/// How many calls are remembered; older ones are forgotten.
const CALLS_KEPT: usize = 4096;
/// A dispatch that goes on, whether or not its caller still waits.
#[derive(Clone, Copy, Debug)]
struct Dispatching {
    until: Instant,
    /// The block wanted afterwards.
    next_block: u32,
    /// The process exits then.
    dies: bool,
}

struct Inner {
    state: WorkerState,
    checkpoint: Option<WorkerState>,
    dispatching: Option<Dispatching>,
    away_until: Option<Instant>,
    script: Script,
    record: Record,
    /// Counts exits: calls that are being answered break off.
    lives: watch::Sender<u64>,
}

impl Inner {
    /// Lets a dispatch that is over have its effect.
    fn settle(&mut self) {
        let Some(over) = self.dispatching.take_if(|d| d.until <= Instant::now()) else { return };
        if over.dies {
            return self.exit(self.script.restart);
        }
        let moved = over.next_block > self.state.info.blocknum;
        self.state.info.blocknum = over.next_block;
        if let Some(hook) = self.script.after_dispatch.as_mut().filter(|_| moved) {
            hook(&mut self.state);
        }
    }

    fn exit(&mut self, how: Restart) {
        self.record.exits += 1;
        self.lives.send_modify(|lives| *lives += 1);
        self.dispatching = None;
        self.away_until = Some(Instant::now() + self.script.pace.restart);
        self.state = match how {
            Restart::Kept => self.state.clone(),
            Restart::Checkpoint => self.checkpoint.clone().unwrap_or_else(|| self.state.emptied()),
            Restart::Lost => {
                self.checkpoint = None;
                self.state.emptied()
            }
        };
    }

    fn is_away(&self) -> bool {
        self.script.down || self.away_until.is_some_and(|until| until > Instant::now())
    }
}

/// A worker in the same process. Clones share one worker.
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
    /// A worker that was never initialised; its key follows from `seed`.
    pub fn new(seed: u32) -> Self {
        let inner = Inner {
            state: WorkerState::new(),
            checkpoint: None,
            dispatching: None,
            away_until: None,
            script: Script::default(),
            record: Record::default(),
            lives: watch::Sender::new(0),
        };
        Self { identity: Identity::new(seed), inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.settle();
        inner
    }

    /// Its public key.
    pub fn key(&self) -> WorkerKey {
        self.identity.key()
    }

    /// What it knows now.
    pub fn state(&self) -> WorkerState {
        self.lock().state.clone()
    }

    /// The next parachain block that it wants.
    pub fn next_block(&self) -> u32 {
        self.lock().state.info.blocknum
    }

    /// Changes what it knows.
    pub fn edit(&self, edit: impl FnOnce(&mut WorkerState)) {
        edit(&mut self.lock().state);
    }

    /// Forgets everything, as a worker that comes back on an empty disk. The key stays.
    pub fn lose_state(&self) {
        let mut inner = self.lock();
        inner.checkpoint = None;
        inner.dispatching = None;
        inner.state = inner.state.emptied();
    }

    /// Runs after each dispatch that took a block: the place for a life on chain.
    pub fn after_dispatch(&self, hook: impl FnMut(&mut WorkerState) + Send + 'static) {
        self.lock().script.after_dispatch = Some(Box::new(hook));
    }

    /// Alters what it registers with: another operator, key or chain than it was told.
    pub fn alter_registration(&self, alter: impl FnMut(&mut WorkerRegistrationInfoV2) + Send + 'static) {
        self.lock().script.alter_registration = Some(Box::new(alter));
    }

    /// Sets how long it takes.
    pub fn set_pace(&self, pace: Pace) {
        self.lock().script.pace = pace;
    }

    /// Exits whenever it dispatches this block, until `None`.
    pub fn set_dies_at(&self, block: Option<u32>) {
        self.lock().script.dies_at = block;
    }

    /// Answers sync calls as if all were well, and takes nothing.
    pub fn set_stuck(&self, stuck: bool) {
        self.lock().script.stuck = stuck;
    }

    /// The next call of `method` that is not spoken for fails.
    pub fn fail_next(&self, method: Method, failure: Failure) {
        self.lock().script.next.entry(method).or_default().push_back(failure);
    }

    /// Every call of `method` fails, until `None`.
    pub fn fail_always(&self, method: Method, failure: Option<Failure>) {
        let always = &mut self.lock().script.always;
        match failure {
            Some(failure) => always.insert(method, failure),
            None => always.remove(&method),
        };
    }

    /// Answers `method` after a while.
    pub fn set_latency(&self, method: Method, latency: Duration) {
        self.lock().script.latency.insert(method.name(), latency);
    }

    /// Goes away or comes back.
    pub fn set_down(&self, down: bool) {
        self.lock().script.down = down;
    }

    /// Sets what it comes back with after its next exits.
    pub fn set_restart(&self, restart: Restart) {
        self.lock().script.restart = restart;
    }

    /// Whether an exit loses the state: [`Restart::Lost`], or else [`Restart::Kept`].
    pub fn set_lose_state_on_kick(&self, lose: bool) {
        self.set_restart(if lose { Restart::Lost } else { Restart::Kept });
    }

    /// The last calls and the sizes of their bodies, oldest first.
    pub fn calls(&self) -> Vec<(Method, usize)> {
        self.lock().record.calls.iter().copied().collect()
    }

    /// How often `method` was called.
    pub fn count(&self, method: Method) -> u64 {
        self.lock().record.count.get(&method).copied().unwrap_or_default()
    }

    /// How often it was kicked.
    pub fn kicks(&self) -> u64 {
        self.lock().record.kicks
    }

    /// How often it exited, for whatever reason.
    pub fn exits(&self) -> u64 {
        self.lock().record.exits
    }

    /// How often a sync or dispatch call came while another was being answered: must stay 0.
    pub fn overlaps(&self) -> u64 {
        self.lock().record.overlaps
    }

    fn begin(&self, method: Method, size: usize) -> (Option<Failure>, Option<Duration>) {
        let mut inner = self.lock();
        let is_away = inner.is_away();
        let Inner { script, record, .. } = &mut *inner;
        if record.calls.len() == CALLS_KEPT {
            record.calls.pop_front();
        }
        record.calls.push_back((method, size));
        *record.count.entry(method).or_default() += 1;
        if is_sync(method) {
            record.overlaps += u64::from(record.syncing > 0);
            record.syncing += 1;
        }
        let failure = if is_away {
            Some(Failure::Unreachable)
        } else {
            let next = script.next.get_mut(&method).and_then(VecDeque::pop_front);
            next.or_else(|| script.always.get(&method).cloned())
        };
        (failure, script.latency.get(method.name()).copied())
    }

    fn unreachable(&self) -> Error {
        Error::Unreachable {
            endpoint: format!("scripted worker {}", self.key()),
            source: "connection refused".into(),
        }
    }
}

/// Counts a sync call as ended, also where its future is dropped.
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
        let mut lives = self.lock().lives.subscribe();
        tokio::select! {
            biased;
            // The process is gone, and its connections with it. The sender lives as long as the worker.
            _ = lives.changed() => Err(self.unreachable()),
            answer = self.serve(method, body) => answer,
        }
    }

    async fn kick(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.is_away() {
            drop(inner);
            return Err(self.unreachable());
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
    /// Puts a worker at an endpoint.
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
