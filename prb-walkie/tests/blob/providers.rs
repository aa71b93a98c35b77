//! Tests of crowds of lying providers, and of the own node as the authority.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{BlobSource, BlockBatch, Genesis, Heights, RefusedData, Span, memory::MemorySource},
    conformance::blob::Sample,
    primitives::{Hash, ParaNumber, RelayNumber},
};
use prb_walkie::{
    blob::{
        Lookup, answer,
        keys::Key,
        keyspace::KeySpace,
        remote::{Candidate, Config, Finalized, GenesisCheck, GenesisError, OwnChain, ProviderState},
        server,
    },
    node::Provenance,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    lookups::{LONG, Running, source_of, until},
    proxy::{Proxy, Tampering},
    rig::{LIMIT, Remote, blocks, candidate, config, keys_of, provider, start_of, twisted},
};

fn found(id: &str, address: SocketAddr, provenance: Provenance) -> Candidate {
    Candidate { provenance, ..candidate(id, address) }
}

/// The own node: it knows its genesis, and its head is set by the test.
#[derive(Debug)]
struct Own(Genesis);

#[async_trait]
impl GenesisCheck for Own {
    async fn check(&self, genesis: &Genesis) -> Result<(), GenesisError> {
        if genesis.state == self.0.state {
            Ok(())
        } else {
            Err(GenesisError::Wrong("its state is another".into()))
        }
    }
}

struct OwnNode {
    finalized: watch::Sender<Option<Finalized>>,
    identity: watch::Sender<Option<Hash>>,
    genesis: Genesis,
}

impl OwnNode {
    fn new(sample: &Sample) -> Self {
        let genesis = sample.genesis();
        Self {
            finalized: watch::Sender::new(None),
            identity: watch::Sender::new(Some(genesis.chain_identity)),
            genesis,
        }
    }

    fn is_at(&self, relay: u32, para: u32) {
        let relay = Some(RelayNumber(relay));
        self.finalized.send_replace(Some(Finalized { para: ParaNumber(para), relay, at: Instant::now() }));
    }

    fn chain(&self) -> OwnChain {
        OwnChain {
            finalized: self.finalized.subscribe(),
            identity: self.identity.subscribe(),
            genesis: Arc::new(Own(self.genesis.clone())),
        }
    }
}

fn tip(memory: &MemorySource) -> (u32, u32) {
    let heights = *memory.heights().borrow();
    (heights.relay.unwrap().0, heights.para.unwrap().0)
}

/// More than 64 names that sort before the honest provider, all at an address that accepts connections: the
/// provider in use is still asked, and so is a boot node that appears after all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowd_of_candidates_displaces_nobody() {
    let sample = Sample::generate(21, 40);
    let memory = source_of(&sample);
    let (good, late) = (provider(memory.clone()).await, provider(memory.clone()).await);
    let remote = Remote::start(vec![found("zz", good.address, Provenance::Discovered)], config());
    remote.ready(&["zz"]).await;
    // An address that accepts connections and stays silent.
    let mute = tokio::net::TcpListener::bind(crate::lookups::LOOPBACK).await.unwrap();
    let silent = mute.local_addr().unwrap();
    for provenance in [Provenance::Discovered, Provenance::TrustedNetwork, Provenance::SameMachine] {
        let mut all: Vec<_> = (0..200).map(|n| found(&format!("a{n:03}"), silent, provenance)).collect();
        all.push(found("zz", good.address, Provenance::Discovered));
        remote.candidates.send_replace(all.clone());
        until("the crowd", || remote.source.providers().len() > 2).await;
        assert_eq!(remote.status("zz").state, ProviderState::Ready, "{provenance:?}");
        assert!(remote.source.blocks(blocks(1, 3), LIMIT).await.unwrap().is_some());
        all.push(found("zzz", late.address, Provenance::BootNode));
        remote.candidates.send_replace(all);
        remote.ready(&["zz", "zzz"]).await;
        assert!(remote.source.providers().len() <= Config::default().max_providers);
        remote.candidates.send_replace(vec![found("zz", good.address, Provenance::Discovered)]);
        until("the crowd's end", || remote.source.providers().len() == 1).await;
    }
}

/// Answers heights, and shows its last blocks when it is probed; a batch for a worker never comes. Counts those that
/// were asked for.
#[derive(Debug)]
struct Stalls(Arc<KeySpace>, AtomicUsize);

#[async_trait]
impl Lookup for Stalls {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, prb_core::blob::Error> {
        if key.ends_with(&format!(":{LIMIT}")) {
            self.1.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.0.get(key).await
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        self.0.reserve_bytes(key)
    }
}

/// Providers stall, leave and come back under other names: a request does not wait for one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalling_providers_under_new_names_are_asked_after_one_that_serves() {
    let sample = Sample::generate(24, 40);
    let memory = source_of(&sample);
    let honest = provider(memory.clone()).await;
    // Further away than those that stall.
    let good = Proxy::start(honest.address, Tampering::Delay(Duration::from_millis(20))).await;
    let lookup = Arc::new(Stalls(keys_of(memory.clone()), AtomicUsize::new(0)));
    let stalls = Running::start(Arc::<Stalls>::clone(&lookup), server::Config::default()).await;
    let good = found("zz", good.address, Provenance::SameMachine);
    // A twelfth of this is what a new one is expected to take: more than the honest one does on any machine.
    let remote = Remote::start(vec![good.clone()], config().with_hedge_after(Duration::from_secs(4)));
    remote.ready(&["zz"]).await;
    remote.source.blocks(blocks(1, 1), LIMIT).await.unwrap().unwrap();
    for round in 0..2 {
        let names: Vec<_> = (0..16).map(|n| format!("a{round}-{n:02}")).collect();
        let mut all: Vec<_> =
            names.iter().map(|name| found(name, stalls.address, Provenance::SameMachine)).collect();
        all.push(good.clone());
        remote.candidates.send_replace(all);
        remote.ready(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        lookup.1.store(0, Ordering::SeqCst);
        for number in 2..8 {
            remote.source.blocks(blocks(number, number), LIMIT).await.unwrap().unwrap();
        }
        let asked = lookup.1.load(Ordering::SeqCst);
        assert!(asked < 4, "{asked} were asked in vain, for six requests");
    }
}

/// Liars on this machine came first and have all of its slots; each is detected and evicted for the honest
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detected_liars_are_evicted() {
    let sample = Sample::generate(22, 40);
    let memory = source_of(&sample);
    let other = Sample::generate(23, 40);
    let (good, liar) = (provider(memory.clone()).await, provider(source_of(&other)).await);
    let own = OwnNode::new(&sample);
    let (relay, para) = tip(&memory);
    own.is_at(relay, para);
    let mut all: Vec<_> =
        (0..100).map(|n| found(&format!("a{n:03}"), liar.address, Provenance::SameMachine)).collect();
    all.push(found("zz", good.address, Provenance::SameMachine));
    let remote = Remote::start_on(all, own.chain(), config().with_first_suspension(LONG));
    remote.ready(&["zz"]).await;
    assert!(remote.source.blocks(blocks(1, 3), LIMIT).await.unwrap().is_some());
}

/// The first provider to give a genesis lies, with the right identity in it: only the own node can tell.
/// Honest providers are not suspended for its sake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_genesis_is_not_compared_with_others() {
    let sample = Sample::generate(24, 40);
    let memory = source_of(&sample);
    let (ours, theirs) = (sample.genesis(), Sample::generate(25, 40).genesis());
    let state = codec::Encode::encode(&vec![(b"key".to_vec(), b"value".to_vec())]).into();
    let false_genesis = Genesis { chain_identity: ours.chain_identity, state, ..theirs };
    assert_ne!(false_genesis.state, ours.state);
    let forged = false_genesis.clone();
    let liar = twisted(memory.clone(), move |key, blob| match key {
        Some(Key::Genesis) => Some(answer::genesis(Ok(forged.clone())).join()),
        _ => Some(blob),
    })
    .await;
    let good = provider(memory.clone()).await;
    let own = OwnNode::new(&sample);
    let (relay, para) = tip(&memory);
    own.is_at(relay, para);
    let list = |liars: Provenance| {
        vec![found("a", liar.address, liars), found("zz", good.address, Provenance::Discovered)]
    };
    let config = config().with_first_suspension(LONG);
    let remote = Remote::start_on(list(Provenance::SharedKey), own.chain(), config);
    remote.ready(&["a", "zz"]).await;
    assert_eq!(remote.source.genesis().await.unwrap(), ours);
    let reason = remote.suspended("a").await;
    assert!(reason.contains("its state is another"), "{reason}");
    assert_eq!(remote.status("zz").state, ProviderState::Ready);

    // Without an own node, the first is believed until it is caught lying; then the genesis is fetched again.
    let remote = Remote::start(list(Provenance::SharedKey), config);
    remote.ready(&["a", "zz"]).await;
    assert_eq!(remote.source.genesis().await.unwrap(), false_genesis);
    assert_eq!(remote.status("zz").state, ProviderState::Ready, "it has the same identity");
    remote.candidates.send_replace(list(Provenance::SharedKey)[1..].to_vec());
    until("its going", || remote.source.providers().len() == 1).await;
    assert_eq!(remote.source.genesis().await.unwrap(), false_genesis, "a removed provider is not a liar");
}

/// Adds to a provider's heights, as set by the test.
fn inflated(
    memory: &Arc<MemorySource>,
    by: &Arc<Mutex<(u32, u32, u32)>>,
) -> impl Future<Output = crate::lookups::Running> {
    let by = by.clone();
    twisted(memory.clone(), move |key, blob| match key {
        Some(Key::Heights { .. }) => {
            let (relay, para, target) = *by.lock().unwrap();
            let mut position = answer::read_heights(blob).unwrap();
            let heights = &mut position.heights;
            heights.relay = heights.relay.map(|n| RelayNumber(n.0 + relay));
            heights.para = heights.para.map(|n| ParaNumber(n.0 + para));
            heights.para_target = heights.para.map(|n| ParaNumber(n.0 + target));
            heights.relay_target = heights.relay.map(|n| RelayNumber(n.0 + target));
            Some(answer::heights(&position).join())
        }
        _ => Some(blob),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heights_are_bounded_by_the_own_node() {
    let sample = Sample::generate(26, 60);
    let memory = source_of(&sample);
    let (relay, para) = tip(&memory);
    let by = Arc::new(Mutex::new((0, 0, 5_000_000)));
    let liar = inflated(&memory, &by).await;
    let own = OwnNode::new(&sample);
    let remote = Remote::start_on(vec![candidate("a", liar.address)], own.chain(), config());
    remote.ready(&["a"]).await;
    assert_eq!(*remote.source.heights().borrow(), Heights::default(), "nothing to check it against yet");
    own.is_at(relay, para);
    let mut heights = remote.source.heights();
    timeout(LONG, heights.wait_for(|heights| heights.para == Some(ParaNumber(para)))).await.unwrap().unwrap();
    let now = *heights.borrow();
    assert!(now.para_target < Some(ParaNumber(para + 200)), "{now:?}");
    assert!(now.relay_target < Some(RelayNumber(relay + 300)), "{now:?}");
    // The own node knows more blocks than the provider, which sets everybody's target.
    own.is_at(relay, para + 1000);
    timeout(LONG, heights.wait_for(|heights| heights.para_target >= Some(ParaNumber(para + 1000))))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heights.borrow().para, Some(ParaNumber(para)));
}

/// A target that a provider lowers, because its node has turned out to lie, is lowered for readers, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lowered_target_is_passed_on() {
    let sample = Sample::generate(27, 60);
    let memory = source_of(&sample);
    let by = Arc::new(Mutex::new((0, 0, 50)));
    let server = inflated(&memory, &by).await;
    let config = config().with_heights_wait(Duration::from_millis(50));
    let remote = Remote::start(vec![candidate("a", server.address)], config);
    let (_, para) = tip(&memory);
    let mut heights = remote.source.heights();
    let is_at = |target: u32| move |heights: &Heights| heights.para_target == Some(ParaNumber(target));
    timeout(LONG, heights.wait_for(is_at(para + 50))).await.unwrap().unwrap();
    by.lock().unwrap().2 = 3;
    timeout(LONG, heights.wait_for(is_at(para + 3))).await.unwrap().unwrap();
}

/// A provider is the only one with heights that it invents, and forges the blocks: the first refusal by a
/// worker ends that, although no other provider can be asked for the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_sole_claimant_is_suspended() {
    let sample = Sample::generate(28, 60);
    let memory = source_of(&sample);
    let (relay, para) = tip(&memory);
    let liar = twisted(memory.clone(), move |key, blob| match key {
        Some(Key::Heights { .. }) => {
            let mut position = answer::read_heights(blob).unwrap();
            position.heights.para = position.heights.para.map(|n| ParaNumber(n.0 + 5));
            Some(answer::heights(&position).join())
        }
        Some(Key::Blocks { cursor, .. }) if cursor.from.0 > para => {
            Some(answer::blocks(Ok(Some(forged(cursor.from)))).join())
        }
        _ => Some(blob),
    })
    .await;
    let good = provider(memory.clone()).await;
    let list = vec![candidate("a", liar.address), candidate("zz", good.address)];
    let config = config().with_first_suspension(LONG);
    let own = OwnNode::new(&sample);
    own.is_at(relay, para);
    let remote = Remote::start_on(list, own.chain(), config);
    remote.ready(&["a", "zz"]).await;
    let next = para + 1;
    let batch = remote.source.blocks(blocks(next, next), LIMIT).await.unwrap().unwrap();
    assert_eq!(batch.blocks.first, ParaNumber(next), "only a worker can tell");
    let refusal = RefusedData::Blocks {
        blocks: Span { first: ParaNumber(next), last: ParaNumber(next) },
        at: Some(ParaNumber(next)),
        message: "StateRootMismatch".into(),
    };
    remote.source.refused(&refusal);
    let reason = remote.suspended("a").await;
    assert!(reason.contains("nobody else claims"), "{reason}");
    assert_eq!(remote.source.heights().borrow().para, Some(ParaNumber(para)));
    assert_eq!(remote.status("a").refused, 1);

    // The only provider stays, and so does one that the own node confirms: a worker may be broken.
    for (list, own_para) in [
        (vec![candidate("a", liar.address)], para),
        (vec![candidate("a", liar.address), candidate("zz", good.address)], next),
    ] {
        own.is_at(relay, own_para);
        let remote = Remote::start_on(list.clone(), own.chain(), config);
        let ids: Vec<_> = list.iter().map(|candidate| &*candidate.id).collect();
        remote.ready(&ids).await;
        remote.source.blocks(blocks(next, next), LIMIT).await.unwrap().unwrap();
        let before = (liar.stats.answered(), good.stats.answered());
        remote.source.refused(&refusal);
        until("its refusal", || remote.status("a").refused == 1).await;
        // It answers when asked again, so it was not suspended in between.
        assert!(remote.source.headers(start_of(&sample), LIMIT).await.unwrap().is_some());
        assert_eq!(remote.status("a").state, ProviderState::Ready, "{before:?}");
    }
}

/// Builds a block that looks like a real one.
fn forged(number: ParaNumber) -> BlockBatch {
    use codec::Encode;
    use prb_core::wire::{BlockHeaderWithChanges, Header, StorageChanges};
    use prost::Message;
    let header = Header {
        parent_hash: Hash([1; 32]),
        number: number.0,
        state_root: Hash([2; 32]),
        extrinsics_root: Hash([3; 32]),
        digest: Vec::new(),
    };
    let block = BlockHeaderWithChanges { block_header: header, storage_changes: StorageChanges::default() };
    let body = prb_core::prpc::Blocks { encoded_blocks: vec![block].encode().into() }.encode_to_vec();
    BlockBatch { blocks: Span { first: number, last: number }, body: Bytes::from(body) }
}
