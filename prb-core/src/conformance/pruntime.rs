//! Conformance suite of [`PRuntimeClient`], after the behaviour of a real pRuntime.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use codec::{Decode, Encode};
use prost::Message;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    attestation::{Expected, RegistrationError, RegistrationRequest, registration},
    chain::Call,
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{self, Method},
    pruntime::{Error, PRuntime, PRuntimeClient, endpoints},
    wire::{HeaderToSync, WorkerRegistrationInfoV2},
};

/// Long enough for two calls to overlap.
const SLOW: Duration = Duration::from_millis(600);
/// Long enough for a call to have arrived, and much shorter than [`SLOW`].
const SHORT: Duration = Duration::from_millis(150);
/// A worker that has not returned by then never will.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The operator set on the workers.
const OPERATOR: AccountId = AccountId([0x0b; 32]);
/// Another operator.
const OTHER: AccountId = AccountId([0x0c; 32]);

/// An uninitialised worker, and chain data that it accepts.
///
/// After an exit it restarts by itself from its last checkpoint.
pub struct TestWorker {
    /// The client under test.
    pub client: Arc<dyn PRuntimeClient>,
    /// The `InitRuntime` request, without attestation. The suite adds the operator.
    pub init: prpc::InitRuntimeRequest,
    /// At least two consecutive bodies of `SyncCombinedHeaders`, each with parachain headers.
    pub headers: Vec<Bytes>,
    /// As many bodies of `DispatchBlocks`: the blocks of those headers, except for block 0.
    pub blocks: Vec<Bytes>,
    /// The parachain's id.
    pub para_id: u32,
    /// Makes every dispatch take about that long.
    pub slow_dispatch: Box<dyn Fn(Duration) + Send + Sync>,
    /// Makes every new attestation take about that long.
    pub slow_attestation: Box<dyn Fn(Duration) + Send + Sync>,
}

impl fmt::Debug for TestWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestWorker").field("client", &self.client).finish_non_exhaustive()
    }
}

impl TestWorker {
    fn worker(&self) -> PRuntime {
        PRuntime::new(Arc::clone(&self.client))
    }

    async fn initialised(&self) -> PRuntime {
        let worker = self.worker();
        let request =
            prpc::InitRuntimeRequest { encoded_operator: Some(OPERATOR.encode()), ..self.init.clone() };
        worker.init(&request).await.unwrap();
        worker
    }

    async fn synced(&self) -> PRuntime {
        let worker = self.initialised().await;
        worker.sync_headers(self.headers[0].clone()).await.unwrap();
        worker.dispatch_blocks(self.blocks[0].clone()).await.unwrap();
        worker
    }
}

/// Runs all checks. `fresh` creates a worker that shares nothing with the previous ones.
///
/// ```
/// use prb_core::conformance::pruntime::{self, TestWorker};
///
/// /// Starts a worker, and returns it with batches that it accepts.
/// async fn conforms(fresh: impl AsyncFn() -> TestWorker) {
///     pruntime::all(fresh).await;
/// }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all(fresh: impl AsyncFn() -> TestWorker) {
    requests_are_answered_or_refused(&fresh().await).await;
    a_worker_is_initialised_once(&fresh().await).await;
    blocks_are_accepted_in_order(&fresh().await).await;
    header_batches_need_headers_and_a_justification(&fresh().await).await;
    registration_names_the_operator_of_the_request(&fresh().await).await;
    a_slow_attestation_is_kept(&fresh().await).await;
    endpoints_are_signed(&fresh().await).await;
    calls_are_busy_during_a_dispatch(&fresh().await).await;
    a_dispatch_continues_without_its_caller(&fresh().await).await;
    an_exit_restores_the_checkpoint(&fresh().await).await;
    a_state_is_loaded_only_before_the_sync(&fresh().await).await;
}

fn refused<T: fmt::Debug>(result: Result<T, Error>, status: u16, text: &str) {
    match result {
        Err(Error::Refused { status: found, message, .. }) => {
            assert!(
                found == status && message.starts_with(text),
                "{found} {message:?}, not {status} {text:?}"
            );
        }
        other => panic!("{other:?} instead of {status} {text:?}"),
    }
}

async fn requests_are_answered_or_refused(test: &TestWorker) {
    let client = &test.client;
    let echo = prpc::EchoMessage { echo_msg: Bytes::from_static(b"\0hello\xff") };
    let answer = client.call(Method::Echo, echo.encode_to_vec().into()).await.unwrap();
    assert_eq!(prpc::EchoMessage::decode(answer).unwrap(), echo, "`Echo` returns its request");

    refused(client.call(Method::Echo, Bytes::from_static(b"\xff")).await, 400, "DecodeError");
    let not_scale =
        prpc::HeadersToSync { encoded_headers: Bytes::from_static(b"\xff"), ..Default::default() };
    let not_scale = Bytes::from(not_scale.encode_to_vec());
    refused(client.call(Method::SyncHeader, not_scale).await, 400, "DecodeError");

    let limit = Method::GetInfo.body_limit_bytes();
    let error = client.call(Method::GetInfo, vec![0; limit + 1].into()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit_bytes, .. } if limit_bytes == limit), "{error:?}");
}

async fn a_worker_is_initialised_once(test: &TestWorker) {
    let worker = test.worker();
    let before = worker.info().await.unwrap();
    assert!(!before.initialized && before.can_load_chain_state && !before.version.is_empty(), "{before:?}");
    assert_eq!(
        (before.public_key, before.genesis_block_hash),
        (None, None),
        "no key and no chain before `InitRuntime`"
    );
    refused(worker.sync_headers(test.headers[0].clone()).await, 500, "");
    refused(worker.dispatch_blocks(test.blocks[0].clone()).await, 500, "");
    refused(worker.runtime_info(&prpc::GetRuntimeInfoRequest::default()).await, 500, "");
    assert!(
        worker.egress_messages().await.unwrap().into_iter().all(|(_, messages)| messages.is_empty()),
        "no messages before `InitRuntime`"
    );

    let worker = test.initialised().await;
    let info = worker.info().await.unwrap();
    assert!(info.initialized && !info.registered, "{info:?}");
    assert_eq!(
        (info.para_headernum, info.blocknum),
        (0, 1),
        "the next parachain header and block after `InitRuntime`"
    );
    info.public_key.unwrap().parse::<WorkerKey>().unwrap();
    info.genesis_block_hash.unwrap().parse::<Hash>().unwrap();
    refused(worker.init(&test.init).await, 500, "Runtime already initialized");
}

async fn blocks_are_accepted_in_order(test: &TestWorker) {
    let worker = test.initialised().await;
    refused(worker.dispatch_blocks(test.blocks[0].clone()).await, 500, "NoStateRoot");
    refused(worker.sync_headers(test.headers[1].clone()).await, 500, "BlockNumberMismatch");
    let synced = worker.sync_headers(test.headers[0].clone()).await.unwrap();
    let info = worker.info().await.unwrap();
    assert_eq!(info.headernum, synced.relaychain_synced_to + 1, "`headernum` is the next relay header");
    assert_eq!(
        info.para_headernum,
        synced.parachain_synced_to + 1,
        "`para_headernum` is the next parachain header"
    );
    refused(worker.dispatch_blocks(test.blocks[1].clone()).await, 500, "BlockNumberMismatch");
    let dispatched = worker.dispatch_blocks(test.blocks[0].clone()).await.unwrap();
    let info = worker.info().await.unwrap();
    assert_eq!(info.blocknum, dispatched.synced_to + 1, "`blocknum` is the next block");
    // Blocks whose headers are missing are refused.
    refused(worker.dispatch_blocks(test.blocks[1].clone()).await, 500, "NoStateRoot");

    // Known data is accepted without effect, and so is an empty batch.
    let empty = prpc::CombinedHeadersToSync {
        encoded_relaychain_headers: vec![0].into(),
        encoded_parachain_headers: vec![0].into(),
        ..Default::default()
    };
    for headers in [test.headers[0].clone(), empty.encode_to_vec().into()] {
        assert_eq!(worker.sync_headers(headers).await.unwrap(), synced, "known headers have no effect");
    }
    let empty = prpc::Blocks { encoded_blocks: vec![0].into() };
    for blocks in [test.blocks[0].clone(), empty.encode_to_vec().into()] {
        assert_eq!(worker.dispatch_blocks(blocks).await.unwrap(), dispatched, "known blocks have no effect");
    }
    assert_eq!(worker.info().await.unwrap(), info, "known data changes nothing");
    for (headers, blocks) in test.headers.iter().zip(&test.blocks) {
        worker.sync_headers(headers.clone()).await.unwrap();
        worker.dispatch_blocks(blocks.clone()).await.unwrap();
    }
    assert!(worker.info().await.unwrap().blocknum > info.blocknum, "further blocks advance it");
}

async fn header_batches_need_headers_and_a_justification(test: &TestWorker) {
    let worker = test.initialised().await;
    let mut request = prpc::CombinedHeadersToSync::decode(test.headers[0].clone()).unwrap();
    let mut headers = Vec::<HeaderToSync>::decode(&mut &*request.encoded_relaychain_headers).unwrap();
    headers.last_mut().unwrap().justification = None;
    request.encoded_relaychain_headers = headers.encode().into();
    refused(worker.sync_headers(request.encode_to_vec().into()).await, 500, "MissingJustification");

    request.encoded_relaychain_headers = vec![0].into();
    refused(worker.sync_headers(request.encode_to_vec().into()).await, 500, "RelaychainHeaderNotSynced");
    assert_eq!(worker.info().await.unwrap().para_headernum, 0, "a refused batch adds no parachain headers");
    worker.sync_headers(test.headers[0].clone()).await.unwrap();
}

async fn expected(worker: &PRuntime, operator: AccountId, para_id: u32) -> Expected {
    let info = worker.info().await.unwrap();
    let key = info.public_key.as_deref().unwrap().parse().unwrap();
    let genesis = info.genesis_block_hash.as_deref().unwrap().parse().unwrap();
    Expected::new(key, operator, genesis, para_id).with_info(&info)
}

async fn registration_names_the_operator_of_the_request(test: &TestWorker) {
    let worker = test.initialised().await;
    let expects = expected(&worker, OPERATOR, test.para_id).await;
    let mut request = RegistrationRequest::new(false);
    // No attestation before the state is validated.
    let early = registration(&worker, &expects, &mut request, None, None).await;
    assert!(matches!(early, Err(RegistrationError::NotYet)), "{early:?}");
    worker.sync_headers(test.headers[0].clone()).await.unwrap();
    worker.dispatch_blocks(test.blocks[0].clone()).await.unwrap();
    for operator in [OPERATOR, OTHER] {
        let expects = expected(&worker, operator, test.para_id).await;
        let call = registration(&worker, &expects, &mut request, None, None).await.unwrap();
        let Call::RegisterWorker { worker: key, runtime_info, attestation, .. } = call else {
            panic!("{call:?}")
        };
        let info = WorkerRegistrationInfoV2::decode(&mut &*runtime_info).unwrap();
        assert_eq!(
            (info.pubkey, info.operator, key),
            (expects.worker, Some(operator), expects.worker),
            "the registration names key and operator of the request"
        );
        assert_eq!(attestation, [0], "it was initialised without attestation");
    }
    // The last operator is kept.
    let answer = worker.runtime_info(&prpc::GetRuntimeInfoRequest::default()).await.unwrap();
    let info = WorkerRegistrationInfoV2::decode(&mut &*answer.encoded_runtime_info).unwrap();
    assert_eq!(info.operator, Some(OTHER), "the last operator is kept");
    assert_eq!(answer.encoded_public_key, info.pubkey.encode(), "the answer's key is the registration's");
    assert_eq!(
        answer.encoded_genesis_block_hash,
        info.genesis_block_hash.encode(),
        "the answer's chain is the registration's"
    );
    assert_eq!(
        answer.encoded_ecdh_public_key,
        info.ecdh_pubkey.encode(),
        "the answer's ECDH key is the registration's"
    );
}

/// Drops a call that cannot have ended yet.
async fn cancel_early<T: fmt::Debug>(call: impl Future<Output = T>) {
    let answer = timeout(SHORT, call).await;
    assert!(answer.is_err(), "{answer:?} came too early");
}

async fn a_slow_attestation_is_kept(test: &TestWorker) {
    let worker = test.synced().await;
    let expects = expected(&worker, OPERATOR, test.para_id).await;
    (test.slow_attestation)(SLOW);
    let began = Instant::now();
    let mut request = RegistrationRequest::new(true);
    cancel_early(registration(&worker, &expects, &mut request, None, None)).await;
    // The next attempt uses the attestation that the first one started.
    registration(&worker, &expects, &mut request, None, None).await.unwrap();
    assert!(began.elapsed() >= SLOW && began.elapsed() < 2 * SLOW, "{:?}", began.elapsed());
    let began = Instant::now();
    worker.runtime_info(&prpc::GetRuntimeInfoRequest::default()).await.unwrap();
    assert!(began.elapsed() < SLOW, "it attested again");
}

async fn endpoints_are_signed(test: &TestWorker) {
    let worker = test.worker();
    let wanted = ["https://worker.example.org".to_owned(), "http://10.0.0.1:8000".to_owned()];
    assert!(worker.sign_endpoints(&wanted).await.is_err(), "it has no key yet");
    let worker = test.synced().await;
    let info = worker.info().await.unwrap();
    let key = info.public_key.as_deref().unwrap().parse().unwrap();
    let now = info.current_block_time;
    let call = endpoints::announcement(&worker, key, &wanted, now).await.unwrap();
    assert!(matches!(call, Call::UpdateWorkerEndpoint { .. }), "{call:?}");
    // The chain's time is ahead by exactly the limit, which is exclusive.
    let late = now + endpoints::MAX_SIGNATURE_AGE_MS;
    let late = endpoints::announcement(&worker, key, &wanted, late).await;
    assert!(matches!(late, Err(endpoints::Error::Behind { .. })), "{late:?}");
    let other = endpoints::announcement(&worker, WorkerKey([1; 32]), &wanted, now).await;
    assert!(matches!(other, Err(endpoints::Error::Answer { .. })), "{other:?}");
}

async fn calls_are_busy_during_a_dispatch(test: &TestWorker) {
    let worker = test.initialised().await;
    worker.sync_headers(test.headers[0].clone()).await.unwrap();
    (test.slow_dispatch)(SLOW);
    let dispatch = worker.dispatch_blocks(test.blocks[0].clone());
    let meanwhile = async {
        sleep(SHORT).await;
        let error = worker.sync_headers(test.headers[1].clone()).await.unwrap_err();
        assert!(error.is_busy() && error.is_retryable(), "{error:?}");
        assert!(
            worker.dispatch_blocks(test.blocks[0].clone()).await.unwrap_err().is_busy(),
            "a second dispatch meanwhile is refused as busy"
        );
        assert_eq!(worker.info().await.unwrap().blocknum, 1, "the state is the old one meanwhile");
        worker.egress_messages().await.unwrap();
    };
    let (dispatched, ()) = tokio::join!(dispatch, meanwhile);
    let blocknum = worker.info().await.unwrap().blocknum;
    assert_eq!(blocknum, dispatched.unwrap().synced_to + 1, "the dispatch took effect");
    worker.sync_headers(test.headers[1].clone()).await.unwrap();
}

async fn a_dispatch_continues_without_its_caller(test: &TestWorker) {
    let worker = test.initialised().await;
    worker.sync_headers(test.headers[0].clone()).await.unwrap();
    (test.slow_dispatch)(SLOW);
    cancel_early(worker.dispatch_blocks(test.blocks[0].clone())).await;
    assert!(
        worker.dispatch_blocks(test.blocks[0].clone()).await.unwrap_err().is_busy(),
        "a second dispatch meanwhile is refused as busy"
    );
    let began = Instant::now();
    while worker.info().await.unwrap().blocknum == 1 {
        assert!(began.elapsed() < TIMEOUT, "the dispatch was lost with its caller");
        sleep(SHORT).await;
    }
}

async fn wait_until_back(worker: &PRuntime) -> prpc::PhactoryInfo {
    let began = Instant::now();
    loop {
        match worker.info().await {
            Ok(info) => return info,
            Err(error) => assert!(error.is_connection() && began.elapsed() < TIMEOUT, "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn an_exit_restores_the_checkpoint(test: &TestWorker) {
    let worker = test.synced().await;
    let key = worker.info().await.unwrap().public_key;
    worker.kick().await.unwrap();
    let info = wait_until_back(&worker).await;
    assert!(!info.initialized && info.can_load_chain_state, "{info:?}");

    let worker = test.synced().await;
    let kept = worker.info().await.unwrap();
    assert_eq!(kept.public_key, key, "the key outlasts the loss of state");
    assert_eq!(
        worker.take_checkpoint().await.unwrap().synced_to + 1,
        kept.blocknum,
        "the checkpoint is of the last dispatched block"
    );
    worker.sync_headers(test.headers[1].clone()).await.unwrap();
    worker.dispatch_blocks(test.blocks[1].clone()).await.unwrap();
    worker.kick().await.unwrap();
    let info = wait_until_back(&worker).await;
    assert_eq!(
        (info.headernum, info.para_headernum, info.blocknum),
        (kept.headernum, kept.para_headernum, kept.blocknum),
        "the state after an exit is the checkpoint's"
    );
    worker.sync_headers(test.headers[1].clone()).await.unwrap();

    // A call being answered is aborted when the process exits.
    (test.slow_dispatch)(SLOW);
    let dispatch = worker.dispatch_blocks(test.blocks[1].clone());
    let kick = async {
        sleep(SHORT).await;
        worker.kick().await.unwrap();
    };
    let (dispatched, ()) = tokio::join!(dispatch, kick);
    assert!(dispatched.unwrap_err().is_connection(), "a call during the exit ends with its connection");
    assert_eq!(wait_until_back(&worker).await.blocknum, kept.blocknum, "the aborted dispatch had no effect");
}

async fn a_state_is_loaded_only_before_the_sync(test: &TestWorker) {
    let worker = test.synced().await;
    let state = prpc::ChainState { block_number: 9, encoded_state: test.init.encoded_genesis_state.clone() };
    refused(worker.load_chain_state(&state).await, 500, "Can not load chain state");
    assert!(
        !worker.info().await.unwrap().can_load_chain_state,
        "a synced worker does not offer to load a state"
    );
}
