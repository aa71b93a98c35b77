//! The client that production uses, against the devnet's workers: the seam's promises, and what a worker attests,
//! registered on the devnet's chain.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "bridge_rig/rig.rs"]
mod rig;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use codec::Decode;
use prb_core::{
    attestation::{CollateralSource, Expected, RegistrationError, RegistrationRequest, registration},
    chain::{Call, Registration, WorkerOnChain},
    conformance::pruntime::{self, TestWorker},
    primitives::AccountId,
    prpc::{InitRuntimeRequest, Method},
    pruntime::{
        Connect, PRuntime, endpoints,
        http::{HttpConfig, HttpConnect},
    },
    wire::{AttestationProvider, VersionedWorkerEndpoints},
};
use prb_devnet::{
    Config, Devnet,
    worker::{DevnetCollateral, Restart, Worker, WorkerConfig, WorkerHandle},
};
use prb_devnet_runtime::{pallets::registry, para::v1::Runtime};
use prost::Message;
use rig::{Bridge, item};
use sp_io::hashing::twox_64;

fn client(worker: &WorkerHandle) -> PRuntime {
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    PRuntime::new(connect.connect(&worker.endpoint()).unwrap())
}

async fn spawn(devnet: &Devnet, change: impl FnOnce(&mut WorkerConfig)) -> WorkerHandle {
    let mut config = WorkerConfig::new(devnet.config().seed.to_string(), 0);
    config.restart_delay = Duration::from_millis(20);
    change(&mut config);
    Worker::spawn(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_client_conforms() {
    let devnet = Devnet::build(Config { history: 30, set_length: 0, ..Config::default() }).unwrap();
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    let bridges = Mutex::new(Vec::new());
    let fresh = async || {
        let worker = spawn(&devnet, |config| config.restart = Restart::Checkpoint).await;
        let bridge = Bridge::new(&devnet, worker);
        let (mut headers, mut blocks, mut next_para) = (Vec::new(), Vec::new(), 0);
        for (first, last) in [(2, 11), (12, 21)] {
            let (request, head) = bridge.headers_request(first, last, next_para);
            headers.push(request.encode_to_vec().into());
            blocks.push(bridge.blocks_request(next_para.max(1)..=head).encode_to_vec().into());
            next_para = head + 1;
        }
        let (one, other) = (Arc::clone(&bridge.worker), Arc::clone(&bridge.worker));
        let subject = TestWorker {
            client: connect.connect(&format!("{}/", bridge.worker.endpoint())).unwrap(),
            init: bridge.init_request(),
            headers,
            blocks,
            para_id: devnet.para_id(),
            slow_dispatch: Box::new(move |takes| one.faults().slow_dispatch(takes)),
            slow_attestation: Box::new(move |takes| other.faults().slow_attestation(takes)),
        };
        bridges.lock().unwrap().push(bridge);
        subject
    };
    pruntime::all(fresh).await;
}

/// A worker that has caught up, initialised to attest as it can.
struct Attesting {
    bridge: Bridge,
    client: PRuntime,
    operator: AccountId,
    expected: Expected,
}

async fn attesting(
    config: Config,
    provider: AttestationProvider,
    change: impl FnOnce(&mut WorkerConfig),
) -> Attesting {
    let devnet = Devnet::build(Config { history: 20, ..config }).unwrap();
    let worker = spawn(&devnet, change).await;
    let (key, client) = (worker.public_key(), client(&worker));
    let bridge = Bridge::new(&devnet, worker);
    let operator = AccountId(devnet.pools()[0].operator.clone().into());
    let request = InitRuntimeRequest {
        skip_ra: false,
        attestation_provider: Some(vec![provider as u8]),
        ..bridge.init_request()
    };
    client.init(&request).await.unwrap();
    bridge.sync().await;
    let info = client.info().await.unwrap();
    let genesis = info.genesis_block_hash.as_deref().unwrap().parse().unwrap();
    let expected = Expected::new(key, operator, genesis, devnet.para_id()).with_info(&info);
    Attesting { bridge, client, operator, expected }
}

impl Attesting {
    async fn registration(
        &self,
        collateral: Option<&dyn CollateralSource>,
    ) -> Result<Call, RegistrationError> {
        let mut request = RegistrationRequest::new(false);
        registration(&self.client, &self.expected, &mut request, None, collateral).await
    }

    async fn send(&self, call: Call) {
        match call {
            Call::RegisterWorker { runtime_info, attestation, .. } => {
                self.bridge.submit(registry::Call::<Runtime>::register_worker_v2 {
                    pruntime_info: Decode::decode(&mut &*runtime_info).unwrap(),
                    attestation: Decode::decode(&mut &*attestation).unwrap(),
                });
            }
            Call::RegisterWorkerV1 { runtime_info, attestation, .. } => {
                self.bridge.submit(registry::Call::<Runtime>::register_worker {
                    pruntime_info: Decode::decode(&mut &*runtime_info).unwrap(),
                    attestation: Decode::decode(&mut &*attestation).unwrap(),
                });
            }
            Call::UpdateWorkerEndpoint { payload, signature } => {
                self.bridge.submit(registry::Call::<Runtime>::update_worker_endpoint {
                    endpoint_payload: rig::wire(&payload),
                    signature,
                });
            }
            other => panic!("{other:?}"),
        }
        for _ in 0..3 {
            self.bridge.step().await;
        }
    }

    fn stored<T: Decode>(&self, name: &str) -> Option<T> {
        let key = self.expected.worker.0;
        let key = [item("PhalaRegistry", name), twox_64(&key).to_vec(), key.to_vec()].concat();
        let para = self.bridge.devnet.para();
        let value = para.storage(&key, para.block_hash(para.finalized_number()).unwrap()).unwrap()?;
        Some(T::decode(&mut &*value).unwrap())
    }

    fn registered(&self) -> Option<Registration> {
        self.stored("Workers")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dcap_worker_registers_with_collateral_and_not_without() {
    let config = Config { none_attestation: false, ..Config::default() };
    let dcap = |config: &mut WorkerConfig| config.attestation_methods = vec!["dcap".into()];
    let worker = attesting(config, AttestationProvider::Dcap, dcap).await;
    let error = worker.registration(None).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NoCollateralSource { .. }), "{error:?}");

    // What the chain says to the quote as the worker gives it.
    let answer = worker.client.runtime_info(&Default::default()).await.unwrap();
    worker
        .send(Call::RegisterWorker {
            worker: worker.expected.worker,
            runtime_info: answer.encoded_runtime_info,
            attestation: answer.attestation.unwrap().encoded_report,
            replaces: None,
        })
        .await;
    assert_eq!(worker.registered(), None, "the chain takes no bare quote");

    let call = worker.registration(Some(&DevnetCollateral)).await.unwrap();
    worker.send(call).await;
    let registered = worker.registered().unwrap();
    assert_eq!(registered.attestation_provider, Some(AttestationProvider::Dcap));
    assert_eq!(registered.operator, Some(worker.operator));
    assert!(worker.bridge.info().await.registered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ias_workers_of_both_versions_register() {
    for first_version in [false, true] {
        let config = Config { none_attestation: false, ias_attestation: true, ..Config::default() };
        let worker = attesting(config, AttestationProvider::Ias, |config| {
            config.attestation_methods = vec!["epid".into()];
            config.first_version = first_version;
        })
        .await;
        let call = worker.registration(None).await.unwrap();
        assert_eq!(matches!(call, Call::RegisterWorkerV1 { .. }), first_version);
        worker.send(call).await;
        let registered = worker.registered().unwrap();
        assert_eq!(registered.attestation_provider, Some(AttestationProvider::Ias));
        assert_eq!(registered.operator, Some(worker.operator));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_for_another_worker_is_refused() {
    let dcap = |config: &mut WorkerConfig| config.attestation_methods = vec!["dcap".into()];
    let worker = attesting(Config::default(), AttestationProvider::Dcap, dcap).await;
    let wrong = AccountId([9; 32]);
    worker.bridge.worker.faults().wrong_operator(Some(wrong));
    let error = worker.registration(Some(&DevnetCollateral)).await.unwrap_err();
    assert!(error.to_string().contains(&wrong.to_string()), "{error}");
    worker.bridge.worker.faults().clear();
    worker.registration(Some(&DevnetCollateral)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_worker_announces_its_endpoints() {
    let dcap = |config: &mut WorkerConfig| config.attestation_methods = vec!["dcap".into()];
    let worker = attesting(Config::default(), AttestationProvider::Dcap, dcap).await;
    let call = worker.registration(Some(&DevnetCollateral)).await.unwrap();
    worker.send(call).await;
    let wanted = vec!["https://worker.example.org".to_owned(), "http://10.0.0.1:8000".to_owned()];
    let mut on_chain = WorkerOnChain::default();
    assert!(endpoints::differ(&wanted, &on_chain) && !endpoints::differ(&[], &on_chain));
    let now = worker.client.info().await.unwrap().current_block_time;
    let call = endpoints::announcement(&worker.client, worker.expected.worker, &wanted, now).await.unwrap();
    worker.send(call).await;
    let Some(VersionedWorkerEndpoints::V1(announced)) = worker.stored("Endpoints") else {
        panic!("nothing is announced")
    };
    on_chain.endpoints = announced;
    assert!(!endpoints::differ(&wanted, &on_chain), "{on_chain:?}");
    assert!(endpoints::differ(&wanted[..1], &on_chain));
    assert_eq!(worker.bridge.worker.calls(Method::SignEndpointInfo), 1);
}
