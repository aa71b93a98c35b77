//! `prb store` on the store of a data provider, and data providers without nodes, which get history from an
//! archive or from one another.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::Path as UrlPath,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prb_chain::store::{self, Store};
use prb_core::primitives::ParaNumber;
use tokio_util::task::AbortOnDropHandle;

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, free_port, provider},
};

const LIMIT: Duration = Duration::from_secs(90);

/// The result of a command: exit code, standard output, standard error.
type Done = (Option<i32>, String, String);

fn prb(store: &Path, arguments: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
    command.arg("store").args(arguments).env_clear().env("PHALA_LOCAL_DB_PATH", store);
    let done = command.stdin(std::process::Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

#[track_caller]
fn good(store: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = prb(store, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

#[track_caller]
fn bad(store: &Path, arguments: &[&str], texts: &[&str]) {
    let (code, out, err) = prb(store, arguments);
    assert_eq!(code, Some(1), "{arguments:?}: {out}{err}");
    for text in texts {
        assert!(out.contains(text) || err.contains(text), "{text:?} is missing in\n{out}{err}");
    }
}

fn store_of(daemon: &Daemon) -> PathBuf {
    daemon.variable("PHALA_LOCAL_DB_PATH").unwrap().into()
}

/// Returns a gauge of the store: the number of relay headers or of blocks with storage changes.
fn metric(daemon: &Daemon, name: &str) -> Option<u64> {
    let metrics = daemon.ops("/metrics")?.1;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Creates a data provider without nodes.
fn without_nodes(net: &Net, name: &str, history: impl std::fmt::Display) -> Daemon {
    Daemon::new(net.dir.path(), "data_provider", name)
        .set("PRB_HISTORY", history)
        .set("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", free_port())
        .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
}

/// A web server of a folder that answers ranges; its URL.
async fn web_server(folder: PathBuf) -> (String, AbortOnDropHandle<()>) {
    let answer = move |UrlPath(name): UrlPath<String>, headers: HeaderMap| async move {
        let Ok(file) = fs::read(folder.join(name)) else { return StatusCode::NOT_FOUND.into_response() };
        let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = match range.split_once('-').unwrap() {
            ("", count) => (file.len() - count.parse::<usize>().unwrap(), file.len() - 1),
            (first, last) => (first.parse().unwrap(), last.parse::<usize>().unwrap().min(file.len() - 1)),
        };
        let range = format!("bytes {first}-{last}/{}", file.len());
        (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], file[first..=last].to_vec())
            .into_response()
    };
    let app = Router::new().route("/bucket/{name}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/bucket", listener.local_addr().unwrap());
    (url, AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })))
}

/// Waits until a provider says that it has stored all that there is.
async fn until_stored(daemon: &Daemon, para: u32) {
    let start = Instant::now();
    let wanted = format!("\"para\":{para}");
    while !daemon.log().lines().any(|line| line.contains("stored all blocks") && line.contains(&wanted)) {
        assert!(start.elapsed() < LIMIT, "{}", daemon.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a provider can serve a parachain block.
async fn until_served(daemon: &Daemon, para: u32) {
    let start = Instant::now();
    while metric(daemon, "prb_height{chain=\"para\",kind=\"held\"} ").is_none_or(|held| held < para.into()) {
        assert!(start.elapsed() < LIMIT, "{}", daemon.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the last number that follows a text.
fn number_after(text: &str, words: &str) -> u32 {
    let rest = &text[text.rfind(words).unwrap() + words.len()..];
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn store_can_be_moved_to_other_machines() {
    let net = Net::start(chain(), 0).await;
    let mut first = provider(&net, "first");
    first.start();
    first.until_unready(&[], LIMIT).await;
    let store = store_of(&first);
    bad(&store, &["verify"], &["in use", "stop the daemon"]);
    assert!(metric(&first, "prb_usable_peers ").is_some());
    first.stop().await;

    let checked = good(&store, &["verify"]);
    let blocks = number_after(&checked, "storage changes of ");
    assert!(blocks > 100, "{checked}");
    let archive = net.dir.path().join("archive");
    let to = archive.to_str().unwrap();
    let added = good(&store, &["export", "--to", to]);
    assert!(added.contains("added 4 files"), "{added}");
    assert!(good(&store, &["export", "--to", to]).contains("added 0 files"));

    let elsewhere = net.dir.path().join("elsewhere");
    let last = archive_is_imported(&elsewhere, to);
    assert!(last > 100 && last <= blocks, "{last} of {blocks}");
    archive_of_another_chain_is_refused(&net.dir.path().join("stranger"), to);
    ended_chain_is_served_to_its_last_block(&net, &archive, last).await;

    // The archive grows with the store. A provider is ready before it has stored a new block.
    first.start();
    until_served(&first, blocks + 1).await;
    first.stop().await;
    let added = good(&store, &["export", "--to", to]);
    assert!(added.contains("added 3 files"), "{added}");
    let more = good(&elsewhere, &["import", "--from", to]);
    assert!(number_after(&more, "parachain block ") > last, "{more}");
    good(&elsewhere, &["verify"]);
}

/// Returns the newest block.
fn archive_is_imported(store: &Path, archive: &str) -> u32 {
    let imported = good(store, &["import", "--from", archive]);
    good(store, &["verify"]);
    let compacted = good(store, &["compact"]);
    assert!(compacted.starts_with("compacted from "), "{compacted}");
    number_after(&imported, "parachain block ")
}

fn archive_of_another_chain_is_refused(store: &Path, archive: &str) {
    let other = format!("0x{}", "7".repeat(64));
    bad(store, &["import", "--from", archive, "--chain-identity", &other], &["not the expected one"]);
}

/// From an archive in a folder, from provider to provider, and from an archive on a web server.
async fn ended_chain_is_served_to_its_last_block(net: &Net, archive: &Path, last: u32) {
    let mut second = without_nodes(net, "second", archive.display());
    second.start();
    until_stored(&second, last).await;
    second.until_unready(&[], LIMIT).await;
    let port = second.variable("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT").unwrap();
    let mut third = without_nodes(net, "third", format!("tcp://127.0.0.1:{port}"));
    third.start();
    until_stored(&third, last).await;
    third.stop().await;
    second.stop().await;
    let (url, _server) = web_server(archive.to_owned()).await;
    let mut fourth = without_nodes(net, "fourth", format!("archive+{url}"));
    fourth.start();
    until_stored(&fourth, last).await;
    fourth.stop().await;
    for daemon in [&second, &third, &fourth] {
        let checked = good(&store_of(daemon), &["verify"]);
        assert_eq!(number_after(&checked, "storage changes of "), last, "{checked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_reported_with_its_remedy() {
    let net = Net::start(chain(), 0).await;
    let mut first = provider(&net, "first");
    first.start();
    first.until_unready(&[], LIMIT).await;
    first.stop().await;
    let store = store_of(&first);

    let archive = net.dir.path().join("archive");
    let to = archive.to_str().unwrap();
    good(&store, &["export", "--to", to]);
    let file = archive.join("changes-0000000001.prb");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let elsewhere = net.dir.path().join("elsewhere");
    bad(&elsewhere, &["import", "--from", to], &["changes-0000000001.prb", "imported only in part"]);
    good(&elsewhere, &["verify"]);

    // A disk error in the middle of the storage changes.
    let some = {
        let store = Store::open(&store, store::Config::default()).unwrap();
        store.changes(ParaNumber(60)).unwrap()
    };
    let database = store.join("data.mdb");
    let mut bytes = fs::read(&database).unwrap();
    let places = bytes.windows(some.len()).enumerate().filter(|(_, window)| *window == some);
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at + some.len() / 2] ^= 0xff);
    fs::write(&database, bytes).unwrap();
    let (code, out, err) = prb(&store, &["verify"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("storage changes of block ") && out.contains("differs from its digest"), "{out}");
    damaged_blocks_are_not_exported(&store, &net.dir.path().join("damaged"), &out);
    let line = out.lines().find(|line| line.contains("prb store drop --para-from")).unwrap();
    let words: Vec<&str> = line.split('`').nth(1).unwrap().split(' ').skip(2).collect();
    assert!(good(&store, &[&words[..], &["--dry-run"]].concat()).starts_with("would drop "));
    assert!(good(&store, &[&words[..], &["--yes"]].concat()).starts_with("dropped "));
    good(&store, &["verify"]);
    first.start();
    first.until_unready(&[], LIMIT).await;
    first.stop().await;
    good(&store, &["verify"]);
    bad(&net.dir.path().join("none"), &["verify"], &["no block store at"]);
}

/// An export says what the check has said, and what it leaves can be imported.
fn damaged_blocks_are_not_exported(store: &Path, archive: &Path, checked: &str) {
    let to = archive.to_str().unwrap();
    let faults: Vec<&str> = checked.lines().filter(|line| !line.starts_with("checked ")).collect();
    bad(store, &["export", "--to", to], &[&faults[..], &["is damaged"]].concat());
    let left: Vec<_> = fs::read_dir(archive).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.len() == 3 && left.iter().all(|name| name.to_str().unwrap().ends_with(".prb")), "{left:?}");
    let elsewhere = archive.with_extension("store");
    good(&elsewhere, &["import", "--from", to]);
    good(&elsewhere, &["verify"]);
}

#[tokio::test]
async fn contradictory_settings_are_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut daemon = Daemon::new(folder.path(), "data_provider", "none");
    assert!(daemon.refuses(LIMIT).await.contains("PHALA_CHAIN_ENDPOINT"));
    let mut daemon = Daemon::new(folder.path(), "data_provider", "half")
        .set("PRB_HISTORY", "/srv/archive")
        .set("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:1");
    assert!(daemon.refuses(LIMIT).await.contains("nodes of one chain are not sufficient"));
    let mut daemon = Daemon::new(folder.path(), "data_provider", "odd").set("PRB_HISTORY", "ftp://a");
    assert!(daemon.refuses(LIMIT).await.contains("must be the folder of an archive"));
}
