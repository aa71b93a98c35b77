//! A model of the pallets, as far as a bridge uses them: registry, message queue, proxy and fees here; pools,
//! computation and effects in the submodules.

use std::collections::{BTreeMap, HashMap, HashSet};

use codec::DecodeAll;

use super::Config;
use crate::{
    chain::{Call, CallBatch, DispatchError, Registration, Unreadable, WorkerOnChain},
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    wire::{
        Attestation, AttestationProvider, MessageOrigin, SignedMessage, VersionedWorkerEndpoints,
        WorkerEndpointPayload, WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};

mod effect;
mod pools;

pub(super) use pools::PoolState;

/// Length of an sr25519 signature.
const SIGNATURE_BYTES: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    config: Config,
    pub(super) block: u32,
    /// Seconds by which the clock was advanced.
    pub(super) ahead_secs: u64,
    pub(super) workers: HashMap<WorkerKey, WorkerOnChain>,
    pub(super) pools: BTreeMap<PoolId, PoolState>,
    /// `(real, delegate)`.
    pub(super) proxies: HashSet<(AccountId, AccountId)>,
    /// Balances from which accounts pay fees; an account without an entry pays none.
    pub(super) funds: HashMap<AccountId, Balance>,
    /// Next sequences of senders other than workers.
    pub(super) ingress: HashMap<MessageOrigin, u64>,
    /// Signing time of the newest endpoints.
    endpoints: HashMap<WorkerKey, u64>,
    /// Workers whose benchmark ends at a block, by block.
    benchmarks: BTreeMap<u32, Vec<WorkerKey>>,
    /// Workers whose state is unreadable.
    pub(super) unreadable_workers: HashMap<WorkerKey, Unreadable>,
    /// Pools whose state is unreadable.
    pub(super) unreadable_pools: HashMap<PoolId, Unreadable>,
}

type Dispatch = Result<(), DispatchError>;

fn fail<T>(name: &str) -> Result<T, DispatchError> {
    Err(DispatchError { name: name.into() })
}

fn ensure(condition: bool, name: &str) -> Dispatch {
    if condition { Ok(()) } else { fail(name) }
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Seconds since the Unix epoch at the newest block.
    pub(super) fn now_secs(&self) -> u64 {
        Config::GENESIS_SECS + u64::from(self.block) * self.config.block_secs + self.ahead_secs
    }

    /// Starts the next block: benchmarks that end at it set their scores.
    pub(super) fn begin_block(&mut self) {
        self.block += 1;
        // Those after this block stay; the rest are due.
        let later = self.benchmarks.split_off(&(self.block + 1));
        for worker in std::mem::replace(&mut self.benchmarks, later).into_values().flatten() {
            if let (Some(score), Some(registration)) =
                (self.config.score, self.workers.get_mut(&worker).and_then(|w| w.registration.as_mut()))
            {
                registration.initial_score = Some(score);
            }
        }
    }

    /// Executes a transaction: charges the fee, then runs `force_batch`, through `Proxy` if it names an
    /// account.
    pub(super) fn execute(&mut self, batch: &CallBatch) -> Result<Vec<Dispatch>, DispatchError> {
        let (operator, fee) = (batch.operator(), self.fee(batch));
        // The fee is charged even if the calls fail, as on the chain.
        if let Some(funds) = self.funds.get_mut(&operator) {
            *funds = funds.saturating_sub(fee);
        }
        if let Some(real) = batch.proxied {
            ensure(self.proxies.contains(&(real, operator)), "Proxy::NotProxy")?;
        }
        let origin = batch.proxied.unwrap_or(operator);
        Ok(batch.calls.iter().map(|call| self.dispatch(origin, call)).collect())
    }

    /// What a transaction costs.
    pub(super) fn fee(&self, batch: &CallBatch) -> Balance {
        self.config.fee * batch.calls.len() as Balance
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
            Call::UpdateWorkerEndpoint { payload, signature } => self.announce(payload, signature),
            Call::AddWorker { pool, worker } => self.add(origin, *pool, *worker),
            Call::RemoveWorker { pool, worker } => self.remove(origin, *pool, *worker),
            Call::StartComputing { pool, worker, stake } => self.start(origin, *pool, *worker, *stake),
            Call::RestartComputing { pool, worker, stake } => self.restart(origin, *pool, *worker, *stake),
            Call::StopComputing { pool, worker } => self.stop(origin, *pool, *worker),
            Call::ReclaimWorker { pool, worker } => self.reclaim(*pool, *worker),
        }
    }

    pub(super) fn next_sequence(&mut self, sender: &MessageOrigin) -> &mut u64 {
        match sender {
            MessageOrigin::Worker(worker) => &mut self.workers.entry(*worker).or_default().ingress_sequence,
            other => self.ingress.entry(other.clone()).or_default(),
        }
    }

    fn sync_message(&mut self, message: &SignedMessage) -> Dispatch {
        let sender = &message.message.sender;
        let on_chain = matches!(
            sender,
            MessageOrigin::Pallet(_)
                | MessageOrigin::AccountId(_)
                | MessageOrigin::MultiLocation(_)
                | MessageOrigin::Reserved
        );
        ensure(!on_chain, "PhalaMq::BadSender")?;
        let next = self.next_sequence(sender);
        ensure(message.sequence == *next, "PhalaMq::BadSequence")?;
        // No cryptography here: only the length is checked.
        ensure(message.signature.len() == SIGNATURE_BYTES, "PhalaMq::InvalidSignature")?;
        *next += 1;
        Ok(())
    }

    fn announce(&mut self, payload: &WorkerEndpointPayload, signature: &[u8]) -> Dispatch {
        self.registration(payload.pubkey)?;
        ensure(signature.len() == SIGNATURE_BYTES, "PhalaRegistry::MalformedSignature")?;
        let VersionedWorkerEndpoints::V1(endpoints) = &payload.versioned_endpoints;
        self.workers.entry(payload.pubkey).or_default().endpoints.clone_from(endpoints);
        self.endpoints.insert(payload.pubkey, payload.signing_time);
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
        // The score of an earlier registration stays until the new benchmark ends, as on the chain.
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
}
