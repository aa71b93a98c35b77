//! A worker in the same process, for tests, benchmarks and examples of those who embed the engines.
//!
//! [`ScriptedWorker`] keeps a real pRuntime's rules on block *numbers* (what it drops, takes and refuses,
//! with the same error texts) and follows the batches that it is given. It verifies no signature, proof or
//! state root. Failures, delays and its life on chain are scripted.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{Decode, Encode};
use prost::Message;

use super::{Connect, ConnectError, Error, PRuntimeClient};
use crate::{
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{self, Method},
    wire::{self, MessageOrigin, SignedMessage},
};

/// How many calls are remembered; older ones are forgotten.
const CALLS_KEPT: usize = 4096;

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

/// What a worker knows.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// What `GetInfo` answers.
    pub info: prpc::PhactoryInfo,
    /// Its operator, as `InitRuntime` or `GetRuntimeInfo` set it.
    pub operator: Option<AccountId>,
    /// Messages waiting for the chain.
    pub egress: Vec<SignedMessage>,
    /// The parachain's id.
    pub para_id: u32,
    relay_synced: bool,
}

impl WorkerState {
    fn new() -> Self {
        let info = prpc::PhactoryInfo {
            version: "2.0.0".into(),
            dev_mode: true,
            can_load_chain_state: true,
            ..Default::default()
        };
        Self { info, operator: None, egress: Vec::new(), para_id: 2004, relay_synced: false }
    }

    /// Puts a message in the egress queue, with the next sequence after those waiting, or `sequence`.
    pub fn push_message(&mut self, key: WorkerKey, sequence: u64, payload: &[u8]) {
        let message = wire::Message {
            sender: MessageOrigin::Worker(key),
            destination: b"phala/mining/report".to_vec(),
            payload: payload.to_vec(),
        };
        self.egress.push(SignedMessage { message, sequence, signature: vec![0; 64] });
        self.info.pending_messages = self.egress.len() as u64;
    }

    /// Forgets messages below `sequence`, as a worker does when it sees the chain's ingress counter.
    pub fn drop_messages_below(&mut self, sequence: u64) {
        self.egress.retain(|m| m.sequence >= sequence);
        self.info.pending_messages = self.egress.len() as u64;
    }
}

type Hook = Box<dyn FnMut(&mut WorkerState) + Send>;

#[derive(Default)]
struct Script {
    next: HashMap<Method, VecDeque<Failure>>,
    always: HashMap<Method, Failure>,
    latency: BTreeMap<&'static str, Duration>,
    down: bool,
    lose_state_on_kick: bool,
    after_dispatch: Option<Hook>,
}

#[derive(Default)]
struct Record {
    calls: VecDeque<(Method, usize)>,
    count: HashMap<Method, u64>,
    kicks: u64,
    syncing: usize,
    overlaps: u64,
}

struct Inner {
    state: WorkerState,
    script: Script,
    record: Record,
}

/// A worker in the same process. Clones share one worker.
#[derive(Clone)]
pub struct ScriptedWorker {
    key: WorkerKey,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for ScriptedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedWorker").field("key", &self.key).finish_non_exhaustive()
    }
}

impl ScriptedWorker {
    /// A worker that was never initialised; its key follows from `seed`.
    pub fn new(seed: u32) -> Self {
        let key = WorkerKey(Hash::of(&seed.to_le_bytes()).0);
        let inner = Inner { state: WorkerState::new(), script: Script::default(), record: Record::default() };
        Self { key, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its public key.
    pub const fn key(&self) -> WorkerKey {
        self.key
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
        self.lock().state = WorkerState::new();
    }

    /// Runs after each dispatch that took a block: the place for a life on chain.
    pub fn after_dispatch(&self, hook: impl FnMut(&mut WorkerState) + Send + 'static) {
        self.lock().script.after_dispatch = Some(Box::new(hook));
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

    /// Whether a kick loses the state.
    pub fn set_lose_state_on_kick(&self, lose: bool) {
        self.lock().script.lose_state_on_kick = lose;
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

    /// How often a sync or dispatch call came while another was being answered: must stay 0.
    pub fn overlaps(&self) -> u64 {
        self.lock().record.overlaps
    }

    fn begin(&self, method: Method, size: usize) -> (Option<Failure>, Option<Duration>) {
        let Inner { script, record, .. } = &mut *self.lock();
        if record.calls.len() == CALLS_KEPT {
            record.calls.pop_front();
        }
        record.calls.push_back((method, size));
        *record.count.entry(method).or_default() += 1;
        if is_sync(method) {
            record.overlaps += u64::from(record.syncing > 0);
            record.syncing += 1;
        }
        let failure = if script.down {
            Some(Failure::Unreachable)
        } else {
            let next = script.next.get_mut(&method).and_then(VecDeque::pop_front);
            next.or_else(|| script.always.get(&method).cloned())
        };
        (failure, script.latency.get(method.name()).copied())
    }

    fn unreachable(&self) -> Error {
        Error::Unreachable {
            endpoint: format!("scripted worker {}", self.key),
            source: "connection refused".into(),
        }
    }

    fn answer(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let mut inner = self.lock();
        let done = match method {
            Method::GetInfo => Ok(inner.state.info.encode_to_vec()),
            Method::InitRuntime => self.init(&mut inner.state, body),
            Method::GetRuntimeInfo => self.runtime_info(&mut inner.state, body),
            Method::SyncCombinedHeaders => sync_combined(&mut inner.state, body),
            Method::DispatchBlocks => {
                let before = inner.state.info.blocknum;
                let done = dispatch(&mut inner.state, body);
                let Inner { state, script, .. } = &mut *inner;
                if let Some(hook) = script.after_dispatch.as_mut().filter(|_| state.info.blocknum > before) {
                    hook(state);
                }
                done
            }
            Method::GetEgressMessages => Ok(egress(&inner.state, self.key)),
            Method::TakeCheckpoint => checkpoint(&inner.state),
            Method::Echo => Ok(body.to_vec()),
            _ => Err(refusal(404, "not scripted")),
        };
        done.map(Bytes::from).map_err(|(status, message)| Error::Refused {
            method: method.name(),
            status,
            message,
        })
    }

    fn init(&self, state: &mut WorkerState, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let request: prpc::InitRuntimeRequest = decode(body)?;
        if state.info.initialized {
            return Err(refusal(500, "Runtime already initialized"));
        }
        let (number, hash) = genesis_block(&request.encoded_genesis_info)?;
        state.operator = decode_operator(request.encoded_operator)?;
        let info = &mut state.info;
        info.initialized = true;
        info.genesis_block_hash = Some(hex::encode(hash.0));
        info.public_key = Some(hex::encode(self.key.0));
        info.headernum = number + 1;
        info.para_headernum = 0;
        info.blocknum = 1;
        Ok(self.registration(state).encode_to_vec())
    }

    fn runtime_info(&self, state: &mut WorkerState, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let request: prpc::GetRuntimeInfoRequest = decode(body)?;
        if !state.info.initialized {
            return Err(refusal(500, "Uninitiated runtime info"));
        }
        if let Some(operator) = decode_operator(request.encoded_operator)? {
            state.operator = Some(operator);
        }
        Ok(self.registration(state).encode_to_vec())
    }

    fn registration(&self, state: &WorkerState) -> prpc::InitRuntimeResponse {
        let genesis = state.info.genesis_block_hash.as_deref().and_then(|h| h.parse().ok());
        let info = wire::WorkerRegistrationInfoV2 {
            version: 0x0200_0000,
            machine_id: Vec::new(),
            pubkey: self.key,
            ecdh_pubkey: [0; 32],
            genesis_block_hash: genesis.unwrap_or_default(),
            features: vec![4, 1],
            operator: state.operator,
            para_id: state.para_id,
            max_consensus_version: 1,
        };
        // None of the report's kinds: attestation is off. Absent before the first dispatched block.
        let attestation = (state.info.blocknum > 1).then(|| prpc::Attestation {
            version: 1,
            encoded_report: vec![0],
            ..Default::default()
        });
        prpc::InitRuntimeResponse {
            encoded_runtime_info: info.encode(),
            encoded_genesis_block_hash: info.genesis_block_hash.encode(),
            encoded_public_key: self.key.encode(),
            encoded_ecdh_public_key: [0; 32].encode(),
            attestation,
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
        let (failure, latency) = self.begin(method, body.len());
        let _syncing = is_sync(method).then(|| Syncing(self));
        if let Some(latency) = latency {
            tokio::time::sleep(latency).await;
        }
        match failure {
            None => self.answer(method, body),
            Some(Failure::Refuse { status, message }) => {
                Err(Error::Refused { method: method.name(), status, message })
            }
            Some(Failure::Unreachable) => Err(self.unreachable()),
            Some(Failure::TimedOut) => {
                Err(Error::TimedOut { method: method.name(), limit: Duration::from_secs(8) })
            }
            Some(Failure::AnswerLost) => {
                self.answer(method, body)?;
                Err(Error::TimedOut { method: method.name(), limit: Duration::from_secs(8) })
            }
            Some(Failure::Hang) => std::future::pending().await,
        }
    }

    async fn kick(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.script.down {
            drop(inner);
            return Err(self.unreachable());
        }
        inner.record.kicks += 1;
        if inner.script.lose_state_on_kick {
            inner.state = WorkerState::new();
        }
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

type Refusal = (u16, String);

fn refusal(status: u16, message: &str) -> Refusal {
    (status, message.to_owned())
}

const fn is_sync(method: Method) -> bool {
    matches!(
        method,
        Method::SyncHeader | Method::SyncParaHeader | Method::SyncCombinedHeaders | Method::DispatchBlocks
    )
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M, Refusal> {
    M::decode(body).map_err(|e| refusal(400, &format!("DecodeError({e})")))
}

fn decode_operator(encoded: Option<Vec<u8>>) -> Result<Option<AccountId>, Refusal> {
    encoded
        .map(|bytes| AccountId::decode(&mut bytes.as_slice()))
        .transpose()
        .map_err(|e| refusal(400, &format!("DecodeError({e})")))
}

/// Decodes a SCALE `Vec`; an absent field is an empty one, as pRuntime takes it.
fn items<T: Decode>(encoded: &Bytes) -> Result<Vec<T>, Refusal> {
    if encoded.is_empty() {
        return Ok(Vec::new());
    }
    <Vec<T> as Decode>::decode(&mut encoded.as_ref()).map_err(|e| refusal(400, &format!("DecodeError({e})")))
}

/// Number and hash of the relay block to start after; an empty genesis is block 0 of no chain.
fn genesis_block(encoded: &Bytes) -> Result<(u32, Hash), Refusal> {
    if encoded.is_empty() {
        return Ok((0, Hash::default()));
    }
    let genesis = wire::GenesisBlockInfo::decode(&mut encoded.as_ref())
        .map_err(|e| refusal(400, &format!("DecodeError({e})")))?;
    Ok((genesis.block_header.number, genesis.block_header.hash()))
}

/// The numbers from `wanted` on, which must follow one another from it.
fn from_wanted(numbers: impl Iterator<Item = u32>, wanted: u32) -> Result<u32, Refusal> {
    let mut next = wanted;
    for number in numbers.skip_while(|n| *n < wanted) {
        if number != next {
            return Err(refusal(500, "BlockNumberMismatch"));
        }
        next += 1;
    }
    Ok(next)
}

fn sync_combined(state: &mut WorkerState, body: Bytes) -> Result<Vec<u8>, Refusal> {
    let request: prpc::CombinedHeadersToSync = decode(body)?;
    if !state.info.initialized {
        return Err(refusal(500, "Runtime not initialized"));
    }
    let relay: Vec<wire::HeaderToSync> = items(&request.encoded_relaychain_headers)?;
    let para: Vec<wire::Header> = items(&request.encoded_parachain_headers)?;
    state.info.can_load_chain_state = false;
    let next = from_wanted(relay.iter().map(|h| h.header.number), state.info.headernum)?;
    if next > state.info.headernum {
        if relay.last().is_none_or(|h| h.justification.is_none()) {
            return Err(refusal(500, "MissingJustification"));
        }
        state.info.headernum = next;
        state.info.waiting_for_paraheaders = true;
        state.relay_synced = true;
    }
    if !para.is_empty() {
        let next = from_wanted(para.iter().map(|h| h.number), state.info.para_headernum)?;
        if next > state.info.para_headernum {
            if !state.relay_synced {
                return Err(refusal(500, "RelaychainHeaderNotSynced"));
            }
            state.info.para_headernum = next;
            state.info.waiting_for_paraheaders = false;
            state.relay_synced = false;
        }
    }
    let answer = prpc::HeadersSyncedTo {
        relaychain_synced_to: state.info.headernum.wrapping_sub(1),
        parachain_synced_to: state.info.para_headernum.wrapping_sub(1),
    };
    Ok(answer.encode_to_vec())
}

fn dispatch(state: &mut WorkerState, body: Bytes) -> Result<Vec<u8>, Refusal> {
    let request: prpc::Blocks = decode(body)?;
    if !state.info.initialized {
        return Err(refusal(500, "Runtime not initialized"));
    }
    let blocks: Vec<wire::BlockHeaderWithChanges> = items(&request.encoded_blocks)?;
    for block in &blocks {
        let number = block.block_header.number;
        if number < state.info.blocknum {
            continue;
        }
        if number != state.info.blocknum {
            return Err(refusal(500, "BlockNumberMismatch"));
        }
        if number >= state.info.para_headernum {
            return Err(refusal(500, "NoStateRoot"));
        }
        state.info.blocknum += 1;
    }
    Ok(prpc::SyncedTo { synced_to: state.info.blocknum.wrapping_sub(1) }.encode_to_vec())
}

fn checkpoint(state: &WorkerState) -> Result<Vec<u8>, Refusal> {
    if !state.info.initialized {
        return Err(refusal(500, "Runtime not initialized"));
    }
    Ok(prpc::SyncedTo { synced_to: state.info.blocknum.wrapping_sub(1) }.encode_to_vec())
}

fn egress(state: &WorkerState, key: WorkerKey) -> Vec<u8> {
    let messages: wire::EgressMessages = vec![(MessageOrigin::Worker(key), state.egress.clone())];
    prpc::EgressMessages { encoded_messages: messages.encode() }.encode_to_vec()
}
