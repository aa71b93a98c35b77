//! Tests that healthy files are opened, also after any crash, and incomplete or garbled ones refused.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;

type Table = Database<'static, Bytes, Bytes>;

const PAGE_BYTES: u64 = 4096;
/// The folder of the process that is killed.
const WRITER: &str = "PRB_TEST_LMDB_WRITER";

fn options() -> EnvOpenOptions<WithoutTls> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 28).max_dbs(4);
    options
}

fn opened(path: &Path) -> Result<(Env<WithoutTls>, [Table; 3]), OpenError> {
    let env = open(path, &options())?;
    let txn = env.write_txn()?;
    let created = env.create_databases_and_commit(txn, |db, txn| {
        let tables = [
            db.create_database(txn, Some("a"))?,
            db.create_database(txn, Some("b"))?,
            db.create_database(txn, Some("c"))?,
        ];
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
    })?;
    Ok((env, created.unwrap_commit()))
}

/// Writes, overwrites and deletes values of all sizes in one transaction.
fn change(env: &Env<WithoutTls>, tables: &[Table], random: &mut StdRng) {
    let mut txn = env.write_txn().unwrap();
    for _ in 0..random.random_range(1..60) {
        let table = tables[random.random_range(0..tables.len())];
        let key = random.random_range(0..200u32).to_be_bytes();
        match random.random_range(0..10) {
            0..4 => drop(table.delete(&mut txn, &key).unwrap()),
            4 => table.put(&mut txn, &key, &vec![5; random.random_range(0..200_000)]).unwrap(),
            5..9 => table.put(&mut txn, &key, &vec![6; random.random_range(0..3000)]).unwrap(),
            // Allocated at the end of the file, and freed before it is written.
            _ => {
                table.put(&mut txn, &key, &vec![7; 100_000]).unwrap();
                table.delete(&mut txn, &key).unwrap();
            }
        }
    }
    if random.random_range(0..20) == 0 {
        tables[0].clear(&mut txn).unwrap();
    }
    txn.commit().unwrap();
}

/// Whether the file is complete although it ends before the last page.
fn is_short(path: &Path) -> bool {
    let file = DataFile::open(path).unwrap().unwrap();
    file.check_pages().unwrap();
    file.is_short()
}

#[test]
fn healthy_files_are_accepted() {
    let mut short = 0;
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = TempDir::new().unwrap();
        let (mut env, mut tables) = opened(dir.path()).unwrap();
        for round in 0..150 {
            change(&env, &tables, &mut random);
            short += u32::from(is_short(dir.path()));
            if round % 40 == 39 {
                env.prepare_for_closing().wait();
                (env, tables) = opened(dir.path()).unwrap();
            }
        }
        let copy = TempDir::new().unwrap();
        env.copy_to_path(copy.path().join("data.mdb"), heed::CompactionOption::Enabled).unwrap();
        assert!(!is_short(copy.path()));
    }
    // Otherwise nothing was tested of the list of free pages.
    assert!(short > 10, "{short} files ended before their last page");
}

/// Not a test itself: the process that the next test kills.
#[test]
fn writer() {
    let Ok(path) = std::env::var(WRITER) else { return };
    let (env, tables) = opened(Path::new(&path)).unwrap();
    let mut random = StdRng::from_os_rng();
    loop {
        change(&env, &tables, &mut random);
        println!("committed");
    }
}

#[test]
fn files_of_killed_processes_are_accepted() {
    let mut random = StdRng::seed_from_u64(1);
    let dir = TempDir::new().unwrap();
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lmdb::tests::writer", "--nocapture"])
            .env(WRITER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let commits = random.random_range(1..40);
        assert_eq!(lines.filter(|line| line.contains("committed")).take(commits).count(), commits);
        child.kill().unwrap();
        child.wait().unwrap();
        is_short(dir.path());
        let (env, _) = opened(dir.path()).unwrap();
        env.prepare_for_closing().wait();
    }
}

/// A database with some hundred pages.
fn filled() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let (env, tables) = opened(dir.path()).unwrap();
    let mut txn = env.write_txn().unwrap();
    for n in 0..2000u32 {
        let bytes = if n % 100 == 0 { 20_000 } else { 200 };
        tables[n as usize % 3].put(&mut txn, &n.to_be_bytes(), &vec![n as u8; bytes]).unwrap();
    }
    txn.commit().unwrap();
    env.prepare_for_closing().wait();
    let file = dir.path().join("data.mdb");
    (dir, file)
}

#[test]
fn truncated_files_are_refused() {
    let (dir, file) = filled();
    let whole = fs::metadata(&file).unwrap().len();
    let mut sizes: Vec<_> =
        (1..whole).step_by(1361).chain([2 * PAGE_BYTES, whole - PAGE_BYTES, whole - 1]).collect();
    // From the largest on: what is cut off is gone.
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    for bytes in sizes {
        OpenOptions::new().write(true).open(&file).unwrap().set_len(bytes).unwrap();
        let error = opened(dir.path()).err().unwrap();
        let is_named = match error {
            OpenError::Truncated { bytes: has, expected } => (has, expected) == (bytes, whole),
            // Without a meta page.
            OpenError::Lmdb(heed::Error::Mdb(MdbError::Invalid)) => bytes < 200,
            OpenError::Lmdb(_) => false,
        };
        assert!(is_named, "{bytes} of {whole}: {error:?}");
        let checked = check_pages(dir.path());
        assert!(bytes < 200 || matches!(checked, Err(OpenError::Truncated { .. })), "{checked:?}");
    }
}

#[test]
fn missing_and_empty_files_are_created() {
    let dir = TempDir::new().unwrap();
    check_pages(dir.path()).unwrap();
    fs::write(dir.path().join("data.mdb"), "").unwrap();
    check_pages(dir.path()).unwrap();
    opened(dir.path()).unwrap();
}

/// Reads everything, as a user of the database does.
fn read_all(path: &Path) -> heed::Result<()> {
    let (env, tables) = match opened(path) {
        Ok(opened) => opened,
        Err(OpenError::Lmdb(e)) => return Err(e),
        Err(e) => panic!("{e:?}"),
    };
    let txn = env.read_txn()?;
    for table in tables {
        for entry in table.iter(&txn)? {
            std::hint::black_box(entry?.1.iter().map(|byte| u32::from(*byte)).sum::<u32>());
        }
    }
    Ok(())
}

/// What is accepted can be read without a signal; the meta pages are LMDB's matter.
#[test]
fn garbled_pages_are_refused() {
    let (dir, file) = filled();
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    let mut random = StdRng::seed_from_u64(3);
    for page in 2..whole.len() as u64 / PAGE_BYTES {
        let mut bytes = whole.clone();
        let from = (page * PAGE_BYTES) as usize;
        let (at, count) = if page % 2 == 0 { (0, 1024) } else { (random.random_range(0..3000), 64) };
        bytes[from + at..from + at + count].iter_mut().for_each(|byte| *byte ^= 0xff);
        fs::write(&file, &bytes).unwrap();
        match check_pages(dir.path()) {
            Ok(()) => drop(read_all(dir.path())),
            Err(OpenError::Lmdb(heed::Error::Mdb(MdbError::Corrupted))) => refused += 1,
            Err(e) => panic!("page {page}: {e:?}"),
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn damaged_meta_pages_are_refused() {
    let (dir, file) = filled();
    let whole = fs::read(&file).unwrap();
    for page_bytes in [0u32, 3, 128, 1 << 20, u32::MAX] {
        for meta in [0, PAGE_BYTES] {
            fs::write(&file, &whole).unwrap();
            let file = OpenOptions::new().write(true).open(&file).unwrap();
            file.write_all_at(&page_bytes.to_ne_bytes(), meta + 40).unwrap();
            let opened = opened(dir.path());
            assert!(matches!(opened, Err(OpenError::Lmdb(heed::Error::Mdb(MdbError::Invalid)))));
        }
    }
    fs::write(&file, &whole).unwrap();
    let file = OpenOptions::new().write(true).open(&file).unwrap();
    for meta in [0, PAGE_BYTES] {
        file.write_all_at(&u64::MAX.to_ne_bytes(), meta + 136).unwrap();
    }
    assert!(matches!(opened(dir.path()), Err(OpenError::Truncated { expected: u64::MAX, .. })));
}

#[test]
fn lock_that_is_about_to_be_released_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in-use");
    let held = File::create(&path).unwrap();
    held.try_lock().unwrap();
    // As a program that is being started has one.
    let copy = held.try_clone().unwrap();
    drop(held);
    let next = File::open(&path).unwrap();
    assert!(matches!(super::try_lock(&next), Err(TryLockError::WouldBlock)));
    let released = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop(copy);
    });
    super::try_lock(&next).unwrap();
    released.join().unwrap();
}
