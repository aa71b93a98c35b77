//! Reads from the finalised state which calls have taken effect.

use codec::Encode;
use prb_core::{
    chain::{Call, Effect, Effects, MessageEffects, Registration, SubmitError},
    primitives::{AccountId, Balance, ParaNumber, PoolId, WorkerKey},
    wire::VersionedWorkerEndpoints,
};
use scale_decode::DecodeAsType;
use scale_value::{Value, ValueDef};
use sp_crypto_hashing::blake2_256;

use super::{Inner, queries};
use crate::{
    metadata::{self, Item, Runtime},
    reader::storage::{self, Values},
};

/// Keys in one storage query: a batch's calls need at most two each.
const KEYS_PER_CALL: usize = 1_000;

/// Derives the account of a worker's session in a pool: the first 32 bytes of `SCALE(("spm/",
/// blake2-256(SCALE((pid, worker)))))`, as in PhalaStakePoolv2.
pub(super) fn session_account(pool: PoolId, worker: &WorkerKey) -> AccountId {
    let hash = blake2_256(&(pool.0, worker).encode());
    let mut account = [0; 32];
    account[..4].copy_from_slice(b"spm/");
    account[4..].copy_from_slice(&hash[..28]);
    AccountId(account)
}

/// The storage items that show calls' effects.
struct EffectItems {
    ingress: Item,
    registrations: Item,
    endpoints: Item,
    pools: Item,
    sessions: Item,
    stakes: Item,
}

#[derive(DecodeAsType)]
struct Registered {
    last_updated: u64,
}

#[derive(DecodeAsType)]
struct SessionState {
    state: Value<()>,
}

impl SessionState {
    fn is(&self, names: &[&str]) -> bool {
        matches!(&self.state.value, ValueDef::Variant(v) if names.contains(&v.name.as_str()))
    }
}

impl Inner {
    /// Reads the calls' effects from the newest finalised state.
    pub(super) async fn effects(&self, calls: &[Call]) -> Result<Effects, SubmitError> {
        let started = tokio::time::Instant::now();
        loop {
            let found = queries::newest(&self.pool, &self.finalised, |node, head| async move {
                // The code in the parent's state has written this one; a new runtime's layout applies to later
                // blocks.
                let runtime = self.runtimes.at(&node, Some(head.header.parent_hash)).await?;
                let items = EffectItems::new(&runtime)?;
                let keys = calls.iter().flat_map(|call| items.keys(call)).collect();
                let values = storage::query(&node, keys, head.hash, KEYS_PER_CALL).await?;
                let mut messages = MessageEffects::default();
                let effects = calls.iter().map(|call| items.effect(call, &values, &mut messages));
                let calls = effects.collect::<Result<_, _>>()?;
                Ok(Effects { block: ParaNumber(head.header.number), calls })
            })
            .await;
            match found {
                Ok(effects) => return Ok(effects),
                Err(e) if started.elapsed() >= self.config.unavailable_after => {
                    return Err(SubmitError::Unavailable(Box::new(e)));
                }
                Err(_) => tokio::time::sleep(self.config.poll_interval).await,
            }
        }
    }
}

impl EffectItems {
    fn new(runtime: &Runtime) -> Result<Self, metadata::Error> {
        Ok(Self {
            ingress: runtime.item("PhalaMq", "OffchainIngress")?,
            registrations: runtime.item("PhalaRegistry", "Workers")?,
            endpoints: runtime.item("PhalaRegistry", "Endpoints")?,
            pools: runtime.item("PhalaStakePoolv2", "WorkerAssignments")?,
            sessions: runtime.item("PhalaComputation", "Sessions")?,
            stakes: runtime.item("PhalaComputation", "Stakes")?,
        })
    }

    /// The storage keys that show a call's effect.
    fn keys(&self, call: &Call) -> Vec<Vec<u8>> {
        match call {
            Call::SyncOffchainMessage(signed) => vec![self.ingress.key(&signed.message.sender.encode())],
            Call::RegisterWorker { worker, .. } | Call::RegisterWorkerV1 { worker, .. } => {
                vec![self.registrations.key(&worker.0)]
            }
            Call::UpdateWorkerEndpoint { payload, .. } => vec![self.endpoints.key(&payload.pubkey.0)],
            Call::AddWorker { worker, .. } | Call::RemoveWorker { worker, .. } => {
                vec![self.pools.key(&worker.0)]
            }
            Call::StartComputing { pool, worker, .. }
            | Call::StopComputing { pool, worker }
            | Call::ReclaimWorker { pool, worker } => {
                vec![self.sessions.key(&session_account(*pool, worker).0)]
            }
            Call::RestartComputing { pool, worker, .. } => {
                let session = session_account(*pool, worker);
                vec![self.sessions.key(&session.0), self.stakes.key(&session.0)]
            }
            // Refused by `effect`.
            _ => Vec::new(),
        }
    }

    fn effect(
        &self,
        call: &Call,
        values: &Values,
        messages: &mut MessageEffects,
    ) -> Result<Effect, metadata::Error> {
        let value = |key: Vec<u8>| values.get(&key).and_then(Option::as_deref);
        let session = |pool: PoolId, worker: &WorkerKey| {
            self.sessions.read::<SessionState>(value(self.sessions.key(&session_account(pool, worker).0)))
        };
        let pool_of = |worker: &WorkerKey| self.pools.read::<u64>(value(self.pools.key(&worker.0)));
        let computing = ["WorkerIdle", "WorkerUnresponsive"];
        let present = match call {
            Call::SyncOffchainMessage(signed) => {
                let key = self.ingress.key(&signed.message.sender.encode());
                let ingress = self.ingress.read::<u64>(value(key))?.unwrap_or(0);
                return Ok(messages.effect(signed, ingress));
            }
            Call::RegisterWorker { worker, replaces, .. } => {
                let found =
                    self.registrations.read::<Registered>(value(self.registrations.key(&worker.0)))?;
                // A registration is repeated to change the operator or the version: only a newer one than
                // before counts.
                found.is_some_and(|found| Some(found.last_updated) != *replaces)
            }
            Call::RegisterWorkerV1 { worker, runtime_info, replaces, .. } => {
                let found = self
                    .registrations
                    .read_static::<Registration>(value(self.registrations.key(&worker.0)))?;
                found.is_some_and(|found| found.is_of_v1(runtime_info, *replaces))
            }
            Call::UpdateWorkerEndpoint { payload, .. } => {
                let key = self.endpoints.key(&payload.pubkey.0);
                let found = self.endpoints.read_static::<VersionedWorkerEndpoints>(value(key))?;
                found.as_ref() == Some(&payload.versioned_endpoints)
            }
            Call::AddWorker { pool, worker } => pool_of(worker)? == Some(pool.0),
            // A worker that was moved to another pool was removed from this one.
            Call::RemoveWorker { pool, worker } => pool_of(worker)? != Some(pool.0),
            Call::StartComputing { pool, worker, .. } => {
                session(*pool, worker)?.is_some_and(|s| s.is(&computing))
            }
            Call::RestartComputing { pool, worker, stake } => {
                let key = self.stakes.key(&session_account(*pool, worker).0);
                let locked = self.stakes.read::<Balance>(value(key))?;
                session(*pool, worker)?.is_some_and(|s| s.is(&computing))
                    && locked.is_some_and(|locked| locked >= *stake)
            }
            Call::StopComputing { pool, worker } => {
                !session(*pool, worker)?.is_some_and(|s| s.is(&computing))
            }
            Call::ReclaimWorker { pool, worker } => {
                !session(*pool, worker)?.is_some_and(|s| s.is(&["WorkerCoolingDown"]))
            }
            // `Call` is non-exhaustive. Without a known effect, a call could be sent twice.
            _ => return Err(metadata::Error::unknown_call(call)),
        };
        Ok(if present { Effect::Present } else { Effect::Missing })
    }
}
