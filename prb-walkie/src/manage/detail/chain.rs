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

use super::bounded_text;
use crate::proto::detail as wire;

/// Length of a key, in bytes.
const KEY_BYTES: usize = 32;

pub(super) fn encode_worker(chain: &WorkerOnChain) -> wire::WorkerOnChain {
    wire::WorkerOnChain {
        registration: chain.registration.as_ref().map(|known| known.encode().into()).unwrap_or_default(),
        pool: chain.pool.map(|pool| pool.0),
        session: chain.session.as_ref().map(encode_session),
        ingress_sequence: chain.ingress_sequence,
        endpoints: chain.endpoints.clone(),
        endpoints_unreadable: chain.endpoints_unreadable.as_ref().map(bounded_text),
    }
}

fn encode_session(session: &Session) -> wire::Session {
    wire::Session {
        account: Bytes::copy_from_slice(&session.account.0),
        // SCALE encodes a variant without fields as its index.
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

pub(super) fn worker(message: wire::WorkerOnChain) -> WorkerOnChain {
    let mut chain = WorkerOnChain::default();
    // `None` also if a later version encodes it differently.
    chain.registration = Registration::decode(&mut &message.registration[..]).ok();
    chain.pool = message.pool.map(PoolId);
    chain.session = message.session.as_ref().and_then(session);
    chain.ingress_sequence = message.ingress_sequence;
    chain.endpoints = message.endpoints;
    chain.endpoints_unreadable = message.endpoints_unreadable.map(|why| Unreadable::new(bounded_text(why)));
    chain
}

/// Returns `None` for a state that this version does not know.
fn session(message: &wire::Session) -> Option<Session> {
    let state = u8::try_from(message.state).ok()?;
    Some(Session {
        account: account_id(&message.account).unwrap_or_default(),
        state: SessionState::decode(&mut &[state][..]).ok()?,
        ve: amount(&message.ve),
        v: amount(&message.v),
        v_updated_at: message.v_updated_at,
        p_init: message.p_init,
        p_instant: message.p_instant,
        iterations: message.iterations,
        working_start_time: message.working_start_time,
        challenge_time_last: message.challenge_time_last,
        cool_down_start: message.cool_down_start,
        total_reward: amount(&message.total_reward),
        stake: message.stake.as_deref().map(amount),
    })
}

/// Encodes a pool's entry and its on-chain view.
pub(super) fn encode_pool(pool: &inventory::Pool, view: Option<&ChainView>) -> wire::Pool {
    let operator = pool.operator.as_ref().map(|operator| operator.account);
    wire::Pool {
        pid: pool.pid.0,
        after_stop: pool.after_stop.map(|setting| setting.to_string()).unwrap_or_default(),
        chain: view.and_then(|view| view.pools.get(&pool.pid)).map(encode_reading),
        account: operator.and_then(|operator| view?.accounts.get(&operator)).map(encode_account),
    }
}

fn encode_reading(reading: &Reading<Option<PoolOnChain>>) -> wire::PoolOnChain {
    let pool = match reading {
        Err(error) => {
            return wire::PoolOnChain { unreadable: bounded_text(error), ..wire::PoolOnChain::default() };
        }
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
        workers: encode_keys(&pool.workers),
        cooling_down: encode_keys(&pool.cooling_down),
        withdrawals: pool.withdrawals.iter().map(|withdrawal| withdrawal.start_time).collect(),
    }
}

fn encode_keys(keys: &[WorkerKey]) -> Bytes {
    keys.iter().flat_map(|key| key.0).collect()
}

fn encode_account(reading: &Reading<AccountOnChain>) -> wire::Account {
    match reading {
        Err(error) => wire::Account { unreadable: bounded_text(error), free: String::new() },
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
    fn from(message: wire::Pool) -> Self {
        Self {
            after_stop: message.after_stop.parse().ok(),
            chain: message.chain.map(|chain| readable(&chain.unreadable, || pool(&chain))),
            account: message.account.map(|account| readable(&account.unreadable, || self::account(&account))),
        }
    }
}

fn readable<T>(unreadable: &str, value: impl FnOnce() -> T) -> Reading<T> {
    if unreadable.is_empty() { Ok(Arc::new(value())) } else { Err(Unreadable::new(bounded_text(unreadable))) }
}

fn pool(message: &wire::PoolOnChain) -> Option<PoolOnChain> {
    message.exists.then(|| {
        let mut pool = PoolOnChain::default();
        pool.owner = account_id(&message.owner).unwrap_or_default();
        pool.is_vault = message.is_vault;
        pool.free_stake = amount(&message.free_stake);
        pool.releasing_stake = amount(&message.releasing_stake);
        pool.total_value = amount(&message.total_value);
        pool.cap = message.cap.as_deref().map(amount);
        pool.commission_millionths = message.commission_millionths;
        pool.workers = keys(&message.workers);
        pool.cooling_down = keys(&message.cooling_down);
        pool.withdrawals =
            message.withdrawals.iter().map(|start_time| Withdrawal { start_time: *start_time }).collect();
        pool
    })
}

fn account(message: &wire::Account) -> AccountOnChain {
    let mut account = AccountOnChain::default();
    account.free = amount(&message.free);
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
