//! `--check` and a start refuse the same configurations, in the same words and with the same exit code.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use prb_chain::{
    inventory::{self, HeedInventory},
    store::{self, Store},
};
use prb_walkie::identity::{Identity, Role};
use tempfile::TempDir;

type Variables<'a> = Vec<(&'a str, String)>;

const PARA: (&str, &str) = ("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:9");
const RELAY: (&str, &str) = ("PHALA_PARENT_CHAIN_ENDPOINT", "ws://127.0.0.1:10");
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
/// Ports that a configuration leaves out, so that tests do not compete for them.
const NO_PORTS: [(&str, &str); 4] = [
    ("PRB_OPS_LISTEN", "none"),
    ("PRB_API_LISTEN", "none"),
    ("PRB_CONSOLE_LISTEN", "none"),
    ("PRB_QUEUE_PAGE_LISTEN", "none"),
];
/// After which a daemon is ended that has not refused its configuration.
const LIMIT: &str = "30";

/// A valid configuration of each daemon, in a folder.
struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        let rig = Self(tempfile::tempdir().unwrap());
        // Generated once: a start would take long for its own.
        static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().unwrap());
        for role in [Role::Lifecycle, Role::DataProvider, Role::Monitor] {
            IDENTITY.store(&rig.path("id"), role).unwrap();
        }
        rig
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    fn valid(&self, daemon: &str) -> Variables<'static> {
        let mut variables: Variables = NO_PORTS.map(|(name, value)| (name, value.to_owned())).to_vec();
        let mut set = |name, value: &str| variables.push((name, value.to_owned()));
        set(PARA.0, PARA.1);
        set("PHALA_PEER_ID_PREFIX", &self.text("id"));
        set("PHALA_LOCAL_DB_PATH", &self.text("db"));
        set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "1");
        set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0");
        match daemon {
            "all" => {
                set(RELAY.0, RELAY.1);
                set("PRB_DATA", &self.text("data"));
            }
            "data-provider" => {
                set(RELAY.0, RELAY.1);
                set("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", "0");
            }
            "lifecycle" => set("USE_BUILT_IN_TRADER", "1"),
            "trader" => set("PHALA_Q_REDIS_ENDPOINT", "redis://127.0.0.1:1"),
            _ => set("PRB_CONSOLE_LISTEN", "127.0.0.1:0"),
        }
        variables
    }

    /// Runs `prb` with changes to a valid configuration.
    fn run(&self, words: &[&str], changes: &[(&str, &str)]) -> Output {
        self.command(words, changes).output().unwrap()
    }

    fn command(&self, words: &[&str], changes: &[(&str, &str)]) -> Command {
        let mut command = Command::new("timeout");
        command.env_clear().args([LIMIT, env!("CARGO_BIN_EXE_prb")]).args(words);
        command.envs(self.valid(words[0])).envs(changes.iter().copied());
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Asserts that the check and the start refuse this in the same words, without a trace of a start.
    #[track_caller]
    fn refused(&self, daemon: &str, changes: &[(&str, &str)], words: &[&str]) {
        for arguments in [&[daemon, "--check"][..], &[daemon]] {
            let output = self.run(arguments, changes);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{arguments:?} {changes:?}: {error}");
            for word in words {
                assert!(error.contains(word), "{arguments:?} {changes:?}: {word:?} in {error}");
            }
            let all = error + &String::from_utf8_lossy(&output.stdout);
            assert!(!all.contains("hunter2"), "{arguments:?} {changes:?}: {all}");
        }
    }

    /// Asserts that the check accepts this; returns what it says.
    #[track_caller]
    fn accepted(&self, daemon: &str, changes: &[(&str, &str)]) -> String {
        let output = self.run(&[daemon, "--check"], changes);
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_eq!(output.status.code(), Some(0), "{changes:?}: {}", said[1]);
        assert!(!said.concat().contains("hunter2"), "{said:?}");
        said.concat()
    }
}

#[test]
fn nodes_are_urls_and_each_is_listed_once() {
    let rig = Rig::new();
    for (value, words) in [
        ("ws://a b:9944", "space"),
        ("ws://a\nb", "control character"),
        ("ws://[::1", "ws://127.0.0.1:9944"),
        ("ws://a:99999", "ws://127.0.0.1:9944"),
        ("ws://a:0", "port 0"),
        ("ws://a#f", "#"),
        ("ws://", "ws://127.0.0.1:9944"),
        ("ws:///a", "ws://127.0.0.1:9944"),
        ("http://a", "ws://127.0.0.1:9944"),
        ("wss://hunter2/x@node", "%2F"),
        ("ws://a,ws://A", "twice"),
        ("ws://a,ws://a/", "twice"),
        ("ws://a:80,ws://a", "twice"),
        ("ws://a.,ws://u:hunter2@a", "twice"),
        (RELAY.1, RELAY.0),
    ] {
        for daemon in ["all", "data-provider"] {
            rig.refused(daemon, &[(PARA.0, value)], &[PARA.0, words]);
        }
    }
    rig.refused("trader", &[(PARA.0, "ws://a,ws://a")], &[PARA.0, "twice"]);
    rig.accepted("all", &[(PARA.0, "WS://A:1,ws://a:2,ws://a:1/rpc,wss://a:1,ws://a:1/?key=hunter2")]);
}

#[test]
fn redis_urls_are_those_that_the_client_accepts() {
    let rig = Rig::new();
    for url in [
        "redis://h/abc",
        "redis://",
        "redis+unix://",
        "redis://a,redis://b",
        "redis://h/0/1",
        "redis://h:0",
        "redis://h/-1",
        "redis://hunter2#@h:6379",
        "rediss://hunter2/@h",
        "redis://h/0#f",
        "redis://h h",
        "http://h",
    ] {
        for daemon in ["lifecycle", "trader"] {
            rig.refused(daemon, &[("PHALA_Q_REDIS_ENDPOINT", url)], &["PHALA_Q_REDIS_ENDPOINT", "redis://"]);
        }
    }
    assert!(!rig.path("db").exists(), "a refused configuration makes nothing");
    for url in ["redis://h", "REDIS://:p@h:1/3", "rediss://h/#insecure", "redis+unix:///run/r?db=1"] {
        rig.accepted("trader", &[("PHALA_Q_REDIS_ENDPOINT", url)]);
    }
}

#[test]
fn listeners_do_not_overlap() {
    let rig = Rig::new();
    let (v4, v6) = ("0.0.0.0:45001", "[::]:45001");
    let here = "127.0.0.1:45001";
    let (api, console, ops) = ("PRB_API_LISTEN", "PRB_CONSOLE_LISTEN", "PRB_OPS_LISTEN");
    let (blobs, peers) = ("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", "PHALA_WALKIE_LISTEN_ADDRESSES");
    for (daemon, first, second) in [
        ("all", (api, here), (console, here)),
        ("all", (ops, v4), (api, here)),
        ("lifecycle", (ops, here), (console, v6)),
        ("lifecycle", (api, here), (peers, "/ip4/0.0.0.0/tcp/45001")),
        ("lifecycle", ("PRB_QUEUE_PAGE_LISTEN", "[::ffff:127.0.0.1]:45001"), (api, here)),
        ("data-provider", (ops, here), (blobs, "45001")),
        ("data-provider", (blobs, "45001"), (peers, "/ip4/127.0.0.1/tcp/45001")),
        ("monitor", (ops, here), (console, v4)),
        ("trader", (ops, here), ("PRB_QUEUE_PAGE_LISTEN", here)),
    ] {
        rig.refused(daemon, &[first, second], &[first.0, second.0]);
    }
    rig.refused("monitor", &[(console, ""), ("PORT", "45001"), (ops, here)], &["HOST and PORT", ops]);
    // The default of one that opens earlier; the ports of later ones give way instead.
    rig.refused("all", &[(ops, ""), (api, "127.0.0.1:18015")], &[ops, api, "default"]);
    rig.accepted("all", &[(ops, "127.0.0.1:3001"), (api, "")]);
    rig.refused("lifecycle", &[(peers, "/ip4/0.0.0.0/tcp/45001,/ip4/127.0.0.1/tcp/45001")], &[peers]);
    // Sockets of peers on IPv6 do not accept IPv4.
    rig.accepted("lifecycle", &[(peers, "/ip4/0.0.0.0/tcp/45001,/ip6/::/tcp/45001")]);
    rig.accepted("all", &[(ops, here), (api, "127.0.0.2:45001"), (console, "127.0.0.1:0")]);
}

#[test]
fn data_that_cannot_be_used_is_found() {
    let rig = Rig::new();
    let history = |value: &str, words: &[&str]| {
        rig.refused("data-provider", &[("PRB_HISTORY", value)], &[&["PRB_HISTORY"], words].concat());
        rig.refused("all", &[("PRB_HISTORY", value)], words);
    };
    history("/nope", &["/nope"]);
    history(&rig.put("file", ""), &["file"]);
    history("archive+http://h x", &["space"]);
    history("http://h:0", &["port 0"]);
    history("tcp://:5", &["tcp://HOST:PORT"]);
    history("tcp://h:0", &["tcp://HOST:PORT"]);
    history("http://hunter2/x@h", &["%2F"]);
    let store = |name: &str, words: &[&str]| {
        let path = rig.text(name);
        let words = [&["PHALA_LOCAL_DB_PATH"], words].concat();
        rig.refused("data-provider", &[("PHALA_LOCAL_DB_PATH", &path)], &words);
    };
    rig.put("damaged/data.mdb", [7; 9000]);
    store("damaged", &["damaged", "prb store import"]);
    store("file", &["file"]);
    fs::create_dir_all(rig.path("locked/in-use")).unwrap();
    store("locked", &["locked"]);
    let inventory = |name: &str, words: &[&str]| {
        rig.refused("lifecycle", &[("PHALA_LOCAL_DB_PATH", &rig.text(name))], words);
    };
    inventory("file", &["PHALA_LOCAL_DB_PATH", "file"]);
    inventory("locked", &["PHALA_LOCAL_DB_PATH"]);
    inventory("damaged", &["is damaged", "backup"]);
    rig.put("data2/inventory", "");
    rig.refused("all", &[("PRB_DATA", &rig.text("data2"))], &["PRB_DATA"]);
    rig.put("token/api-token", "");
    rig.refused("lifecycle", &[("PHALA_LOCAL_DB_PATH", &rig.text("token"))], &["api-token", "16 bytes"]);
    fs::create_dir_all(rig.path("token2/api-token")).unwrap();
    rig.refused("lifecycle", &[("PHALA_LOCAL_DB_PATH", &rig.text("token2"))], &["api-token"]);
    assert!(!rig.path("db").exists());
}

#[test]
fn truncated_databases_are_refused() {
    let rig = Rig::new();
    let cut = |folder: &str| {
        // To LMDB's first two pages, which say how many there should be.
        fs::OpenOptions::new()
            .write(true)
            .open(rig.path(folder).join("data.mdb"))
            .unwrap()
            .set_len(8192)
            .unwrap();
    };
    for folder in ["manager", "data/inventory"] {
        drop(HeedInventory::open(&rig.path(folder), inventory::Config::default()).unwrap());
        cut(folder);
    }
    let words = ["the inventory at", "is truncated: its data.mdb has 8192 of "];
    rig.refused("lifecycle", &[("PHALA_LOCAL_DB_PATH", &rig.text("manager"))], &words);
    rig.refused("all", &[], &words);
    let export = ["worker", "export", "--offline", "--data", &rig.text("data")];
    let output = rig.run(&export, &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains(words[1]), "{:?} {error}", output.status);

    drop(Store::open(&rig.path("store"), store::Config::default()).unwrap());
    cut("store");
    let store = [("PHALA_LOCAL_DB_PATH", &*rig.text("store"))];
    let words = ["the database file at", "is truncated: it has 8192 of "];
    rig.refused("data-provider", &store, &words);
    let output = rig.run(&["store", "verify"], &store);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains(words[1]), "{:?} {error}", output.status);
}

#[test]
fn folders_are_writable_for_the_user() {
    let rig = Rig::new();
    for name in ["closed", "id"] {
        fs::create_dir_all(rig.path(name)).unwrap();
        fs::set_permissions(rig.path(name), fs::Permissions::from_mode(0o555)).unwrap();
    }
    fs::set_permissions(rig.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for role in ["LIFECYCLE", "DATA_PROVIDER"] {
        fs::set_permissions(rig.path("id").join(role), fs::Permissions::from_mode(0o444)).unwrap();
    }
    let below = rig.text("closed/new");
    for (daemon, setting) in
        [("lifecycle", "PHALA_LOCAL_DB_PATH"), ("data-provider", "PHALA_LOCAL_DB_PATH"), ("all", "PRB_DATA")]
    {
        for arguments in [&[daemon, "--check"][..], &[daemon]] {
            let mut command = rig.command(arguments, &[(setting, &below)]);
            if rustix::process::getuid().is_root() {
                // Nobody, whom the modes bind.
                command.uid(65534).gid(65534);
            }
            let output = command.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
            assert!(error.contains(setting) && error.contains("ermission denied"), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn numbers_and_names_are_within_bounds() {
    let rig = Rig::new();
    for (daemon, name, value, words) in [
        ("all", "PHALA_LRU_CACHE_MAX_AGE", "40000000000000", "ms"),
        ("all", "PHALA_LRU_CACHE_MAX_AGE", "18446744073709551615", "ms"),
        ("all", "PHALA_PRPC_REQUEST_TIMEOUT", "18446744073709551615", "ms"),
        ("all", "WORKER_KEEPALIVE_TIMEOUT", "9999999999999999", "ms"),
        ("all", "PRB_PCCS_URLS", "https://hunter2/x@h", "%2F"),
        ("lifecycle", "PRB_DATA_PROVIDERS", "0.0.0.0/0", "any"),
        ("lifecycle", "PRB_DATA_PROVIDERS", "::/0", "any"),
        ("lifecycle", "PHALA_WALKIE_BOOT_NODES", "/ip4/10.0.0.1/tcp/0", "TCP port"),
        ("lifecycle", "PHALA_WALKIE_BOOT_NODES", "/dns4/a b/tcp/1", "TCP port"),
        ("monitor", "PORT", "x", "whole number"),
        ("all", "PRB_CONSOLE_LISTEN", "9x", "127.0.0.1:3000"),
    ] {
        rig.refused(daemon, &[(name, value)], &[name, words]);
    }
    rig.accepted("all", &[("PHALA_LRU_CACHE_MAX_AGE", "3000000000000"), ("PRB_CONSOLE_LISTEN", "NONE")]);
}

#[test]
fn keys_in_two_spellings_are_refused() {
    let rig = Rig::new();
    for (text, words) in [
        (
            "chain-endpoint = \"ws://x\"\nchain_endpoint = \"ws://y\"\n",
            &["line 1", "line 2", "chain_endpoint"][..],
        ),
        ("[all]\nmin-bench-score = 1\n\nmin_bench_score = 2\n", &["line 2", "line 4"]),
        ("[data_provider]\n[data-provider]\n", &["line 1", "line 2", "data-provider"]),
        ("[trade]\n[trader]\n", &["line 1", "line 2"]),
    ] {
        let file = rig.put("prb.toml", text);
        rig.refused("all", &[("PRB_CONFIG", &file)], words);
    }
}

#[test]
fn files_of_secrets_are_read_as_they_are_meant() {
    let rig = Rig::new();
    let key = "b39aa1c7f2ed4f7b8e02d5d1c4a6309f";
    for (variable, daemon) in [
        ("PRB_WALKIE_PSK_FILE", "lifecycle"),
        ("PRB_API_TOKEN_FILE", "trader"),
        ("PRB_WALKIE_PSK_FILE", "monitor"),
    ] {
        rig.refused(daemon, &[(variable, "nowhere")], &[variable]);
        rig.refused(daemon, &[(variable, &rig.put("weak", "short"))], &[variable]);
        rig.refused(daemon, &[(variable, "/hunter2abcdEFGH0123+qrs=")], &[variable]);
        // An editor's byte order mark is no part of a key.
        let file = rig.put("bom", format!("\u{feff}{}\n", &key[..15]));
        rig.refused(daemon, &[(variable, &file)], &["15 bytes"]);
        rig.accepted(daemon, &[(variable, &rig.put("key", key))]);
    }
    let json = rig.put("fleet.json", "\u{feff}{\"pools\": [], \"workers\": []}");
    rig.accepted("all", &[("PRB_FLEET", &json)]);
    let json = rig.put("fleet.json", "{\"pools\": {}}");
    rig.refused("all", &[("PRB_FLEET", &json)], &["expected a list, found a table"]);
    // Each line of a list is an item.
    let nodes = rig.put("nodes", "ws://a:1\n\n ws://b:2 ,ws://c:3\r\n");
    let said = rig.accepted("all", &[(PARA.0, ""), ("PHALA_CHAIN_ENDPOINT_FILE", &nodes)]);
    assert!(said.contains("[\"ws://a:1\", \"ws://b:2\", \"ws://c:3\"]"), "{said}");

    let to = rig.text("backup");
    let both = [
        ("PRB_KEYS_PASSPHRASE", "correct horse battery"),
        ("PRB_KEYS_PASSPHRASE_FILE", &rig.put("pass", key)),
    ];
    let backup = rig.run(&["keys", "backup", "--to", &to], &both);
    let error = String::from_utf8_lossy(&backup.stderr).into_owned();
    assert_eq!(backup.status.code(), Some(2), "{error}");
    assert!(error.contains("both PRB_KEYS_PASSPHRASE and PRB_KEYS_PASSPHRASE_FILE"), "{error}");
    let lost = rig.run(&["keys", "backup", "--to", &to], &[("PRB_KEYS_PASSPHRASE_FILE", "lost")]);
    assert!(String::from_utf8_lossy(&lost.stderr).contains("PRB_KEYS_PASSPHRASE_FILE"), "{lost:?}");

    let fleet = rig.put("fleet/f.toml", "[[pools]]\npid = 1\noperator_file = \"lost\"\n");
    rig.refused(
        "all",
        &[("PRB_FLEET", &fleet)],
        &["pool 1", "operator_file", &rig.0.path().display().to_string()],
    );
}

#[test]
fn a_check_says_what_a_start_warns_of_and_changes_nothing() {
    let rig = Rig::new();
    let identity = rig.path("id/LIFECYCLE");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    let fleet = rig.put("fleet.toml", format!("[[pools]]\npid = 1\noperator = \"{PHRASE}\"\n"));
    fs::set_permissions(&fleet, fs::Permissions::from_mode(0o644)).unwrap();
    let changes = [
        ("PHALA_CHAIN_ENDPOINT_FIL", "x"),
        ("PHALA_ENABLE_PARA_BATCH_SYNC", "1"),
        ("PRB_FLEET", &*fleet),
        (PARA.0, ""),
    ];
    let before: Vec<_> = walk(rig.0.path());
    let output = rig.run(&["all", "--check", "--chain-endpoint", "ws://u:hunter2@127.0.0.1:9"], &changes);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in
        ["PHALA_CHAIN_ENDPOINT_FIL", "PHALA_ENABLE_PARA_BATCH_SYNC", "--chain-endpoint", "fleet.toml", "644"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(said.lines().all(|line| line.starts_with("prb: ")) && !said.contains("hunter2"), "{said}");
    for daemon in ["lifecycle", "trader"] {
        let said = rig.accepted(daemon, &[]);
        assert!(said.contains("LIFECYCLE") && said.contains("644"), "{daemon}: {said}");
    }
    assert_eq!(walk(rig.0.path()), before);
}

/// All files below a folder, with their modes.
fn walk(folder: &Path) -> Vec<(std::path::PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        found.push((entry.path(), entry.metadata().unwrap().permissions().mode()));
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn only_daemons_are_checked() {
    let rig = Rig::new();
    for words in [
        &["keys", "--check", "show"][..],
        &["import", "v2", "/x", "--to", "/y", "--check"],
        &["healthcheck", "--check"],
        &["pool", "add", "1", "--check"],
        &["status", "--check"],
    ] {
        let output = rig.run(words, &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains("--check") && error.contains("daemon"), "{words:?}: {error}");
        let has_dry_run = ["pool", "import"].contains(&words[0]);
        assert_eq!(error.contains("--dry-run"), has_dry_run, "{words:?}: {error}");
    }
    let error = String::from_utf8_lossy(&rig.run(&["keys"], &[]).stderr).into_owned();
    assert!(error.contains("'prb keys' requires a subcommand"), "{error}");
}

#[test]
fn closed_and_full_outputs_are_no_failure() {
    let rig = Rig::new();
    for (words, variables) in
        [(&[][..], &[("PHALA_MODULE", "utils/arena")][..]), (&["healthcheck"], &[("PRB_OPS_LISTEN", "none")])]
    {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut prb = Command::new(env!("CARGO_BIN_EXE_prb"));
        prb.env_clear().args(words).envs(variables.iter().copied()).stdin(Stdio::null());
        let output = prb.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    drop(rig);
}

#[test]
fn failed_addition_leaves_no_inventory_behind() {
    let rig = Rig::new();
    let add = |folder: &str, more: &[&str]| {
        let data = rig.text(folder);
        let output = rig.run(&[&["pool", "add", "1", "--offline", "--data", &data][..], more].concat(), &[]);
        assert!(!rig.path(folder).exists(), "{more:?}: {output:?}");
        output
    };
    let without = add("new/a", &[]);
    assert!(String::from_utf8_lossy(&without.stderr).contains("there is no secret"), "{without:?}");
    assert!(!rig.path("new").exists());
    let secret = rig.put("secret", "no mnemonic");
    add("new/a", &["--secret-file", &secret]);
    assert!(add("new/a", &["--sync-only", "true", "--dry-run"]).status.success());
    assert!(!rig.path("new").exists());
}
