//! Tests of providers that give the truth for 1,000 blocks and lie from then on: alone, as a majority that agrees or
//! not, and in turns. A worker goes on after a few refusals.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use codec::{Decode, Encode};
use prb_core::{
    blob::{BlobSource, BlockBatch, RefusedData, Span, memory::MemorySource},
    conformance::blob::Sample,
    primitives::ParaNumber,
    prpc,
    wire::BlockHeaderWithChanges,
};
use prb_walkie::blob::{
    answer,
    keys::Key,
    remote::{Candidate, ProviderState},
};
use prost::Message;
use tokio::time::timeout;

use crate::{
    lookups::{LONG, Running, source_of},
    proxy::{Proxy, Tampering},
    rig::{LIMIT, Remote, blocks, candidate, config, provider, twisted},
};

/// The last block that liars give as it is.
const TRUTHFUL: u32 = 1_000;

/// About which blocks a provider lies.
type Lies = fn(u32) -> bool;

fn decoded(body: &Bytes) -> Vec<BlockHeaderWithChanges> {
    let body = prpc::Blocks::decode(body.clone()).unwrap();
    <Vec<_> as Decode>::decode(&mut &*body.encoded_blocks).unwrap()
}

/// Changes a value in each block for which `lies` holds; all that can be checked without the state fits.
fn falsify(batch: &BlockBatch, value: u8, lies: impl Fn(u32) -> bool) -> Bytes {
    let mut blocks = decoded(&batch.body);
    for block in blocks.iter_mut().filter(|block| lies(block.block_header.number)) {
        block.storage_changes.main.push((vec![1, 2, 3], Some(vec![value])));
    }
    prpc::Blocks { encoded_blocks: blocks.encode().into() }.encode_to_vec().into()
}

async fn liar(source: Arc<MemorySource>, value: u8, lies: Lies) -> Running {
    twisted(source, move |key, blob| match key {
        Some(Key::Blocks { .. }) => {
            let Ok(Ok(Some(batch))) = answer::read_blocks(blob.clone()) else { return Some(blob) };
            let body = falsify(&batch, value, lies);
            Some(answer::blocks(Ok(Some(BlockBatch { body, ..batch }))).join())
        }
        _ => Some(blob),
    })
    .await
}

/// A worker that takes 20 blocks at a time, and refuses the first false one as pRuntime does.
struct Worker {
    memory: Arc<MemorySource>,
    next: u32,
    refusals: usize,
}

impl Worker {
    /// Takes blocks up to this one. Asks again at once, although a real one pauses.
    async fn sync(&mut self, remote: &Remote, to: u32) {
        while self.next <= to {
            let asked = remote.source.blocks(blocks(self.next, to.min(self.next + 19)), LIMIT);
            let batch = timeout(LONG, asked).await.unwrap().unwrap().unwrap();
            let Span { first, last } = batch.blocks;
            let truth = self.memory.blocks(blocks(first.0, last.0), LIMIT).await.unwrap().unwrap();
            let pairs = decoded(&batch.body).into_iter().zip(decoded(&truth.body));
            let taken = pairs.take_while(|(given, right)| given == right).count() as u32;
            self.next = first.0 + taken;
            if self.next <= last.0 {
                self.refusals += 1;
                assert!(self.refusals < 100, "it stands still at block {}", self.next);
                let at = ParaNumber(self.next);
                let message = format!("StateRootMismatch block={at}");
                remote.source.refused(&RefusedData::Blocks { blocks: batch.blocks, at: Some(at), message });
                // The examination runs meanwhile.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// These liars and two truthful providers, which are slower and come after them; the worker has all blocks before the
/// first lie.
struct Scene {
    remote: Remote,
    worker: Worker,
    tip: u32,
    _running: Vec<Running>,
    _slow: Vec<Proxy>,
}

impl Scene {
    async fn start(lies: &[(u8, Lies)], suspension: Duration) -> Self {
        let sample = Sample::generate(41, 3_400);
        let memory = source_of(&sample);
        let tip = memory.heights().borrow().para.unwrap().0;
        assert!(tip > TRUTHFUL + 100, "{tip}");
        let (mut running, mut slow) = (Vec::new(), Vec::new());
        let mut all: Vec<Candidate> = Vec::new();
        for (number, (value, lies)) in lies.iter().enumerate() {
            let server = liar(memory.clone(), *value, *lies).await;
            all.push(candidate(&format!("liar-{number}"), server.address));
            running.push(server);
        }
        for number in 0..2 {
            let server = provider(memory.clone()).await;
            let proxy = Proxy::start(server.address, Tampering::Delay(Duration::from_millis(3))).await;
            all.push(candidate(&format!("truthful-{number}"), proxy.address));
            running.push(server);
            slow.push(proxy);
        }
        let names: Vec<_> = all.iter().map(|candidate| candidate.id.clone()).collect();
        let remote = Remote::start(all, config().with_first_suspension(suspension));
        remote.ready(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut worker = Worker { memory, next: 1, refusals: 0 };
        worker.sync(&remote, TRUTHFUL).await;
        assert_eq!(worker.refusals, 0);
        Self { remote, worker, tip, _running: running, _slow: slow }
    }

    /// Syncs to the tip; returns how many batches were refused.
    async fn refusals(&mut self) -> usize {
        self.worker.sync(&self.remote, self.tip).await;
        for provider in self.remote.source.providers() {
            let is_honest = provider.id.starts_with("truthful");
            assert!(!is_honest || provider.refused == 0, "{provider:?}");
        }
        self.worker.refusals
    }
}

fn later(number: u32) -> bool {
    number > TRUTHFUL
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_late_liar_is_suspended_at_its_first_lie() {
    let mut scene = Scene::start(&[(1, later)], LONG).await;
    assert_eq!(scene.refusals().await, 1);
    let reason = scene.remote.suspended("liar-0").await;
    assert!(reason.contains("a worker refused") && reason.contains("truthful"), "{reason}");
}

/// They confirm each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_of_ten_that_tell_the_same_lie_stop_no_worker() {
    let mut scene = Scene::start(&[(1, later as Lies); 8], LONG).await;
    let refusals = scene.refusals().await;
    assert!((1..=3).contains(&refusals), "{refusals}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_of_ten_that_tell_different_lies_stop_no_worker() {
    let lies: Vec<_> = (0..8).map(|number| (number, later as Lies)).collect();
    let mut scene = Scene::start(&lies, LONG).await;
    let refusals = scene.refusals().await;
    assert!((1..=3).contains(&refusals), "{refusals}");
}

/// The truth that it gives in between shortens no suspension.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lies_in_turns_of_50_blocks_is_suspended_longer_each_time() {
    const FIRST: Duration = Duration::from_millis(50);
    let mut scene = Scene::start(&[(1, |number| later(number) && number / 50 % 2 == 1)], FIRST).await;
    let start = tokio::time::Instant::now();
    let (mut longest, mut lies) = (0, 0);
    while longest <= 4 * FIRST.as_millis() as u64 {
        assert!(start.elapsed() < LONG, "{longest} ms after {lies} lies");
        // Again and again, as other workers do.
        scene.worker.next = TRUTHFUL;
        lies = scene.refusals().await;
        for provider in scene.remote.source.providers() {
            if let ProviderState::Suspended { for_ms, .. } = provider.state {
                longest = for_ms.max(longest);
            }
        }
    }
    assert!(lies >= 3, "{lies}");
}
