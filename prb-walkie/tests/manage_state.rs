//! Tests of workers' states on the wire: exact texts, and arbitrary statuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prb_core::{
    chain::{Session, SessionState, WorkerOnChain},
    inventory::{Operator, Pool, Worker},
    primitives::{AccountId, ParaNumber, PoolId, RelayNumber, WorkerKey},
    prpc::{GatekeeperStatus, MemoryUsage, PhactoryInfo, SystemInfo},
    sync::Position,
    vault::Sealed,
    worker::{Desired, Reason, State, WorkerStatus},
};
use prb_walkie::manage::state::worker_state;
use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

const SEALED: &[u8] = b"sealed operator key";

fn status(message: &str, at: SystemTime) -> WorkerStatus {
    let operator = Operator { account: AccountId([3; 32]), key: Sealed(SEALED.to_vec()) };
    let pool = Pool::new(Uuid::from_u128(1), PoolId(12), "pool").with_operator(operator);
    let worker = Worker::new(Uuid::from_u128(2), PoolId(12), "a", "http://a", u128::MAX);
    let desired = Desired { worker: Arc::new(worker), pool: Some(Arc::new(pool)) };
    let mut status = WorkerStatus::idle(&desired, Reason::AwaitingRunner, at);
    status.message = message.into();
    status
}

fn session() -> Session {
    Session {
        account: AccountId([5; 32]),
        state: SessionState::WorkerIdle,
        ve: 1_234 << 64,
        // 0.99999999999…, which rounds up to the next whole number.
        v: (1_235 << 64) - 1,
        v_updated_at: 1_652_349_600,
        p_init: 1_800,
        p_instant: 999,
        iterations: 1 << 52,
        working_start_time: (1 << 52) - 1,
        challenge_time_last: 0,
        cool_down_start: u64::MAX,
        total_reward: 1_234_567_899_999_999,
        stake: Some(1),
    }
}

fn pruntime_info() -> PhactoryInfo {
    PhactoryInfo {
        initialized: true,
        public_key: Some("ab".into()),
        headernum: 7,
        gatekeeper: Some(GatekeeperStatus { role: 2, master_public_key: "cd".into() }),
        memory_usage: Some(MemoryUsage { rust_peak_used: 1 << 30, ..MemoryUsage::default() }),
        system: Some(SystemInfo {
            gatekeeper: Some(GatekeeperStatus { role: 9, ..GatekeeperStatus::default() }),
            ..SystemInfo::default()
        }),
        ..PhactoryInfo::default()
    }
}

/// The status of a computing worker.
fn computing() -> WorkerStatus {
    let mut status = status("Computing", UNIX_EPOCH + Duration::from_millis(1_652_349_600_999));
    status.state = State::Active;
    status.info = Some(Arc::new(pruntime_info()));
    let mut chain = WorkerOnChain::default();
    chain.session = Some(session());
    status.chain = Some(Arc::new(chain));
    status.public_key = Some(WorkerKey([0xab; 32]));
    status.position = Some(Position {
        relay_header: RelayNumber(u32::MAX),
        para_header: ParaNumber(0),
        block: ParaNumber(1),
    });
    status
}

#[test]
fn state_of_a_computing_worker() {
    let state = worker_state(&computing());
    assert_eq!(state.last_message, "[2022-05-12T10:00:00+00:00] Computing");
    assert_eq!(state.status, 5);
    let heights =
        (state.parent_header_synched_to, state.para_header_synched_to, state.para_block_dispatched_to);
    assert_eq!(heights, (i32::MAX, -1, 0));
    assert_eq!(state.public_key, "ab".repeat(32));
    assert_eq!(state.worker_account_id, AccountId([5; 32]).to_ss58(30));
    assert_eq!(state.worker.as_ref().unwrap().stake, u128::MAX.to_string());
}

const RUNTIME_INFO: &str = "  \"runtimeInfo\": ";

#[test]
fn session_json_matches_the_original() {
    let state = worker_state(&computing());
    let (session, _) = state.session_info_json.split_once(RUNTIME_INFO).unwrap();
    let expected = r#"{
  "state": "WorkerIdle",
  "ve": "1234.00000000",
  "v": "1235.00000000",
  "vUpdatedAt": "1,652,349,600",
  "benchmark": {
    "pInit": "1,800",
    "pInstant": "999",
    "iterations": "4,503,599,627,370,496",
    "workingStartTime": "4,503,599,627,370,495",
    "challengeTimeLast": "0"
  },
  "coolDownStart": "18,446,744,073,709,551,615",
  "stats": {
    "totalReward": "1,234.5678 PHA"
  },
  "raw": {
    "state": "WorkerIdle",
    "ve": "0x00000000000004d20000000000000000",
    "v": "0x00000000000004d2ffffffffffffffff",
    "vUpdatedAt": 1652349600,
    "benchmark": {
      "pInit": 1800,
      "pInstant": 999,
      "iterations": "0x0010000000000000",
      "workingStartTime": 4503599627370495,
      "challengeTimeLast": 0
    },
    "coolDownStart": "0xffffffffffffffff",
    "stats": {
      "totalReward": 1234567899999999
    }
  },
"#;
    assert_eq!(session, expected);
}

#[test]
fn runtime_info_is_in_the_session_json() {
    let state = worker_state(&computing());
    let (_, runtime_info) = state.session_info_json.split_once(RUNTIME_INFO).unwrap();
    let info: serde_json::Value = serde_json::from_str(runtime_info.strip_suffix('}').unwrap()).unwrap();
    assert_eq!((&info["headernum"], &info["paraHeadernum"]), (&7.into(), &0.into()));
    assert_eq!((&info["publicKey"], &info["ecdhPublicKey"]), (&"ab".into(), &serde_json::Value::Null));
    assert_eq!(info["gatekeeper"], serde_json::json!({"role": "Active", "masterPublicKey": "cd"}));
    assert_eq!(info["system"]["gatekeeper"]["role"], 9, "a role without a name stays a number");
    assert_eq!(info["memoryUsage"]["rustPeakUsed"], 1 << 30);
    assert_eq!(info["maxSupportedPinkRuntimeVersion"], "");
}

#[test]
fn never_reached_worker_has_empty_fields() {
    let state = worker_state(&status("", UNIX_EPOCH));
    assert_eq!(state.last_message, "");
    assert_eq!(state.session_info_json, "{\n  \"runtimeInfo\": {}\n}");
    assert_eq!((state.public_key.as_str(), state.worker_account_id.as_str()), ("", ""));
    assert!(!state.initialized);
}

#[test]
fn every_state_has_a_label() {
    for state in State::ALL {
        let mut status = status("", UNIX_EPOCH);
        status.state = state;
        let told = worker_state(&status).status();
        assert_eq!(told as u8, state.number());
        assert_eq!(format!("S_{told:?}").replace('_', "").to_uppercase(), state.as_str().replace('_', ""));
    }
}

fn sessions() -> impl Strategy<Value = Session> {
    let numbers = (any::<u128>(), any::<u128>(), any::<u128>(), any::<[u64; 5]>(), any::<[u32; 2]>());
    (numbers, 0..4usize).prop_map(|((ve, v, total_reward, n, p), state)| {
        use SessionState::{Ready, WorkerCoolingDown, WorkerIdle, WorkerUnresponsive};
        Session {
            account: AccountId([n[0] as u8; 32]),
            state: [Ready, WorkerIdle, WorkerUnresponsive, WorkerCoolingDown][state],
            ve,
            v,
            v_updated_at: n[0],
            p_init: p[0],
            p_instant: p[1],
            iterations: n[1],
            working_start_time: n[2],
            challenge_time_last: n[3],
            cool_down_start: n[4],
            total_reward,
            stake: None,
        }
    })
}

fn times() -> impl Strategy<Value = SystemTime> {
    (any::<bool>(), any::<u64>()).prop_map(|(after, secs)| {
        let age = Duration::from_secs(secs);
        let at = if after { UNIX_EPOCH.checked_add(age) } else { UNIX_EPOCH.checked_sub(age) };
        at.unwrap_or(UNIX_EPOCH)
    })
}

fn infos() -> impl Strategy<Value = PhactoryInfo> {
    let keys = (any::<Option<String>>(), any::<String>(), any::<[u64; 3]>(), any::<i32>(), any::<bool>());
    keys.prop_map(|(key, text, n, role, initialized)| PhactoryInfo {
        initialized,
        public_key: key,
        version: text.clone(),
        pending_messages: n[0],
        score: n[1],
        current_block_time: n[2],
        gatekeeper: Some(GatekeeperStatus { role, master_public_key: text.clone() }),
        supported_attestation_methods: vec![text],
        ..PhactoryInfo::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Every status can be encoded and decoded again, and contains no key.
    #[test]
    fn arbitrary_status_can_be_encoded(
        message in any::<String>(),
        at in times(),
        position in any::<Option<[u32; 3]>>(),
        session in proptest::option::of(sessions()),
        info in proptest::option::of(infos()),
    ) {
        let mut status = status(&message, at);
        status.position = position.map(|[relay, para, block]| Position {
            relay_header: RelayNumber(relay),
            para_header: ParaNumber(para),
            block: ParaNumber(block),
        });
        let mut chain = WorkerOnChain::default();
        chain.session.clone_from(&session);
        status.chain = Some(Arc::new(chain));
        status.info = info.clone().map(Arc::new);
        let state = worker_state(&status);
        let bytes = state.encode_to_vec();
        prop_assert_eq!(prb_walkie::proto::WorkerState::decode(bytes.as_slice()).unwrap(), state.clone());
        prop_assert!(!bytes.windows(SEALED.len()).any(|bytes| bytes == SEALED));
        prop_assert!(state.last_message.ends_with(&message));
        let last = |n: u32| i32::try_from(i64::from(n) - 1).unwrap_or(i32::MAX);
        let [relay, para, block] = position.map_or([-1; 3], |numbers| numbers.map(last));
        prop_assert_eq!(state.parent_header_synched_to, relay);
        prop_assert_eq!((state.para_header_synched_to, state.para_block_dispatched_to), (para, block));

        let json: serde_json::Value = serde_json::from_str(&state.session_info_json).unwrap();
        prop_assert_eq!(json.get("state").is_some(), session.is_some());
        if let Some(info) = info {
            prop_assert_eq!(json["runtimeInfo"]["version"].as_str(), Some(info.version.as_str()));
            prop_assert_eq!(json["runtimeInfo"]["score"].as_u64(), Some(info.score));
        }
        if let Some(session) = session {
            prop_assert_eq!(number(&json["raw"]["v"]), session.v);
            prop_assert_eq!(number(&json["raw"]["stats"]["totalReward"]), session.total_reward);
            prop_assert_eq!(number(&json["raw"]["coolDownStart"]), u128::from(session.cool_down_start));
            let (whole, decimals) = json["ve"].as_str().unwrap().split_once('.').unwrap();
            prop_assert_eq!(decimals.len(), 8);
            // Within half of the last decimal: 2^64 / 10^8 / 2 on either side.
            let (whole, part): (u128, u128) = (whole.parse().unwrap(), decimals.parse().unwrap());
            let told = (whole - (session.ve >> 64)) * 100_000_000 + part;
            let exact = session.ve & u128::from(u64::MAX);
            prop_assert!((told << 64).abs_diff(exact * 100_000_000) <= 1 << 63);
        }
    }
}

/// Parses a number as polkadot.js writes it.
fn number(value: &serde_json::Value) -> u128 {
    match value.as_str() {
        Some(text) => u128::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap(),
        None => value.as_u64().unwrap().into(),
    }
}
