//! A search for every secret of a fleet, wherever a process leaves something: its log, its answers, its metrics, its
//! files, Redis, `/proc`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use prb_walkie::{
    identity::{Identity, Role as Key},
    proto::Role,
};
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, Probe, TestPeer, assign, free_port, provider},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(120);
const SHARED_KEY: &str = "c41f7be05d924a6e83b7f2d05c19ae68";
const TOKEN: &str = "token-4b8e1c7f30d95a62";
const REDIS_PASSWORD: &str = "redis-password-9d2f6a";
const NODE_KEY: &str = "node-key-71c5e8";
const NODE_PASSWORD: &str = "N0dePassw0rd-7c41";
/// Base64 of `fleet:` and the password.
const NODE_BASIC_AUTH: &str = "ZmxlZXQ6TjBkZVBhc3N3MHJkLTdjNDE=";
/// What an operator sets to see why a connection fails.
const LIBRARIES_TOO: &str =
    "debug,jsonrpsee=trace,soketto=trace,hyper=trace,reqwest=trace,rustls=trace,redis=trace";

/// A secret, and how it may be written.
struct Secret {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn text(name: &'static str, text: &str) -> Self {
        let (hex, json) = (hex(text.as_bytes()), serde_json::to_string(text).unwrap());
        let forms = [text, &hex, json.trim_matches('"')].map(|form| form.as_bytes().to_vec());
        Self { name, forms: forms.to_vec() }
    }

    fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        Self { name, forms: vec![bytes.to_vec(), hex(bytes).into_bytes()] }
    }

    fn is_in(&self, haystack: &[u8]) -> bool {
        self.forms.iter().any(|form| haystack.windows(form.len()).any(|window| window == form))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks for all of them.
fn search(secrets: &[Secret], place: &str, haystack: &[u8]) {
    for secret in secrets {
        assert!(!secret.is_in(haystack), "{} is in {place}", secret.name);
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// A file with a secret, for its owner only.
fn secret_file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn search_process(secrets: &[Secret], daemon: &Daemon) {
    let process = daemon.process_id();
    for name in ["environ", "cmdline", "status", "maps"] {
        let content = fs::read(format!("/proc/{process}/{name}")).unwrap();
        search(secrets, &format!("/proc/{process}/{name} of {}", daemon.name()), &content);
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{}: {core}", daemon.name());
    search(secrets, &format!("the log of {}", daemon.name()), daemon.log().as_bytes());
    for path in ["/metrics", "/readyz", "/livez", "/nothing"] {
        let answer = daemon.ops(path).unwrap().1;
        search(secrets, &format!("{path} of {}", daemon.name()), answer.as_bytes());
    }
}

/// A data provider, a lifecycle manager and a trader, with each secret that they can be given.
struct Daemons {
    provider: Daemon,
    manager: Daemon,
    trader: Daemon,
    identity: Identity,
    api: u16,
    console: u16,
    queue_page: u16,
}

impl Daemons {
    fn new(net: &Net, redis: &Redis, secret_folder: &Path) -> Self {
        let folder = net.dir.path();
        let file = |name: &str, text: &str| secret_file(secret_folder, name, text);
        let redis_url = file("redis", &redis.url().replace("//", &format!("//:{REDIS_PASSWORD}@")));
        let (psk, token) = (file("psk", SHARED_KEY), file("token", TOKEN));
        let node = net.devnet.para().url().replace("://", &format!("://fleet:{NODE_PASSWORD}@"));
        let node = file("node", &format!("{node}/?key={NODE_KEY}"));
        let [api, console, queue_page] = [(); 3].map(|()| free_port());

        let provider =
            provider(net, "dp").set("PRB_WALKIE_PSK_FILE", &psk).set("PHALA_LOGGER_LEVEL", "debug");
        let manager = Daemon::new(folder, "lifecycle", "lm")
            .set("PHALA_CHAIN_ENDPOINT_FILE", &node)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
            .set("PRB_WALKIE_PSK_FILE", &psk)
            .set("PRB_API_TOKEN_FILE", &token)
            .set("PHALA_Q_REDIS_ENDPOINT_FILE", &redis_url)
            .set("PHALA_WALKIE_BOOT_NODES", provider.address())
            .set("PRB_API_LISTEN", format!("127.0.0.1:{api}"))
            .set("PRB_CONSOLE_LISTEN", format!("127.0.0.1:{console}"))
            .set("PHALA_LOGGER_LEVEL", LIBRARIES_TOO);
        let trader = Daemon::new(folder, "trade", "trader")
            .set("PHALA_CHAIN_ENDPOINT_FILE", &node)
            .set("PHALA_Q_REDIS_ENDPOINT_FILE", &redis_url)
            .set("PRB_API_TOKEN_FILE", &token)
            .set("PRB_QUEUE_PAGE_LISTEN", format!("127.0.0.1:{queue_page}"))
            .set("PHALA_LOGGER_LEVEL", LIBRARIES_TOO);
        // The trader opens keys that the manager has sealed, so both have one identity.
        let identity = Identity::generate().unwrap();
        for daemon in [&manager, &trader] {
            identity.store(&daemon.identity_folder(), Key::Lifecycle).unwrap();
        }
        Self { provider, manager, trader, identity, api, console, queue_page }
    }

    fn secrets(&self, mnemonic: &str) -> [Secret; 8] {
        let private = self.identity.private_protobuf().unwrap();
        // A part of one of its primes: what else the key has is public.
        let private = &private[private.len() / 2..private.len() / 2 + 32];
        [
            Secret::text("the mnemonic", mnemonic),
            Secret::text("the shared key", SHARED_KEY),
            Secret::text("the token", TOKEN),
            Secret::text("the password of Redis", REDIS_PASSWORD),
            Secret::text("the key in the node's address", NODE_KEY),
            Secret::text("the node's password", NODE_PASSWORD),
            Secret::text("the node's password in a header", NODE_BASIC_AUTH),
            Secret::bytes("the identity's private key", private),
        ]
    }

    fn search_answers(&self, secrets: &[Secret]) {
        for (port, paths) in [
            (
                self.api,
                &[
                    "/api/v1/pools",
                    "/api/v1/workers",
                    "/api/v1/status",
                    "/api/v1/jobs",
                    "/api/v1/openapi.json",
                ][..],
            ),
            (self.console, &["/", "/workers", "/pools", "/transactions", "/chain", "/peers"][..]),
            (self.queue_page, &["/", "/?state=succeeded"][..]),
        ] {
            for path in paths {
                let (_, answer) = Probe::at(port).ask(path).unwrap();
                search(secrets, &format!("port {port}, {path}"), answer.as_bytes());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_but_where_it_belongs() {
    let net = Net::start(chain(), 1).await;
    let folder = net.dir.path();
    let secret_folder = folder.join("secrets");
    fs::create_dir(&secret_folder).unwrap();
    let redis = Redis::start(folder);
    assert!(redis.ask(&format!("CONFIG SET requirepass {REDIS_PASSWORD}")).unwrap().starts_with("+OK"));
    let mut daemons = Daemons::new(&net, &redis, &secret_folder);
    for daemon in [&mut daemons.provider, &mut daemons.manager, &mut daemons.trader] {
        daemon.start();
    }
    let test_peer = TestPeer::with_key(vec![daemons.manager.address()], "default", SHARED_KEY).await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(&net, &client, &[0], &[0]).await;
    net.until_active([0], LIMIT).await;

    let mnemonic = &net.devnet.pools()[0].mnemonic;
    let secrets = daemons.secrets(mnemonic);
    assert!(secrets[0].is_in(format!("x {mnemonic} y").as_bytes()), "the search finds what is there");
    for daemon in [&daemons.provider, &daemons.manager, &daemons.trader] {
        search_process(&secrets, daemon);
    }
    let pools = client.list_pools().await.unwrap();
    search(&secrets, "the answer to ListPool", format!("{pools:?}").as_bytes());
    daemons.search_answers(&secrets);
    search_redis(&secrets, &redis).await;
    for daemon in [&mut daemons.trader, &mut daemons.manager, &mut daemons.provider] {
        daemon.stop().await;
        search(&secrets, &format!("the log of {}", daemon.name()), daemon.log().as_bytes());
    }
    search_files(&secrets, folder, &secret_folder);
    test_peer.close().await;
    net.shutdown().await;
}

/// Runs a program in a folder with no limit on core files, sends it a signal once it is `up`, and returns how it
/// ended.
async fn crash(
    program: &mut Command,
    folder: &Path,
    signal: &str,
    up: impl AsyncFnOnce(),
) -> std::process::ExitStatus {
    let mut child = program.current_dir(folder).stdin(Stdio::null()).spawn().unwrap();
    up().await;
    let start = Instant::now();
    loop {
        // Rust's handler of SIGSEGV takes the first one, expecting that a real fault comes again.
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        sleep(Duration::from_millis(50)).await;
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "it lives on after SIG{signal}");
    }
}

/// Wherever the system would put a core file: the kernel says in the exit status whether it has written one, to a file
/// or to a program such as systemd-coredump.
#[tokio::test]
async fn a_crash_leaves_no_core_file() {
    let folder = tempfile::tempdir().unwrap();
    let unlimited = |words: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\""]).args(words);
        command
    };
    // Another program leaves one here; where it does not, this machine writes none at all.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut sleeper = unlimited(&["sleep", "600"]);
    // Time for the shell to become the other program.
    let up = async || sleep(Duration::from_millis(500)).await;
    if !crash(&mut sleeper, &other, "ABRT", up).await.core_dumped() {
        eprintln!("core files are switched off on this machine: a daemon's cannot be told from it");
    }

    let identity = Identity::generate().unwrap();
    identity.store(&folder.path().join("id"), Key::Lifecycle).unwrap();
    for signal in ["ABRT", "SEGV"] {
        let cores = folder.path().join(signal);
        fs::create_dir(&cores).unwrap();
        let probe = Probe::new();
        let mut daemon = unlimited(&[env!("CARGO_BIN_EXE_prb"), "lifecycle", "--use-built-in-trader"]);
        daemon
            .args(["--chain-endpoint=ws://127.0.0.1:9", "--walkie-disable-mdns-discovery"])
            .args(["--api-listen=none", "--console-listen=none", "--queue-page-listen=none"])
            .arg("--walkie-listen-addresses=/ip4/127.0.0.1/tcp/0")
            .arg(format!("--peer-id-prefix={}", folder.path().join("id").display()))
            .arg(format!("--local-db-path={}", folder.path().join("db").display()))
            .arg(format!("--ops-listen={}", probe.address()))
            .env("PRB_WALKIE_PSK", SHARED_KEY)
            .stdout(Stdio::null());
        let status = crash(&mut daemon, &cores, signal, async || probe.until_live(LIMIT).await).await;
        assert!(status.signal().is_some(), "{status}");
        assert!(!status.core_dumped(), "SIG{signal}: {status}");
        let mut left = Vec::new();
        files_below(&cores, &mut left);
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Commands that read a secret, or settings with one, wait for their input here.
#[tokio::test]
async fn commands_with_secrets_have_no_core_files_either() {
    for words in [
        &["pool", "add", "2", "--secret-stdin"][..],
        &["pool", "add", "2", "--secret-stdin", "--offline", "--data", "/nowhere/data"],
        &["lifecycle", "--check", "--config", "/dev/stdin"],
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -S -c \"$(ulimit -H -c)\" && exec \"$0\" \"$@\""]);
        command.arg(env!("CARGO_BIN_EXE_prb")).args(words).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not the shell's, which may start with another one.
        let is_prb = || fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().trim() == "prb";
        let soft_limit = || {
            let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            core.split_whitespace().nth(4).unwrap().to_owned()
        };
        let start = Instant::now();
        while !is_prb() || soft_limit() != "0" {
            assert!(start.elapsed() < Duration::from_secs(20), "{words:?}: {}", soft_limit());
            sleep(Duration::from_millis(20)).await;
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

/// Every value in it, as a replica would get them.
async fn search_redis(secrets: &[Secret], redis: &Redis) {
    let ask = |command: &str| redis.ask(&format!("AUTH {REDIS_PASSWORD}\r\n{command}")).unwrap();
    let start = Instant::now();
    while ask("BGREWRITEAOF").contains("-ERR") {
        assert!(start.elapsed() < LIMIT);
        sleep(Duration::from_millis(100)).await;
    }
    for queue in ["bq:prbmq__main:jobs", "bq:prbmq__main:dones"] {
        search(secrets, queue, ask(&format!("HGETALL {queue}")).as_bytes());
    }
    let jobs = ask("HLEN bq:prbmq__main:jobs");
    assert!(!jobs.contains(":0\r\n"), "no job was looked at: {jobs}");
}

/// All files but those whose purpose it is to hold one.
fn search_files(secrets: &[Secret], folder: &Path, secret_folder: &Path) {
    let mut files = Vec::new();
    files_below(folder, &mut files);
    let is_identity = |path: &Path| path.file_name().is_some_and(|name| name == "LIFECYCLE");
    // The fleet's file of the test itself has the mnemonic.
    let is_fleet = |path: &Path| path.extension().is_some_and(|name| name == "toml");
    let others: Vec<_> = files
        .into_iter()
        .filter(|path| !path.starts_with(secret_folder) && !is_identity(path) && !is_fleet(path))
        .collect();
    assert!(others.iter().any(|path| path.ends_with("data.mdb")), "{others:?}");
    for path in others {
        search(secrets, &path.display().to_string(), &fs::read(&path).unwrap());
    }
}
