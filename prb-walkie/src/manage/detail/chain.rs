//! Details of workers, pools and accounts on chain.

use std::sync::Arc;

use bytes::Bytes;
use codec::{Decode, Encode};
use prb_core::{
    chain::{
        AccountOnChain, ChainView, PoolOnChain, Reading, Registration, Session, SessionState, Unreadable,
        Withdrawal, WorkerOnChain,
    },
    inventory::{self, AfterExternalStop},
    primitives::{AccountId, PoolId, WorkerKey},
};

use super::cut;
use crate::proto::detail as wire;

/// Length of a key, in bytes.
const KEY_BYTES: usize = 32;

pub(super) fn encode_worker(chain: &WorkerOnChain) -> wire::WorkerOnChain {
    wire::WorkerOnChain {
        registration: chain.registration.as_ref().map(|known| known.encode().into()).unwrap_or_default(),
        pool: chain.pool.map(|pool| pool.0),
        session: chain.session.as_ref().map(tell_session),
        ingress_sequence: chain.ingress_sequence,
        endpoints: chain.endpoints.clone(),
        endpoints_unreadable: chain.endpoints_unreadable.as_ref().map(cut),
    }
}

fn tell_session(session: &Session) -> wire::Session {
    wire::Session {
        account: Bytes::copy_from_slice(&session.account.0),
        state: session.state.encode().first().copied().unwrap_or_default().into(),
        ve: session.ve.to_string(),
        v: session.v.to_string(),
        v_updated_at: session.v_updated_at,
        p_init: session.p_init,
        p_instant: session.p_instant,
        iterations: session.iterations,
        working_start_time: session.working_start_time,
        challenge_time_last: session.challenge_time_last,
        cool_down_start: session.cool_down_start,
        total_reward: session.total_reward.to_string(),
        stake: session.stake.map(|stake| stake.to_string()),
    }
}

pub(super) fn worker(told: wire::WorkerOnChain) -> WorkerOnChain {
    let mut chain = WorkerOnChain::default();
    chain.registration = Registration::decode(&mut &told.registration[..]).ok();
    chain.pool = told.pool.map(PoolId);
    chain.session = told.session.as_ref().and_then(session);
    chain.ingress_sequence = told.ingress_sequence;
    chain.endpoints = told.endpoints;
    chain.endpoints_unreadable = told.endpoints_unreadable.map(|why| Unreadable::new(cut(why)));
    chain
}

/// Returns `None` for a state that this version does not know.
fn session(told: &wire::Session) -> Option<Session> {
    let state = u8::try_from(told.state).ok()?;
    Some(Session {
        account: account_id(&told.account).unwrap_or_default(),
        state: SessionState::decode(&mut &[state][..]).ok()?,
        ve: amount(&told.ve),
        v: amount(&told.v),
        v_updated_at: told.v_updated_at,
        p_init: told.p_init,
        p_instant: told.p_instant,
        iterations: told.iterations,
        working_start_time: told.working_start_time,
        challenge_time_last: told.challenge_time_last,
        cool_down_start: told.cool_down_start,
        total_reward: amount(&told.total_reward),
        stake: told.stake.as_deref().map(amount),
    })
}

/// Encodes a pool's entry and its on-chain view.
pub(super) fn tell_pool(pool: &inventory::Pool, view: Option<&ChainView>) -> wire::Pool {
    let operator = pool.operator.as_ref().map(|operator| operator.account);
    wire::Pool {
        pid: pool.pid.0,
        after_stop: pool.after_stop.map(|setting| setting.to_string()).unwrap_or_default(),
        chain: view.and_then(|view| view.pools.get(&pool.pid)).map(tell_reading),
        account: operator.and_then(|operator| view?.accounts.get(&operator)).map(tell_account),
    }
}

fn tell_reading(reading: &Reading<Option<PoolOnChain>>) -> wire::PoolOnChain {
    let pool = match reading {
        Err(error) => return wire::PoolOnChain { unreadable: cut(error), ..wire::PoolOnChain::default() },
        Ok(pool) => match pool.as_ref() {
            None => return wire::PoolOnChain::default(),
            Some(pool) => pool,
        },
    };
    wire::PoolOnChain {
        unreadable: String::new(),
        exists: true,
        owner: Bytes::copy_from_slice(&pool.owner.0),
        is_vault: pool.is_vault,
        free_stake: pool.free_stake.to_string(),
        releasing_stake: pool.releasing_stake.to_string(),
        total_value: pool.total_value.to_string(),
        cap: pool.cap.map(|cap| cap.to_string()),
        commission_millionths: pool.commission_millionths,
        workers: tell_keys(&pool.workers),
        cooling_down: tell_keys(&pool.cooling_down),
        withdrawals: pool.withdrawals.iter().map(|withdrawal| withdrawal.start_time).collect(),
    }
}

fn tell_keys(keys: &[WorkerKey]) -> Bytes {
    keys.iter().flat_map(|key| key.0).collect()
}

fn tell_account(reading: &Reading<AccountOnChain>) -> wire::Account {
    match reading {
        Err(error) => wire::Account { unreadable: cut(error), free: String::new() },
        Ok(account) => wire::Account { unreadable: String::new(), free: account.free.to_string() },
    }
}

/// A decoded pool detail.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolDetail {
    /// Its entry's behaviour after an external stop.
    pub after_stop: Option<AfterExternalStop>,
    /// The pool on chain.
    pub chain: Option<Reading<Option<PoolOnChain>>>,
    /// The operator's account.
    pub account: Option<Reading<AccountOnChain>>,
}

impl From<wire::Pool> for PoolDetail {
    fn from(told: wire::Pool) -> Self {
        Self {
            after_stop: told.after_stop.parse().ok(),
            chain: told.chain.map(|chain| readable(&chain.unreadable, || pool(&chain))),
            account: told.account.map(|account| readable(&account.unreadable, || self::account(&account))),
        }
    }
}

fn readable<T>(unreadable: &str, value: impl FnOnce() -> T) -> Reading<T> {
    if unreadable.is_empty() { Ok(Arc::new(value())) } else { Err(Unreadable::new(cut(unreadable))) }
}

fn pool(told: &wire::PoolOnChain) -> Option<PoolOnChain> {
    told.exists.then(|| {
        let mut pool = PoolOnChain::default();
        pool.owner = account_id(&told.owner).unwrap_or_default();
        pool.is_vault = told.is_vault;
        pool.free_stake = amount(&told.free_stake);
        pool.releasing_stake = amount(&told.releasing_stake);
        pool.total_value = amount(&told.total_value);
        pool.cap = told.cap.as_deref().map(amount);
        pool.commission_millionths = told.commission_millionths;
        pool.workers = keys(&told.workers);
        pool.cooling_down = keys(&told.cooling_down);
        pool.withdrawals =
            told.withdrawals.iter().map(|start_time| Withdrawal { start_time: *start_time }).collect();
        pool
    })
}

fn account(told: &wire::Account) -> AccountOnChain {
    let mut account = AccountOnChain::default();
    account.free = amount(&told.free);
    account
}

fn keys(bytes: &[u8]) -> Vec<WorkerKey> {
    let keys = bytes.chunks_exact(KEY_BYTES);
    keys.filter_map(|key| key.try_into().ok().map(WorkerKey)).collect()
}

fn account_id(bytes: &[u8]) -> Option<AccountId> {
    bytes.try_into().ok().map(AccountId)
}

/// Parses a decimal number; 0 if it is invalid.
fn amount(text: &str) -> u128 {
    text.parse().unwrap_or_default()
}
