//! The pallets, as far as a bridge meets them: registry, message queue, computation, stake pool, proxy, fees.

use std::collections::{BTreeMap, HashMap, HashSet};

use codec::{DecodeAll, Encode};
use sp_crypto_hashing::blake2_256;

use super::Config;
use crate::{
    chain::{Call, CallBatch, DispatchError, Effect, Registration, Session, SessionState, WorkerOnChain},
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    wire::{
        Attestation, AttestationProvider, MessageOrigin, SignedMessage, WorkerRegistrationInfo,
        WorkerRegistrationInfoV2,
    },
};

/// Length of an sr25519 signature.
const SIGNATURE_BYTES: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct PoolState {
    pub(super) owner: AccountId,
    pub(super) free_stake: Balance,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    config: Config,
    pub(super) block: u32,
    pub(super) workers: HashMap<WorkerKey, WorkerOnChain>,
    pub(super) pools: HashMap<PoolId, PoolState>,
    /// `(real, delegate)`.
    pub(super) proxies: HashSet<(AccountId, AccountId)>,
    /// What accounts can pay fees from; one that is not here never pays.
    pub(super) funds: HashMap<AccountId, Balance>,
    /// Next sequences of senders that are no workers.
    ingress: HashMap<MessageOrigin, u64>,
    /// Signing time of the newest endpoints.
    endpoints: HashMap<WorkerKey, u64>,
    /// Workers whose benchmark ends, by block.
    benchmarks: BTreeMap<u32, Vec<WorkerKey>>,
}

type Dispatch = Result<(), DispatchError>;

fn fail<T>(name: &str) -> Result<T, DispatchError> {
    Err(DispatchError { name: name.into() })
}

fn ensure(condition: bool, name: &str) -> Dispatch {
    if condition { Ok(()) } else { fail(name) }
}

/// The session account of a worker in a pool: the first 32 bytes of SCALE `("spm/", blake2-256(pid, worker))`.
pub(super) fn session_account(pool: PoolId, worker: WorkerKey) -> AccountId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(b"spm/");
    bytes[4..].copy_from_slice(&blake2_256(&(pool.0, worker).encode())[..28]);
    AccountId(bytes)
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Seconds since the Unix epoch at the newest block.
    pub(super) fn now_secs(&self) -> u64 {
        Config::GENESIS_SECS + u64::from(self.block) * self.config.block_secs
    }

    /// Starts the next block: benchmarks that end with it give their scores.
    pub(super) fn begin_block(&mut self) {
        self.block += 1;
        let later = self.benchmarks.split_off(&(self.block + 1));
        for worker in std::mem::replace(&mut self.benchmarks, later).into_values().flatten() {
            if let (Some(score), Some(registration)) =
                (self.config.score, self.workers.get_mut(&worker).and_then(|w| w.registration.as_mut()))
            {
                registration.initial_score = Some(score);
            }
        }
    }

    /// Runs a transaction: takes the fee, then `force_batch`, through `Proxy` where it names an account.
    pub(super) fn execute(&mut self, batch: &CallBatch) -> Result<Vec<Dispatch>, DispatchError> {
        let operator = batch.operator();
        if let Some(funds) = self.funds.get_mut(&operator) {
            *funds = funds.saturating_sub(self.config.fee * batch.calls.len() as Balance);
        }
        if let Some(real) = batch.proxied {
            ensure(self.proxies.contains(&(real, operator)), "Proxy::NotProxy")?;
        }
        let origin = batch.proxied.unwrap_or(operator);
        Ok(batch.calls.iter().map(|call| self.dispatch(origin, call)).collect())
    }

    fn dispatch(&mut self, origin: AccountId, call: &Call) -> Dispatch {
        match call {
            Call::SyncOffchainMessage(message) => self.sync_message(message),
            Call::RegisterWorker { worker, runtime_info, .. } => {
                let info = WorkerRegistrationInfoV2::decode_all(&mut &**runtime_info).map(Into::into);
                self.register(*worker, info.ok(), None)
            }
            Call::RegisterWorkerV1 { worker, runtime_info, attestation, .. } => {
                let info = WorkerRegistrationInfo::decode_all(&mut &**runtime_info).ok();
                let info = info.filter(|_| Attestation::decode_all(&mut &**attestation).is_ok());
                self.register(*worker, info, Some(AttestationProvider::Ias))
            }
            Call::UpdateWorkerEndpoint { payload, signature } => {
                self.registration(payload.pubkey)?;
                ensure(signature.len() == SIGNATURE_BYTES, "PhalaRegistry::InvalidSignature")?;
                self.endpoints.insert(payload.pubkey, payload.signing_time);
                Ok(())
            }
            Call::AddWorker { pool, worker } => self.add(origin, *pool, *worker),
            Call::RemoveWorker { pool, worker } => self.remove(origin, *pool, *worker),
            Call::StartComputing { pool, worker, stake } => self.start(origin, *pool, *worker, *stake),
            Call::RestartComputing { pool, worker, stake } => self.restart(origin, *pool, *worker, *stake),
            Call::StopComputing { pool, worker } => {
                self.owned_pool(origin, *pool)?;
                self.stop(*pool, *worker)
            }
            Call::ReclaimWorker { pool, worker } => self.reclaim(*pool, *worker, true),
        }
    }

    pub(super) fn next_sequence(&mut self, sender: &MessageOrigin) -> &mut u64 {
        match sender {
            MessageOrigin::Worker(worker) => &mut self.workers.entry(*worker).or_default().ingress_sequence,
            other => self.ingress.entry(other.clone()).or_default(),
        }
    }

    fn sync_message(&mut self, message: &SignedMessage) -> Dispatch {
        ensure(message.signature.len() == SIGNATURE_BYTES, "PhalaMq::InvalidSignature")?;
        let next = self.next_sequence(&message.message.sender);
        ensure(message.sequence == *next, "PhalaMq::BadSequence")?;
        *next += 1;
        Ok(())
    }

    fn register(
        &mut self,
        worker: WorkerKey,
        info: Option<WorkerRegistrationInfo>,
        attestation_provider: Option<AttestationProvider>,
    ) -> Dispatch {
        let Some(info) = info else {
            return fail("PhalaRegistry::CannotHandleUnknownMessage");
        };
        ensure(info.pubkey == worker, "PhalaRegistry::InvalidPubKey")?;
        let now = self.now_secs();
        let entry = self.workers.entry(worker).or_default();
        let initial_score = entry.registration.as_ref().and_then(|r| r.initial_score);
        entry.registration = Some(Registration {
            pubkey: worker,
            ecdh_pubkey: info.ecdh_pubkey,
            runtime_version: info.version,
            last_updated: now,
            operator: info.operator,
            attestation_provider,
            confidence_level: 1,
            initial_score,
            features: info.features,
        });
        let ends = self.block + self.config.benchmark_blocks;
        self.benchmarks.entry(ends).or_default().push(worker);
        Ok(())
    }

    fn registration(&self, worker: WorkerKey) -> Result<&Registration, DispatchError> {
        match self.workers.get(&worker).and_then(|w| w.registration.as_ref()) {
            Some(registration) => Ok(registration),
            None => fail("PhalaStakePoolv2::WorkerNotRegistered"),
        }
    }

    fn owned_pool(&mut self, origin: AccountId, pool: PoolId) -> Result<&mut PoolState, DispatchError> {
        match self.pools.get_mut(&pool) {
            None => fail("PhalaStakePoolv2::PoolDoesNotExist"),
            Some(state) if state.owner != origin => fail("PhalaStakePoolv2::UnauthorizedPoolOwner"),
            Some(state) => Ok(state),
        }
    }

    /// The entry of a worker that is in `pool`, and its session.
    fn session(&mut self, pool: PoolId, worker: WorkerKey) -> Result<&mut Session, DispatchError> {
        match self.workers.get_mut(&worker) {
            Some(WorkerOnChain { pool: Some(of), session: Some(session), .. }) if *of == pool => Ok(session),
            Some(WorkerOnChain { pool: Some(_), .. }) => fail("PhalaStakePoolv2::WorkerInAnotherPool"),
            _ => fail("PhalaStakePoolv2::WorkerDoesNotExist"),
        }
    }

    fn add(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let registration = self.registration(worker)?;
        let (operator, score) = (registration.operator, registration.initial_score);
        ensure(operator == Some(origin), "PhalaStakePoolv2::UnauthorizedOperator")?;
        ensure(score.is_some(), "PhalaStakePoolv2::BenchmarkMissing")?;
        self.owned_pool(origin, pool)?;
        let entry = self.workers.entry(worker).or_default();
        ensure(entry.pool.is_none(), "PhalaStakePoolv2::WorkerExists")?;
        entry.pool = Some(pool);
        entry.session = Some(ready_session(session_account(pool, worker)));
        Ok(())
    }

    fn remove(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey) -> Dispatch {
        self.owned_pool(origin, pool)?;
        let ready = self.session(pool, worker)?.state == SessionState::Ready;
        ensure(ready, "PhalaComputation::WorkerIsNotReady")?;
        let entry = self.workers.entry(worker).or_default();
        (entry.pool, entry.session) = (None, None);
        Ok(())
    }

    fn start(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey, stake: Balance) -> Dispatch {
        let (min, max, now) = (self.config.min_stake, self.config.max_stake, self.now_secs());
        let free = self.owned_pool(origin, pool)?.free_stake;
        let score = self.registration(worker)?.initial_score.unwrap_or_default();
        let session = self.session(pool, worker)?;
        ensure(free >= stake, "PhalaStakePoolv2::InsufficientFreeStake")?;
        ensure(session.state == SessionState::Ready, "PhalaComputation::WorkerNotReady")?;
        ensure(stake >= min, "PhalaComputation::InsufficientStake")?;
        ensure(stake <= max, "PhalaComputation::TooMuchStake")?;
        session.state = SessionState::WorkerIdle;
        session.stake = Some(stake);
        session.p_init = score;
        session.p_instant = score;
        session.working_start_time = now;
        session.v_updated_at = now;
        self.owned_pool(origin, pool)?.free_stake -= stake;
        Ok(())
    }

    fn stop(&mut self, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let now = self.now_secs();
        let session = self.session(pool, worker)?;
        ensure(session.state.is_computing(), "PhalaComputation::WorkerAlreadyStopped")?;
        session.state = SessionState::WorkerCoolingDown;
        session.cool_down_start = now;
        Ok(())
    }

    fn reclaim(&mut self, pool: PoolId, worker: WorkerKey, check_period: bool) -> Dispatch {
        let (now, period) = (self.now_secs(), self.config.cool_down_secs);
        let session = self.session(pool, worker)?;
        let cooling = session.state == SessionState::WorkerCoolingDown;
        ensure(cooling, "PhalaComputation::WorkerIsNotCoolingDown")?;
        let over = now.saturating_sub(session.cool_down_start) >= period;
        ensure(over || !check_period, "PhalaComputation::StillInCoolDown")?;
        session.state = SessionState::Ready;
        let stake = session.stake.take().unwrap_or_default();
        if let Some(state) = self.pools.get_mut(&pool) {
            state.free_stake = state.free_stake.saturating_add(stake);
        }
        Ok(())
    }

    fn restart(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey, stake: Balance) -> Dispatch {
        let free = self.owned_pool(origin, pool)?.free_stake;
        let (min, max) = (self.config.min_stake, self.config.max_stake);
        let session = self.session(pool, worker)?;
        let current = session.stake.unwrap_or_default();
        ensure(stake > current, "PhalaStakePoolv2::CannotRestartWithLessStake")?;
        let stopped = session.state == SessionState::Ready;
        ensure(!stopped, "PhalaComputation::WorkerAlreadyStopped")?;
        // A call has all its effects or none: what could fail after the stop is checked before it.
        ensure(free.saturating_add(current) >= stake, "PhalaStakePoolv2::InsufficientFreeStake")?;
        ensure(stake >= min, "PhalaComputation::InsufficientStake")?;
        ensure(stake <= max, "PhalaComputation::TooMuchStake")?;
        if session.state.is_computing() {
            self.stop(pool, worker)?;
        }
        self.reclaim(pool, worker, false)?;
        self.start(origin, pool, worker, stake)
    }

    /// Whether the call's effect is there, as [`ChainSubmitter::effects`](crate::chain::ChainSubmitter) means.
    pub(super) fn effect(&self, call: &Call) -> Effect {
        let of = |worker: &WorkerKey| self.workers.get(worker);
        let session = |pool: &PoolId, worker: &WorkerKey| {
            of(worker).filter(|w| w.pool == Some(*pool)).and_then(|w| w.session.as_ref())
        };
        let present = match call {
            Call::SyncOffchainMessage(m) => {
                let next = match &m.message.sender {
                    MessageOrigin::Worker(worker) => of(worker).map_or(0, |w| w.ingress_sequence),
                    other => self.ingress.get(other).copied().unwrap_or_default(),
                };
                next > m.sequence
            }
            Call::RegisterWorker { worker, replaces, .. } => of(worker)
                .and_then(|w| w.registration.as_ref())
                .is_some_and(|r| Some(r.last_updated) != *replaces),
            Call::RegisterWorkerV1 { worker, runtime_info, replaces, .. } => of(worker)
                .and_then(|w| w.registration.as_ref())
                .is_some_and(|r| r.is_of_v1(runtime_info, *replaces)),
            Call::UpdateWorkerEndpoint { payload, .. } => {
                self.endpoints.get(&payload.pubkey).is_some_and(|at| *at >= payload.signing_time)
            }
            Call::AddWorker { pool, worker } => of(worker).is_some_and(|w| w.pool == Some(*pool)),
            Call::RemoveWorker { pool, worker } => of(worker).is_none_or(|w| w.pool != Some(*pool)),
            Call::StartComputing { pool, worker, .. } => {
                session(pool, worker).is_some_and(|s| s.state.is_computing())
            }
            Call::RestartComputing { pool, worker, stake } => {
                session(pool, worker).is_some_and(|s| s.state.is_computing() && s.stake >= Some(*stake))
            }
            Call::StopComputing { pool, worker } => {
                session(pool, worker).is_some_and(|s| !s.state.is_computing())
            }
            Call::ReclaimWorker { pool, worker } => {
                session(pool, worker).is_some_and(|s| s.state == SessionState::Ready && s.stake.is_none())
            }
        };
        if present { Effect::Present } else { Effect::Missing }
    }
}

fn ready_session(account: AccountId) -> Session {
    Session {
        account,
        state: SessionState::Ready,
        ve: 0,
        v: 0,
        v_updated_at: 0,
        p_init: 0,
        p_instant: 0,
        iterations: 0,
        working_start_time: 0,
        challenge_time_last: 0,
        cool_down_start: 0,
        total_reward: 0,
        stake: None,
    }
}
