//! Converts the original's messages to the console's views, and back.

use std::{sync::Arc, time::SystemTime};

use prb_core::{
    inventory::{AfterExternalStop, Worker},
    manage::{PoolValue, WorkerValue},
    primitives::{AccountId, PoolId, WorkerKey},
    worker::State,
};
use prb_walkie::proto::{
    self, FullAccount, db,
    detail::{PoolSettings, WorkerSettings},
};
use secrecy::ExposeSecret;

use crate::{
    console::{
        session,
        view::{PoolView, WorkerView},
    },
    entry_version,
};

pub(super) fn worker_view(state: proto::WorkerState, tip: Option<u32>) -> Option<WorkerView> {
    let wire = state.worker.as_ref()?;
    let entry = entry(wire)?;
    let height = |number: i32| u32::try_from(number).ok();
    let para_block = height(state.para_block_dispatched_to);
    let (at, message) = message(&state.last_message);
    let session_info = session::read(&state.session_info_json, &state.worker_account_id);
    let running = wire.enabled && para_block.is_some();
    Some(WorkerView {
        state: state_of(state.status()),
        reason: None,
        message: message.into(),
        message_at: at,
        relay_header: height(state.parent_header_synched_to),
        para_header: height(state.para_header_synched_to),
        para_block,
        lag: para_block.zip(tip).filter(|_| running).map(|(block, tip)| tip.saturating_sub(block)),
        key: key(&state.public_key),
        info: session_info.info.map(Arc::new),
        chain: session_info.chain.map(Arc::new),
        goal: None,
        stalled: None,
        failures: None,
        checkpoint: None,
        key_change: None,
        in_flight: None,
        entry: Arc::new(entry),
    })
}

/// Converts a worker's entry, as far as the message has it.
fn entry(wire: &db::Worker) -> Option<Worker> {
    let stake = wire.stake.parse().unwrap_or_default();
    let id = wire.uuid.parse().ok()?;
    let mut entry = Worker::new(id, PoolId(wire.pid), &wire.name, &wire.endpoint, stake);
    (entry.enabled, entry.sync_only) = (wire.enabled, wire.sync_only);
    Some(entry)
}

const fn state_of(status: proto::WorkerStatus) -> State {
    use proto::WorkerStatus as Label;
    match status {
        Label::Idle => State::Idle,
        Label::Starting => State::Starting,
        Label::Synching => State::Synching,
        Label::Synched => State::Synched,
        Label::PreActive => State::PreActive,
        Label::Active => State::Active,
        Label::Kicked => State::Kicked,
        Label::Error => State::Error,
    }
}

fn key(text: &str) -> Option<WorkerKey> {
    text.parse().ok()
}

/// Parses a message such as `[2022-05-12T10:00:00+00:00] text`.
fn message(text: &str) -> (Option<SystemTime>, String) {
    let parts = text.strip_prefix('[').and_then(|text| text.split_once("] "));
    match parts.and_then(|(at, rest)| Some((at.parse::<jiff::Timestamp>().ok()?, rest))) {
        Some((at, rest)) => (Some(at.into()), rest.to_owned()),
        None => (None, text.to_owned()),
    }
}

pub(super) fn pool_view(pool: &db::Pool) -> Option<PoolView> {
    let account = |address: &str| AccountId::from_address(address).ok();
    Some(PoolView {
        id: pool.uuid.parse().ok()?,
        version: pool_version(pool),
        pid: pool.pid,
        name: pool.name.clone(),
        enabled: pool.enabled,
        sync_only: pool.sync_only,
        after_stop: None,
        operator: pool.owner.as_ref().and_then(|owner| account(&owner.ss58_phala)),
        proxied: account(&pool.real_phala_ss58),
        chain: None,
        account: None,
    })
}

/// Returns a version of the pool from the fields in the message.
fn pool_version(pool: &db::Pool) -> String {
    let operator = pool.owner.as_ref().map(|owner| &owner.ss58_phala);
    let fields = (&pool.name, pool.pid, pool.enabled, pool.sync_only, operator, &pool.real_phala_ss58);
    entry_version::of_bytes(format!("{fields:?}").as_bytes())
}

pub(super) fn pool_value(value: &PoolValue) -> db::Pool {
    // Without a mnemonic, the original keeps the present operator.
    let owner = value.secret.as_ref().map(|secret| {
        let mut owner = FullAccount::default();
        secret.expose_secret().clone_into(&mut owner.mnemonic);
        owner
    });
    db::Pool {
        pid: value.pid.0,
        name: value.name.clone(),
        owner,
        real_phala_ss58: value.proxied.clone(),
        enabled: value.enabled,
        sync_only: value.sync_only,
        settings: value.after_stop.map(|setting| PoolSettings { after_stop: setting_name(setting) }),
        ..db::Pool::default()
    }
}

pub(super) fn worker_value(value: &WorkerValue) -> db::Worker {
    db::Worker {
        pid: value.pid.0,
        name: value.name.clone(),
        endpoint: value.endpoint.clone(),
        stake: value.stake.clone(),
        enabled: value.enabled,
        sync_only: value.sync_only,
        settings: settings(value),
        ..db::Worker::default()
    }
}

/// Returns the settings that the original's messages lack; `None` if the value does not set them.
fn settings(value: &WorkerValue) -> Option<WorkerSettings> {
    Some(WorkerSettings {
        gatekeeper: value.gatekeeper?,
        endpoints: value.endpoints.clone()?,
        after_stop: setting_name(value.after_stop?),
    })
}

/// Returns a setting's name on the wire; empty to inherit.
fn setting_name(setting: Option<AfterExternalStop>) -> String {
    setting.map(|setting| setting.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_message_is_split_from_its_time() {
        let (at, text) = message("[2022-05-12T10:00:00+00:00] Synching block data...");
        assert_eq!(at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 1_652_349_600);
        assert_eq!(text, "Synching block data...");
        for odd in ["", "no time", "[yesterday] text", "[2022"] {
            assert_eq!(message(odd), (None, odd.to_owned()));
        }
    }

    #[test]
    fn a_worker_message_is_shown_with_its_lag() {
        let worker = db::Worker {
            uuid: Uuid::nil().to_string(),
            pid: 7,
            name: "w".into(),
            enabled: true,
            stake: "12".into(),
            ..db::Worker::default()
        };
        let state = proto::WorkerState {
            status: proto::WorkerStatus::Active.into(),
            para_block_dispatched_to: 90,
            parent_header_synched_to: -1,
            public_key: "ab".repeat(32),
            worker: Some(worker),
            ..proto::WorkerState::default()
        };
        let view = worker_view(state.clone(), Some(100)).unwrap();
        assert_eq!((view.lag, view.relay_header, view.para_block), (Some(10), None, Some(90)));
        assert_eq!(
            (view.state, view.entry.stake, view.key),
            (State::Active, 12, Some(WorkerKey([0xab; 32])))
        );
        assert_eq!(worker_view(state, None).unwrap().lag, None);
        // A state without an entry is skipped.
        assert!(worker_view(proto::WorkerState::default(), None).is_none());
    }
}
