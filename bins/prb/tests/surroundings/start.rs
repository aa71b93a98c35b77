//! Daemons of every kind whose disk fails at their start, and the all-in-one daemon whose disk fails while it runs.

use std::{fs, path::PathBuf, process::Command};

use super::{
    LIMIT,
    disks::{Disk, until_logged, until_problem},
    support::{
        Net, chain,
        daemons::{Daemon, manager, provider},
        disk_faults::FaultyDisk,
    },
    until_taken,
};

/// Daemons of every kind whose files are all in one folder each, which is on no other daemon's disk.
fn daemons_in_a_folder(net: &Net) -> Vec<(Daemon, PathBuf)> {
    let new = |module, name| Daemon::new(net.dir.path(), module, name);
    let trader = new("trade", "tr")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_Q_REDIS_ENDPOINT", "redis://127.0.0.1:9")
        .set("PRB_TRADER_POOLS", net.fleet().display());
    let all = new("all", "all")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_PARENT_CHAIN_ENDPOINT", net.devnet.relay().url());
    let daemons = [provider(net, "dp"), manager(net, "lm"), trader, new("monitor", "mo").set("PORT", 0), all];
    let place = |daemon: Daemon| {
        let folder = net.dir.path().join(daemon.name()).join("db");
        let daemon = daemon
            .set("PRB_API_LISTEN", "none")
            .set("PRB_CONSOLE_LISTEN", "none")
            .set("PRB_QUEUE_PAGE_LISTEN", "none")
            // On the same disk, which must not have the log.
            .set("PHALA_PEER_ID_PREFIX", folder.join("id").display())
            .set("PRB_DATA", folder.display());
        (daemon, folder)
    };
    daemons.into_iter().map(place).collect()
}

/// A passing fault at the start ends with 1, so that a supervisor starts the daemon again.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_cannot_open_their_files_are_started_again() {
    let net = Net::start(chain(), 0).await;
    for (daemon, folder) in daemons_in_a_folder(&net) {
        let name = daemon.name().to_owned();
        let disk = FaultyDisk::new(&folder, &net.dir.path().join(format!("{name}-faults")));
        let mut daemon = disk.under(daemon);
        for (fault, words) in [
            ("create 5", "its disk fails: see dmesg"),
            ("write,meta,sync 5", "its disk fails: see dmesg"),
            ("create 24", "too many files are open"),
            ("create 30", "mounted read-only"),
            ("create 116", "mount it again"),
            ("write 28", "free space"),
        ] {
            disk.fail(fault);
            let told = daemon.log().len();
            daemon.ends_with(1, LIMIT).await;
            let log = daemon.log();
            let log = &log[told..];
            assert!(log.contains(words) && log.contains(&format!("/{name}/")), "{fault}: {log}");
        }
        disk.work();
        daemon.start();
        daemon.until_live(LIMIT).await;
        daemon.stop().await;
    }
    net.shutdown().await;
}

/// Each file in turn is the first one that cannot be created.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_find_no_inode_say_so_and_are_started_again() {
    const MIB: u32 = 1024;
    let net = Net::start(chain(), 0).await;
    for (mut daemon, folder) in daemons_in_a_folder(&net) {
        let mut failures = 0;
        for inodes in 1.. {
            let _disk = Disk::mount(&folder, 64 * MIB, inodes);
            let told = daemon.log().len();
            let Some(code) = daemon.starts_or_ends(LIMIT).await else {
                daemon.stop().await;
                break;
            };
            let log = daemon.log();
            let log = &log[told..];
            assert_eq!(code, 1, "{log}");
            assert!(log.contains("inode") && log.contains("df -i"), "{inodes} inodes: {log}");
            failures += 1;
        }
        assert!(failures > 1, "{}: {failures}", daemon.name());
    }
    net.shutdown().await;
}

/// Opening a pipe for reading waits for its writer, as opening a file does on a disk that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn manager_whose_disk_hangs_at_the_start_says_so_and_can_be_stopped() {
    let net = Net::start(chain(), 0).await;
    let mut manager = manager(&net, "lm");
    let folder = PathBuf::from(manager.variable("PHALA_LOCAL_DB_PATH").unwrap());
    fs::create_dir_all(&folder).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("authority-sets")).status().unwrap().success());
    manager.start();
    until_logged(&manager, "still opening the verified authority sets").await;
    manager.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_in_one_names_a_disk_that_fails_and_goes_on() {
    let net = Net::start(chain(), 1).await;
    let (all, folder) = daemons_in_a_folder(&net).pop().unwrap();
    let disk = FaultyDisk::new(&folder, &net.dir.path().join("all-faults"));
    let mut all = disk.under(all.set("PRB_FLEET", net.fleet().display()));
    all.start();
    net.until_active([0], LIMIT).await;
    for (fault, words) in [
        ("sync 5", "its disk fails: see dmesg"),
        ("write,meta,sync,truncate,create,rename 30", "mounted read-only"),
        ("meta stays 5", "disk"),
        ("write,meta,sync,create hang", "hangs"),
    ] {
        disk.fail(fault);
        let problem = until_problem(&all, "disk_failing").await;
        // Its blocks and its inventory are on that disk: whichever is written first.
        assert!(problem.contains(words) && problem.contains("/all/db/"), "{fault}: {problem}");
        assert_eq!(all.ops("/livez").unwrap().0, 200);
        disk.work();
        all.until_unready(&[], LIMIT).await;
        until_taken(&net, || all.log_tail()).await;
    }
    net.until_active([0], LIMIT).await;
    net.assert_done_once();
    assert!(!all.log().contains("panicked"), "{}", all.log_tail());
    all.stop().await;
    net.shutdown().await;
}
