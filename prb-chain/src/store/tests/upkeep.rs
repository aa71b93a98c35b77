//! Tests of dropping blocks, compaction, and recovery after a database failure.

use std::{
    io::Write,
    process::Command,
    sync::{Arc, mpsc},
};

use prb_core::blob::{BlobSource, BlockCursor, Span, assemble::ChainPieces};
use tokio::task::JoinSet;

use super::*;
use crate::{disk::DiskProblem, inventory::HeedInventory, source::StoreSource};

#[test]
fn relay_blocks_are_dropped_to_a_justified_one_and_appended_again() {
    let (dir, whole) = (layout_1(), layout_1());
    let (store, whole) = (open(&dir), open(&whole));
    store.drop_relay_from(RelayNumber(15)).unwrap();
    let (tip, _) = store.tips().borrow().relay.unwrap();
    assert!(tip < RelayNumber(15) && tip > RelayNumber(1));
    assert!(heights(&store).0 <= Some(tip.0));
    assert_eq!(verify(&store).faults, []);
    // The dropped blocks, from the complete store.
    let view = whole.view().unwrap();
    let mut batches = Vec::new();
    let mut first = tip.next();
    view.batch_ends(first, &mut |block| {
        batches.push((first, block.number));
        first = block.number.next();
        true
    })
    .unwrap();
    for (first, last) in batches {
        let mut headers = Vec::new();
        view.relay_headers(Span { first, last }, &mut |header| {
            headers.push(header.to_vec());
            true
        })
        .unwrap();
        let mut justified = Vec::new();
        view.batch_ends(last, &mut |block| {
            let (alignment, proof) = {
                let txn = whole.read().unwrap();
                let encoded = txn.tables.alignments.get(&txn, &last.0).unwrap().unwrap().to_vec();
                let (alignment, proof) = split_alignment(&encoded).unwrap();
                (alignment, proof.to_vec())
            };
            justified.push(NewJustifiedBlock {
                number: last,
                justification: block.justification.to_vec(),
                set_id: block.set_id,
                next_set: block.next_set.map(|mut set| AuthoritySet::decode(&mut set).unwrap()),
                para_head: alignment.para_head.map(|(n, hash)| ParaHead { number: ParaNumber(n), hash }),
                proof: Vec::decode(&mut &proof[..]).unwrap(),
            });
            false
        })
        .unwrap();
        store.append_relay(&RelayBatch { first, headers, justified }).unwrap();
    }
    assert_eq!(heights(&store), (Some(RELAY), Some(PARA)));
    assert_eq!(verify(&store).faults, []);
}

#[test]
fn all_blocks_can_be_dropped() {
    let dir = layout_1();
    let store = open(&dir);
    store.drop_relay_from(RelayNumber(0)).unwrap();
    store.drop_para_from(ParaNumber(0), true).unwrap();
    assert_eq!(*store.tips().borrow(), Tips::default());
    assert_eq!(store.current_set().unwrap(), store.genesis().unwrap().0.set);
    assert_eq!(verify(&store), Report::default());
}

#[test]
fn storage_changes_are_dropped_from_a_block_on() {
    let dir = layout_1();
    let store = open(&dir);
    let kept = store.changes(ParaNumber(9)).unwrap();
    let dropped = store.changes(ParaNumber(10)).unwrap();
    store.drop_para_from(ParaNumber(10), false).unwrap();
    assert_eq!(heights(&store), (Some(RELAY), Some(9)));
    assert_eq!(store.changes(ParaNumber(9)).unwrap(), kept);
    assert!(store.changes(ParaNumber(10)).is_err());
    assert_eq!(verify(&store).faults, []);
    store.append_changes(ParaNumber(10), std::slice::from_ref(&dropped)).unwrap();
    assert_eq!(store.changes(ParaNumber(10)).unwrap(), dropped);
}

#[test]
fn compaction_shrinks_the_store_and_keeps_its_content() {
    let dir = layout_1();
    let store = open(&dir);
    // Create free pages.
    tamper(&store, |txn| {
        let meta = txn.tables.meta;
        meta.put(txn, "large", &vec![1; 1 << 22]).unwrap();
    });
    tamper(&store, |txn| {
        let meta = txn.tables.meta;
        meta.delete(txn, "large").unwrap();
    });
    let before = verify(&store);
    let (bytes, after) = store.compact().unwrap();
    assert!(after * 4 < bytes, "{after} of {bytes}");
    assert_eq!(fs::metadata(dir.path().join("data.mdb")).unwrap().len(), after);
    let store = open(&dir);
    assert_eq!(verify(&store), before);
    store.drop_para_from(ParaNumber(5), false).unwrap();
}

/// Runs `work` on a copy of the store on a disk of `kib` KiB.
fn on_a_disk_of(kib: u32, work: impl FnOnce(&TempDir)) {
    let dir = layout_1();
    let saved = fs::read(dir.path().join("data.mdb")).unwrap();
    on_a_disk(dir, &format!("size={kib}k"), |dir| {
        fs::write(dir.path().join("data.mdb"), saved).unwrap();
        work(dir);
    });
}

/// Runs `work` with a new file system in the folder.
fn on_a_disk(dir: TempDir, options: &str, work: impl FnOnce(&TempDir)) {
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "prb-test"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&dir)));
    assert!(Command::new("umount").arg("-l").arg(dir.path()).status().unwrap().success());
    done.unwrap();
}

#[test]
fn full_disk_leaves_the_store_unchanged() {
    on_a_disk_of(600, |dir| {
        let store = open(dir);
        let before = verify(&store);
        let more: Vec<Vec<u8>> = (0..64u32).map(|n| vec![n as u8; 32 * 1024]).collect();
        let full = store.append_changes(ParaNumber(PARA + 1), &more).unwrap_err();
        assert!(matches!(full, Error::DiskFull { .. }) && full.is_retryable(), "{full}");
        assert_eq!(verify(&store), before);
        assert!(matches!(store.disk_problem(), Some(DiskProblem::Full(text)) if text.contains("free space")));
        store.append_changes(ParaNumber(PARA + 1), &more[..1]).unwrap();
        assert_eq!(store.disk_problem(), None);
    });
    on_a_disk_of(400, |dir| {
        let before = verify(&open(dir));
        // Fill all but 64 KiB, which is less than the copy needs.
        let mut others = fs::File::create(dir.path().join("others")).unwrap();
        while others.write_all(&[0; 4096]).is_ok() {}
        others.set_len(others.metadata().unwrap().len() - (64 << 10)).unwrap();
        let full = open(dir).compact().unwrap_err();
        assert!(matches!(full, Error::DiskFull { .. }), "{full:?}");
        assert!(!dir.path().join("data.mdb.compact").exists());
        assert_eq!(verify(&open(dir)), before);
    });
}

#[test]
fn missing_inodes_are_named_and_not_space() {
    // One for the file system's own folder, one for that of the database, and one for its lock file.
    for inodes in 1..=3 {
        on_a_disk(TempDir::new().unwrap(), &format!("size=64m,nr_inodes={inodes}"), |dir| {
            let path = dir.path().join("db");
            let store = Store::open(&path, Config::default()).unwrap_err();
            assert!(store.is_retryable() && store.disk_problem().is_some(), "{store}");
            let inventory = HeedInventory::open(&path, Default::default()).unwrap_err();
            assert!(inventory.is_retryable(), "{inventory}");
            for text in [store.to_string(), inventory.to_string()] {
                assert!(text.contains("no inodes left") && text.contains("df -i"), "{text}");
                assert!(!text.contains("is full") && text.contains(&path.display().to_string()), "{text}");
            }
        });
    }
}

#[test]
fn failed_database_is_reopened() {
    let dir = layout_1();
    let store = open(&dir);
    let broken = || Error::Broken { path: dir.path().to_owned() };
    let mut tries = 0;
    let changes = store.changes(ParaNumber(3)).unwrap();
    store
        .with_recovery(|| {
            tries += 1;
            if tries == 1 { Err(broken()) } else { store.drop_para_from(ParaNumber(PARA), false) }
        })
        .unwrap();
    assert_eq!(tries, 2);
    assert_eq!(store.changes(ParaNumber(3)).unwrap(), changes, "readers continue");
    assert_eq!(heights(&store), (Some(RELAY), Some(PARA - 1)));

    // A repeated failure is returned, to be retried later.
    let mut tries = 0;
    let failed = store.with_recovery(|| {
        tries += 1;
        Err::<(), _>(broken())
    });
    assert!(failed.unwrap_err().is_retryable() && tries == 2);

    // The disk disappears for a while.
    let (lock, away) = (dir.path().join("lock.mdb"), dir.path().join("away"));
    fs::rename(&lock, &away).unwrap();
    fs::create_dir(&lock).unwrap();
    assert!(store.with_recovery(|| Err::<(), _>(broken())).is_err());
    assert!(store.changes(ParaNumber(3)).unwrap_err().is_retryable());
    fs::remove_dir(&lock).unwrap();
    fs::rename(&away, &lock).unwrap();
    assert_eq!(store.changes(ParaNumber(3)).unwrap(), changes, "readers open it again");

    // The data disappear: LMDB would start with a new, empty database.
    let database = dir.path().join("data.mdb");
    fs::rename(&database, &away).unwrap();
    assert!(store.with_recovery(|| Err::<(), _>(broken())).unwrap_err().is_retryable());
    assert!(
        matches!(store.disk_problem(), Some(DiskProblem::Moved(text)) if text.contains("move them back"))
    );
    assert!(!database.exists());
    assert_eq!(store.changes(ParaNumber(3)).unwrap(), changes, "what is open is served");
    fs::rename(&away, &database).unwrap();
    store.check_files();
    assert_eq!(store.disk_problem(), None);
    store.append_changes(ParaNumber(PARA), std::slice::from_ref(&changes)).unwrap();
    assert_eq!(store.changes(ParaNumber(PARA)).unwrap(), changes);
}

/// More reads than the runtime has threads for blocking work.
const READS: u32 = 600;

#[tokio::test]
async fn reads_of_a_disk_that_hangs_leave_threads_to_others() {
    let dir = layout_1();
    let store = Arc::new(open(&dir));
    let source = StoreSource::new(Arc::clone(&store));
    let (hangs, hung) = mpsc::channel();
    let (recovers, recovered) = mpsc::channel::<()>();
    let disk = Arc::clone(&store);
    let disk = std::thread::spawn(move || {
        let _exclusive = disk.database.write().unwrap();
        hangs.send(()).unwrap();
        recovered.recv().unwrap();
    });
    hung.recv().unwrap();
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        let source = source.clone();
        let cursor = BlockCursor { from: ParaNumber(3), to: ParaNumber(5) };
        reads.spawn(async move { source.blocks(cursor, 1 << 20).await });
    }
    // Until all of them are waiting.
    for _ in 0..READS {
        tokio::task::yield_now().await;
    }
    let other = tokio::time::timeout(Duration::from_secs(5), tokio::task::spawn_blocking(|| ())).await;
    recovers.send(()).unwrap();
    disk.join().unwrap();
    assert!(matches!(other, Ok(Ok(()))), "no thread is left");
    while let Some(read) = reads.join_next().await {
        read.unwrap().unwrap();
    }
}
