//! Configuration of processes: `PHALA_MODULE`, every variable, and rejected values.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output, Stdio};

use prb_walkie::identity::{Identity, Role};

/// The settings that every daemon needs.
const CHAINS: [(&str, &str); 2] =
    [("PHALA_CHAIN_ENDPOINT", "ws://para:9944"), ("PHALA_PARENT_CHAIN_ENDPOINT", "ws://relay:9945,wss://r2")];

fn prb(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
    command.env_clear().args(args).envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

/// Returns the output of `--check`.
#[track_caller]
fn shown(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = prb(&[args, &["--check"]].concat(), &[&CHAINS[..], variables].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
    text
}

#[track_caller]
fn refusal(args: &[&str], variables: &[(&str, &str)]) -> String {
    failure(args, variables, 2)
}

fn failure(args: &[&str], variables: &[(&str, &str)], code: i32) -> String {
    let output = prb(args, variables);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

#[test]
fn module_variable_selects_the_daemon() {
    let built_in = ("USE_BUILT_IN_TRADER", "true");
    for (module, daemon) in [("data_provider", "[data-provider]"), ("lifecycle", "[lifecycle]")] {
        let text = shown(&[], &[("PHALA_MODULE", module), built_in]);
        assert!(text.starts_with(daemon), "{text}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let fleet = file.path().to_str().unwrap();
    let all = [("PHALA_MODULE", "all"), ("PRB_DATA", "/d"), ("PRB_FLEET", fleet)];
    assert!(shown(&[], &all).starts_with("[all]"));
    // Arguments have precedence; with flags only, the variable is used.
    assert!(shown(&["data-provider"], &[("PHALA_MODULE", "lifecycle")]).starts_with("[data-provider]"));
    let flagged = shown(&["--local-server-port", "1"], &[("PHALA_MODULE", "data_provider")]);
    assert!(flagged.contains("local_server_port = 1"), "{flagged}");
    let error = refusal(&[], &[("PHALA_MODULE", "miner")]);
    for word in ["PHALA_MODULE", "miner", "data_provider", "lifecycle"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(refusal(&[], &[]).contains("PHALA_MODULE"), "the help names the variable");
}

#[test]
fn defaults_equal_the_originals() {
    let text = shown(&["data-provider"], &[]);
    for line in [
        "local_db_path = \"/var/data/0\"",
        "peer_id_prefix = \"/var/data/keys/id\"",
        "local_server_port = 8012",
        "blob_max_range_count = 60",
        "blob_max_para_block_range_count = 15",
        "blob_server_session_max_memory = 64",
        "bridge_identity = \"default\"",
        "walkie_disable_mdns_discovery = false",
        "# walkie_boot_nodes is not set (PHALA_WALKIE_BOOT_NODES)",
        "walkie_listen_addresses = [\"/ip4/0.0.0.0/tcp/0\", \"/ip6/::/tcp/0\"]  # default",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let text = shown(&["lifecycle"], &[("USE_BUILT_IN_TRADER", "yes")]);
    for line in [
        "local_db_path = \"/var/data/local.db\"",
        "runner_max_worker_number = 150",
        "lifecycle_config_mode = false",
        "ptp_ignore_bridge_identity = false",
        "lru_cache_size = 5000",
        "lru_cache_max_age = 1800000",
        "disable_lru = false",
        "lifecycle_blob_queue_size = 36",
        "enforce_min_bench_score = false",
        "min_bench_score = 50",
        "prpc_request_timeout = 8000",
        "blob_request_timeout = 150000",
        "prpc_queue_size = 65535",
        "prpc_subqueue_size = 10",
        "worker_keepalive_enabled = false",
        "worker_keepalive_timeout = 5000",
        "sync_only = false",
        "dev_skip_ra = false",
        "after_stop = \"stay-stopped\"",
        "use_built_in_trader = true",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn every_variable_is_read() {
    let walkie = [
        ("PHALA_PEER_ID_PREFIX", "/k", "peer_id_prefix = \"/k\""),
        ("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/28888", "[\"/ip4/127.0.0.1/tcp/28888\"]"),
        ("PHALA_WALKIE_BOOT_NODES", "/ip4/10.0.0.1/tcp/1", "[\"/ip4/10.0.0.1/tcp/1\"]"),
        ("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "1", "walkie_disable_mdns_discovery = true"),
        ("PHALA_BRIDGE_IDENTITY", "blue", "bridge_identity = \"blue\""),
        ("PRB_OPS_LISTEN", "127.0.0.1:9", "ops_listen = \"127.0.0.1:9\""),
        ("PHALA_LOCAL_DB_PATH", "/db", "local_db_path = \"/db\""),
    ];
    let provider = [
        ("PHALA_DATA_PROVIDER_LOCAL_SERVER", "9012", "local_server_port = 9012"),
        ("PHALA_DATA_PROVIDER_BLOB_MAX_RANGE_COUNT", "61", "blob_max_range_count = 61"),
        ("PHALA_DATA_PROVIDER_BLOB_MAX_PARA_BLOCK_RANGE_COUNT", "16", "para_block_range_count = 16"),
        ("PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY", "65", "session_max_memory = 65"),
    ];
    let lifecycle = [
        ("PHALA_Q_REDIS_ENDPOINT", "redis://:word@h:1/0", "q_redis_endpoint = \"redis://h:1\""),
        ("PHALA_RUNNER_MAX_WORKER_NUMBER", "151", "runner_max_worker_number = 151"),
        ("PHALA_LIFECYCLE_CONFIG_MODE", "true", "lifecycle_config_mode = true"),
        ("PHALA_PTP_IGNORE_BRIDGE_IDENTITY", "true", "ptp_ignore_bridge_identity = true"),
        ("PHALA_LRU_CACHE_SIZE", "5001", "lru_cache_size = 5001"),
        ("PHALA_LRU_CACHE_MAX_AGE", "1", "lru_cache_max_age = 1"),
        ("DISABLE_LRU", "true", "disable_lru = true"),
        ("PHALA_LIFECYCLE_BLOB_QUEUE_SIZE", "37", "lifecycle_blob_queue_size = 37"),
        ("PHALA_ENFORCE_MIN_BENCH_SCORE", "true", "enforce_min_bench_score = true"),
        ("PHALA_MIN_BENCH_SCORE", "51", "\nmin_bench_score = 51"),
        ("PHALA_PRPC_REQUEST_TIMEOUT", "8001", "prpc_request_timeout = 8001"),
        ("PHALA_BLOB_REQUEST_TIMEOUT", "2", "blob_request_timeout = 2"),
        ("PRPC_QUEUE_SIZE", "3", "prpc_queue_size = 3"),
        ("PRPC_SUBQUEUE_SIZE", "4", "prpc_subqueue_size = 4"),
        ("WORKER_KEEPALIVE_ENABLED", "true", "worker_keepalive_enabled = true"),
        ("WORKER_KEEPALIVE_TIMEOUT", "5", "worker_keepalive_timeout = 5"),
        ("PHALA_SYNC_ONLY", "true", "\nsync_only = true"),
        ("PHALA_DEV_SKIP_RA", "true", "dev_skip_ra = true"),
        ("PRB_AFTER_STOP", "start-again", "after_stop = \"start-again\""),
        ("PRB_CHAIN_SET_BACK", "true", "chain_set_back = true"),
    ];
    for (daemon, own) in [("data-provider", &provider[..]), ("lifecycle", &lifecycle[..])] {
        let all = [&walkie[..], own].concat();
        let variables: Vec<_> = all.iter().map(|(name, value, _)| (*name, *value)).collect();
        let text = shown(&[daemon], &variables);
        for (name, _, line) in all {
            assert!(text.contains(line), "{name}: {line} in\n{text}");
        }
        assert!(!text.contains("word"), "a password shows");
    }
    // `prb all` has the workers' settings and the cache of a lifecycle manager.
    let cache = lifecycle.iter().filter(|(name, ..)| name.contains("LRU"));
    let all: Vec<_> = [("PRB_DATA", "/d", "data = \"/d\"")].iter().chain(cache).collect();
    let variables: Vec<_> = all.iter().map(|(name, value, _)| (*name, *value)).collect();
    let text = shown(&["all"], &variables);
    assert_eq!(all.len(), 4);
    for (name, _, line) in all {
        assert!(text.contains(line), "{name}: {line} in\n{text}");
    }
}

#[test]
fn rejected_value_is_reported_with_its_variable_and_allowed_values() {
    let provider = |name, value| refusal(&["data-provider"], &[CHAINS[0], CHAINS[1], (name, value)]);
    for (name, value, allowed) in [
        ("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", "80120", "from 0 to 65535"),
        ("PHALA_DATA_PROVIDER_LOCAL_SERVER", "eighty", "from 0 to 65535"),
        ("PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY", "0", "from 1 to"),
        ("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "perhaps", "true or false"),
        ("PHALA_WALKIE_LISTEN_ADDRESSES", "0.0.0.0:1", "/ip4/0.0.0.0/tcp/28888"),
        ("PHALA_WALKIE_BOOT_NODES", "/ip4/1.2.3.4", "TCP port"),
        ("PRB_OPS_LISTEN", "9100", "127.0.0.1:18012"),
        ("PRB_WALKIE_WHITELIST", "somebody", "base58"),
    ] {
        let error = provider(name, value);
        for word in [name, value, allowed] {
            assert!(error.contains(word), "{name}: {word} in\n{error}");
        }
    }
    // An invalid flag is not reported as a variable.
    let error = refusal(&["data-provider", "--local-server-port", "x"], &CHAINS);
    assert!(!error.contains("variable"), "{error}");
    let error = refusal(&["data-provider", "--chain-endpont", "ws://x"], &CHAINS);
    assert!(error.contains("--chain-endpont"), "{error}");
}

#[test]
fn missing_setting_is_reported_with_its_variable() {
    let error = refusal(&["data-provider"], &[]);
    assert!(
        error.contains("PHALA_CHAIN_ENDPOINT") && error.contains("PHALA_PARENT_CHAIN_ENDPOINT"),
        "{error}"
    );
    let error = refusal(&["lifecycle"], &CHAINS);
    assert!(
        error.contains("PHALA_Q_REDIS_ENDPOINT") && error.contains("USE_BUILT_IN_TRADER=true"),
        "{error}"
    );
}

#[test]
fn rejected_redis_url_is_not_quoted() {
    let bad = ("PHALA_Q_REDIS_ENDPOINT", "http://:word@host");
    let error = refusal(&["lifecycle"], &[CHAINS[0], bad]);
    assert!(error.contains("PHALA_Q_REDIS_ENDPOINT") && error.contains("redis://"), "{error}");
    assert!(!error.contains("word"), "{error}");
}

#[test]
fn empty_variables_are_unset_and_the_placeholder_is_no_boot_node() {
    let placeholder = "/ip4/0.0.0.0/tcp/18888,/ip6/::/tcp/28889";
    let variables = [
        ("PHALA_WALKIE_BOOT_NODES", placeholder),
        ("PHALA_LOCAL_DB_PATH", ""),
        ("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", ""),
    ];
    let text = shown(&["data-provider"], &variables);
    assert!(text.contains("walkie_boot_nodes = [\"/ip4/0.0.0.0/tcp/18888\""), "{text}");
    assert!(text.contains("local_db_path = \"/var/data/0\"") && text.contains("local_server_port = 8012"));
}

#[test]
fn two_names_of_one_variable_must_agree() {
    let port = "PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT";
    let other = "PHALA_DATA_PROVIDER_LOCAL_SERVER";
    assert!(shown(&["data-provider"], &[(port, "7"), (other, "7")]).contains("local_server_port = 7"));
    let error = refusal(&["data-provider"], &[CHAINS[0], CHAINS[1], (port, "7"), (other, "8")]);
    assert!(error.contains(port) && error.contains("differ"), "{error}");
}

#[test]
fn rejected_page_token_is_not_quoted() {
    let trader = [("PHALA_MODULE", "trade"), CHAINS[0], ("PHALA_Q_REDIS_ENDPOINT", "redis://h:1")];
    let with = |name, value| refusal(&[], &[&trader[..], &[(name, value)]].concat());
    let error = with("PRB_API_TOKEN", "hunter2");
    assert!(error.contains("PRB_API_TOKEN") && error.contains("16") && !error.contains("hunter2"), "{error}");
    assert!(with("PRB_API_TOKEN_FILE", "/nowhere/token").contains("/nowhere/token"));
    assert!(with("PRB_QUEUE_PAGE_LISTEN", "4567").contains("127.0.0.1:4567"));
    assert!(with("PRB_PAGE_HOSTS", "http://x").contains("host"));
    let both = [("PRB_API_TOKEN", "b39aa1c7f2ed4f7b"), ("PRB_API_TOKEN_FILE", "/f")];
    assert!(refusal(&[], &[&trader[..], &both].concat()).contains("set one"));
    let text = shown(
        &["lifecycle"],
        &[
            ("USE_BUILT_IN_TRADER", "1"),
            ("PRB_API_TOKEN", "b39aa1c7f2ed4f7b"),
            ("PRB_PAGE_HOSTS", "Q.example"),
        ],
    );
    assert!(text.contains("\"Q.example\"") && !text.contains("b39aa1c7f2ed4f7b"), "{text}");
}

/// Returns a data provider's log before it fails to store its identity.
fn said_at_start(variables: &[(&str, &str)]) -> String {
    let nowhere = [("PHALA_PEER_ID_PREFIX", "/dev/null/id"), ("PRB_OPS_LISTEN", "off")];
    let output = prb(&["data-provider"], &[&CHAINS[..], &nowhere, variables].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[test]
fn secrets_in_flags_are_warned_of_and_not_quoted() {
    const WARNING: &str = "every user of this machine can read this flag's value";
    let nowhere = [("PHALA_PEER_ID_PREFIX", "/dev/null/id"), ("PRB_OPS_LISTEN", "off")];
    let said = |arguments: &[&str]| {
        let output = prb(&[&["data-provider"], arguments].concat(), &[&CHAINS[..], &nowhere].concat());
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    let key = "9d1c5b0e7f3a48d2b6e1940c7a5f2e83";
    for value in [format!("wss://a:{key}@node.example"), format!("wss://node.example/?key={key}")] {
        let said = said(&["--chain-endpoint", &value]);
        assert!(said.contains(WARNING) && said.contains("\"--chain-endpoint\""), "{said}");
        assert!(!said.contains(key), "{said}");
    }
    assert!(!said(&["--chain-endpoint", "ws://node.example:9944"]).contains(WARNING));
}

#[test]
fn settings_without_effect_are_reported_with_their_source() {
    let name = "PHALA_DATA_PROVIDER_BLOB_MAX_RANGE_COUNT";
    let said = said_at_start(&[(name, "61")]);
    assert!(said.contains(name) && said.contains("no effect"), "{said}");
    for variables in [&[][..], &[(name, "60")]] {
        let said = said_at_start(variables);
        assert!(!said.contains("no effect"), "{said}");
    }
    let help = String::from_utf8(prb(&["data-provider", "--help"], &[]).stdout).unwrap();
    assert!(help.contains("without effect"), "{help}");
}

/// A trader has no console, and a monitor no queue page.
#[test]
fn pages_that_a_daemon_does_not_have_are_not_in_its_help_and_reported() {
    let nowhere = [("PRB_OPS_LISTEN", "off"), ("PHALA_PEER_ID_PREFIX", "/dev/null/id"), ("PORT", "0")];
    let redis = ("PHALA_Q_REDIS_ENDPOINT", "redis://127.0.0.1:9");
    for (daemon, variable, flag, other) in [
        ("trader", "PRB_CONSOLE_LISTEN", "--console-listen", "--queue-page-listen"),
        ("monitor", "PRB_QUEUE_PAGE_LISTEN", "--queue-page-listen", "--console-listen"),
    ] {
        let help = String::from_utf8(prb(&[daemon, "--help"], &[]).stdout).unwrap();
        assert!(!help.contains(flag) && help.contains(other), "{help}");
        for (value, reported) in [("127.0.0.1:9", true), ("none", false)] {
            let output = prb(&[daemon], &[&CHAINS[..], &nowhere, &[redis, (variable, value)]].concat());
            let log = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            let log = log.concat();
            assert_eq!(log.contains(variable) && log.contains("has no effect"), reported, "{log}");
            assert_eq!(output.status.code(), Some(2), "{log}");
        }
    }
}

#[test]
fn check_reads_the_same_files_as_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = folder.path().join("fleet.toml");
    let (path, data) = (fleet.to_str().unwrap(), folder.path().join("data"));
    let all = [CHAINS[0], CHAINS[1], ("PRB_FLEET", path), ("PRB_DATA", data.to_str().unwrap())];
    assert!(refusal(&["all", "--check"], &all).contains("fleet.toml"), "a file that is not there");
    let pool = "[[pools]]\npid = 1\n";
    for (text, words) in [
        ("[[pools]]\npid = 1\nname = 2\n", "line 3"),
        ("[[pools]]\npid = 1\noperator_env = \"NO_SUCH_VARIABLE\"\n", "NO_SUCH_VARIABLE"),
        ("[[pools]]\npid = 1\noperator = \"no mnemonic\"\n", "mnemonic"),
    ] {
        std::fs::write(&fleet, text).unwrap();
        let error = refusal(&["all", "--check"], &all);
        assert!(error.contains(words), "{words}: {error}");
    }
    std::fs::write(&fleet, pool).unwrap();
    let text = shown(&["all"], &all[2..]);
    assert!(text.contains("# PRB_FLEET") && text.contains("chain_endpoint = [\"ws://para:9944\"]"), "{text}");
    assert!(!data.exists(), "a check makes nothing");
    let trader = [CHAINS[0], ("PHALA_Q_REDIS_ENDPOINT", "redis://h"), ("PHALA_PEER_ID_PREFIX", path)];
    assert!(refusal(&["trader", "--check"], &trader).contains("LIFECYCLE"));
    let help = String::from_utf8(prb(&["lifecycle", "--help"], &[]).stdout).unwrap();
    for heading in ["Peers:", "Management API:", "Workers:", "Ops port:", "Pages:", "Attestation of workers:"]
    {
        assert!(help.contains(heading), "{heading} in\n{help}");
    }
    let help = String::from_utf8(prb(&["--help"], &[]).stdout).unwrap();
    assert!(help.contains("Exit codes: 0"), "{help}");
}

#[test]
fn check_finds_ports_in_use_and_keys_that_do_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (at, to_peers) = (format!("127.0.0.1:{port}"), format!("/ip4/127.0.0.1/tcp/{port}"));
    let (db, id, other) = (path("db"), path("id"), path("other"));
    let base = [("PHALA_LOCAL_DB_PATH", &*db), ("PHALA_PEER_ID_PREFIX", &*id), ("PRB_OPS_LISTEN", "none")];
    let manager = [&CHAINS[..1], &base, &[("USE_BUILT_IN_TRADER", "true")]].concat();
    let provider = [&CHAINS[..], &base].concat();
    let trader = [&manager[..], &[("PHALA_Q_REDIS_ENDPOINT", "redis://h")]].concat();
    Identity::generate().unwrap().store(id.as_ref(), Role::Lifecycle).unwrap();
    for (daemon, variables, setting, value) in [
        ("lifecycle", &manager, "PRB_API_LISTEN", &*at),
        ("lifecycle", &manager, "PRB_CONSOLE_LISTEN", &at),
        ("lifecycle", &manager, "PRB_OPS_LISTEN", &at),
        ("lifecycle", &manager, "PHALA_WALKIE_LISTEN_ADDRESSES", &to_peers),
        ("trader", &trader, "PRB_QUEUE_PAGE_LISTEN", &at),
        ("monitor", &manager, "PORT", &port),
        ("data-provider", &provider, "PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", &port),
    ] {
        let db = path(&format!("db-{daemon}"));
        let variables = [&variables[..], &[(setting, value), ("PHALA_LOCAL_DB_PATH", &db)]].concat();
        // The predecessor may still hold the port: a supervisor is to start the daemon again.
        for arguments in [&[daemon, "--check"][..], &[daemon]] {
            let error = failure(arguments, &variables, 1);
            assert!(error.contains(setting) && error.contains("in use"), "{daemon}: {error}");
        }
    }
    std::fs::write(path("file"), "").unwrap();
    let below = path("file/db");
    let within = [&provider[..], &[("PHALA_LOCAL_DB_PATH", &*below)]].concat();
    assert!(refusal(&["data-provider", "--check"], &within).contains("is not a folder"));

    let mut add = Command::new(env!("CARGO_BIN_EXE_prb"))
        .args(["pool", "add", "1", "--offline", "--secret-stdin", "--local-db-path", &db])
        .args(["--peer-id-prefix", &id])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let phrase = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    std::io::Write::write_all(&mut add.stdin.take().unwrap(), phrase.as_bytes()).unwrap();
    assert!(add.wait().unwrap().success());
    shown(&["lifecycle"], &manager);
    let mut elsewhere = manager.clone();
    elsewhere.push(("PHALA_PEER_ID_PREFIX", &other));
    assert!(refusal(&["lifecycle", "--check"], &elsewhere).contains("is missing"));
    Identity::generate().unwrap().store(other.as_ref(), Role::Lifecycle).unwrap();
    assert!(
        refusal(&["lifecycle", "--check"], &elsewhere).contains("cannot open the sealed keys of the pools 1")
    );
    // While the daemon runs, its own ports are no mistake.
    let held = std::fs::File::open(format!("{db}/in-use")).unwrap();
    held.lock().unwrap();
    shown(&["lifecycle"], &[&manager[..], &[("PRB_API_LISTEN", &*at)]].concat());
    elsewhere.push(("PRB_API_LISTEN", "none"));
    elsewhere.push(("PRB_CONSOLE_LISTEN", "none"));
    let started = prb(&["lifecycle"], &elsewhere);
    assert_eq!(started.status.code(), Some(1), "{}", String::from_utf8_lossy(&started.stderr));
}
