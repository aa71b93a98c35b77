//! An archive behind a web server, and what servers do wrong.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures::stream;
use prb_chain::{
    history::{
        HistorySource,
        archive::{Config, HttpArchive, HttpConfig, export},
    },
    store::Part,
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use super::{
    setup::{PARA, RELAY, blocks_of, empty, filled, heights, is_part_of, replay},
    suite,
};

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As object stores do that may not be listed: 403 for what is not there.
    Bucket,
    /// Two of three answers fail: one breaks off, one has status 503.
    Unsteady,
    /// Every answer breaks off before its first byte.
    Broken,
    /// It knows no ranges.
    WholeFiles,
    /// It gives the bytes after those that it was asked for.
    OtherBytes,
    /// It gives more bytes than it was asked for, without end.
    Endless,
    /// It sends to another path, which has the file.
    Redirects,
}

struct Server {
    folder: PathBuf,
    kind: Kind,
    asked: AtomicU32,
}

fn breaks_off(bytes: Bytes) -> Body {
    let broken = Err(std::io::Error::other("broken"));
    Body::from_stream(stream::iter([Ok(bytes), broken]))
}

async fn redirect(State(server): State<Arc<Server>>, name: Path<String>, headers: HeaderMap) -> Response {
    match server.kind {
        Kind::Redirects => Redirect::temporary(&format!("/elsewhere/{}?key=secret", *name)).into_response(),
        _ => answer(State(server), name, headers).await,
    }
}

async fn answer(State(server): State<Arc<Server>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let asked = server.asked.fetch_add(1, Ordering::Relaxed);
    if server.kind == Kind::Unsteady && asked % 3 == 1 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(file) = fs::read(server.folder.join(name)) else { return StatusCode::FORBIDDEN.into_response() };
    if server.kind == Kind::WholeFiles {
        return file.into_response();
    }
    let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = match range.split_once('-').unwrap() {
        ("", count) => (file.len().saturating_sub(count.parse().unwrap()), file.len() - 1),
        (first, last) => (first.parse().unwrap(), last.parse::<usize>().unwrap().min(file.len() - 1)),
    };
    if first > last {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let moved = usize::from(server.kind == Kind::OtherBytes && last + 1 < file.len());
    let part = Bytes::copy_from_slice(&file[first + moved..=last + moved]);
    let body = match server.kind {
        Kind::Broken => breaks_off(Bytes::new()),
        Kind::Unsteady if asked.is_multiple_of(3) => breaks_off(part.slice(..part.len() / 2)),
        Kind::Endless => {
            Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone())))
        }
        _ => part.into(),
    };
    let range = format!("bytes {}-{}/{}", first + moved, last + moved, file.len());
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], body).into_response()
}

async fn serve(folder: &TempDir, kind: Kind) -> (String, Arc<Server>, AbortOnDropHandle<()>) {
    let server = Arc::new(Server { folder: folder.path().to_owned(), kind, asked: AtomicU32::new(0) });
    let app = Router::new()
        .route("/bucket/khala/{name}", get(redirect))
        .route("/elsewhere/{name}", get(answer))
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}/bucket/khala", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, server, AbortOnDropHandle::new(task))
}

/// Small ranges: each file takes several.
fn archive(url: &str) -> Arc<dyn HistorySource> {
    let config = HttpConfig::default().with_range_bytes(700).with_retry_min(Duration::from_millis(1));
    let config = config.with_timeout(Duration::from_secs(5));
    Arc::new(HttpArchive::new(url, config).unwrap())
}

#[tokio::test]
async fn an_archive_in_a_bucket_is_a_source() {
    let whole = filled();
    for (file_bytes, kind) in [(1, Kind::Bucket), (1 << 30, Kind::Bucket), (1, Kind::Unsteady)] {
        let folder = TempDir::new().unwrap();
        export(&whole.store, folder.path(), Config::default().with_file_bytes(file_bytes), &mut |_| true)
            .unwrap();
        let (url, server, _task) = serve(&folder, kind).await;
        let source = archive(&url);
        assert!(!source.name().contains("khala"), "a path may hold a key: {}", source.name());
        suite::gives_all(source, &blocks_of(&whole.store)).await;
        assert!(server.asked.load(Ordering::Relaxed) > 20, "in many small answers");
    }
}

#[tokio::test]
async fn what_is_added_to_a_bucket_is_found() {
    let (part, whole) = (filled(), filled());
    part.store.drop_relay_from(RelayNumber(20)).unwrap();
    part.store.drop_para_from(ParaNumber(9), true).unwrap();
    let folder = TempDir::new().unwrap();
    export(&part.store, folder.path(), Config::default(), &mut |_| true).unwrap();
    let (url, _server, _task) = serve(&folder, Kind::Bucket).await;
    let into = empty();
    replay(&into, vec![archive(&url)]).await;
    let before = heights(&into.store);
    assert!(before.0 < 20 && before.1 < 9, "{before:?}");
    export(&whole.store, folder.path(), Config::default(), &mut |_| true).unwrap();
    assert_eq!(replay(&into, vec![archive(&url)]).await.faults, []);
    assert_eq!(heights(&into.store), (RELAY, PARA));
    is_part_of(&into.store, &whole.store);
}

/// The fault that a replay from such a server reports; what it stored is right.
async fn fault_of(folder: &TempDir, kind: Kind) -> String {
    let whole = filled();
    let (start, genesis) = whole.store.genesis().unwrap().clone();
    let into = empty();
    into.store.set_genesis(&start, &genesis).unwrap();
    let (url, _server, _task) = serve(folder, kind).await;
    let drained = replay(&into, vec![archive(&url)]).await;
    is_part_of(&into.store, &whole.store);
    let fault = drained.faults.into_iter().next().expect("a fault");
    assert!(fault.source.starts_with("archive http://127.0.0.1:"), "{fault:?}");
    assert!(!fault.what.contains("bucket"), "{fault:?}");
    fault.what
}

#[tokio::test]
async fn servers_that_do_wrong_are_named() {
    let folder = TempDir::new().unwrap();
    export(&filled().store, folder.path(), Config::default(), &mut |_| true).unwrap();
    let cases = [
        (Kind::WholeFiles, "the server returned the whole file"),
        (Kind::OtherBytes, "another range than the requested one"),
        (Kind::Endless, "more than requested"),
        (Kind::Broken, "cannot read genesis.prb"),
        (Kind::Redirects, "it redirects to http://127.0.0.1:"),
    ];
    for (kind, text) in cases {
        let fault = fault_of(&folder, kind).await;
        assert!(fault.contains(text) && !fault.contains("secret"), "{kind:?}: {fault}");
    }
    let nothing = TempDir::new().unwrap();
    let fault = fault_of(&nothing, Kind::Bucket).await;
    assert!(fault.contains("no archive") && fault.contains("genesis.prb"), "{fault}");
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    CutAt(usize),
}

/// Damages one file in several places: what is stored is right, and the file is named.
#[tokio::test]
async fn damage_in_a_bucket_is_found() {
    let whole = filled();
    let (start, genesis) = whole.store.genesis().unwrap().clone();
    for (part, file) in
        [(Part::Relay, "relay-"), (Part::ParaHeaders, "headers-"), (Part::Changes, "changes-")]
    {
        let folder = TempDir::new().unwrap();
        export(&whole.store, folder.path(), Config::default(), &mut |_| true).unwrap();
        let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(file);
        let path = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).find(is).unwrap();
        let good = fs::read(&path).unwrap();
        let damages = [
            Damage::Flip(9),
            Damage::Flip(60),
            Damage::Flip(125),
            Damage::Flip(good.len() / 2),
            Damage::Flip(good.len() - 48),
            Damage::CutAt(300),
        ];
        for damage in damages {
            let mut bytes = good.clone();
            match damage {
                Damage::Flip(at) => bytes[at] ^= 4,
                Damage::CutAt(at) => bytes.truncate(at),
            }
            fs::write(&path, bytes).unwrap();
            let (url, _server, _task) = serve(&folder, Kind::Bucket).await;
            let into = empty();
            into.store.set_genesis(&start, &genesis).unwrap();
            let drained = replay(&into, vec![archive(&url)]).await;
            is_part_of(&into.store, &whole.store);
            assert!(heights(&into.store) < (RELAY, PARA), "{file} {damage:?}");
            let is_named = drained.faults.iter().any(|fault| fault.what.contains(file.trim_end_matches('-')));
            assert!(is_named, "{part:?} {damage:?}: {drained:?}");
        }
    }
}
