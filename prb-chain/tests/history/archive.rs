//! Tests of archives: written, read, damaged, extended, of other chains.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prb_chain::{
    history::{
        HistorySource,
        archive::{ArchiveHistory, Config, Error, Exported, export},
    },
    store::{Part, Store},
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use tempfile::TempDir;

use super::{
    setup::{PARA, RELAY, blocks_of, empty, filled, heights, is_part_of, replay},
    suite,
};

fn written(store: &Store, config: Config) -> (TempDir, Exported) {
    let dir = TempDir::new().unwrap();
    let exported = export(store, dir.path(), config, &mut |_| true).unwrap();
    (dir, exported)
}

fn source(folder: &Path) -> Arc<dyn HistorySource> {
    Arc::new(ArchiveHistory::open(folder).unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn named(folder: &Path, start: &str) -> PathBuf {
    let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(start);
    files(folder).into_iter().find(is).unwrap()
}

#[tokio::test]
async fn archive_contains_the_whole_store() {
    let whole = filled();
    // With one file for each frame, and with a single file.
    for file_bytes in [1, 1 << 30] {
        let (folder, exported) = written(&whole.store, Config::default().with_file_bytes(file_bytes));
        assert_eq!(
            (exported.relay_headers, exported.para_headers, exported.changes),
            (RELAY - 1, PARA + 1, PARA)
        );
        assert_eq!(exported.files as usize, files(folder.path()).len());
        let bytes: u64 = files(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(exported.bytes, bytes);
        suite::gives_all(source(folder.path()), &blocks_of(&whole.store)).await;
    }
}

#[tokio::test]
async fn export_extends_an_archive() {
    let (part, whole) = (filled(), filled());
    part.store.drop_relay_from(RelayNumber(20)).unwrap();
    part.store.drop_para_from(ParaNumber(9), true).unwrap();
    let (folder, _) = written(&part.store, Config::default());
    let into = empty();
    replay(&into, vec![source(folder.path())]).await;
    let before = heights(&into.store);
    assert!(before.0 > 5 && before.0 < 20 && before.1 > 1 && before.1 < 9, "{before:?}");

    let old = files(folder.path());
    let added = export(&whole.store, folder.path(), Config::default(), &mut |_| true).unwrap();
    assert_eq!(added.files, 3);
    assert!(old.iter().all(|path| path.exists()), "existing files stay");
    assert_eq!(replay(&into, vec![source(folder.path())]).await.faults, []);
    assert_eq!(heights(&into.store), (RELAY, PARA));
    is_part_of(&into.store, &whole.store);
    let again = export(&whole.store, folder.path(), Config::default(), &mut |_| true).unwrap();
    assert_eq!(again, Exported::default(), "nothing is new");
}

#[tokio::test]
async fn stopped_export_continues() {
    let whole = filled();
    let folder = TempDir::new().unwrap();
    let config = Config::default().with_file_bytes(1);
    let first = export(&whole.store, folder.path(), config, &mut |_| false).unwrap();
    assert!(first.relay_headers > 0 && first.changes == 0);
    // As left behind by a killed export.
    fs::write(folder.path().join("headers-0000000000.prb.partial"), b"half a file").unwrap();
    export(&whole.store, folder.path(), config, &mut |_| true).unwrap();
    let into = empty();
    assert_eq!(replay(&into, vec![source(folder.path())]).await.faults, []);
    assert_eq!(heights(&into.store), (RELAY, PARA));
    assert!(!folder.path().join("headers-0000000000.prb.partial").exists());
}

/// Replays a damaged archive: the blocks before the damage are right, and a fault names the file.
async fn damaged(file: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Option<(u32, u32)> {
    let whole = filled();
    let (folder, _) = written(&whole.store, Config::default());
    let path = named(folder.path(), file);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let Ok(archive) = ArchiveHistory::open(folder.path()) else { return None };
    let into = empty();
    let drained = replay(&into, vec![Arc::new(archive)]).await;
    is_part_of(&into.store, &whole.store);
    let got = heights(&into.store);
    if got < (RELAY, PARA) && into.store.genesis().is_some() {
        let is_named = |fault: &prb_chain::history::Fault| fault.what.contains(file);
        assert!(drained.faults.iter().any(is_named), "{file}: {drained:?}");
    }
    Some(got)
}

#[tokio::test]
async fn flipped_bytes_are_detected() {
    for file in ["genesis", "relay", "headers", "changes"] {
        let whole = filled();
        let (folder, _) = written(&whole.store, Config::default());
        let len = fs::metadata(named(folder.path(), file)).unwrap().len() as usize;
        // Every byte of the head, of the first frame's head and of the end, and some in between.
        let places = (0..180).chain((180..len - 48).step_by(len / 24)).chain(len - 48..len);
        for at in places.step_by(3) {
            let got = damaged(file, |bytes| bytes[at] ^= 0x20).await;
            // The end contains no stored data.
            assert!(got.is_none_or(|got| got < (RELAY, PARA)) || at >= len - 48, "{file} {at}: {got:?}");
        }
    }
}

#[tokio::test]
async fn truncated_file_yields_its_complete_frames() {
    for file in ["genesis", "relay", "headers", "changes"] {
        for keep in [0, 50, 120, 130, 170, 400] {
            let got = damaged(file, |bytes| bytes.truncate(keep)).await;
            assert!(got.is_none_or(|got| got < (RELAY, PARA)), "{file} {keep}");
        }
        // If only the end is missing, all data is there.
        let got = damaged(file, |bytes| bytes.truncate(bytes.len() - 48)).await;
        assert!(got.is_none() || got == Some((RELAY, PARA)), "{file} {got:?}");
    }
}

#[tokio::test]
async fn second_archive_replaces_a_damaged_one() {
    let whole = filled();
    let (bad, _) = written(&whole.store, Config::default());
    let (good, _) = written(&whole.store, Config::default());
    let path = named(bad.path(), "changes");
    let mut bytes = fs::read(&path).unwrap();
    bytes[300] ^= 1;
    fs::write(&path, bytes).unwrap();
    let into = empty();
    let drained = replay(&into, vec![source(bad.path()), source(good.path())]).await;
    assert_eq!(drained.faults.len(), 1);
    assert_eq!(drained.faults[0].part, Part::Changes);
    assert!(drained.faults[0].source.contains(bad.path().to_str().unwrap()), "{drained:?}");
    assert_eq!(heights(&into.store), (RELAY, PARA));
}

#[tokio::test]
async fn archives_of_two_chains_are_not_mixed() {
    let whole = filled();
    let (folder, _) = written(&whole.store, Config::default());
    // The same blocks under another chain identity.
    let other = empty();
    let (start, mut genesis) = whole.store.genesis().unwrap().clone();
    genesis.chain_identity = prb_core::primitives::Hash([3; 32]);
    other.store.set_genesis(&start, &genesis).unwrap();
    let refused = export(&other.store, folder.path(), Config::default(), &mut |_| true).unwrap_err();
    assert!(
        matches!(refused, Error::Archive { .. }) && refused.to_string().contains("another chain"),
        "{refused}"
    );
    let (strange, _) = written(&other.store, Config::default());
    let drained = replay(&whole, vec![source(strange.path())]).await;
    assert!(drained.faults[0].what.contains("use a separate store for each"), "{drained:?}");
    fs::copy(named(folder.path(), "changes"), strange.path().join("changes-0000000001.prb")).unwrap();
    let mixed = ArchiveHistory::open(strange.path()).unwrap_err().to_string();
    assert!(mixed.contains("of another chain than the folder's other files"), "{mixed}");
}

#[tokio::test]
async fn empty_store_and_empty_folder_are_reported() {
    let folder = TempDir::new().unwrap();
    let nothing = export(&empty().store, folder.path(), Config::default(), &mut |_| true);
    assert!(matches!(nothing, Err(Error::Empty)));
    let into = empty();
    assert_eq!(
        replay(&into, vec![source(folder.path())]).await,
        prb_chain::history::ReplayOutcome::default()
    );
    assert!(ArchiveHistory::open(&folder.path().join("none")).is_err());
}

#[test]
fn full_disk_is_reported_and_finished_files_stay() {
    let whole = filled();
    let folder = TempDir::new().unwrap();
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).arg(folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let config = Config::default().with_file_bytes(1);
    let (elsewhere, exported) = written(&whole.store, config);
    let kib = exported.bytes / 1024 / 2;
    run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "prb-test"]);
    let full = export(&whole.store, folder.path(), config, &mut |_| true);
    let there = files(folder.path());
    let whole_ones: Vec<_> =
        there.iter().filter(|path| path.extension().unwrap() == "prb").cloned().collect();
    let same = whole_ones.iter().all(|path| {
        fs::read(path).unwrap() == fs::read(elsewhere.path().join(path.file_name().unwrap())).unwrap()
    });
    run("umount", &["-l"]);
    assert!(matches!(full, Err(Error::DiskFull { .. })), "{full:?}");
    assert!(same && !whole_ones.is_empty() && whole_ones.len() < exported.files as usize);
}
