//! Situations of a worker, to be decided on.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use prb_core::{
    blob::Heights,
    chain::{PoolOnChain, Registration, Session, SessionState, WorkerOnChain},
    inventory::{Operator, Pool, Worker},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::Position,
    vault::Sealed,
    worker::{Desired, Observed, Rules},
};
use uuid::Uuid;

pub const OURS: PoolId = PoolId(1);
pub const OTHER: PoolId = PoolId(7);
pub const OPERATOR: AccountId = AccountId([1; 32]);
pub const STRANGER: AccountId = AccountId([2; 32]);
pub const GENESIS: Hash = Hash([9; 32]);
pub const KEY: WorkerKey = WorkerKey([3; 32]);
pub const STAKE: u128 = 1000;
pub const MIN_SCORE: u32 = 50;
pub const NOW_SECS: u64 = 1_000_000;
pub const COOL_DOWN_SECS: u64 = 1000;

pub fn desired(key: bool, sync_only: bool) -> Desired {
    let operator = key.then(|| Operator { account: OPERATOR, key: Sealed(vec![1]) });
    let mut pool = Pool::new(Uuid::nil(), OURS, "pool");
    pool.operator = operator;
    let mut worker = Worker::new(Uuid::nil(), OURS, "worker", "http://w", STAKE);
    worker.sync_only = sync_only;
    Desired { worker: Arc::new(worker), pool: Some(Arc::new(pool)) }
}

pub fn info() -> PhactoryInfo {
    PhactoryInfo {
        initialized: true,
        genesis_block_hash: Some(hex::encode(GENESIS.0)),
        public_key: Some(hex::encode(KEY.0)),
        headernum: 101,
        para_headernum: 51,
        blocknum: 51,
        current_block_time: NOW_SECS * 1000,
        ..PhactoryInfo::default()
    }
}

pub fn registration(operator: AccountId, initial_score: Option<u32>) -> Registration {
    Registration {
        pubkey: KEY,
        ecdh_pubkey: [0; 32],
        runtime_version: 0,
        last_updated: 5,
        operator: Some(operator),
        attestation_provider: None,
        confidence_level: 1,
        initial_score,
        features: vec![],
    }
}

pub fn session(state: SessionState, stake: u128) -> Session {
    Session {
        account: AccountId([5; 32]),
        state,
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
        stake: Some(stake),
    }
}

/// An initialised worker at the tip, with nothing known of the chain.
pub fn at_the_tip() -> Observed {
    let info = info();
    Observed {
        position: Position::of(&info),
        info: Some(Arc::new(info)),
        heights: Heights {
            relay: Some(RelayNumber(100)),
            para: Some(ParaNumber(50)),
            relay_target: None,
            para_target: None,
        },
        relay_genesis: Some(GENESIS),
        caught_up: true,
        rules: Rules::default().with_now_secs(NOW_SECS).with_cool_down_secs(COOL_DOWN_SECS),
        ..Observed::default()
    }
}

/// Changes what the chain says of the worker.
pub fn on_chain(observed: &mut Observed, change: impl FnOnce(&mut WorkerOnChain)) {
    let mut chain = match &observed.chain {
        Some(Ok(chain)) => (**chain).clone(),
        _ => WorkerOnChain::default(),
    };
    change(&mut chain);
    observed.chain = Some(Ok(Arc::new(chain)));
}

/// One that only lacks to be started.
pub fn ready() -> Observed {
    let mut observed = at_the_tip();
    on_chain(&mut observed, |chain| {
        chain.registration = Some(registration(OPERATOR, Some(100)));
        chain.pool = Some(OURS);
        chain.session = Some(session(SessionState::Ready, 0));
    });
    observed
}

/// One that computes.
pub fn computing() -> Observed {
    let mut observed = ready();
    on_chain(&mut observed, |chain| chain.session = Some(session(SessionState::WorkerIdle, STAKE)));
    observed
}

/// The pool on chain, ours and with stake for several workers.
pub fn pool() -> PoolOnChain {
    let mut pool = PoolOnChain::default();
    pool.owner = OPERATOR;
    pool.free_stake = 10 * STAKE;
    pool
}

/// Shows a pool.
pub fn with_pool(mut observed: Observed, pool: Option<PoolOnChain>) -> Observed {
    observed.pool = Some(Ok(Arc::new(pool)));
    observed
}
