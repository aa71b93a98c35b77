//! The serde form of jobs and what ends them: nothing is lost on the way, and the text stays as it was.
#![allow(clippy::unwrap_used)]

use prb_core::{
    chain::{BatchOutcome, Call, DispatchError, Effect, Effects},
    primitives::{AccountId, Hash, ParaNumber, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobFailure, JobId, JobOutcome, JobSigner, Lease},
    vault::Sealed,
    wire::{Message, MessageOrigin, SignedMessage, VersionedWorkerEndpoints, WorkerEndpointPayload},
};
use proptest::{collection::vec, option, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn origin() -> impl Strategy<Value = MessageOrigin> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|key| MessageOrigin::Worker(WorkerKey(key))),
        bytes().prop_map(MessageOrigin::MultiLocation),
        Just(MessageOrigin::Gatekeeper),
    ]
}

fn message() -> impl Strategy<Value = SignedMessage> {
    (origin(), bytes(), bytes(), any::<u64>(), bytes()).prop_map(
        |(sender, destination, payload, sequence, signature)| SignedMessage {
            message: Message { sender, destination, payload },
            sequence,
            signature,
        },
    )
}

fn endpoints() -> impl Strategy<Value = WorkerEndpointPayload> {
    (any::<[u8; 32]>(), vec(".{0,20}", 0..3), any::<u64>()).prop_map(|(key, urls, signing_time)| {
        WorkerEndpointPayload {
            pubkey: WorkerKey(key),
            versioned_endpoints: VersionedWorkerEndpoints::V1(urls),
            signing_time,
        }
    })
}

fn call() -> impl Strategy<Value = Call> {
    let worker = || any::<[u8; 32]>().prop_map(WorkerKey);
    let pool = || any::<u64>().prop_map(PoolId);
    let of_pool = || (pool(), worker());
    let staked = || (pool(), worker(), any::<u128>());
    let registration = || (worker(), bytes(), bytes(), option::of(any::<u64>()));
    prop_oneof![
        message().prop_map(Call::SyncOffchainMessage),
        registration().prop_map(|(worker, runtime_info, attestation, replaces)| Call::RegisterWorker {
            worker,
            runtime_info,
            attestation,
            replaces
        }),
        registration().prop_map(|(worker, runtime_info, attestation, replaces)| Call::RegisterWorkerV1 {
            worker,
            runtime_info,
            attestation,
            replaces
        }),
        (endpoints(), bytes())
            .prop_map(|(payload, signature)| Call::UpdateWorkerEndpoint { payload, signature }),
        of_pool().prop_map(|(pool, worker)| Call::AddWorker { pool, worker }),
        of_pool().prop_map(|(pool, worker)| Call::RemoveWorker { pool, worker }),
        staked().prop_map(|(pool, worker, stake)| Call::StartComputing { pool, worker, stake }),
        staked().prop_map(|(pool, worker, stake)| Call::RestartComputing { pool, worker, stake }),
        of_pool().prop_map(|(pool, worker)| Call::StopComputing { pool, worker }),
        of_pool().prop_map(|(pool, worker)| Call::ReclaimWorker { pool, worker }),
    ]
}

fn job() -> impl Strategy<Value = Job> {
    let proxied = option::of(any::<[u8; 32]>().prop_map(AccountId));
    (any::<u64>(), any::<[u8; 32]>(), bytes(), proxied, vec(call(), 1..5), any::<u32>()).prop_map(
        |(pool, operator, key, proxied, calls, retries)| Job {
            pool: PoolId(pool),
            signer: JobSigner { operator: AccountId(operator), key: Sealed(key), proxied },
            calls,
            retries,
        },
    )
}

fn outcome() -> impl Strategy<Value = JobOutcome> {
    let call = prop_oneof![
        Just(CallOutcome::Done),
        Just(CallOutcome::AlreadyDone),
        ".{0,20}".prop_map(CallOutcome::Failed)
    ];
    (vec(call, 0..5), any::<u32>(), option::of(any::<([u8; 32], u128)>())).prop_map(|(calls, block, sent)| {
        let (extrinsic, fee) = sent.map(|(extrinsic, fee)| (Hash(extrinsic), fee)).unzip();
        JobOutcome { calls, block: ParaNumber(block), extrinsic, fee }
    })
}

fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).unwrap();
    // Through a tree as well: where a format has no 128-bit integers, they are lost there.
    let tree: serde_json::Value = serde_json::from_str(&text).unwrap();
    let from_tree: T = serde_json::from_value(tree).unwrap();
    assert_eq!(serde_json::to_string(&from_tree).unwrap(), text);
    serde_json::from_str(&text).unwrap()
}

proptest! {
    #[test]
    fn jobs_round_trip(
        job in job(), id in any::<u64>(), token in any::<u64>(), attempt in any::<u32>(), retries_left in any::<u32>(),
    ) {
        prop_assert_eq!(&round_trip(&job), &job);
        let lease = Lease { id: JobId(id), token, attempt, retries_left, job };
        prop_assert_eq!(round_trip(&lease), lease);
    }

    #[test]
    fn ends_round_trip(outcome in outcome(), message in ".{0,40}", failed in any::<bool>()) {
        let fee = outcome.fee;
        prop_assert_eq!(round_trip(&outcome), outcome);
        let failure = JobFailure { message: message.clone() };
        prop_assert_eq!(round_trip(&failure), failure);
        let calls = vec![if failed { Err(DispatchError { name: message }) } else { Ok(()) }];
        let batch =
            BatchOutcome { extrinsic: Hash([1; 32]), block: Hash([2; 32]), number: ParaNumber(3), calls, fee };
        prop_assert_eq!(round_trip(&batch), batch);
        let effects = Effects { block: ParaNumber(4), calls: vec![Effect::Missing, Effect::Present] };
        prop_assert_eq!(round_trip(&effects), effects);
    }
}

/// What a queue on somebody's disk holds: each later version must read it.
#[test]
fn stored_jobs_stay_readable() {
    let worker = format!("0x{}", "07".repeat(32));
    let operator = format!("0x{}", "01".repeat(32));
    let message = format!("02{}08747004ff050000000000000004ff", "07".repeat(32));
    let text = format!(
        concat!(
            r#"{{"pool":12,"signer":{{"operator":"{operator}","key":"0405","proxied":null}},"calls":["#,
            r#"{{"sync_offchain_message":"{message}"}},"#,
            r#"{{"register_worker":{{"worker":"{worker}","runtime_info":"0102","attestation":"","replaces":9}}}},"#,
            r#"{{"register_worker_v1":{{"worker":"{worker}","runtime_info":"","attestation":"00","replaces":null}}}},"#,
            r#"{{"add_worker":{{"pool":12,"worker":"{worker}"}}}},"#,
            r#"{{"remove_worker":{{"pool":12,"worker":"{worker}"}}}},"#,
            r#"{{"start_computing":{{"pool":12,"worker":"{worker}","stake":"340282366920938463463374607431768211455"}}}},"#,
            r#"{{"restart_computing":{{"pool":12,"worker":"{worker}","stake":"1"}}}},"#,
            r#"{{"stop_computing":{{"pool":12,"worker":"{worker}"}}}},"#,
            r#"{{"reclaim_worker":{{"pool":12,"worker":"{worker}"}}}}],"retries":3}}"#,
        ),
        operator = operator,
        message = message,
        worker = worker,
    );
    let job: Job = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&job).unwrap(), text);
    assert_eq!(job.calls[0].worker(), Some(WorkerKey([7; 32])));
    let Call::SyncOffchainMessage(message) = &job.calls[0] else { panic!("{:?}", job.calls[0]) };
    assert_eq!((message.sequence, &message.message.destination[..]), (5, &b"tp"[..]));
}

#[test]
fn unknown_fields_and_variants_are_refused() {
    let worker = format!("0x{}", "07".repeat(32));
    for text in [
        format!(r#"{{"stop_computing":{{"pool":12,"worker":"{worker}","only_if":"idle"}}}}"#),
        format!(r#"{{"pause_computing":{{"pool":12,"worker":"{worker}"}}}}"#),
        format!(r#"{{"start_computing":{{"pool":12,"worker":"{worker}","stake":"-1"}}}}"#),
        r#"{"sync_offchain_message":"02ff"}"#.to_owned(),
    ] {
        serde_json::from_str::<Call>(&text).unwrap_err();
    }
    // A registration that was stored without the field.
    let text = format!(r#"{{"register_worker":{{"worker":"{worker}","runtime_info":"","attestation":""}}}}"#);
    assert!(matches!(serde_json::from_str(&text), Ok(Call::RegisterWorker { replaces: None, .. })));
}
