//! Tests of the encoding.
#![allow(clippy::unwrap_used)]
use prb_core::wire::{Message, MessageOrigin};
use serde_json::json;

use super::*;

const POOL: PoolId = PoolId(7);
const WORKER: WorkerKey = WorkerKey([3; 32]);

fn message(sequence: u64) -> SignedMessage {
    let message = Message {
        sender: MessageOrigin::Worker(WORKER),
        destination: b"phala/test".to_vec(),
        payload: vec![1, 2, 3],
    };
    SignedMessage { message, sequence, signature: vec![9; 64] }
}

fn job(calls: Vec<Call>) -> Job {
    let signer = JobSigner {
        operator: AccountId([1; 32]),
        key: Sealed(vec![0xab, 0xcd]),
        proxied: Some(AccountId([2; 32])),
    };
    Job { pool: POOL, signer, calls, retries: 3 }
}

fn first_version() -> WorkerRegistrationInfo {
    WorkerRegistrationInfo {
        version: 1,
        machine_id: vec![2; 16],
        pubkey: WORKER,
        ecdh_pubkey: [0; 32],
        genesis_block_hash: Default::default(),
        features: vec![4],
        operator: Some(AccountId([1; 32])),
    }
}

fn ias() -> Attestation {
    Attestation::SgxIas { ra_report: b"{}".to_vec(), signature: vec![1], raw_signing_cert: vec![2] }
}

fn through(job: &Job) -> Decoded {
    decode(&encode(job, "mark".into()).unwrap().data).unwrap()
}

fn data(job: &Job) -> Value {
    serde_json::from_str(encode(job, "mark".into()).unwrap().data.get()).unwrap()
}

#[test]
fn every_job_round_trips() {
    let each = Call::samples().into_iter().map(|call| vec![call]);
    let elsewhere = Call::AddWorker { pool: PoolId(8), worker: WORKER };
    let messages = vec![Call::SyncOffchainMessage(message(1)), Call::SyncOffchainMessage(message(2))];
    for calls in each.chain([Call::samples(), messages, vec![elsewhere]]) {
        let job = job(calls);
        let Decoded { pool, signer, mark, calls, .. } = through(&job);
        assert_eq!((pool, signer, mark), (POOL, Some(job.signer), Some("mark".into())));
        assert_eq!(calls, job.calls);
    }
}

#[test]
fn a_mixed_jobs_action_names_every_kind() {
    let (pool, worker, stake) = (POOL, WORKER, 1);
    let add = Call::AddWorker { pool, worker };
    let calls = vec![add.clone(), Call::StartComputing { pool, worker, stake }, add];
    assert_eq!(data(&job(calls.clone()))["action"], "CALLS", "what traders read");
    assert_eq!(through(&job(calls)).action, "ADD_WORKER ×2, START_COMPUTING");
}

#[test]
fn the_originals_actions_have_its_fields() {
    let key = format!("0x{}", "03".repeat(32));
    let sync = data(&job(vec![Call::SyncOffchainMessage(message(1))]));
    assert_eq!(sync["action"], "BATCH_SYNC_MQ_MESSAGE");
    let hex = format!("0x{}", hex::encode(message(1).encode()));
    assert_eq!(sync["payload"], json!({"pid": "7", "messages": [hex]}));
    let (pool, worker, stake) = (POOL, WORKER, u128::MAX);
    for (call, name) in [
        (Call::AddWorker { pool, worker }, "ADD_WORKER"),
        (Call::StartComputing { pool, worker, stake }, "START_COMPUTING"),
        (Call::RestartComputing { pool, worker, stake }, "RESTART_COMPUTING"),
        (Call::StopComputing { pool, worker }, "STOP_COMPUTING"),
    ] {
        let data = data(&job(vec![call]));
        let mut payload = json!({"pid": "7", "publicKey": key});
        if name.starts_with("START") || name.starts_with("RESTART") {
            payload["stake"] = json!(stake.to_string());
        }
        assert_eq!((&data["action"], &data["payload"]), (&json!(name), &payload));
    }
    let register =
        Call::RegisterWorker { worker, runtime_info: vec![1], attestation: vec![], replaces: None };
    let register = data(&job(vec![register]));
    assert_eq!(register["action"], "REGISTER_WORKER");
    assert_eq!(
        (&register["payload"]["runtimeInfo"], &register["payload"]["version"]),
        (&json!("0x01"), &json!(2))
    );
    assert_eq!(register["prb"]["key"], "abcd");
}

#[test]
fn an_originals_registration_of_the_second_version_is_taken() {
    let info = WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![],
        pubkey: WORKER,
        ecdh_pubkey: [0; 32],
        genesis_block_hash: Default::default(),
        features: vec![4],
        operator: None,
        para_id: 1,
        max_consensus_version: 1,
    };
    let (runtime_info, attestation) = (info.encode(), vec![0]);
    let text = json!({"action": "REGISTER_WORKER", "payload": {
        // Without 0x, and with a number as pid: both are accepted.
        "pid": 7, "runtimeInfo": hex::encode(&runtime_info), "attestation": "0x00",
    }});
    let decoded = decode(&serde_json::value::to_raw_value(&text).unwrap()).unwrap();
    let expected = Call::RegisterWorker { worker: WORKER, runtime_info, attestation, replaces: None };
    assert_eq!((decoded.signer, decoded.calls), (None, vec![expected]));
}

#[test]
fn an_originals_registration_of_the_first_version_is_taken() {
    let read = |runtime_info: &[u8], attestation: &[u8]| {
        let text = json!({"action": "REGISTER_WORKER", "payload": {
            "pid": "7",
            "runtimeInfo": format!("0x{}", hex::encode(runtime_info)),
            "attestation": format!("0x{}", hex::encode(attestation)),
        }});
        decode(&serde_json::value::to_raw_value(&text).unwrap())
    };
    let (runtime_info, attestation) = (first_version().encode(), ias().encode());
    let decoded = read(&runtime_info, &attestation).unwrap();
    let error = |info: &[u8], attestation: &[u8]| read(info, attestation).unwrap_err().to_string();
    assert!(error(&runtime_info, &[1, 0]).contains("attestation cannot be decoded"));
    assert!(error(&[runtime_info.as_slice(), &[0]].concat(), &attestation).contains("runtimeInfo"));
    let expected = Call::RegisterWorkerV1 { worker: WORKER, runtime_info, attestation, replaces: None };
    assert_eq!((decoded.action.as_str(), decoded.calls), ("REGISTER_WORKER", vec![expected.clone()]));
    // Our encoding is readable by an original trader.
    let ours = data(&job(vec![expected]));
    assert_eq!((&ours["action"], &ours["payload"]["pid"]), (&json!("REGISTER_WORKER"), &json!("7")));
    assert!(ours["payload"]["version"].is_null());
}

#[test]
fn nesting_is_refused() {
    let inner = json!({"action": "CALLS", "payload": {"pid": "7", "calls": []}});
    let text = json!({"action": "CALLS", "payload": {"pid": "7", "calls": [inner]}});
    decode(&serde_json::value::to_raw_value(&text).unwrap()).unwrap_err();
}
