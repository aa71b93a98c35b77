//! Ports over real sockets; addresses of 127.0.0.0/8 stand for other machines.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::Semaphore,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);
const ASK: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

struct Open {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// A port with short times, which answers `here`, reads what is posted, and refuses connections beyond the shares.
async fn open() -> Open {
    let router = Router::new().route("/", post(async |body: Bytes| body).get(async || "here"));
    open_with(router, Router::new().fallback(async || reserve::busy())).await
}

async fn open_with(router: Router, reserve: Router) -> Open {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let short = Duration::from_millis(400);
    let times = Times { head: short, body: short, write: short, ..Times::default() };
    let settings = Settings { name: "port", reserve, head_bytes: MAX_HEAD_BYTES, times };
    let task = tokio::spawn(serve_within(listener, router, settings));
    Open { address, _task: AbortOnDropHandle::new(task) }
}

/// Connects from another machine.
async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// The status of what is answered; 0 where nothing is.
async fn status(stream: &mut TcpStream) -> u16 {
    let mut answer = String::new();
    let read =
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("neither answered nor hung up");
    match read {
        Ok(_) => answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        Err(_) => 0,
    }
}

async fn ask(from: u8, to: SocketAddr) -> u16 {
    let mut stream = connect(from, to).await;
    stream.write_all(ASK.as_bytes()).await.unwrap();
    status(&mut stream).await
}

/// Holds connections that keep asking: one request is answered, the next begun.
async fn hold(from: u8, count: usize, to: SocketAddr) -> Vec<AbortOnDropHandle<()>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = connect(from, to).await;
        // It has its slot once it is answered.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        timeout(LIMIT, stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut rest = [0; 4096];
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_err() {
                    return;
                }
                let _ = timeout(Duration::from_millis(100), stream.read(&mut rest)).await;
            }
        })));
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_takes_the_slots_of_others_and_this_machine_has_a_reserve() {
    let port = open().await;
    let share = MAX_CONNECTIONS / 4;
    let mut held = hold(2, share, port.address).await;
    assert_eq!(ask(2, port.address).await, 503, "its share is held");
    assert_eq!(ask(3, port.address).await, 200);
    for from in 3..6 {
        held.extend(hold(from, share, port.address).await);
    }
    assert_eq!(ask(2, port.address).await, 503, "others have no more together, and it has its share");
    let start = Instant::now();
    for from in 6..9 {
        // One that has none takes the slot of one that has many, once that is old enough.
        while ask(from, port.address).await != 200 {
            assert!(start.elapsed() < LIMIT, "an address without connections is kept out");
        }
    }
    assert_eq!(ask(1, port.address).await, 200, "this machine has its reserve");
    drop(held);
    let start = Instant::now();
    while ask(2, port.address).await != 200 {
        assert!(start.elapsed() < LIMIT, "slots are given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_disconnected() {
    let port = open().await;
    let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    for (what, first, fine) in
        [("a head", "GET / HTTP/1.1\r\nX-Slow: ", [0, 408]), ("a body", body, [400, 408])]
    {
        let mut stream = connect(2, port.address).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let drip = async {
            // A byte at a time, each well within every time-out.
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let start = Instant::now();
        let mut answer = Vec::new();
        let ended = async {
            tokio::select! { _ = read.read_to_end(&mut answer) => {} () = drip => {} }
        };
        timeout(LIMIT, ended).await.expect(what);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        assert!(fine.contains(&status), "{what}: {text}");
        assert!(start.elapsed() < Duration::from_secs(5), "{what}: {:?}", start.elapsed());
    }
    assert_eq!(ask(2, port.address).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_in_time_is_read() {
    let port = open().await;
    let mut stream = connect(2, port.address).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\n";
    stream.write_all(format!("{head}abc").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(b"def").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcdef"), "{answer}");
}

/// Streams without end, four at a time for each address.
fn streams() -> Router {
    let slots = Shares::new(Limits::of(16));
    let stream = async move |request: axum::extract::Request| {
        let Some(slot) = slots.take(peer_of(request.extensions())) else {
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response();
        };
        let events = futures::stream::unfold(slot, async |slot| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, Infallible>("data: x\n\n"), slot))
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
    };
    Router::new().route("/", get(async || "here")).route("/stream", get(stream))
}

/// A program that wants a stream, and asks again if it is refused; returns if the refusal does not tell it when.
async fn wants_stream(to: SocketAddr, accept: &str) {
    loop {
        let mut stream = connect(2, to).await;
        let head = format!("GET /stream HTTP/1.1\r\nHost: x\r\n{accept}\r\n");
        let mut answer = Vec::new();
        // It leaves closing to the port.
        if stream.write_all(head.as_bytes()).await.is_ok() && stream.read_to_end(&mut answer).await.is_ok() {
            let answer = String::from_utf8_lossy(&answer);
            let is_told = answer.contains("retry-after: ") && answer.contains("connection: close");
            if answer.starts_with("HTTP/1.1 503") && !is_told {
                return;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_of_streams_leave_their_address_plain_requests() {
    crate::descriptors::raise();
    let router = streams();
    let port = open_with(router.clone(), reserve::plain_requests(&router)).await;
    let mut clients = JoinSet::new();
    for number in 0..1000 {
        // Not every program says what it accepts.
        let accept = if number % 2 == 0 { "Accept: text/event-stream\r\n" } else { "" };
        clients.spawn(wants_stream(port.address, accept));
    }
    let start = Instant::now();
    for number in 0..20 {
        // A client that is refused tries again; one connection of a few is refused in such a crowd.
        while ask(2, port.address).await != 200 {
            assert!(start.elapsed() < LIMIT, "request {number} of their address is not answered");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(clients.try_join_next().map(|_| ()), None, "a refusal does not say when to try again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_plain_requests_beyond_the_share_are_answered() {
    let router = streams();
    let port = open_with(router.clone(), reserve::plain_requests(&router)).await;
    let _held = hold(2, MAX_CONNECTIONS / 4, port.address).await;
    // Each from a connection of the reserve.
    assert_eq!(ask(2, port.address).await, 200);
    let mut stream = connect(2, port.address).await;
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&mut stream).await, 503);
    // Not more than two at a time.
    let begun = Arc::new(Semaphore::new(0));
    let tells = begun.clone();
    let endless = async move || -> &'static str {
        tells.add_permits(1);
        std::future::pending().await
    };
    let router = Router::new().route("/", get(endless));
    let port =
        open_with(Router::new().route("/", get(async || "here")), reserve::plain_requests(&router)).await;
    let _held = hold(2, MAX_CONNECTIONS / 4, port.address).await;
    let mut slow = [connect(2, port.address).await, connect(2, port.address).await];
    for stream in &mut slow {
        stream.write_all(ASK.as_bytes()).await.unwrap();
        timeout(LIMIT, begun.acquire()).await.expect("it was not called").unwrap().forget();
    }
    assert_eq!(ask(2, port.address).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_and_long_connections_end() {
    let router = Router::new().route("/", get(async || "here"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let times = Times { connection: Duration::from_millis(300), ..Times::default() };
    let settings = Settings { name: "port", reserve: router.clone(), head_bytes: MAX_HEAD_BYTES, times };
    let _task = AbortOnDropHandle::new(tokio::spawn(serve_within(listener, router, settings)));
    let mut stream = connect(2, address).await;
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
    // It may be refused before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    assert!([431, 0].contains(&status(&mut stream).await));
    // A client that asks again and again.
    let mut stream = connect(2, address).await;
    let start = Instant::now();
    let mut answer = [0; 1024];
    while stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok()
        && stream.read(&mut answer).await.is_ok_and(|read| read > 0)
    {
        assert!(start.elapsed() < LIMIT, "a connection lasts for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
