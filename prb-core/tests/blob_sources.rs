//! The blob seam's sources in prb-core against the suite, and the cache's own promises.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
        Span,
        cache::{self, CachedSource},
        memory::MemorySource,
        range::RangeSource,
    },
    conformance::{
        blob::{self, Backend, RelayBlock, Sample},
        range::{self, RangeBackend},
    },
    primitives::ParaNumber,
    wire::{Header, StorageChanges},
};
use tokio::sync::{Semaphore, watch};

struct Memory(Arc<MemorySource>);

#[async_trait]
impl Backend for Memory {
    async fn create(sample: &Sample) -> Self {
        Self(Arc::new(MemorySource::new(sample.genesis())))
    }

    async fn push_relay(&mut self, blocks: &[RelayBlock]) {
        blocks.iter().for_each(|block| self.0.push_relay(&block.header, block.justified.clone()));
    }

    async fn push_para(&mut self, blocks: &[(Header, StorageChanges)]) {
        for (header, changes) in blocks {
            self.0.push_para_header(header);
            if header.number > 0 {
                self.0.push_changes(changes);
            }
        }
    }

    fn source(&self) -> Arc<dyn BlobSource> {
        self.0.clone()
    }
}

impl RangeBackend for Memory {
    fn ranges(&self) -> Arc<dyn RangeSource> {
        self.0.clone()
    }
}

struct Cached(Memory, Arc<CachedSource<MemorySource>>);

#[async_trait]
impl Backend for Cached {
    async fn create(sample: &Sample) -> Self {
        let memory = Memory::create(sample).await;
        let cached = CachedSource::new(memory.0.clone(), cache::Config::default());
        Self(memory, Arc::new(cached))
    }

    async fn push_relay(&mut self, blocks: &[RelayBlock]) {
        self.0.push_relay(blocks).await;
    }

    async fn push_para(&mut self, blocks: &[(Header, StorageChanges)]) {
        self.0.push_para(blocks).await;
    }

    fn source(&self) -> Arc<dyn BlobSource> {
        self.1.clone()
    }
}

#[tokio::test]
async fn memory_conforms() {
    blob::run::<Memory>().await;
}

#[tokio::test]
async fn memory_knows_its_ranges() {
    range::run::<Memory>().await;
}

#[tokio::test]
async fn the_cache_conforms() {
    blob::run::<Cached>().await;
}

/// Counts what reaches the source, and lets it answer only when there is a permit.
#[derive(Debug)]
struct Counting {
    inner: Arc<MemorySource>,
    asked: AtomicUsize,
    permits: Semaphore,
    fail: AtomicUsize,
    refused: Mutex<Vec<RefusedData>>,
}

impl Counting {
    fn new(inner: Arc<MemorySource>) -> Self {
        let permits = Semaphore::new(0);
        let refused = Mutex::default();
        Self { inner, asked: AtomicUsize::new(0), permits, fail: AtomicUsize::new(0), refused }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn turn(&self) -> Result<(), Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.unwrap().forget();
        match self.fail.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(Error::Unavailable("gone".into())),
        }
    }
}

#[async_trait]
impl BlobSource for Counting {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.inner.heights()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        self.turn().await?;
        self.inner.genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        self.turn().await?;
        self.inner.headers(cursor, max_bytes).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        self.turn().await?;
        self.inner.blocks(cursor, max_bytes).await
    }

    fn refused(&self, refusal: &RefusedData) {
        self.refused.lock().unwrap().push(refusal.clone());
    }
}

async fn filled(sample: &Sample, relay_blocks: usize) -> Memory {
    let mut memory = Memory::create(sample).await;
    let para: Vec<_> = sample.para.iter().cloned().zip(sample.changes.iter().cloned()).collect();
    memory.push_para(&para).await;
    memory.push_relay(&sample.relay[..relay_blocks]).await;
    memory
}

const LIMIT: usize = 1 << 20;

#[tokio::test]
async fn equal_cursors_share_one_fetch() {
    let sample = Sample::generate(1, 40);
    let memory = filled(&sample, 40).await;
    let counting = Arc::new(Counting::new(memory.0.clone()));
    let cached = Arc::new(CachedSource::new(counting.clone(), cache::Config::default()));
    let cursor = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let ask = || cached.headers(cursor, LIMIT);
    let all = futures::future::join_all((0..100).map(|_| ask()));
    let (answers, ()) = futures::future::join(all, async { counting.permits.add_permits(1) }).await;
    let first = answers[0].as_ref().unwrap().as_ref().unwrap();
    for answer in &answers {
        let batch = answer.as_ref().unwrap().as_ref().unwrap();
        assert!(std::ptr::eq(batch.body.as_ptr(), first.body.as_ptr()), "one encoding for all");
    }
    assert_eq!(counting.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_batch_cut_by_the_tip_grows_with_it() {
    let sample = Sample::generate(1, 40);
    let stops: Vec<_> = sample.relay.iter().enumerate().filter(|(_, b)| b.justified.is_some()).collect();
    // Two stops of one set in a row: the first is the tip, then the second.
    let pair = stops.windows(2).find(|w| w[0].1.justified.as_ref().unwrap().next_set.is_none()).unwrap();
    let mut memory = filled(&sample, pair[0].0 + 1).await;
    let cached = CachedSource::new(memory.0.clone(), cache::Config::default());
    let relay = prb_core::primitives::RelayNumber(pair[0].1.header.number);
    let cursor = HeaderCursor { relay, para: ParaNumber(0) };
    let before = cached.headers(cursor, LIMIT).await.unwrap().unwrap();
    memory.push_relay(&sample.relay[pair[0].0 + 1..=pair[1].0]).await;
    let after = cached.headers(cursor, LIMIT).await.unwrap().unwrap();
    assert_eq!(before.relay.last.0, pair[0].1.header.number);
    assert_eq!(after.relay.last.0, pair[1].1.header.number);
}

#[tokio::test]
async fn failures_are_not_kept() {
    let sample = Sample::generate(1, 40);
    let memory = filled(&sample, 40).await;
    let counting = Arc::new(Counting::new(memory.0.clone()));
    counting.permits.add_permits(10);
    let cached = CachedSource::new(counting.clone(), cache::Config::default());
    let cursor = BlockCursor { from: ParaNumber(1), to: ParaNumber(3) };
    counting.fail.store(1, Ordering::SeqCst);
    let failed = cached.blocks(cursor, LIMIT).await.unwrap_err();
    assert!(failed.is_retryable());
    assert_eq!(std::error::Error::source(&failed).unwrap().to_string(), "gone");
    counting.fail.store(0, Ordering::SeqCst);
    assert!(cached.blocks(cursor, LIMIT).await.unwrap().is_some());
    assert!(cached.blocks(cursor, LIMIT).await.unwrap().is_some());
    assert_eq!(counting.asked.load(Ordering::SeqCst), 2, "one failure, one success, one hit");
}

#[tokio::test]
async fn old_bodies_make_room() {
    let sample = Sample::generate(2, 60);
    let memory = filled(&sample, 60).await;
    let counting = Arc::new(Counting::new(memory.0.clone()));
    counting.permits.add_permits(1000);
    let cached = CachedSource::new(counting.clone(), cache::Config::default().with_max_bytes(1200));
    for n in 1..10 {
        let cursor = BlockCursor { from: ParaNumber(n), to: ParaNumber(n + 2) };
        cached.blocks(cursor, LIMIT).await.unwrap().unwrap();
    }
    let held = cached.held_bytes().await;
    assert!(held <= 1200, "{held} bytes are kept");
}

/// A cache with 40 blocks in it and nothing that holds its source up, which is shared.
async fn cached(sample: &Sample) -> (Arc<Counting>, CachedSource<Arc<Counting>>) {
    let memory = filled(sample, 40).await;
    let counting = Arc::new(Counting::new(memory.0.clone()));
    counting.permits.add_permits(1_000_000);
    (counting.clone(), CachedSource::new(Arc::new(counting), cache::Config::default()))
}

const fn para(first: u32, last: u32) -> Span<ParaNumber> {
    Span { first: ParaNumber(first), last: ParaNumber(last) }
}

fn refused_blocks(blocks: Span<ParaNumber>, at: Option<u32>) -> RefusedData {
    RefusedData::Blocks { blocks, at: at.map(ParaNumber), message: "StateRootMismatch".into() }
}

#[tokio::test(start_paused = true)]
async fn rejected_batches_are_fetched_again() {
    let sample = Sample::generate(1, 40);
    let (counting, cached) = cached(&sample).await;
    let headers = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let blocks = [(1, 3), (2, 3), (4, 6)].map(|(from, to)| para(from, to));
    let ask = async || {
        cached.headers(headers, LIMIT).await.unwrap().unwrap();
        cached.headers(headers, LIMIT / 2).await.unwrap().unwrap();
        for span in blocks {
            let cursor = BlockCursor { from: span.first, to: span.last };
            let batch = cached.blocks(cursor, LIMIT).await.unwrap().unwrap();
            assert_eq!(batch.blocks, span);
        }
    };
    ask().await;
    ask().await;
    assert_eq!(counting.asked(), 5);

    let refusal = RefusedData::Headers { cursor: headers, message: "HeaderHashMismatch".into() };
    cached.refused(&refusal);
    ask().await;
    assert_eq!(counting.asked(), 7, "the headers of every size, and no blocks");
    // Two batches hold block 3; the third does not.
    cached.refused(&refused_blocks(blocks[0], Some(3)));
    ask().await;
    assert_eq!(counting.asked(), 9);
    ask().await;
    assert_eq!(counting.asked(), 9, "once");
    tokio::time::advance(cache::Config::default().forget_every).await;
    cached.refused(&refused_blocks(para(3, 4), None));
    ask().await;
    assert_eq!(counting.asked(), 12, "all that have one of the blocks");
    assert_eq!(counting.refused.lock().unwrap().len(), 3, "the source hears all of it");
    assert_eq!(counting.refused.lock().unwrap()[0], refusal);
}

/// A worker that refuses everything, as often as it can, costs one fetch in a while.
#[tokio::test(start_paused = true)]
async fn faulty_worker_does_not_evict_the_cache_of_others() {
    let sample = Sample::generate(1, 40);
    let (counting, cached) = cached(&sample).await;
    let headers = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let span = para(2, 5);
    let blocks = BlockCursor { from: span.first, to: span.last };
    let every = cache::Config::default().forget_every;
    for round in 1..=3 {
        for turn in 0..1000_u32 {
            cached.headers(headers, LIMIT).await.unwrap().unwrap();
            cached.blocks(blocks, LIMIT).await.unwrap().unwrap();
            cached.refused(&RefusedData::Headers { cursor: headers, message: "HeaderHashMismatch".into() });
            // Also under other batches' names, and other blocks'.
            let first = 1 + turn % 5;
            let other = (1 + turn / 5 % 5).max(first);
            cached.refused(&refused_blocks(para(first, 5), Some(other)));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(counting.asked() <= 2 * (round + 1), "{} fetches in round {round}", counting.asked());
        assert!(counting.asked() > 2 * (round - 1), "{} fetches in round {round}", counting.asked());
        tokio::time::advance(every).await;
    }
}
