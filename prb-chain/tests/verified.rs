//! Header batches of a devnet with several changes of authorities, through a source that forges what it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use codec::{Decode, Encode};
use prb_chain::{
    ingest::{self, Ingest},
    rpc::{self, NodePool},
    source::StoreSource,
    store::{self, Store},
    verified::{Config, VerifiedSource},
};
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
    },
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc::CombinedHeadersToSync,
    wire::{AuthoritySetChange, GenesisBlockInfo, Header, HeaderToSync},
};
use prb_devnet::Devnet;
use prost::Message;
use tempfile::TempDir;
use tokio::{
    runtime::{self, Runtime},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

const NO_LIMIT: usize = 64 << 20;
const RELAY: u32 = 120;
const LIMIT: Duration = Duration::from_secs(60);

/// What is done to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgery {
    None,
    /// Another state root in the last header, and a chain of hashes that fits.
    LastHeader,
    /// Another extrinsics root in a header within, and parents that fit.
    HeaderWithin,
    /// A justification of another block.
    Justification,
    /// Other authorities after the batch.
    SetChange,
    /// Another last parachain header.
    ParaHeader,
    /// No proof of the parachain's head.
    Proof,
    /// The last header says that the chain forces a change, which workers could not follow.
    ForcedChange,
}

/// An honest source, but for what it is told to forge.
#[derive(Debug)]
struct Forger {
    honest: StoreSource,
    forgery: Mutex<Forgery>,
    /// It gives a false batch so often, and is honest then.
    times: AtomicUsize,
    has_genesis: bool,
    /// What its genesis adds to the number of the authority set.
    added_to_set: AtomicU64,
    reported: Mutex<Vec<RefusedData>>,
}

impl Forger {
    fn new(store: &Arc<Store>) -> Self {
        Self {
            honest: StoreSource::new(Arc::clone(store)),
            forgery: Mutex::new(Forgery::None),
            times: AtomicUsize::new(usize::MAX),
            has_genesis: true,
            added_to_set: AtomicU64::new(0),
            reported: Mutex::default(),
        }
    }

    fn set(&self, forgery: Forgery) {
        *self.forgery.lock().unwrap() = forgery;
        self.reported.lock().unwrap().clear();
    }

    /// Reasons of the false batches that it was told of.
    fn reasons(&self) -> Vec<String> {
        let reported = self.reported.lock().unwrap();
        let reason = |refused: &RefusedData| match refused {
            RefusedData::FalseHeaders(it) => Some(it.reason.clone()),
            _ => None,
        };
        reported.iter().filter_map(reason).collect()
    }
}

#[async_trait]
impl BlobSource for Forger {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.honest.heights()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        if !self.has_genesis {
            return Err(Error::NotReady);
        }
        let mut genesis = self.honest.genesis().await?;
        let mut info = GenesisBlockInfo::decode(&mut &genesis.info[..]).unwrap();
        info.authority_set.id += self.added_to_set.load(Ordering::Relaxed);
        genesis.info = info.encode().into();
        Ok(genesis)
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        let batch = self.honest.headers(cursor, max_bytes).await?;
        let forgery = *self.forgery.lock().unwrap();
        let left = self.times.load(Ordering::Relaxed);
        if forgery == Forgery::None || left == 0 {
            return Ok(batch);
        }
        self.times.store(left - 1, Ordering::Relaxed);
        Ok(batch.map(|batch| forge(batch, forgery)))
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        self.honest.blocks(cursor, max_bytes).await
    }

    fn refused(&self, refused: &RefusedData) {
        self.reported.lock().unwrap().push(refused.clone());
    }
}

/// Makes each header follow the one before it.
fn relink(headers: &mut [HeaderToSync]) {
    for at in 1..headers.len() {
        headers[at].header.parent_hash = headers[at - 1].header.hash();
    }
}

fn forge(batch: HeaderBatch, forgery: Forgery) -> HeaderBatch {
    let mut body = CombinedHeadersToSync::decode(batch.body.clone()).unwrap();
    let mut relay = Vec::<HeaderToSync>::decode(&mut &*body.encoded_relaychain_headers).unwrap();
    match forgery {
        Forgery::None => {}
        Forgery::LastHeader => relay.last_mut().unwrap().header.state_root = Hash([7; 32]),
        Forgery::HeaderWithin => {
            relay[1].header.extrinsics_root = Hash([7; 32]);
            relink(&mut relay);
        }
        Forgery::Justification => {
            let justification = relay.last_mut().unwrap().justification.as_mut().unwrap();
            // The block that it is of follows the round.
            justification[8] ^= 1;
        }
        Forgery::SetChange => {
            let mut change =
                AuthoritySetChange::decode(&mut &**body.authority_set_change.as_ref().unwrap()).unwrap();
            change.authority_set.list[0].0 = [7; 32];
            body.authority_set_change = Some(change.encode());
        }
        Forgery::ParaHeader => {
            let mut para = Vec::<Header>::decode(&mut &*body.encoded_parachain_headers).unwrap();
            para.last_mut().unwrap().state_root = Hash([7; 32]);
            body.encoded_parachain_headers = para.encode().into();
        }
        Forgery::Proof => body.proof.clear(),
        Forgery::ForcedChange => {
            let log = prb_core::wire::DigestItem::Consensus(*b"FRNK", vec![2, 0, 0, 0, 0, 0]);
            relay.last_mut().unwrap().header.digest.push(log);
        }
    }
    body.encoded_relaychain_headers = relay.encode().into();
    HeaderBatch { body: body.encode_to_vec().into(), ..batch }
}

/// What a devnet of five authority sets has given an ingest.
async fn filled(dir: &Path) -> Arc<Store> {
    let config = prb_devnet::Config {
        history: RELAY,
        set_length: 25,
        justification_period: 8,
        ..prb_devnet::Config::default()
    };
    let devnet = Devnet::start(config).await.unwrap();
    let pool = |name, url| NodePool::new(name, rpc::Config::new(vec![url])).unwrap();
    let (relay, para) = (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()));
    let store = Arc::new(Store::open(dir, store::Config::default()).unwrap());
    let cancel = CancellationToken::new();
    let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
    let task = tokio::spawn(ingest.run(cancel.clone()));
    let mut heights = store.heights();
    let there =
        heights.wait_for(|h| h.relay >= Some(RelayNumber(RELAY - 8)) && h.para >= Some(ParaNumber(40)));
    tokio::time::timeout(Duration::from_secs(60), there).await.unwrap().unwrap();
    cancel.cancel();
    task.await.unwrap().unwrap();
    devnet.shutdown().await;
    store
}

fn verified(source: &Arc<Forger>, path: Option<&Path>) -> VerifiedSource<Forger> {
    let config = Config::default().with_path(path.map(|dir| dir.join("sets")));
    VerifiedSource::open(Arc::clone(source), config)
}

fn next(cursor: HeaderCursor, batch: &HeaderBatch) -> HeaderCursor {
    HeaderCursor {
        relay: batch.relay.last.next(),
        para: batch.para.map_or(cursor.para, |para| para.last.next()),
    }
}

async fn start(source: &Forger) -> HeaderCursor {
    let genesis = source.honest.genesis().await.unwrap();
    HeaderCursor { relay: genesis.relay_number.next(), para: ParaNumber(0) }
}

/// All batches from a cursor on, as honest as they come: each with the cursor that it was asked for at.
async fn walk(source: &dyn BlobSource, mut cursor: HeaderCursor) -> Vec<(HeaderCursor, HeaderBatch)> {
    let mut all = Vec::new();
    while let Some(batch) = source.headers(cursor, NO_LIMIT).await.unwrap() {
        all.push((cursor, batch.clone()));
        cursor = next(cursor, &batch);
    }
    all
}

fn is_set_change(batch: &HeaderBatch) -> bool {
    CombinedHeadersToSync::decode(batch.body.clone()).unwrap().authority_set_change.is_some()
}

/// Workers do not check the number: with a wrong one, every true header would count as false.
#[tokio::test(flavor = "multi_thread")]
async fn genesis_with_the_number_of_another_set_is_refused() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Forger::new(&filled(dir.path()).await));
    let verified = verified(&source, None);
    source.added_to_set.store(1, Ordering::Relaxed);
    assert!(verified.genesis().await.is_err());
    source.added_to_set.store(0, Ordering::Relaxed);
    verified.genesis().await.unwrap();
    let honest = walk(&source.honest, start(&source).await).await;
    assert_eq!(walk(&verified, start(&source).await).await, honest);
    assert_eq!(source.reasons(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_false_batch_gets_through() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Forger::new(&filled(dir.path()).await));
    let verified = verified(&source, None);
    let honest = walk(&source.honest, start(&source).await).await;
    assert_eq!(walk(&verified, start(&source).await).await, honest);
    let changes = honest.iter().filter(|(_, batch)| is_set_change(batch)).count();
    assert!(changes >= 4, "{changes}");
    assert_eq!(source.reasons(), [""; 0]);

    for (forgery, reason) in [
        (Forgery::LastHeader, "bad justification of relay block"),
        (Forgery::HeaderWithin, "bad justification of relay block"),
        (Forgery::Justification, "bad justification of relay block"),
        (Forgery::ForcedChange, "bad justification of relay block"),
        (Forgery::SetChange, "the change of authorities does not hold"),
        (Forgery::ParaHeader, "the last header is not the head"),
        (Forgery::Proof, "the parachain's head does not hold"),
    ] {
        source.set(forgery);
        for (cursor, batch) in &honest {
            let fits = forgery != Forgery::SetChange || is_set_change(batch);
            let has_para = batch.para.is_some() || !matches!(forgery, Forgery::ParaHeader | Forgery::Proof);
            if !fits || !has_para || batch.relay.first == batch.relay.last {
                continue;
            }
            source.set(forgery);
            let refused = verified.headers(*cursor, NO_LIMIT).await;
            let reasons = source.reasons();
            assert!(matches!(refused, Err(Error::Unavailable(_))), "{forgery:?} at {cursor}: {refused:?}");
            assert!(!reasons.is_empty() && reasons.len() <= 16, "{forgery:?} at {cursor}: {}", reasons.len());
            assert!(reasons.iter().all(|told| told.contains(reason)), "{forgery:?} at {cursor}: {reasons:?}");
        }
    }
    // Another answer takes the place of a false one, and of the same one from eight providers.
    for liars in [1, 8] {
        source.set(Forgery::LastHeader);
        source.times.store(liars, Ordering::Relaxed);
        let (cursor, batch) = &honest[1];
        assert_eq!(verified.headers(*cursor, NO_LIMIT).await.unwrap().as_ref(), Some(batch));
        assert_eq!(source.reasons().len(), liars);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_sets_outlive_a_restart_and_gaps_are_walked_through() {
    let dir = TempDir::new().unwrap();
    let store = filled(&dir.path().join("store")).await;
    let source = Arc::new(Forger::new(&store));
    let honest = walk(&source.honest, start(&source).await).await;
    let (late, batch) = honest.last().unwrap();

    // A manager that has not seen the sets in between learns them first.
    let fresh = verified(&source, None);
    source.set(Forgery::LastHeader);
    source.times.store(1, Ordering::Relaxed);
    assert_eq!(fresh.headers(*late, NO_LIMIT).await.unwrap().as_ref(), Some(batch));
    assert_eq!(source.reasons().len(), 1, "the forged batch was found out");

    // One that has seen them knows them after a restart, also without a genesis.
    source.set(Forgery::None);
    let before = verified(&source, Some(dir.path()));
    walk(&before, start(&source).await).await;
    // On a thread without a runtime, where it waits for the disk.
    thread::spawn(move || drop(before)).join().unwrap();
    let blind = Arc::new(Forger { has_genesis: false, ..Forger::new(&store) });
    blind.set(Forgery::LastHeader);
    let after = verified(&blind, Some(dir.path()));
    assert!(after.headers(*late, NO_LIMIT).await.is_err());
    assert!(!blind.reasons().is_empty());

    // Damage is survived: it is learnt again.
    let file = dir.path().join("sets");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    source.set(Forgery::None);
    let again = verified(&source, Some(dir.path()));
    assert_eq!(again.headers(*late, NO_LIMIT).await.unwrap().as_ref(), Some(batch));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_left_to_workers() {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path()).await;
    let blind = Arc::new(Forger { has_genesis: false, ..Forger::new(&store) });
    let verified = verified(&blind, None);
    let honest = walk(&blind.honest, start(&blind).await).await;
    assert_eq!(walk(&verified, start(&blind).await).await, honest);
    assert_eq!(blind.reasons(), [""; 0]);
}

/// Makes the next write of the file hang: opening a pipe for writing waits for its reader.
fn hang(dir: &Path) {
    let made = std::process::Command::new("mkfifo").arg(dir.join("sets.new")).status();
    assert!(made.unwrap().success());
}

/// Verifies all batches, on a disk that hangs, with two threads for blocking work; 10 s pass after each of them. Sends a
/// message when that is done, and another one when the source has been dropped.
fn walk_on_a_hung_disk(store: &Arc<Store>, dir: &Path, done: &mpsc::Sender<()>) {
    hang(dir);
    let paused = runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(2)
        .build()
        .unwrap();
    paused.block_on(async {
        let source = Arc::new(Forger::new(store));
        let verified = verified(&source, Some(dir));
        let mut cursor = start(&source).await;
        let mut batches = 0;
        while let Some(batch) = verified.headers(cursor, NO_LIMIT).await.unwrap() {
            cursor = next(cursor, &batch);
            batches += 1;
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert!(batches > 3, "{batches}");
        done.send(()).unwrap();
        drop(verified);
        done.send(()).unwrap();
    });
    paused.shutdown_background();
}

#[test]
fn disk_that_hangs_stops_neither_verification_nor_the_end() {
    let dir = TempDir::new().unwrap();
    let store = Runtime::new().unwrap().block_on(filled(&dir.path().join("store")));
    let (path, (done, ended)) = (dir.path().to_owned(), mpsc::channel());
    // Not joined: it may never end.
    thread::spawn(move || walk_on_a_hung_disk(&store, &path, &done));
    assert_eq!(ended.recv_timeout(LIMIT), Ok(()), "verification waits for the disk");
    assert_eq!(ended.recv_timeout(LIMIT), Ok(()), "the end waits for the disk");
}
