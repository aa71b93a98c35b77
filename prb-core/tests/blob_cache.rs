//! What the cache promises to many who ask at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt;
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, Span,
        cache::{CachedSource, Config},
    },
    primitives::{ParaNumber, RelayNumber},
};
use tokio::sync::watch;

const KIB: usize = 1024;

/// Takes a second for each answer: blocks that are below its height when it was asked.
#[derive(Debug, Default)]
struct Slow {
    heights: watch::Sender<Heights>,
    fetches: AtomicUsize,
}

impl Slow {
    fn grow(&self, para: u32) {
        self.heights.send_modify(|heights| heights.para = Some(ParaNumber(para)));
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl BlobSource for Slow {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        Err(Error::NotReady)
    }

    async fn headers(&self, cursor: HeaderCursor, _: usize) -> Result<Option<HeaderBatch>, Error> {
        let relay = Span { first: cursor.relay, last: cursor.relay };
        Ok(Some(HeaderBatch { relay, para: None, body: vec![1; 10 * KIB].into() }))
    }

    async fn blocks(&self, cursor: BlockCursor, _: usize) -> Result<Option<BlockBatch>, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let has = self.heights.borrow().para >= Some(cursor.from);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let blocks = Span { first: cursor.from, last: cursor.from };
        Ok(has.then(|| BlockBatch { blocks, body: vec![2; 10 * KIB].into() }))
    }
}

fn cached() -> (Arc<Slow>, Arc<CachedSource<Slow>>) {
    let source = Arc::new(Slow::default());
    source.grow(100);
    let config = Config::default().with_max_bytes(100 * KIB as u64);
    (Arc::clone(&source), Arc::new(CachedSource::new(source, config)))
}

fn block(number: u32) -> BlockCursor {
    BlockCursor { from: ParaNumber(number), to: ParaNumber(number) }
}

#[tokio::test(start_paused = true)]
async fn departing_waiters_neither_fail_nor_delay_the_others() {
    let (source, cache) = cached();
    let begin = tokio::time::Instant::now();
    // Each in turn is the one who drives the fetch, and leaves.
    let mut leaving: Vec<_> = (0..500).map(|_| Box::pin(cache.blocks(block(7), KIB))).collect();
    assert!(leaving.iter_mut().all(|asked| asked.now_or_never().is_none()));
    let waits = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.blocks(block(7), KIB).await }
    });
    tokio::task::yield_now().await;
    for asked in leaving {
        drop(asked);
        tokio::task::yield_now().await;
    }
    let first = waits.await.unwrap().unwrap().unwrap();
    assert_eq!((begin.elapsed(), source.fetches()), (Duration::from_secs(1), 1));
    let again = cache.blocks(block(7), KIB).now_or_never().unwrap().unwrap().unwrap();
    assert_eq!(again.body.as_ptr(), first.body.as_ptr(), "one encoding for all");
}

#[tokio::test(start_paused = true)]
async fn fetch_without_waiters_ends() {
    let (source, cache) = cached();
    let mut asked = Box::pin(cache.blocks(block(7), KIB));
    assert!(asked.as_mut().now_or_never().is_none());
    drop(asked);
    assert!(cache.blocks(block(7), KIB).await.unwrap().is_some());
    assert_eq!(source.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn answers_from_before_a_known_growth_are_not_returned() {
    let (source, cache) = cached();
    let early = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.blocks(block(101), KIB).await }
    });
    tokio::task::yield_now().await;
    source.grow(101);
    assert!(cache.blocks(block(101), KIB).await.unwrap().is_some(), "it would wait for the next block");
    assert!(early.await.unwrap().unwrap().is_none());
}

/// Ten bodies fit. Workers that catch up come back to theirs often; the tip's is new.
#[tokio::test(start_paused = true)]
async fn batches_at_the_tip_are_kept_before_more_frequent_ones() {
    let (source, cache) = cached();
    for _ in 0..20 {
        for number in 1..=9 {
            cache.blocks(block(number), KIB).await.unwrap();
        }
    }
    cache.held_bytes().await;
    for tip in 50..60 {
        let before = source.fetches();
        for _ in 0..100 {
            cache.blocks(block(tip), KIB).await.unwrap();
            cache.held_bytes().await;
        }
        assert_eq!(source.fetches() - before, 1, "one fetch for all at block {tip}");
    }
    let headers = HeaderCursor { relay: RelayNumber(1), para: ParaNumber(1) };
    assert!(cache.headers(headers, KIB).await.unwrap().is_some());
    assert!(cache.held_bytes().await <= 200 * KIB as u64);
}
