//! The configuration file and files that variables name, as a process reads them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file and returns its path.
    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn prb(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
    command.env_clear().args(args).envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

#[track_caller]
fn shown(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = prb(&[args, &["--check"]].concat(), variables);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refusal(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = prb(args, variables);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    error
}

const FILE: &str = r#"
log_level = "warn"
chain-endpoint = ["ws://a:9944", "ws://b:9944"]

[data_provider]
parent_chain_endpoint = "ws://relay:9944"
local-server-port = 7

[lifecycle]
use_built_in_trader = true
min_bench_score = 60
runner_max_worker_number = 2
"#;

#[test]
fn nonce_gaps_are_filled_where_a_setting_says_so() {
    let folder = Folder::new();
    let file = folder.put("prb.toml", &format!("fill_nonce_gaps = true\n{FILE}"));
    let nodes = [("PHALA_Q_REDIS_ENDPOINT", "redis://r:6379"), ("PHALA_CHAIN_ENDPOINT", "ws://a:9944")];
    let all = ["--data", "d", "--parent-chain-endpoint", "ws://r:1"];
    for (daemon, more) in [("lifecycle", &[][..]), ("all", &all)] {
        let filled = |given: &[&str], variables: &[(&str, &str)]| {
            let text = shown(&[&[daemon], more, given].concat(), &[&nodes[..], variables].concat());
            text.lines().find(|line| line.starts_with("fill_nonce_gaps")).unwrap().to_owned()
        };
        assert_eq!(filled(&[], &[]), "fill_nonce_gaps = false  # default");
        assert_eq!(filled(&["--config", &file], &[]), format!("fill_nonce_gaps = true  # {file} line 1"));
        let variable = [("PRB_FILL_NONCE_GAPS", "yes")];
        assert_eq!(filled(&[], &variable), "fill_nonce_gaps = true  # PRB_FILL_NONCE_GAPS");
        assert_eq!(filled(&["--fill-nonce-gaps"], &[]), "fill_nonce_gaps = true  # --fill-nonce-gaps");
    }
    let help = String::from_utf8(prb(&["trader", "--help"], &[]).stdout).unwrap();
    assert!(help.contains("PRB_FILL_NONCE_GAPS") && help.contains("PRB_JOB_MAX_AGE"), "{help}");
}

#[test]
fn the_age_limit_of_jobs_is_set_in_ms() {
    let nodes = [("PHALA_Q_REDIS_ENDPOINT", "redis://r:6379"), ("PHALA_CHAIN_ENDPOINT", "ws://a:9944")];
    for (given, line) in [
        (None, "job_max_age = 1800000  # default"),
        (Some("0"), "job_max_age = 0  # PRB_JOB_MAX_AGE"),
        (Some("60000"), "job_max_age = 60000  # PRB_JOB_MAX_AGE"),
    ] {
        let variables: Vec<_> = nodes.into_iter().chain(given.map(|age| ("PRB_JOB_MAX_AGE", age))).collect();
        let text = shown(&["lifecycle"], &variables);
        assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    let folder = Folder::new();
    let file = folder.put("prb.toml", FILE);
    let text = shown(
        &["lifecycle", "--config", &file, "--runner-max-worker-number", "4"],
        &[("PHALA_MIN_BENCH_SCORE", "61"), ("PHALA_RUNNER_MAX_WORKER_NUMBER", "3")],
    );
    for line in [
        format!("chain_endpoint = [\"ws://a:9944\", \"ws://b:9944\"]  # {file} line 3"),
        format!("use_built_in_trader = true  # {file} line 10"),
        "min_bench_score = 61  # PHALA_MIN_BENCH_SCORE".into(),
        "runner_max_worker_number = 4  # --runner-max-worker-number".into(),
        "lru_cache_size = 5000  # default".into(),
        format!("log_level = \"warn\"  # {file} line 2"),
    ] {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    // A variable can name the file, and one file can serve several daemons.
    let text = shown(&[], &[("PHALA_MODULE", "data_provider"), ("PRB_CONFIG", &file)]);
    assert!(text.contains(&format!("local_server_port = 7  # {file} line 7")), "{text}");
    assert!(!text.contains("min_bench_score"), "{text}");
}

#[test]
fn printed_check_is_a_file_with_the_same_settings() {
    let folder = Folder::new();
    let settings = |text: &str| text.parse::<toml::Table>().unwrap();
    for daemon in ["lifecycle", "data-provider"] {
        let first = shown(&[daemon, "--config", &folder.put("first.toml", FILE)], &[]);
        let second = shown(&[daemon, "--config", &folder.put("second.toml", &first)], &[]);
        assert_eq!(settings(&first), settings(&second));
        assert!(second.contains("second.toml line "), "{second}");
    }
}

#[test]
fn faults_in_the_file_are_reported_with_their_line() {
    let folder = Folder::new();
    let with = |text: &str| refusal(&["lifecycle", "--config", &folder.put("prb.toml", text)], &[]);
    let error = with("[lifecycle]\nmin_bench_scor = 1\n");
    assert!(error.contains("prb.toml: line 2") && error.contains("did you mean min_bench_score?"), "{error}");
    let error = with("chain_endpoint = \"ws://a\"\nuse_built_in_trader = true\nmin_bench_score = \"high\"\n");
    for word in ["--min-bench-score", "high", "whole number", "prb.toml line 3"] {
        assert!(error.contains(word), "{word} in {error}");
    }
    let error = with("chain_endpoint = \"http://node/hunter2\"\nuse_built_in_trader = true\n");
    assert!(error.contains("--chain-endpoint") && error.contains("line 1"), "{error}");
    assert!(with("[[lifecycle]]\n").contains("line 1"));
    let error = with("min_bench_score = 0x10\n");
    assert!(error.contains("decimal") && error.contains("line 1"), "{error}");
    assert!(with("q_redis_endpoint = hunter2 hunter2").contains("line 1"));
    // A file can provide required settings.
    assert!(with("min_bench_score = 1\n").contains("--config file"));
    let gone = refusal(&["all", "--config", "/nowhere/prb.toml"], &[]);
    assert!(gone.contains("/nowhere/prb.toml") && gone.contains("cannot read"), "{gone}");
    // Commands that talk to a daemon do not read it.
    let output = prb(&["completions", "bash"], &[("PRB_CONFIG", "/nowhere/prb.toml")]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn secrets_are_read_from_files_named_by_variables() {
    let folder = Folder::new();
    let redis = folder.put("redis", "redis://:hunter2@queue.example:6379/0\nnot read\n");
    let node = folder.put("node", "wss://node.example/v1/hunter2\n");
    let files = [("PHALA_Q_REDIS_ENDPOINT_FILE", &*redis), ("PHALA_CHAIN_ENDPOINT_FILE", &*node)];
    let text = shown(&["lifecycle"], &files);
    assert!(
        text.contains("q_redis_endpoint = \"redis://queue.example:6379\"  # PHALA_Q_REDIS_ENDPOINT_FILE"),
        "{text}"
    );
    assert!(
        text.contains("chain_endpoint = [\"wss://node.example\"]") && !text.contains("hunter2"),
        "{text}"
    );
    let help = prb(&["lifecycle", "--help"], &files);
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hunter2"));

    let error = refusal(&["lifecycle"], &[files[0], files[1], ("PHALA_CHAIN_ENDPOINT", "ws://x")]);
    assert!(error.contains("both PHALA_CHAIN_ENDPOINT and PHALA_CHAIN_ENDPOINT_FILE"), "{error}");
    let error = refusal(&["lifecycle"], &[("PHALA_CHAIN_ENDPOINT_FILE", "/nowhere/node")]);
    assert!(error.contains("PHALA_CHAIN_ENDPOINT_FILE") && error.contains("/nowhere/node"), "{error}");
    let bad = folder.put("bad", "http://hunter2\n");
    let error = refusal(&["lifecycle"], &[files[0], ("PHALA_CHAIN_ENDPOINT_FILE", &bad)]);
    assert!(error.contains("the value comes from PHALA_CHAIN_ENDPOINT_FILE"), "{error}");

    let mnemonic =
        folder.put("mnemonic", "bottom drive obey lake curtain smoke basket hold race lonely fit walk\n");
    let fleet = folder.put("fleet.toml", &format!("[[pools]]\npid = 1\noperator_file = \"{mnemonic}\"\n"));
    let nodes =
        [("PHALA_CHAIN_ENDPOINT", "ws://a"), ("PHALA_PARENT_CHAIN_ENDPOINT", "ws://r"), ("PRB_DATA", "/d")];
    let all = [&nodes[..], &[("PRB_FLEET", &*fleet)]].concat();
    shown(&["all"], &all);
    for (secret, words) in
        [("hunter2 is no mnemonic\n", "mnemonic is not valid"), ("/run/hunter2\n", "operator_file")]
    {
        folder.put("mnemonic", secret);
        let error = refusal(&["all", "--check"], &all);
        assert!(error.contains("pool 1 at line 1") && error.contains(words), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// Starts `prb` with a pipe that has no writer yet in place of a file.
fn with_pipe(folder: &Folder, args: &[&str]) -> (Child, String) {
    let pipe = folder.0.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
    command.env_clear().args(args).arg(&pipe).stdin(Stdio::null());
    (command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), pipe)
}

fn until_explained(output: impl Read, pipe: &str) {
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("waiting for") && line.contains(pipe))));
}

#[test]
fn configuration_from_a_pipe_is_waited_for() {
    let folder = Folder::new();
    let (mut prb, pipe) = with_pipe(&folder, &["lifecycle", "--check", "--config"]);
    until_explained(prb.stderr.take().unwrap(), &pipe);
    let id = folder.0.path().join("id");
    let own = format!("local_db_path = {:?}\npeer_id_prefix = {id:?}\n", folder.0.path().join("db"));
    fs::write(&pipe, format!("{own}chain_endpoint = \"ws://a\"\nuse-built-in-trader = true\n")).unwrap();
    let output = prb.wait_with_output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(&format!("use_built_in_trader = true  # {pipe} line 4")), "{shown}");
}

#[test]
fn daemon_that_waits_for_a_fleet_file_can_be_stopped() {
    let folder = Folder::new();
    let data = folder.0.path().join("data").display().to_string();
    let args =
        ["all", "--chain-endpoint", "ws://127.0.0.1:9", "--parent-chain-endpoint", "ws://127.0.0.1:10"];
    let more = ["--ops-listen", "none", "--data", &data, "--fleet"];
    let (mut prb, pipe) = with_pipe(&folder, &[&args[..], &more].concat());
    until_explained(prb.stdout.as_mut().unwrap(), &pipe);
    // As a tool that rotates logs does; this one ends nothing.
    for signal in ["-USR1", "-USR2", "-TERM"] {
        assert!(Command::new("kill").args([signal, &prb.id().to_string()]).status().unwrap().success());
    }
    let code = prb.wait().unwrap().code();
    // Not only once the wait for the pipe has ended.
    assert_eq!(code, Some(0));
}
