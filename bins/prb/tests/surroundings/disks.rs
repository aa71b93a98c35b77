//! Disks that are full, fail, hang, or are taken away.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use prb_walkie::{
    proto::{db, lifecycle as lm},
    rpc::Error,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    LIMIT, Scene,
    support::{Net, chain, daemons::Daemon, disk_faults::FaultyDisk},
};

/// A disk of its own, small; taken away when dropped.
pub(super) struct Disk(PathBuf);

/// Inodes of a disk: enough for every file of the daemons.
const INODES: u32 = 64;

impl Disk {
    pub(super) fn mount(place: &Path, kib: u32, inodes: u32) -> Self {
        fs::create_dir_all(place).unwrap();
        let options = format!("size={kib}k,nr_inodes={inodes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "prb-test"])
            .arg(place)
            .output()
            .unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(place.to_owned())
    }

    /// Creates files until it has no inode left, with all of its space free.
    fn use_up_inodes(&self) {
        let mut files = (0..=INODES).map(|n| fs::File::create(self.0.join(format!("inode-{n}"))));
        assert!(files.any(|file| file.is_err()), "it has more inodes");
    }

    fn fill(&self) {
        use std::io::Write;
        let mut others = fs::File::create(self.0.join("others")).unwrap();
        while others.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("others")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A scene of a lifecycle manager and a data provider, each with a disk of its own.
struct Disks {
    scene: Scene,
    disk: FaultyDisk,
    blocks: FaultyDisk,
    small: [Disk; 2],
    /// Workers that were added.
    added: usize,
}

impl Disks {
    async fn start() -> Self {
        let net = Net::start(chain(), 1).await;
        let folder = net.dir.path().to_owned();
        let place = |name: &str| folder.join(name);
        let small = [("lm/disk", 2048), ("dp/disk", 32 * 1024)];
        let small = small.map(|(name, kib)| Disk::mount(&place(name), kib, INODES));
        let faulty =
            |name: &str| FaultyDisk::new(&place(name).join("disk"), &place(&format!("{name}-faults")));
        let (disk, blocks) = (faulty("lm"), faulty("dp"));
        let on = |disk: &FaultyDisk, daemon: Daemon, name: &str| {
            disk.under(daemon.set("PHALA_LOCAL_DB_PATH", place(name).join("disk/db").display()))
        };
        let scene =
            Scene::start_both(net, |daemon| on(&disk, daemon, "lm"), |daemon| on(&blocks, daemon, "dp"));
        Self { scene: scene.await, disk, blocks, small, added: 0 }
    }

    /// Workers that do nothing, the next ones by number.
    fn idle(&self, count: usize) -> lm::CreateWorker {
        let worker = |number: usize| db::Worker {
            pid: self.scene.net.devnet.pools()[0].pid,
            name: format!("idle-{number}-{}", "x".repeat(40)),
            endpoint: format!("http://127.0.0.1:9/{number}"),
            stake: "1000000000000".into(),
            ..db::Worker::default()
        };
        lm::CreateWorker { workers: (self.added + 1..=self.added + count).map(worker).collect() }
    }

    async fn edit(&mut self, count: usize) -> Result<(), Error> {
        self.scene.client.create_workers(self.idle(count)).await?;
        self.added += count;
        Ok(())
    }

    /// Adds workers, which must fail with these words.
    async fn edit_is_refused(&mut self, count: usize, words: &str) {
        let refused = self.edit(count).await.unwrap_err();
        let text = prb_core::text::describe(&refused);
        assert!(text.contains(words) && text.contains("lm/disk/db"), "{text}");
        self.has_no_half_edit().await;
    }

    async fn has_no_half_edit(&self) {
        let workers = self.scene.client.list_workers().await.unwrap().workers;
        assert_eq!(workers.len(), 1 + self.added, "an edit that failed, or half of one");
    }

    fn daemons(&self) -> [(&Daemon, &'static str); 2] {
        [(&self.scene.manager, "lm/disk/db"), (&self.scene.provider, "dp/disk/db")]
    }

    /// Waits until both daemons say that they are not ready with this code, and why.
    async fn until_problem(&self, code: &str, words: &str) {
        for (daemon, path) in self.daemons() {
            let problem = until_problem(daemon, code).await;
            assert!(problem.contains(words) && problem.contains(path), "{problem}");
            until_logged(daemon, words).await;
        }
    }

    /// Waits until both daemons are ready again, and edits are stored.
    async fn recovers(&mut self) {
        self.disk.work();
        self.blocks.work();
        for (daemon, _) in self.daemons() {
            daemon.until_unready(&[], LIMIT).await;
        }
        self.edit(1).await.unwrap();
    }
}

/// Waits until a daemon says that it is not ready with this code; returns the message.
pub(super) async fn until_problem(daemon: &Daemon, code: &str) -> String {
    let start = Instant::now();
    loop {
        let (_, body) = daemon.ops("/readyz").unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let reasons = body["reasons"].as_array().into_iter().flatten();
        if let Some(reason) = reasons.into_iter().find(|reason| reason["code"] == code) {
            return reason["message"].as_str().unwrap().to_owned();
        }
        assert!(start.elapsed() < LIMIT, "{body}: {}", daemon.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
}

pub(super) async fn until_logged(daemon: &Daemon, words: &str) {
    let start = Instant::now();
    while !daemon.log().contains(words) {
        assert!(start.elapsed() < LIMIT, "{words:?} is not in the log: {}", daemon.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_fail_are_named_and_daemons_recover() {
    let mut disks = Disks::start().await;
    disks.fills_up().await;
    disks.may_not_grow().await;
    for (fault, words) in [
        ("sync 5", "its disk fails: see dmesg"),
        // As after an error of a file system that is then mounted read-only.
        ("write,meta,sync,truncate,create,rename 30", "mounted read-only"),
        ("write short", "its disk fails: see dmesg"),
        ("meta 5", "its disk fails: see dmesg"),
    ] {
        disks.disk.fail(fault);
        disks.blocks.fail(fault);
        disks.edit_is_refused(1, words).await;
        disks.until_problem("disk_failing", words).await;
        disks.recovers().await;
    }
    disks.stores_what_seemed_to_fail().await;
    disks.hangs().await;
    disks.hangs_at_the_end().await;
    disks.moves().await;
    disks.scene.goes_on().await;
    // Without inodes everything goes on: no new file is needed, except for what can be collected again.
    disks.small.iter().for_each(Disk::use_up_inodes);
    disks.edit(1).await.unwrap();
    // All that was acknowledged is there after a restart, and nothing else.
    disks.is_killed_while_it_edits().await;
    disks.scene.goes_on().await;
    disks.edit(1).await.unwrap();
    for (daemon, _) in disks.daemons() {
        daemon.until_unready(&[], LIMIT).await;
    }
    disks.has_no_half_edit().await;
    let Disks { scene, small, .. } = disks;
    scene.end().await;
    drop(small);
}

impl Disks {
    /// Disks that are full: an edit is refused, and no worker stops.
    async fn fills_up(&mut self) {
        self.small.iter().for_each(Disk::fill);
        self.edit_is_refused(400, "full").await;
        // The inventory's disk still has room for small edits.
        let problem = until_problem(&self.scene.provider, "disk_full").await;
        assert!(problem.contains("free space") && problem.contains("dp/disk/db"), "{problem}");
        self.small.iter().for_each(Disk::empty);
        self.edit(400).await.unwrap();
        self.recovers().await;
        self.scene.goes_on().await;
    }

    /// Files that a limit keeps from growing, while the disk has space: an edit is refused, and the daemon goes on.
    async fn may_not_grow(&mut self) {
        let process = self.scene.manager.process_id().to_string();
        let limit = |bytes: &str| {
            let set =
                Command::new("prlimit").args(["--pid", &process, &format!("--fsize={bytes}:")]).status();
            assert!(set.unwrap().success());
        };
        let file = self.scene.net.dir.path().join("lm/disk/db/data.mdb");
        let room = 16 << 10;
        limit(&(fs::metadata(file).unwrap().len() + room).to_string());
        self.edit_is_refused(400, "ulimit -f").await;
        until_problem(&self.scene.manager, "disk_full").await;
        limit("unlimited");
        self.recovers().await;
    }

    /// A transaction that is stored although its last write has failed: the program must notice.
    async fn stores_what_seemed_to_fail(&mut self) {
        self.disk.fail("meta stays 5");
        self.blocks.fail("meta stays 5");
        self.edit_is_refused(1, "its disk fails: see dmesg").await;
        self.until_problem("disk_failing", "disk").await;
        // The edit is found when the database is opened again.
        self.added += 1;
        self.recovers().await;
        self.has_no_half_edit().await;
        for (daemon, _) in self.daemons() {
            until_logged(daemon, "had failed and was opened again").await;
        }
        self.scene.goes_on().await;
    }

    /// Disks that do not answer: everything else does.
    async fn hangs(&mut self) {
        self.disk.fail("write,meta,sync,create hang");
        self.blocks.fail("write,meta,sync,create hang");
        let (client, one) = (self.scene.client.clone(), self.idle(1));
        let edit = tokio::spawn(async move { client.create_workers(one).await });
        self.until_problem("disk_failing", "hangs").await;
        let asked = Instant::now();
        for (daemon, _) in self.daemons() {
            assert_eq!(daemon.ops("/livez").unwrap().0, 200);
            assert_eq!(daemon.ops("/metrics").unwrap().0, 200);
        }
        self.has_no_half_edit().await;
        assert!(asked.elapsed() < Duration::from_secs(2), "others wait for the disk: {:?}", asked.elapsed());
        self.disk.work();
        self.blocks.work();
        // Its caller may have given it up, but it is carried out, once.
        let _ = edit.await.unwrap();
        self.added += 1;
        self.recovers().await;
        self.has_no_half_edit().await;
    }

    /// A disk that does not answer when the manager is to end: it ends.
    async fn hangs_at_the_end(&mut self) {
        self.disk.fail("write,meta,sync,create hang");
        // It has verified headers that it could not store.
        self.scene.goes_on().await;
        self.scene.manager.stop().await;
        self.disk.work();
        self.scene.manager.start();
        assert_eq!(self.until_listed().await, 1 + self.added);
        self.recovers().await;
    }

    /// Killed at any time of an edit: it is stored as a whole or not at all.
    async fn is_killed_while_it_edits(&mut self) {
        const WORKERS: usize = 300;
        for delay_ms in [2, 20, 60] {
            let (client, edit) = (self.scene.client.clone(), self.idle(WORKERS));
            let edit = tokio::spawn(async move { client.create_workers(edit).await });
            sleep(Duration::from_millis(delay_ms)).await;
            self.scene.manager.kill();
            self.scene.manager.start();
            let answer = timeout(LIMIT, edit).await.unwrap().unwrap();
            let stored = self.until_listed().await - 1;
            let is_stored = stored == self.added + WORKERS;
            assert!(
                is_stored || stored == self.added,
                "half an edit: {stored} of {} + {WORKERS}",
                self.added
            );
            assert!(is_stored || answer.is_err(), "an acknowledged edit is lost");
            self.added = stored;
        }
    }

    /// The number of workers that the manager lists, once it answers.
    async fn until_listed(&self) -> usize {
        let start = Instant::now();
        loop {
            match timeout(LIMIT, self.scene.client.list_workers()).await.unwrap() {
                Ok(listed) => return listed.workers.len(),
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}: {}", self.scene.manager.log_tail()),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Files that are taken away.
    async fn moves(&mut self) {
        let path = |daemon: &Daemon| daemon.variable("PHALA_LOCAL_DB_PATH").map(PathBuf::from).unwrap();
        let databases = self.daemons().map(|(daemon, _)| path(daemon));
        let away = |path: &Path| path.with_extension("away");
        databases.iter().for_each(|path| fs::rename(path, away(path)).unwrap());
        self.until_problem("files_missing", "move them back").await;
        self.edit_is_refused(1, "moved or deleted").await;
        databases.iter().for_each(|path| fs::rename(away(path), path).unwrap());
        self.recovers().await;
        let identity = self.scene.manager.identity_folder();
        fs::rename(&identity, away(&identity)).unwrap();
        let problem = until_problem(&self.scene.manager, "files_missing").await;
        assert!(problem.contains("identity") && problem.contains("prb keys restore"), "{problem}");
        fs::rename(away(&identity), &identity).unwrap();
        self.recovers().await;
    }
}
