//! Tests of the block store, and of the blob source over it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use codec::Encode;
use prb_chain::{
    internals::{
        store::{NewJustifiedBlock, ParaHead, RelayBatch},
        verify::Start,
    },
    source::StoreSource,
    store::{Config, Error, Store},
};
use prb_core::{
    blob::{BlobSource, BlockCursor, HeaderCursor, memory::empty_genesis, range::RangeSource},
    conformance::{
        blob::{self, Backend, RelayBlock, Sample},
        range::{self, RangeBackend},
    },
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::{Header, StorageChanges},
};
use tempfile::TempDir;

#[path = "store/disk.rs"]
mod disk;

const LIMIT: usize = 64 << 20;

/// Opens a store without thinning, so that every justified block of a sample stays.
fn open(path: &Path, keep_justified_every: u32) -> Result<Store, Error> {
    Store::open(
        path,
        Config::default().with_keep_justified_every(keep_justified_every).with_map_bytes(1 << 30),
    )
}

struct Filled {
    store: Arc<Store>,
    sample: Sample,
    set_id: u64,
    held_back: Vec<RelayBlock>,
    _dir: TempDir,
}

impl Filled {
    fn new(sample: &Sample, keep_justified_every: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path(), keep_justified_every).unwrap();
        set_genesis(&store, sample).unwrap();
        Self {
            store: Arc::new(store),
            sample: sample.clone(),
            set_id: sample.genesis_set.id,
            held_back: Vec::new(),
            _dir: dir,
        }
    }

    /// A store accepts relay blocks only up to a justified one.
    fn append_relay(&mut self, blocks: &[RelayBlock]) {
        self.held_back.extend_from_slice(blocks);
        let Some(last) = self.held_back.iter().rposition(|block| block.justified.is_some()) else { return };
        let blocks: Vec<_> = self.held_back.drain(..=last).collect();
        let mut justified = Vec::new();
        for block in &blocks {
            let Some(end) = block.justified.clone() else { continue };
            let para_head = end
                .para_head
                .map(|number| ParaHead { number, hash: self.sample.para[number.0 as usize].hash() });
            let set_id = self.set_id;
            self.set_id = end.next_set.as_ref().map_or(set_id, |set| set.id);
            justified.push(NewJustifiedBlock {
                number: RelayNumber(block.header.number),
                justification: end.justification,
                set_id,
                next_set: end.next_set,
                para_head,
                proof: end.proof,
            });
        }
        let headers = blocks.iter().map(|block| block.header.encode()).collect();
        let first = RelayNumber(blocks[0].header.number);
        self.store.append_relay(&RelayBatch { first, headers, justified }).unwrap();
    }

    fn append_para(&self, blocks: &[(Header, StorageChanges)]) {
        let first = ParaNumber(blocks[0].0.number);
        let headers: Vec<_> = blocks.iter().map(|(header, _)| header.encode()).collect();
        self.store.append_para_headers(first, &headers).unwrap();
        let blocks: Vec<_> = blocks.iter().filter(|(header, _)| header.number > 0).collect();
        let changes: Vec<_> = blocks.iter().map(|(_, changes)| changes.encode()).collect();
        self.store.append_changes(ParaNumber(blocks[0].0.number), &changes).unwrap();
    }
}

/// Samples start with a header whose parent is the zero hash.
fn set_genesis(store: &Store, sample: &Sample) -> Result<(), Error> {
    let start = Start {
        number: sample.genesis_number.0,
        hash: sample.relay[0].header.parent_hash,
        set: sample.genesis_set.clone(),
    };
    let mut genesis = empty_genesis(sample.genesis_number);
    genesis.chain_identity = sample.para.get(1).map(Header::hash).unwrap_or_default();
    store.set_genesis(&start, &genesis)
}

/// The suite pushes parachain blocks first; a store accepts them after the relay block that proves them.
struct Suite {
    filled: Filled,
    waiting: Vec<(Header, StorageChanges)>,
}

impl Suite {
    fn drain(&mut self) {
        let proven = self.filled.store.tips().borrow().proven.map_or(0, |(number, _)| number.0 + 1);
        let next = self.filled.store.tips().borrow().para_header.map_or(0, |(tip, _)| tip.0 + 1);
        let count = (proven.saturating_sub(next) as usize).min(self.waiting.len());
        if count > 0 {
            let blocks: Vec<_> = self.waiting.drain(..count).collect();
            // Block 0 is pushed with the first blocks here, so that there are changes to append.
            if blocks.len() == 1 && blocks[0].0.number == 0 {
                self.filled.store.append_para_headers(ParaNumber(0), &[blocks[0].0.encode()]).unwrap();
            } else {
                self.filled.append_para(&blocks);
            }
        }
    }
}

#[async_trait]
impl Backend for Suite {
    async fn create(sample: &Sample) -> Self {
        Self { filled: Filled::new(sample, 1), waiting: Vec::new() }
    }

    async fn push_relay(&mut self, blocks: &[RelayBlock]) {
        self.filled.append_relay(blocks);
        self.drain();
    }

    async fn push_para(&mut self, blocks: &[(Header, StorageChanges)]) {
        self.waiting.extend_from_slice(blocks);
        self.drain();
    }

    fn source(&self) -> Arc<dyn BlobSource> {
        Arc::new(StoreSource::new(self.filled.store.clone()))
    }
}

impl RangeBackend for Suite {
    fn ranges(&self) -> Arc<dyn RangeSource> {
        Arc::new(StoreSource::new(self.filled.store.clone()))
    }
}

#[tokio::test]
async fn store_source_passes_range_suite() {
    range::run::<Suite>().await;
}

#[tokio::test]
async fn store_source_passes_conformance_suite() {
    blob::run::<Suite>().await;
}

fn filled(sample: &Sample, keep_justified_every: u32) -> Filled {
    let mut filled = Filled::new(sample, keep_justified_every);
    filled.append_relay(&sample.relay);
    let proven = filled.store.tips().borrow().proven.unwrap().0.0 as usize;
    let para: Vec<_> = sample.para.iter().cloned().zip(sample.changes.iter().cloned()).collect();
    filled.append_para(&para[..=proven]);
    filled
}

#[tokio::test]
async fn blocks_survive_reopening() {
    let sample = Sample::generate(3, 80);
    let Filled { store, _dir: dir, .. } = filled(&sample, 1);
    let (tips, heights) = (*store.tips().borrow(), *store.heights().borrow());
    let (genesis, set) = (store.genesis().unwrap().clone(), store.current_set().unwrap());
    let cursor = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let batch = StoreSource::new(store.clone()).headers(cursor, LIMIT).await.unwrap().unwrap();
    assert!(matches!(open(dir.path(), 1), Err(Error::InUse { .. })), "one process at a time");
    drop(store);

    let store = Arc::new(open(dir.path(), 1).unwrap());
    assert_eq!((*store.tips().borrow(), *store.heights().borrow()), (tips, heights));
    assert_eq!((store.genesis().unwrap(), &store.current_set().unwrap()), (&genesis, &set));
    assert_eq!(StoreSource::new(store.clone()).headers(cursor, LIMIT).await.unwrap().unwrap(), batch);
    set_genesis(&store, &sample).unwrap();
    let refused = set_genesis(&store, &Sample::generate(4, 80));
    assert!(matches!(refused, Err(Error::OtherChain { .. })), "{refused:?}");
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let _store = open(&path, 1).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in path.read_dir().unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[test]
fn out_of_sequence_blocks_are_refused() {
    let sample = Sample::generate(5, 60);
    let mut filled = Filled::new(&sample, 1);
    let justified: Vec<_> =
        sample.relay.iter().enumerate().filter(|(_, b)| b.justified.is_some()).map(|(i, _)| i).collect();
    filled.append_relay(&sample.relay[..=justified[1]]);
    let batch = |from: usize, to: usize, number: u32| RelayBatch {
        first: RelayNumber(number),
        headers: sample.relay[from..=to].iter().map(|block| block.header.encode()).collect(),
        justified: vec![NewJustifiedBlock {
            number: RelayNumber(number + (to - from) as u32),
            justification: vec![],
            set_id: 0,
            next_set: None,
            para_head: None,
            proof: vec![],
        }],
    };
    let next = justified[1] + 1;
    let number = sample.genesis_number.0 + 1 + next as u32;
    let before = *filled.store.tips().borrow();
    let store = &filled.store;
    let refused = |r: Result<(), Error>| assert!(matches!(r, Err(Error::OutOfSequence { .. })), "{r:?}");
    refused(store.append_relay(&batch(next + 1, next + 3, number + 1)));
    refused(store.append_relay(&batch(next - 1, next + 3, number)));
    refused(store.append_relay(&RelayBatch { justified: vec![], ..batch(next, next + 3, number) }));
    refused(store.append_para_headers(ParaNumber(1), &[sample.para[1].encode()]));
    let beyond: Vec<_> = sample.para.iter().map(Encode::encode).collect();
    refused(store.append_para_headers(ParaNumber(0), &beyond));
    refused(store.append_changes(ParaNumber(2), &[vec![0, 0]]));
    assert_eq!(*store.tips().borrow(), before);
    store.append_relay(&batch(next, next + 3, number)).unwrap();
}

#[test]
fn stored_blocks_do_not_set_other_targets() {
    let sample = Sample::generate(9, 60);
    let mut filled = Filled::new(&sample, 1);
    let (relay, para) = (RelayNumber(u32::MAX), ParaNumber(u32::MAX));
    filled.store.set_targets(Some(relay), Some(para));
    filled.append_relay(&sample.relay);
    let proven = filled.store.tips().borrow().proven.unwrap().0.0 as usize;
    let blocks: Vec<_> = sample.para.iter().cloned().zip(sample.changes.iter().cloned()).collect();
    filled.append_para(&blocks[..=proven]);
    let heights = *filled.store.heights().borrow();
    assert!(heights.relay.is_some() && heights.para.is_some(), "{heights:?}");
    assert_eq!((heights.relay_target, heights.para_target), (Some(relay), Some(para)));
}

/// Appends a relay block that names no head of the parachain.
fn append_without_head(store: &Store) -> RelayNumber {
    let (tip, parent_hash) = store.tips().borrow().relay.unwrap();
    let (state_root, extrinsics_root) = (Hash::default(), Hash::default());
    let header = Header { parent_hash, number: tip.next().0, state_root, extrinsics_root, digest: vec![] };
    let block = NewJustifiedBlock {
        number: tip.next(),
        justification: vec![],
        set_id: 0,
        next_set: None,
        para_head: None,
        proof: vec![],
    };
    let batch = RelayBatch { first: tip.next(), headers: vec![header.encode()], justified: vec![block] };
    store.append_relay(&batch).unwrap();
    tip.next()
}

/// Catching up, one batch has blocks from before and after the parachain was offboarded.
#[test]
fn last_head_that_a_batch_names_is_proven() {
    let sample = Sample::generate(7, 60);
    let mut filled = Filled::new(&sample, 1);
    let mut blocks = sample.relay.clone();
    let named = |block: &RelayBlock| block.justified.as_ref().and_then(|end| end.para_head);
    let last_named = blocks[..blocks.len() - 1].iter().rposition(|block| named(block).is_some()).unwrap();
    let head = named(&blocks[last_named]).unwrap();
    let mut end = blocks[last_named].justified.clone().unwrap();
    end.para_head = None;
    blocks.truncate(last_named + 2);
    blocks[last_named + 1].justified = Some(end);
    filled.append_relay(&blocks);
    let proven = |store: &Store| store.tips().borrow().proven.map(|(number, _)| number);
    assert_eq!(proven(&filled.store), Some(head));
    let headers: Vec<_> = sample.para[..=head.0 as usize].iter().map(Encode::encode).collect();
    filled.store.append_para_headers(ParaNumber(0), &headers).unwrap();
    let Filled { store, _dir, .. } = filled;
    let path = store.path().to_owned();
    drop(store);
    assert_eq!(proven(&Store::open(&path, Config::default()).unwrap()), Some(head));
}

#[test]
fn last_named_head_stays() {
    let sample = Sample::generate(7, 60);
    let filled = filled(&sample, 1);
    let store = &filled.store;
    let para = store.heights().borrow().para;
    assert!(para.is_some());
    for _ in 0..2 {
        let tip = append_without_head(store);
        let heights = *store.heights().borrow();
        assert_eq!((heights.relay, heights.para), (Some(tip), para));
    }
    let (path, heights) = (store.path().to_owned(), *store.heights().borrow());
    let Filled { store, _dir, .. } = filled;
    drop(store);
    let again = Store::open(&path, Config::default()).unwrap();
    assert_eq!((again.heights().borrow().relay, again.heights().borrow().para), (heights.relay, para));
}

#[test]
fn covered_heights_survive_reopening() {
    let sample = Sample::generate(8, 60);
    let mut filled = Filled::new(&sample, 1);
    filled.append_relay(&sample.relay);
    let proven = filled.store.tips().borrow().proven.unwrap().0.0 as usize;
    let blocks: Vec<_> = sample.para.iter().cloned().zip(sample.changes.iter().cloned()).collect();
    filled.append_para(&blocks[..=proven / 2]);
    // The parachain is offboarded before its last blocks are stored.
    append_without_head(&filled.store);
    let Filled { store, _dir, .. } = filled;
    let of = |store: &Store| (*store.heights().borrow(), store.next_head(1_000).unwrap());
    let (before, path) = (of(&store), store.path().to_owned());
    assert!(before.0.para < Some(ParaNumber(proven as u32)) && before.1.is_some(), "{before:?}");
    drop(store);
    let after = of(&Store::open(&path, Config::default()).unwrap());
    assert_eq!((after.0.relay, after.0.para, after.1), (before.0.relay, before.0.para, before.1));
}

#[tokio::test]
async fn finished_sets_are_thinned() {
    let sample = Sample::generate(6, 400);
    let every = filled(&sample, 1);
    let thin = filled(&sample, 1000);
    let count = |filled: &Filled| {
        let mut count = 0;
        prb_core::blob::assemble::ChainPieces::batch_ends(
            &filled.store.view().unwrap(),
            RelayNumber(0),
            &mut |_| {
                count += 1;
                true
            },
        )
        .unwrap();
        count
    };
    let ends = sample.relay.iter().filter(|b| b.justified.as_ref().is_some_and(|j| j.next_set.is_some()));
    let last_end = ends.clone().next_back().unwrap().header.number;
    let after = sample.relay.iter().filter(|b| b.header.number > last_end && b.justified.is_some()).count();
    assert_eq!(count(&thin), ends.count() + after);
    assert!(count(&every) > count(&thin), "this sample has stops within sets");
    assert_eq!(*every.store.heights().borrow(), *thin.store.heights().borrow());
    // Every cursor still has a batch.
    let source = StoreSource::new(thin.store.clone());
    for relay in sample.genesis_number.next().0..=thin.store.heights().borrow().relay.unwrap().0 {
        let cursor = HeaderCursor { relay: RelayNumber(relay), para: ParaNumber(0) };
        assert!(source.headers(cursor, LIMIT).await.unwrap().is_some());
    }
    thin_ranges_begin_no_later(&StoreSource::new(every.store.clone()), &source, &sample).await;
}

/// A dropped justified block makes a range longer at both ends; a worker skips what it has.
async fn thin_ranges_begin_no_later(every: &StoreSource, thin: &StoreSource, sample: &Sample) {
    let tip = thin.heights().borrow().relay.unwrap();
    for relay in (sample.genesis_number.next().0..=tip.0).map(RelayNumber) {
        let exact = every.ranges(relay).await.unwrap().unwrap();
        let wide = thin.ranges(relay).await.unwrap().unwrap();
        assert_eq!(exact.longest.relay, wide.longest.relay);
        assert!(exact.shortest.relay.last <= wide.shortest.relay.last);
        if let Some(span) = exact.longest.para {
            let wide = wide.longest.para.unwrap();
            assert!(wide.first <= span.first && wide.last == span.last);
        }
        // A name announced before the justified block was dropped still has a blob.
        let cursor = HeaderCursor { relay, para: ParaNumber(0) };
        let batch = thin.headers_to(cursor, exact.shortest.relay.last, LIMIT).await.unwrap().unwrap();
        assert_eq!(batch.relay.last, wide.shortest.relay.last);
    }
}

#[tokio::test]
async fn wrong_changes_can_be_replaced() {
    let sample = Sample::generate(8, 60);
    let filled = filled(&sample, 1);
    let cursor = BlockCursor { from: ParaNumber(1), to: ParaNumber(6) };
    let source = StoreSource::new(filled.store.clone());
    let good = source.blocks(cursor, LIMIT).await.unwrap().unwrap();
    let wrong = vec![StorageChanges::default().encode(), vec![0; 40_000]];
    filled.store.replace_changes(ParaNumber(3), &wrong).unwrap();
    assert_ne!(source.blocks(cursor, LIMIT).await.unwrap().unwrap(), good);
    assert_eq!(filled.store.changes(ParaNumber(4)).unwrap(), wrong[1]);
    let right: Vec<_> = sample.changes[3..5].iter().map(Encode::encode).collect();
    filled.store.replace_changes(ParaNumber(3), &right).unwrap();
    assert_eq!(source.blocks(cursor, LIMIT).await.unwrap().unwrap(), good);
    let missing = filled.store.replace_changes(ParaNumber(10_000), &right);
    assert!(matches!(missing, Err(Error::Missing { .. })), "{missing:?}");
}

#[test]
fn full_map_grows_once_readers_have_ended() {
    let dir = TempDir::new().unwrap();
    let small = Config::default().with_map_bytes(1 << 20);
    let store = Store::open(dir.path(), small).unwrap();
    set_genesis(&store, &Sample::generate(1, 10)).unwrap();
    let block = |n: u32| vec![n as u8; 100_000];
    let append = |n: u32| store.append_changes(ParaNumber(n), &[block(n)]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Readers come and go all the time; none of them sees torn data.
        let reader = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let view = store.view().unwrap();
                let newest = store.tips().borrow().changes;
                if newest.0 > 0
                    && let Some(changes) = view.changes(newest).unwrap()
                {
                    assert_eq!(changes, block(newest.0));
                }
            }
        });
        let appended: Result<(), Error> = (1..200).try_for_each(append);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
        appended.unwrap();
    });
    drop(store);
    let store = Store::open(dir.path(), small).unwrap();
    (1..200).for_each(|n| assert_eq!(store.changes(ParaNumber(n)).unwrap(), block(n)));
    (200..300).for_each(|n| store.append_changes(ParaNumber(n), &[block(n)]).unwrap());
}
