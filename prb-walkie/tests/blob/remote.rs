//! Tests of the remote source with several providers, some of them faulty.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{Decode, Encode};
use prb_core::{
    blob::{BlobSource, BlockBatch, BlockCursor, Error, Heights, RefusedData, Span, memory::MemorySource},
    conformance::blob::{self, Backend, RelayBlock, Sample},
    primitives::{ParaNumber, RelayNumber},
    prpc,
    wire::{BlockHeaderWithChanges, Header, StorageChanges},
};
use prb_walkie::blob::{
    answer,
    keys::Key,
    remote::{Announced, Candidate, Config, ProviderState},
    server,
};
use prost::Message;
use tokio::time::timeout;

use crate::{
    lookups::{LONG, Running, source_of, until},
    proxy::{Proxy, Tampering},
    rig::{LIMIT, Remote, Twisted, blocks, candidate, config, keys_of, provider, start_of, twisted},
};

/// The conformance suite's backend: memory source, key space, server, client, remote source.
struct Served {
    memory: Arc<MemorySource>,
    _server: Running,
    remote: Remote,
}

impl Served {
    async fn settle(&self) {
        let wanted = *self.memory.heights().borrow();
        let mut heights = self.remote.source.heights();
        timeout(LONG, heights.wait_for(|heights| *heights == wanted)).await.unwrap().unwrap();
    }
}

#[async_trait]
impl Backend for Served {
    async fn create(sample: &Sample) -> Self {
        let memory = Arc::new(MemorySource::new(sample.genesis()));
        let server = provider(memory.clone()).await;
        let remote = Remote::start(vec![candidate("A", server.address)], Config::default());
        remote.ready(&["A"]).await;
        Self { memory, _server: server, remote }
    }

    async fn push_relay(&mut self, blocks: &[RelayBlock]) {
        blocks.iter().for_each(|block| self.memory.push_relay(&block.header, block.justified.clone()));
        self.settle().await;
    }

    async fn push_para(&mut self, blocks: &[(Header, StorageChanges)]) {
        for (header, changes) in blocks {
            self.memory.push_para_header(header);
            if header.number > 0 {
                self.memory.push_changes(changes);
            }
        }
        self.settle().await;
    }

    fn source(&self) -> Arc<dyn BlobSource> {
        self.remote.source.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_source_passes_conformance_suite() {
    blob::run::<Served>().await;
}

#[tokio::test]
async fn source_starts_without_providers_and_finds_them_later() {
    let sample = Sample::generate(1, 40);
    let remote = Remote::start(vec![], config());
    assert!(matches!(remote.source.genesis().await, Err(Error::NotReady)));
    assert!(matches!(remote.source.headers(start_of(&sample), LIMIT).await, Err(Error::NotReady)));
    assert!(matches!(remote.source.blocks(blocks(1, 1), LIMIT).await, Err(Error::NotReady)));
    assert_eq!(*remote.source.heights().borrow(), Heights::default());

    let memory = source_of(&sample);
    let server = provider(memory.clone()).await;
    remote.candidates.send_replace(vec![candidate("A", server.address)]);
    let mut heights = remote.source.heights();
    timeout(LONG, heights.wait_for(|heights| heights.relay.is_some())).await.unwrap().unwrap();
    assert_eq!(remote.source.genesis().await.unwrap(), sample.genesis());
    let shown = serde_json::to_value(remote.source.providers()).unwrap();
    assert_eq!((&shown[0]["id"], &shown[0]["state"]), (&"A".into(), &"ready".into()), "{shown}");
    let batch = remote.source.headers(start_of(&sample), LIMIT).await.unwrap().unwrap();
    assert_eq!(Some(batch), memory.headers(start_of(&sample), LIMIT).await.unwrap());

    // It is removed, and none is left: requests fail with that reason, and the genesis stays known.
    remote.candidates.send_replace(vec![]);
    until("its going", || remote.source.providers().is_empty()).await;
    let gone = remote.source.headers(start_of(&sample), LIMIT).await.unwrap_err();
    assert!(matches!(gone, Error::Unavailable(_)), "{gone:?}");
    assert_eq!(remote.source.genesis().await.unwrap(), sample.genesis());
}

/// Requests go on while the provider that answers them is killed: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_provider_costs_no_request() {
    let sample = Sample::generate(2, 120);
    let memory = source_of(&sample);
    let (first, second) = (provider(memory.clone()).await, provider(memory.clone()).await);
    let slow = Proxy::start(second.address, Tampering::Delay(Duration::from_millis(5))).await;
    let remote =
        Remote::start(vec![candidate("fast", first.address), candidate("slow", slow.address)], config());
    remote.ready(&["fast", "slow"]).await;
    let tip = memory.heights().borrow().para.unwrap();
    let mut asked = 0;
    for round in 0..40 {
        if round == 20 {
            // As when a process is killed: at once, with requests in flight.
            first.task.abort();
        }
        let all = (1..=8).map(|i| {
            let cursor = BlockCursor { from: ParaNumber(1 + (round * 8 + i) % tip.0), to: tip };
            let source = &remote.source;
            async move { source.blocks(cursor, LIMIT).await.unwrap().unwrap() }
        });
        asked += futures::future::join_all(all).await.len();
    }
    assert_eq!(asked, 320);
    assert!(first.stats.answered() > 100, "the fast one was asked first");
    until("noticing", || matches!(remote.status("fast").state, ProviderState::Down { .. })).await;
    assert_eq!(remote.status("slow").state, ProviderState::Ready);
}

#[tokio::test]
async fn silent_provider_is_hedged_by_the_next() {
    let sample = Sample::generate(2, 60);
    let memory = source_of(&sample);
    let (first, second) = (provider(memory.clone()).await, provider(memory.clone()).await);
    let silent = Proxy::start(first.address, Tampering::None).await;
    let slow = Proxy::start(second.address, Tampering::Delay(Duration::from_millis(20))).await;
    let config = config().with_request_timeout(LONG).with_hedge_after(Duration::from_secs(1));
    let remote =
        Remote::start(vec![candidate("silent", silent.address), candidate("slow", slow.address)], config);
    remote.ready(&["silent", "slow"]).await;
    silent.set(Tampering::Swallow);
    let before = second.stats.answered();
    let batch = timeout(LONG / 2, remote.source.headers(start_of(&sample), LIMIT)).await.unwrap();
    assert!(batch.unwrap().is_some());
    assert!(second.stats.answered() > before);
    // The next requests do not wait for it again: it is asked last now.
    let start = tokio::time::Instant::now();
    for i in 1..=20 {
        remote.source.blocks(blocks(i, i), LIMIT).await.unwrap().unwrap();
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20) * 9 / 10, "{took:?} for 20 requests");
}

#[tokio::test]
async fn flipped_bits_suspend_a_provider_until_they_stop() {
    let sample = Sample::generate(3, 60);
    let memory = source_of(&sample);
    let (first, second) = (provider(memory.clone()).await, provider(memory.clone()).await);
    let proxy = Proxy::start(first.address, Tampering::None).await;
    let slow = Proxy::start(second.address, Tampering::Delay(Duration::from_millis(20))).await;
    let remote =
        Remote::start(vec![candidate("flipped", proxy.address), candidate("good", slow.address)], config());
    remote.ready(&["flipped", "good"]).await;
    proxy.set(Tampering::Flip);
    let expected = memory.headers(start_of(&sample), LIMIT).await.unwrap();
    assert_eq!(
        remote.source.headers(start_of(&sample), LIMIT).await.unwrap(),
        expected,
        "within one request"
    );
    let reason = remote.suspended("flipped").await;
    assert!(reason.contains("bad bytes") && reason.contains("checksum"), "{reason}");
    let first_wait = match remote.status("flipped").state {
        ProviderState::Suspended { for_ms, .. } => for_ms,
        _ => 0,
    };
    assert!(first_wait <= 300);
    proxy.set(Tampering::None);
    remote.ready(&["flipped"]).await;
    assert_eq!(remote.source.headers(start_of(&sample), LIMIT).await.unwrap(), expected);
    assert_eq!(remote.status("good").failed, 0);
}

#[tokio::test]
async fn blob_of_another_key_is_refused() {
    let sample = Sample::generate(4, 60);
    let memory = source_of(&sample);
    let first = sample.genesis_number.0 + 1;
    let lookup = Twisted {
        keys: keys_of(memory.clone()),
        instead: Box::new(move |key| match Key::parse(key) {
            Some(Key::Headers { cursor, max_bytes }) if cursor.para.0 != u32::MAX => {
                format!("headers:{}:{}:{max_bytes}", first + 1, cursor.para)
            }
            Some(Key::Blocks { cursor, max_bytes }) => {
                format!("blocks:{}:{}:{max_bytes}", cursor.from, cursor.to.0 + 1)
            }
            _ => key.to_owned(),
        }),
        twist: Box::new(|_, blob| Some(blob)),
    };
    let server = Running::start(Arc::new(lookup), server::Config::default()).await;
    let config = config().with_first_suspension(LONG);
    for headers in [true, false] {
        let remote = Remote::start(vec![candidate("mixed up", server.address)], config);
        remote.ready(&["mixed up"]).await;
        let error = match headers {
            true => remote.source.headers(start_of(&sample), LIMIT).await.unwrap_err(),
            false => remote.source.blocks(blocks(1, 2), LIMIT).await.unwrap_err(),
        };
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        let reason = remote.suspended("mixed up").await;
        assert!(reason.contains("it gave"), "{reason}");
    }
}

#[tokio::test]
async fn malformed_batch_is_refused() {
    let sample = Sample::generate(4, 60);
    let memory = source_of(&sample);
    // One byte in the middle of the body differs, with a matching checksum.
    let server = twisted(memory.clone(), |key, blob| {
        let mut blob = blob.to_vec();
        if let Some(Key::Headers { cursor, .. }) = key
            && cursor.para.0 != u32::MAX
        {
            let at = answer::HEADERS_HEAD_BYTES + 60;
            blob[at] ^= 0x55;
        }
        Some(blob.into())
    })
    .await;
    let good = provider(memory.clone()).await;
    let slow = Proxy::start(good.address, Tampering::Delay(Duration::from_millis(20))).await;
    let config = config().with_first_suspension(LONG);
    let remote =
        Remote::start(vec![candidate("damaged", server.address), candidate("good", slow.address)], config);
    remote.ready(&["damaged", "good"]).await;
    let batch = remote.source.headers(start_of(&sample), LIMIT).await.unwrap();
    assert_eq!(batch, memory.headers(start_of(&sample), LIMIT).await.unwrap());
    let reason = remote.suspended("damaged").await;
    assert!(reason.contains("does not follow"), "{reason}");
}

/// A provider that claims more than it has is detected when it is asked for it: its heights no longer count,
/// and a worker that waited for them gets the true ones.
#[tokio::test]
async fn false_heights_are_withdrawn() {
    let sample = Sample::generate(5, 60);
    let memory = source_of(&sample);
    let inflate = |relay: u32, para: Arc<AtomicU32>| {
        move |key: Option<Key>, blob: Bytes| {
            let Some(Key::Heights { .. }) = key else { return Some(blob) };
            let para = para.load(Ordering::SeqCst);
            let mut position = answer::read_heights(blob).unwrap();
            position.heights.relay = position.heights.relay.map(|n| RelayNumber(n.0 + relay));
            position.heights.para = position.heights.para.map(|n| ParaNumber(n.0 + para));
            position.heights.para_target = position.heights.para;
            Some(answer::heights(&position).join())
        }
    };
    let truth = *memory.heights().borrow();
    let good = provider(memory.clone()).await;
    let lie = Arc::new(AtomicU32::new(0));
    let liar = twisted(memory.clone(), inflate(0, lie.clone())).await;
    let config = config().with_first_suspension(LONG).with_heights_wait(Duration::from_millis(50));
    let remote =
        Remote::start(vec![candidate("good", good.address), candidate("liar", liar.address)], config);
    remote.ready(&["good", "liar"]).await;
    let tip = truth.para.unwrap();
    // A small excess needs no proof and is believed at first.
    lie.store(20, Ordering::SeqCst);
    let mut heights = remote.source.heights();
    let believed = heights.wait_for(|heights| heights.para == Some(ParaNumber(tip.0 + 20)));
    timeout(LONG, believed).await.unwrap().unwrap();
    let none = remote.source.blocks(BlockCursor { from: tip.next(), to: ParaNumber(tip.0 + 9) }, LIMIT).await;
    assert!(matches!(none, Ok(None)), "{none:?}");
    assert_eq!(*remote.source.heights().borrow(), truth, "also the targets");
    let reason = remote.suspended("liar").await;
    assert!(reason.contains("claims"), "{reason}");
    assert!(remote.source.blocks(BlockCursor { from: tip, to: tip }, LIMIT).await.unwrap().is_some());

    // A provider that claims much more must show its last block before it is believed.
    for (relay, para) in [(1_000_000, 0), (0, 1_000_000)] {
        let liar = twisted(memory.clone(), inflate(relay, Arc::new(AtomicU32::new(para)))).await;
        let remote =
            Remote::start(vec![candidate("good", good.address), candidate("liar", liar.address)], config);
        let reason = remote.suspended("liar").await;
        assert!(reason.contains("claims to have"), "{reason}");
        remote.ready(&["good"]).await;
        assert_eq!(*remote.source.heights().borrow(), truth);
    }
}

#[tokio::test]
async fn provider_of_another_chain_is_suspended() {
    let (ours, theirs) = (Sample::generate(6, 40), Sample::generate(7, 90));
    let (good, other) = (provider(source_of(&ours)).await, provider(source_of(&theirs)).await);
    let config =
        config().with_chain_identity(Some(ours.genesis().chain_identity)).with_first_suspension(LONG);
    let list = vec![candidate("good", good.address), candidate("other", other.address)];
    let remote = Remote::start(list.clone(), config);
    let reason = remote.suspended("other").await;
    assert!(reason.contains("of the chain"), "{reason}");
    remote.ready(&["good"]).await;
    assert_eq!(remote.source.genesis().await.unwrap(), ours.genesis());
    // Without a configured identity, the first genesis determines it.
    let config = config.with_chain_identity(None);
    let remote = Remote::start(list, config);
    remote.ready(&["good", "other"]).await;
    let genesis = remote.source.genesis().await.unwrap();
    let stranger = if genesis == ours.genesis() { "other" } else { "good" };
    let reason = remote.suspended(stranger).await;
    assert!(reason.contains("of the chain"), "{reason}");
}

/// The same blocks with one changed value in block 3.
fn falsify(batch: &BlockBatch) -> Bytes {
    let body = prpc::Blocks::decode(batch.body.clone()).unwrap();
    let mut blocks = Vec::<BlockHeaderWithChanges>::decode(&mut &*body.encoded_blocks).unwrap();
    for block in &mut blocks {
        if block.block_header.number == 3 {
            block.storage_changes.main.push((vec![1, 2, 3], Some(vec![4])));
        }
    }
    prpc::Blocks { encoded_blocks: blocks.encode().into() }.encode_to_vec().into()
}

#[tokio::test]
async fn refused_provider_is_suspended_if_another_differs() {
    let sample = Sample::generate(8, 60);
    let memory = source_of(&sample);
    let bad = twisted(memory.clone(), |key, blob| match key {
        Some(Key::Blocks { .. }) => {
            let Ok(Ok(Some(batch))) = answer::read_blocks(blob.clone()) else { return Some(blob) };
            let body = falsify(&batch);
            Some(answer::blocks(Ok(Some(BlockBatch { body, ..batch }))).join())
        }
        _ => Some(blob),
    })
    .await;
    let good = provider(memory.clone()).await;
    let slow = Proxy::start(good.address, Tampering::Delay(Duration::from_millis(20))).await;
    let config = config().with_first_suspension(LONG);
    let remote = Remote::start(vec![candidate("bad", bad.address), candidate("good", slow.address)], config);
    remote.ready(&["bad", "good"]).await;
    let truth = memory.blocks(blocks(1, 5), LIMIT).await.unwrap().unwrap();
    let wrong = remote.source.blocks(blocks(1, 5), LIMIT).await.unwrap().unwrap();
    assert_ne!(wrong, truth, "only a worker can tell");
    let refusal = RefusedData::Blocks {
        blocks: Span { first: ParaNumber(1), last: ParaNumber(5) },
        at: Some(ParaNumber(3)),
        message: "StateRootMismatch block=3".into(),
    };
    remote.source.refused(&refusal);
    // From here on the other one is asked: the worker continues at block 3.
    let expected = memory.blocks(blocks(3, 5), LIMIT).await.unwrap();
    assert_eq!(remote.source.blocks(blocks(3, 5), LIMIT).await.unwrap(), expected);
    let reason = remote.suspended("bad").await;
    assert!(reason.contains("a worker refused") && reason.contains("good"), "{reason}");
    assert_eq!(remote.status("good").state, ProviderState::Ready);
}

#[tokio::test]
async fn broken_worker_suspends_no_provider() {
    let sample = Sample::generate(8, 60);
    let memory = source_of(&sample);
    let (first, second) = (provider(memory.clone()).await, provider(memory.clone()).await);
    let remote = Remote::start(vec![candidate("A", first.address), candidate("B", second.address)], config());
    remote.ready(&["A", "B"]).await;
    let cursor = start_of(&sample);
    remote.source.headers(cursor, LIMIT).await.unwrap().unwrap();
    let answered = first.stats.answered() + second.stats.answered();
    remote.source.refused(&RefusedData::Headers { cursor, message: "MissingJustification".into() });
    until("looking into it", || first.stats.answered() + second.stats.answered() > answered).await;
    remote.source.headers(cursor, LIMIT).await.unwrap().unwrap();
    for id in ["A", "B"] {
        assert_eq!(remote.status(id).state, ProviderState::Ready);
    }
}

/// An original provider knows none of our keys; a fleet syncs from genesis to the tip nevertheless.
#[tokio::test]
async fn original_provider_suffices() {
    for seed in 10..12 {
        let sample = Sample::generate(seed, 120);
        let memory = source_of(&sample);
        let server = twisted(memory.clone(), |key, blob| {
            let ours = matches!(
                key,
                Some(Key::Genesis | Key::Heights { .. } | Key::Headers { .. } | Key::Blocks { .. })
            );
            (!ours).then_some(blob)
        })
        .await;
        let heights = *memory.heights().borrow();
        let original = Candidate {
            chain_identity: Some(sample.genesis().chain_identity),
            announced: Some(Announced { para_id: 2004, heights }),
            ..candidate("original", server.address)
        };
        let remote = Remote::start(vec![original], config());
        remote.ready(&["original"]).await;
        assert!(remote.status("original").original);
        let source = &remote.source;
        assert_eq!(source.genesis().await.unwrap(), sample.genesis());
        let mut cursor = start_of(&sample);
        let mut block = 1;
        while let Some(batch) = source.headers(cursor, LIMIT).await.unwrap() {
            assert_eq!(batch.relay.first, cursor.relay);
            cursor.relay = batch.relay.last.next();
            cursor.para = batch.para.map_or(cursor.para, |para| para.last.next());
            let body = prpc::CombinedHeadersToSync::decode(batch.body).unwrap();
            Vec::<prb_core::wire::HeaderToSync>::decode(&mut &*body.encoded_relaychain_headers).unwrap();
            while block < cursor.para.0 {
                let wanted = blocks(block, cursor.para.0 - 1);
                let batch = source.blocks(wanted, LIMIT).await.unwrap().unwrap();
                let to = batch.blocks.last;
                let same = memory.blocks(BlockCursor { to, ..wanted }, LIMIT).await.unwrap().unwrap();
                assert_eq!(batch, same);
                block = to.0 + 1;
            }
        }
        assert_eq!(
            (Some(cursor.relay.prev().unwrap()), Some(ParaNumber(block - 1))),
            (heights.relay, heights.para)
        );
    }
}

/// A description of a range has a few bytes for each of its blocks.
#[tokio::test]
async fn original_providers_description_is_bounded() {
    let sample = Sample::generate(10, 40);
    let memory = source_of(&sample);
    let heights = *memory.heights().borrow();
    let server = twisted(memory, |key, _| match key {
        Some(Key::RangeByParentBlock(_)) => Some(vec![0; 3 << 20].into()),
        _ => None,
    })
    .await;
    let original = Candidate {
        chain_identity: Some(sample.genesis().chain_identity),
        announced: Some(Announced { para_id: 2004, heights }),
        ..candidate("original", server.address)
    };
    let remote = Remote::start(vec![original], config().with_first_suspension(LONG));
    remote.ready(&["original"]).await;
    let answer = remote.source.headers(start_of(&sample), 64 << 20).await;
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    let reason = remote.suspended("original").await;
    assert!(reason.contains("bad bytes") && reason.contains("2097152"), "{reason}");
}

#[tokio::test]
async fn suspensions_double() {
    let sample = Sample::generate(3, 40);
    let server = provider(source_of(&sample)).await;
    let proxy = Proxy::start(server.address, Tampering::Flip).await;
    let config = config().with_first_suspension(Duration::from_millis(100));
    let remote = Remote::start(vec![candidate("flipped", proxy.address)], config);
    let mut longest = 0;
    until("a longer suspension", || {
        for provider in remote.source.providers() {
            if let ProviderState::Suspended { for_ms, .. } = provider.state {
                longest = for_ms.max(longest);
            }
        }
        longest > 200
    })
    .await;
}
