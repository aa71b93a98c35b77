//! The scripted worker keeps the promises of its seam, and does as it is told.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use codec::Encode;
use prb_core::{
    attestation::{Expected, RegistrationError, RegistrationRequest, registration},
    blob::{
        BlobSource, BlockCursor, HeaderCursor,
        memory::{MemorySource, empty_genesis},
    },
    conformance::pruntime::{self, TestWorker},
    primitives::{AccountId, Hash, ParaNumber, RelayNumber, WorkerKey},
    prpc::{InitRuntimeRequest, Method},
    pruntime::{
        Error, PRuntime,
        scripted::{Failure, Restart, ScriptedWorker, Timings},
    },
    wire::{AttestationProvider, MessageOrigin},
};

/// Bodies of header batches and of their blocks.
async fn batches(blocks: u32) -> (Vec<Bytes>, Vec<Bytes>) {
    let source = MemorySource::of_empty_blocks(blocks);
    let (mut relay, mut para) = (RelayNumber(1), ParaNumber(0));
    let (mut headers, mut bodies) = (Vec::new(), Vec::new());
    while let Some(batch) = source.headers(HeaderCursor { relay, para }, 600).await.unwrap() {
        let span = batch.para.unwrap();
        let cursor = BlockCursor { from: span.first.max(ParaNumber(1)), to: span.last };
        bodies.push(source.blocks(cursor, 1 << 20).await.unwrap().unwrap().body);
        (relay, para) = (batch.relay.last.next(), span.last.next());
        headers.push(batch.body);
    }
    (headers, bodies)
}

async fn subject() -> TestWorker {
    let worker = ScriptedWorker::new(5);
    let (headers, blocks) = batches(6).await;
    let smallest = blocks.iter().map(Bytes::len).min().unwrap() as u64;
    let (one, other) = (worker.clone(), worker.clone());
    TestWorker {
        client: Arc::new(worker),
        init: InitRuntimeRequest { is_parachain: true, ..Default::default() },
        headers,
        blocks,
        para_id: empty_genesis(RelayNumber(0)).para_id,
        slow_dispatch: Box::new(move |takes| {
            let mut pace = Timings::default();
            pace.dispatch_bytes_per_sec = smallest * 1000 / takes.as_millis() as u64;
            one.set_timings(pace);
        }),
        slow_attestation: Box::new(move |takes| {
            let mut pace = Timings::default();
            pace.attestation = takes;
            other.set_timings(pace);
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn the_scripted_worker_conforms() {
    pruntime::all(subject).await;
}

async fn synced(worker: &ScriptedWorker) -> PRuntime {
    let client = PRuntime::new(Arc::new(worker.clone()));
    client.init(&InitRuntimeRequest::default()).await.unwrap();
    let (headers, blocks) = batches(6).await;
    client.sync_headers(headers[0].clone()).await.unwrap();
    client.dispatch_blocks(blocks[0].clone()).await.unwrap();
    client
}

#[tokio::test(start_paused = true)]
async fn scripted_worker_crashes_at_a_block_and_restarts() {
    let worker = ScriptedWorker::new(1);
    let client = synced(&worker).await;
    client.take_checkpoint().await.unwrap();
    let at = worker.next_block();
    worker.set_crashes_at(Some(at));
    let (headers, blocks) = batches(6).await;
    for exits in 1..4 {
        client.sync_headers(headers[1].clone()).await.unwrap();
        let error = client.dispatch_blocks(blocks[1].clone()).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert_eq!((worker.exits(), worker.kicks(), worker.next_block()), (exits, 0, at));
    }
    worker.set_crashes_at(None);
    client.sync_headers(headers[1].clone()).await.unwrap();
    client.dispatch_blocks(blocks[1].clone()).await.unwrap();
    assert!(worker.next_block() > at);
    assert_eq!(worker.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn stuck_worker_answers_without_progress() {
    let worker = ScriptedWorker::new(1);
    let client = synced(&worker).await;
    worker.set_stuck(true);
    let before = client.info().await.unwrap();
    let (headers, blocks) = batches(6).await;
    client.sync_headers(headers[1].clone()).await.unwrap();
    assert_eq!(client.info().await.unwrap(), before);
    worker.set_stuck(false);
    client.sync_headers(headers[1].clone()).await.unwrap();
    worker.set_stuck(true);
    let to = client.dispatch_blocks(blocks[1].clone()).await.unwrap();
    assert_eq!(to.synced_to + 1, before.blocknum);
    assert_eq!(client.info().await.unwrap().blocknum, before.blocknum);
}

#[tokio::test(start_paused = true)]
async fn registration_info_can_be_faulty() {
    let worker = ScriptedWorker::new(1);
    let client = synced(&worker).await;
    let expected = Expected::new(worker.key(), AccountId([7; 32]), Hash::default(), 2004);
    let attempt =
        async || registration(&client, &expected, &mut RegistrationRequest::new(false), None, None).await;
    attempt().await.unwrap();
    worker.alter_registration(|info| info.operator = None);
    assert!(matches!(attempt().await, Err(RegistrationError::Differs(_))));
    worker.alter_registration(|info| info.pubkey = WorkerKey([9; 32]));
    assert!(matches!(attempt().await, Err(RegistrationError::Differs(_))));
    worker.alter_registration(|info| info.genesis_block_hash = Hash([9; 32]));
    assert!(matches!(attempt().await, Err(RegistrationError::Differs(_))));
}

#[tokio::test(start_paused = true)]
async fn attestation_uses_the_supported_provider() {
    let init = async |provider: Option<Vec<u8>>| {
        let worker = ScriptedWorker::new(1);
        worker.edit(|state| state.info.supported_attestation_methods = vec!["dcap".into()]);
        let request = InitRuntimeRequest { attestation_provider: provider, ..Default::default() };
        PRuntime::new(Arc::new(worker)).init(&request).await
    };
    init(None).await.unwrap();
    init(Some(AttestationProvider::Dcap.encode())).await.unwrap();
    // An encoded option is read as another provider: Root for none, Ias for some.
    for option in [None, Some(AttestationProvider::Dcap)] {
        let error = init(Some(option.encode())).await.unwrap_err();
        assert_eq!(error.refusal(), Some("Unsupported attestation provider"));
    }
    assert!(matches!(init(Some(vec![])).await, Err(Error::Refused { status: 400, .. })));
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_sender_come_in_groups() {
    let worker = ScriptedWorker::new(1);
    let (client, key, cluster) = (synced(&worker).await, worker.key(), MessageOrigin::Cluster(Hash([4; 32])));
    worker.edit(|state| {
        state.push_message(key, 0, b"own");
        state.push_message_of(MessageOrigin::Gatekeeper, 7, b"gatekeeper");
        state.push_message(key, 1, b"own");
        state.push_message_of(cluster.clone(), 3, b"cluster");
    });
    let counted = |groups: Vec<(MessageOrigin, Vec<_>)>| -> Vec<_> {
        groups.into_iter().map(|(sender, messages)| (sender, messages.len())).collect()
    };
    let own = MessageOrigin::Worker(key);
    assert_eq!(
        counted(client.egress_messages().await.unwrap()),
        [(own.clone(), 2), (MessageOrigin::Gatekeeper, 1), (cluster, 1)]
    );
    worker.edit(|state| {
        state.drop_messages_below(1);
        state.drop_messages_of(&MessageOrigin::Gatekeeper, 8);
    });
    let left = counted(client.egress_messages().await.unwrap());
    assert_eq!((left.len(), &left[0]), (2, &(own, 1)));
    assert_eq!(client.info().await.unwrap().pending_messages, 2);
}

#[tokio::test(start_paused = true)]
async fn exit_loses_the_configured_state_and_takes_time() {
    for (restart, kept) in [(Restart::Kept, true), (Restart::Checkpoint, false), (Restart::Lost, false)] {
        let worker = ScriptedWorker::new(1);
        let client = synced(&worker).await;
        worker.set_restart(restart);
        let mut pace = Timings::default();
        pace.restart = Duration::from_secs(3);
        worker.set_timings(pace);
        // A call that hangs breaks off with the process.
        worker.fail_next(Method::GetInfo, Failure::Hang);
        let (hanging, kicked) = tokio::join!(client.info(), client.kick());
        kicked.unwrap();
        assert!(hanging.unwrap_err().is_connection());
        assert!(client.info().await.is_err() && client.kick().await.is_err(), "it is away");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(client.info().await.unwrap().initialized, kept, "{restart:?}");
        assert_eq!((worker.kicks(), worker.exits()), (1, 1));
    }
}
