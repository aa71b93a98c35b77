//! What a worker says of itself, checked before it is sent on chain.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{Decode, DecodeAll, Encode};
use prb_core::{
    attestation::{
        self, CollateralSource, Difference, Expected, NoCollateral, RegistrationError, RegistrationRequest,
        registration,
    },
    chain::{Call, Registration},
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{
        Attestation, AttestationPayload, GetRuntimeInfoRequest, InitRuntimeResponse, Method, PhactoryInfo,
    },
    pruntime::{self, PRuntime, PRuntimeClient},
    wire::{
        self, AttestationProvider, AttestationReport, Collateral, SgxV30QuoteCollateral,
        WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};
use prost::Message;

const WORKER: WorkerKey = WorkerKey([3; 32]);
const OPERATOR: AccountId = AccountId([7; 32]);
const GENESIS: Hash = Hash([1; 32]);
const ECDH: [u8; 32] = [9; 32];

/// Answers `GetRuntimeInfo` as told; remembers what it was asked.
#[derive(Debug)]
struct Worker {
    answer: Mutex<InitRuntimeResponse>,
    time_outs: AtomicU64,
    asked: Mutex<Vec<GetRuntimeInfoRequest>>,
}

#[async_trait]
impl PRuntimeClient for Worker {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
        assert_eq!(method, Method::GetRuntimeInfo);
        let request = GetRuntimeInfoRequest::decode(body).unwrap();
        self.asked.lock().unwrap().push(request);
        if self.time_outs.load(Ordering::Relaxed) > 0 {
            self.time_outs.fetch_sub(1, Ordering::Relaxed);
            return Err(pruntime::Error::TimedOut { method: method.name(), limit: Default::default() });
        }
        Ok(self.answer.lock().unwrap().encode_to_vec().into())
    }

    async fn kick(&self) -> Result<(), pruntime::Error> {
        unreachable!()
    }
}

fn info() -> WorkerRegistrationInfoV2 {
    WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![7],
        pubkey: WORKER,
        ecdh_pubkey: ECDH,
        genesis_block_hash: GENESIS,
        features: vec![4],
        operator: Some(OPERATOR),
        para_id: 2004,
        max_consensus_version: 0,
    }
}

fn answer(info: &impl Encode, attestation: Option<Attestation>) -> InitRuntimeResponse {
    InitRuntimeResponse { encoded_runtime_info: info.encode(), attestation, ..Default::default() }
}

fn encoded(report: Option<AttestationReport>) -> Option<Attestation> {
    Some(Attestation { version: 2, encoded_report: report.encode(), ..Default::default() })
}

fn ias() -> Option<Attestation> {
    let payload = AttestationPayload { report: "{}".into(), signature: vec![1], signing_cert: vec![2] };
    Some(Attestation { payload: Some(payload), ..Default::default() })
}

fn worker(answer: InitRuntimeResponse) -> (Arc<Worker>, PRuntime) {
    let worker = Worker { answer: Mutex::new(answer), time_outs: AtomicU64::new(0), asked: Mutex::default() };
    let worker = Arc::new(worker);
    (Arc::clone(&worker), PRuntime::new(worker))
}

fn expected() -> Expected {
    let info = PhactoryInfo { ecdh_public_key: Some(hex::encode(ECDH)), ..Default::default() };
    Expected::new(WORKER, OPERATOR, GENESIS, 2004).with_info(&info)
}

async fn register(answer: InitRuntimeResponse) -> Result<Call, RegistrationError> {
    let mut request = RegistrationRequest::new(false);
    registration(&worker(answer).1, &expected(), &mut request, None, None).await
}

#[tokio::test]
async fn each_attestation_goes_with_the_call_that_takes_it() {
    let report = wire::Attestation::SgxIas {
        ra_report: b"{}".to_vec(),
        signature: vec![1],
        raw_signing_cert: vec![2],
    };
    let first = WorkerRegistrationInfo::from(info());
    let v1 = Call::RegisterWorkerV1 {
        worker: WORKER,
        runtime_info: first.encode(),
        attestation: report.encode(),
        replaces: None,
    };
    assert_eq!(register(answer(&info(), ias())).await.unwrap(), v1);
    assert_eq!(register(answer(&first, ias())).await.unwrap(), v1, "an old worker's own format");

    let newer =
        AttestationReport::SgxIas { ra_report: vec![1], signature: vec![2], raw_signing_cert: vec![3] };
    let with_collateral = AttestationReport::SgxDcap { quote: vec![1], collateral: Some(collateral()) };
    for report in [None, Some(newer), Some(with_collateral)] {
        let expected = Call::RegisterWorker {
            worker: WORKER,
            runtime_info: info().encode(),
            attestation: report.encode(),
            replaces: None,
        };
        assert_eq!(register(answer(&info(), encoded(report))).await.unwrap(), expected);
    }
    // No report at all is none.
    let Call::RegisterWorker { attestation, .. } =
        register(answer(&info(), Some(Attestation::default()))).await.unwrap()
    else {
        panic!("not the second version's call")
    };
    assert_eq!(attestation, [0]);

    // What the first call makes of it on chain.
    let on_chain = Registration {
        pubkey: WORKER,
        ecdh_pubkey: ECDH,
        runtime_version: 1,
        last_updated: 5,
        operator: Some(OPERATOR),
        attestation_provider: Some(AttestationProvider::Ias),
        confidence_level: 1,
        initial_score: None,
        features: vec![4],
    };
    let first = first.encode();
    assert!(on_chain.is_of_v1(&first, None) && on_chain.is_of_v1(&first, Some(4)));
    assert!(!on_chain.is_of_v1(&first, Some(5)));
    let elsewhere = Registration { operator: Some(AccountId([1; 32])), ..on_chain };
    assert!(!elsewhere.is_of_v1(&first, None));
}

#[tokio::test]
async fn registrations_for_another_worker_are_not_sent() {
    let (other_key, other) = (WorkerKey([4; 32]), AccountId([8; 32]));
    let key = WorkerRegistrationInfoV2 { pubkey: other_key, ..info() };
    let operator = WorkerRegistrationInfoV2 { operator: Some(other), ..info() };
    let nobody = WorkerRegistrationInfoV2 { operator: None, ..info() };
    let genesis = WorkerRegistrationInfoV2 { genesis_block_hash: Hash([2; 32]), ..info() };
    let para_id = WorkerRegistrationInfoV2 { para_id: 2035, ..info() };
    let ecdh = WorkerRegistrationInfoV2 { ecdh_pubkey: [6; 32], ..info() };
    let cases = [
        (key, Difference::Key { expected: WORKER, found: other_key }, "0x0404"),
        (operator, Difference::Operator { expected: OPERATOR, found: Some(other) }, "0x0808"),
        (nobody, Difference::Operator { expected: OPERATOR, found: None }, "without an operator"),
        (genesis, Difference::RelayGenesis { expected: GENESIS, found: Hash([2; 32]) }, "delete its data"),
        (para_id, Difference::ParaId { expected: 2004, found: 2035 }, "parachain 2035, not 2004"),
        (ecdh, Difference::EcdhKey { expected: Hash(ECDH), found: Hash([6; 32]) }, "restart pRuntime"),
    ];
    for (info, difference, text) in cases {
        let error = register(answer(&info, encoded(None))).await.unwrap_err();
        assert!(!error.is_retryable() && error.to_string().contains(text), "{error}");
        assert!(
            matches!(error, RegistrationError::Differs(found) if found == [difference]),
            "{difference:?}"
        );
    }
    // The retired format is checked as well.
    let first = WorkerRegistrationInfo { operator: None, ..info().into() };
    assert!(matches!(register(answer(&first, ias())).await, Err(RegistrationError::Differs(_))));
    // Both are named where two differ.
    let two = WorkerRegistrationInfoV2 { operator: None, para_id: 1, ..info() };
    let error = register(answer(&two, encoded(None))).await.unwrap_err().to_string();
    assert!(error.contains("without an operator") && error.contains("parachain 1,"), "{error}");
}

#[tokio::test]
async fn unreadable_or_missing_registrations_are_not_sent() {
    let error = register(answer(&(), encoded(None))).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Unreadable { what: "registration info", .. }), "{error:?}");
    let garbage = Some(Attestation { encoded_report: vec![1, 1, 5], ..Default::default() });
    let error = register(answer(&info(), garbage)).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Unreadable { what: "attestation report", .. }), "{error:?}");
    let error = register(answer(&info(), None)).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NotYet) && error.is_retryable(), "{error:?}");
}

#[derive(Debug)]
struct Source(bool);

fn collateral() -> Collateral {
    Collateral::SgxV30(SgxV30QuoteCollateral { tcb_info: "{}".into(), ..Default::default() })
}

#[async_trait]
impl CollateralSource for Source {
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, attestation::Error> {
        assert_eq!(quote, [5, 6]);
        if self.0 { Ok(collateral()) } else { Err(attestation::Error::Unavailable { attempts: vec![] }) }
    }
}

#[tokio::test]
async fn bare_quote_is_sent_only_with_collateral() {
    let bare = AttestationReport::SgxDcap { quote: vec![5, 6], collateral: None };
    let answer = answer(&info(), encoded(Some(bare)));
    let error = register(answer.clone()).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NoCollateralSource { .. }) && !error.is_retryable());
    assert!(error.to_string().ends_with("; configure a source of collateral"), "{error}");

    let client = worker(answer).1;
    let mut request = RegistrationRequest::new(false);
    let none = NoCollateral::new("set X");
    let error = registration(&client, &expected(), &mut request, None, Some(&none)).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NoCollateralSource { .. }) && !error.is_retryable());
    assert!(error.to_string().ends_with("only with collateral; set X"), "{error}");
    let error =
        registration(&client, &expected(), &mut request, None, Some(&Source(false))).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Collateral(_)) && error.is_retryable(), "{error:?}");
    let call = registration(&client, &expected(), &mut request, Some(8), Some(&Source(true))).await.unwrap();
    let Call::RegisterWorker { attestation, replaces: Some(8), .. } = call else { panic!("{call:?}") };
    let report = Option::<AttestationReport>::decode_all(&mut &*attestation).unwrap();
    assert_eq!(
        report,
        Some(AttestationReport::SgxDcap { quote: vec![5, 6], collateral: Some(collateral()) })
    );
}

fn asked(worker: &Worker) -> Vec<(bool, Option<AccountId>)> {
    let asked = std::mem::take(&mut *worker.asked.lock().unwrap());
    asked
        .into_iter()
        .map(|r| (r.force_refresh_ra, r.encoded_operator.map(|o| AccountId::decode(&mut &*o).unwrap())))
        .collect()
}

#[tokio::test]
async fn slow_attestation_is_requested_once() {
    let (worker, client) = worker(answer(&info(), encoded(None)));
    let mut request = RegistrationRequest::new(true);
    worker.time_outs.store(2, Ordering::Relaxed);
    for _ in 0..2 {
        let error = registration(&client, &expected(), &mut request, None, None).await.unwrap_err();
        assert!(error.is_retryable() && error.is_connection(), "{error:?}");
    }
    registration(&client, &expected(), &mut request, None, None).await.unwrap();
    assert_eq!(asked(&worker), [(true, Some(OPERATOR)), (false, None), (false, None)]);
    // The attestation is there; sending the same request again forces no other one.
    registration(&client, &expected(), &mut request, None, None).await.unwrap();
    assert_eq!(asked(&worker), [(false, Some(OPERATOR))]);

    // The call that was given up on never came to the worker: it is told again.
    let nobody = WorkerRegistrationInfoV2 { operator: None, ..info() };
    *worker.answer.lock().unwrap() = answer(&nobody, encoded(None));
    worker.time_outs.store(1, Ordering::Relaxed);
    let mut request = RegistrationRequest::new(false);
    registration(&client, &expected(), &mut request, None, None).await.unwrap_err();
    let error = registration(&client, &expected(), &mut request, None, None).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Differs(_)), "{error:?}");
    assert_eq!(asked(&worker), [(false, Some(OPERATOR)), (false, None), (false, Some(OPERATOR))]);
}

#[tokio::test]
async fn dropped_attempt_counts_as_in_flight() {
    #[derive(Debug)]
    struct Hanging(Mutex<Vec<GetRuntimeInfoRequest>>);
    #[async_trait]
    impl PRuntimeClient for Hanging {
        async fn call(&self, _: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
            self.0.lock().unwrap().push(GetRuntimeInfoRequest::decode(body).unwrap());
            std::future::pending().await
        }
        async fn kick(&self) -> Result<(), pruntime::Error> {
            unreachable!()
        }
    }
    let worker = Arc::new(Hanging(Mutex::default()));
    let client = PRuntime::new(worker.clone());
    let mut request = RegistrationRequest::new(true);
    for _ in 0..2 {
        let expected = expected();
        let attempt = registration(&client, &expected, &mut request, None, None);
        tokio::select! {
            biased;
            _ = attempt => unreachable!(),
            () = std::future::ready(()) => {}
        }
    }
    let forced: Vec<_> = worker.0.lock().unwrap().iter().map(|r| r.force_refresh_ra).collect();
    assert_eq!(forced, [true, false]);
}
