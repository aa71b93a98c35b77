//! Tests of server and client over real sockets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use prb_walkie::blob::{
    Lookup,
    client::{self, Bounds, Client, Error},
    frame, server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::{
    lookups::{BOUNDS, Blobs, LONG, Running, until},
    proxy::{Proxy, Tampering},
};

fn blobs() -> Arc<Blobs> {
    Arc::new(Blobs::default())
}

#[tokio::test]
async fn wire_bytes_match_the_documented_format() {
    let fixed = HashMap::from([("hello".to_owned(), Bytes::from_static(b"hello world"))]);
    let server =
        Running::start(Arc::new(Blobs { fixed, ..Blobs::default() }), server::Config::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // An empty frame and a request of 8 bytes, both ignored; then two requests, the first in pieces.
    let bytes =
        hex::decode("0008aabbccddeeff00110d010203040506070868656c6c6f0b0203040506070809206e6f").unwrap();
    for piece in bytes.chunks(5) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answers = vec![0; 28 + 9];
    timeout(LONG, stream.read_exact(&mut answers)).await.unwrap().unwrap();
    let found = hex::decode("1b010203040506070800000000c99465aa68656c6c6f20776f726c64").unwrap();
    let missing = hex::decode("080203040506070809").unwrap();
    assert!(answers == [&found[..], &missing].concat() || answers == [&missing[..], &found].concat());
    // A peer that closes its half gets all answers, and then the connection ends.
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    until("the connection's end", || server.stats.connections() == 0).await;
}

#[tokio::test]
async fn blobs_of_all_sizes_arrive_whole() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let client = server.client();
    for size in
        [1usize, 2, 110, 111, 112, 1000, 16_367, 16_384, 16_385, 65_519, 65_536, 70_000, 1 << 20, 9_999_999]
    {
        let blob = client.get(&format!("size:{size}:7"), BOUNDS).await.unwrap().unwrap();
        assert!(blob.len() == size && blob.iter().all(|byte| *byte == 7), "{size}");
    }
    assert_eq!(client.get("size:0:0", BOUNDS).await.unwrap(), None, "an empty blob is a missing one");
    assert_eq!(client.get("nothing", BOUNDS).await.unwrap(), None);
    assert_eq!(client.get("fail", BOUNDS).await.unwrap(), None, "peers see an unreadable blob as missing");
}

#[tokio::test]
async fn answers_are_sent_as_they_become_ready() {
    let gates: HashMap<_, _> = (0..30).map(|i| (format!("wait:{i}"), Arc::new(Semaphore::new(0)))).collect();
    let server = Running::start(
        Arc::new(Blobs { gates: gates.clone(), ..Blobs::default() }),
        server::Config::default(),
    )
    .await;
    let client = Arc::new(server.client());
    let asked: Vec<_> = (0..30)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.get(&format!("wait:{i}"), BOUNDS).await })
        })
        .collect();
    for (i, asked) in asked.into_iter().enumerate().rev() {
        gates[&format!("wait:{i}")].add_permits(1);
        let blob = timeout(LONG, asked).await.unwrap().unwrap().unwrap().unwrap();
        assert_eq!(blob, format!("wait:{i}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_get_their_own_answers() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let clients: Vec<_> = (0..8).map(|_| server.client()).collect();
    let all = (0..2000u32).map(|i| {
        let client = &clients[i as usize % 8];
        async move {
            let (size, fill) = (1 + (i * 37) % 30_000, i % 251);
            let blob = client.get(&format!("size:{size}:{fill}"), BOUNDS).await.unwrap().unwrap();
            assert!(blob.len() == size as usize && blob.iter().all(|byte| u32::from(*byte) == fill));
        }
    });
    timeout(LONG, join_all(all)).await.unwrap();
    assert_eq!(server.stats.answered(), 2000);
    until("the queue's end", || server.stats.queued_bytes() == 0).await;
}

/// Records what the server had sent by the time that a blob was looked up.
#[derive(Debug, Default)]
struct Watchful {
    stats: OnceLock<Arc<server::Stats>>,
    sent: Mutex<Vec<u64>>,
}

#[async_trait]
impl Lookup for Watchful {
    async fn get(&self, _: &str) -> Result<Option<Bytes>, prb_core::blob::Error> {
        self.sent.lock().unwrap().push(self.stats.get().unwrap().sent_bytes());
        Ok(Some(vec![7; 1 << 20].into()))
    }

    fn reserve_bytes(&self, _: &str) -> usize {
        1 << 20
    }
}

/// Of large answers requested together, the first is sent while the others are assembled.
#[tokio::test]
async fn large_answers_are_sent_while_others_are_assembled() {
    let lookup = Arc::new(Watchful::default());
    let server = Running::start(Arc::<Watchful>::clone(&lookup), server::Config::default()).await;
    lookup.stats.set(server.stats.clone()).unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut out = Vec::new();
    (0..8u64).for_each(|i| frame::put_request(i.to_be_bytes(), "blob", &mut out));
    stream.write_all(&out).await.unwrap();
    let mut answers = vec![0; 8 * (3 + 16 + (1 << 20))];
    timeout(LONG, stream.read_exact(&mut answers)).await.unwrap().unwrap();
    let sent = lookup.sent.lock().unwrap();
    assert!(sent.len() == 8 && sent[0] == 0 && sent[7] > 0, "{sent:?}");
}

/// Returns a large blob after all of the peer's input has been read.
#[derive(Debug)]
struct Late;

#[async_trait]
impl Lookup for Late {
    async fn get(&self, _: &str) -> Result<Option<Bytes>, prb_core::blob::Error> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        Ok(Some(vec![7; 300_000].into()))
    }
}

/// The connection ends right after the last answer.
#[tokio::test]
async fn half_closed_connection_ends_after_a_large_answer() {
    let hour = Duration::from_secs(3600);
    let config = server::Config::default().with_write_timeout(hour).with_idle_timeout(hour);
    let server = Running::start(Arc::new(Late), config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut out = Vec::new();
    frame::put_request([1; 8], "blob", &mut out);
    stream.write_all(&out).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.len(), 3 + 16 + 300_000);
}

/// A peer that requests much and reads nothing: queued bytes stay within bounds, it is dropped in the end,
/// and others are not affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_never_reads_is_bounded_and_dropped() {
    const MIB: usize = 1 << 20;
    let config = server::Config::default()
        .with_session_max_bytes(4 * MIB)
        .with_max_bytes(10 * MIB)
        .with_write_timeout(Duration::from_millis(600));
    let server = Running::start(blobs(), config).await;
    let mut deaf = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut out = Vec::new();
        (0..500u64).for_each(|i| frame::put_request(i.to_be_bytes(), "size:1000000:1", &mut out));
        stream.write_all(&out).await.unwrap();
        deaf.push(stream);
    }
    until("queueing", || server.stats.peak_queued_bytes() > MIB).await;
    let client = server.client();
    for _ in 0..5 {
        assert!(client.get("size:1000:1", BOUNDS).await.unwrap().is_some(), "others are served");
    }
    until("dropping", || server.stats.connections() == 1).await;
    let peak = server.stats.peak_queued_bytes();
    assert!(peak <= 10 * MIB, "{peak} bytes were queued");
    until("the queue's end", || server.stats.queued_bytes() == 0).await;
}

/// A single connection stays within its own bound, also while its peer reads slowly.
#[tokio::test]
async fn slow_reader_gets_everything_within_its_bound() {
    let config = server::Config::default().with_session_max_bytes(300_000);
    let server = Running::start(blobs(), config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut out = Vec::new();
    (0..200u64).for_each(|i| frame::put_request(i.to_be_bytes(), "size:100000:1", &mut out));
    stream.write_all(&out).await.unwrap();
    let (mut read, mut buffer) = (0, vec![0; 50_000]);
    while read < 200 * (3 + 16 + 100_000) {
        let n = timeout(LONG, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {read} bytes");
        read += n;
        tokio::task::yield_now().await;
    }
    let peak = server.stats.peak_queued_bytes();
    assert!((100_000..=300_000 + 1024).contains(&peak), "{peak} bytes were queued");
}

#[tokio::test]
async fn frame_length_of_4_gib_ends_the_connection() {
    let server = Running::start(blobs(), server::Config::default()).await;
    for claim in ["ffffffff0f", "8080808010", "ffffffffffffff", "8108"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&hex::decode(claim).unwrap()).await.unwrap();
        let ended = timeout(LONG, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{claim}: {ended:?}");
    }
}

/// Counts the lookups that are under way; they never end.
#[derive(Debug, Default)]
struct Counts(std::sync::atomic::AtomicUsize);

#[async_trait]
impl Lookup for Counts {
    async fn get(&self, _: &str) -> Result<Option<Bytes>, prb_core::blob::Error> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::pending().await
    }

    fn reserve_bytes(&self, _: &str) -> usize {
        100
    }
}

#[tokio::test]
async fn requests_in_flight_of_a_connection_are_limited() {
    let counts = Arc::new(Counts::default());
    let server = Running::start(counts.clone(), server::Config::default().with_max_in_flight(4)).await;
    let mut out = Vec::new();
    (0..20).for_each(|_| frame::put_request([0; 8], "x", &mut out));
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(&out).await.unwrap();
    let begun = || counts.0.load(std::sync::atomic::Ordering::SeqCst);
    until("the first requests", || begun() >= 4).await;
    // Time enough for the others, too: another connection is served meanwhile.
    let mut other = TcpStream::connect(server.address).await.unwrap();
    other.write_all(&out).await.unwrap();
    until("the other's", || begun() >= 8).await;
    tokio::task::yield_now().await;
    assert_eq!(begun(), 8);
}

#[tokio::test]
async fn connections_beyond_the_limits_are_closed() {
    let config = server::Config::default().with_max_connections(20).with_max_connections_per_ip(12);
    let server = Running::start(blobs(), config).await;
    let first = server.client();
    first.get("size:1:1", BOUNDS).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(TcpStream::connect(server.address).await.unwrap());
    }
    until("refusals", || server.stats.refused() == 29).await;
    assert_eq!(server.stats.connections(), 12);
    let mut closed = 0;
    for stream in &mut streams[11..] {
        closed +=
            usize::from(matches!(timeout(LONG, stream.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
    }
    assert_eq!(closed, 29);
    assert!(first.get("size:1:1", BOUNDS).await.unwrap().is_some());
    // Another address has its own limit; the total is limited, too.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.address).await.unwrap();
    let mut out = Vec::new();
    frame::put_request([0; 8], "size:5:1", &mut out);
    other.write_all(&out).await.unwrap();
    timeout(LONG, other.read_exact(&mut [0; 10])).await.unwrap().unwrap();
    drop(streams);
    until("slots becoming free", || server.stats.connections() == 2).await;
}

/// Connects from 127.0.0.`from` and asks for a small blob; `None` where the server hangs up.
async fn ask_from(from: u8, server: std::net::SocketAddr) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    let mut out = Vec::new();
    frame::put_request([0; 8], "size:5:1", &mut out);
    stream.write_all(&out).await.ok()?;
    timeout(LONG, stream.read_exact(&mut [0; 22])).await.unwrap().ok().map(|_| stream)
}

#[tokio::test]
async fn an_address_without_connections_takes_the_place_of_an_idle_one_of_an_address_with_many() {
    let config = server::Config::default().with_max_connections(4).with_max_connections_per_ip(2);
    let server = Running::start(blobs(), config).await;
    let equal = Running::start(blobs(), config.with_max_connections_per_ip(3)).await;
    let (mut held, mut equally_held) = (Vec::new(), Vec::new());
    for from in [2, 2, 3, 3] {
        equally_held.push(ask_from(from, equal.address).await.unwrap());
        held.push(ask_from(from, server.address).await.unwrap());
    }
    assert!(ask_from(2, server.address).await.is_none(), "its own share is taken");
    // New connections are spared for a moment.
    let start = std::time::Instant::now();
    let newcomer = loop {
        match ask_from(4, server.address).await {
            Some(stream) => break stream,
            None => assert!(start.elapsed() < LONG, "kept out by two addresses"),
        }
    };
    assert!(ask_from(2, equal.address).await.is_none(), "nobody has more than it");
    assert_eq!(server.stats.connections(), 4);
    let mut closed = 0;
    for stream in &mut held {
        closed += usize::from(timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await.is_ok());
    }
    assert_eq!(closed, 1);
    drop((held, equally_held, newcomer));
    until("slots becoming free", || server.stats.connections() == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let config = server::Config::default().with_idle_timeout(Duration::from_millis(80));
    let server = Running::start(blobs(), config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn stopping_server_writes_pending_answers() {
    let gate = Arc::new(Semaphore::new(0));
    let gates = HashMap::from([("wait:1".to_owned(), gate.clone())]);
    let config = server::Config::default().with_stop_timeout(LONG);
    let server = Running::start(Arc::new(Blobs { gates, ..Blobs::default() }), config).await;
    let client = Arc::new(server.client());
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { client.get("wait:1", BOUNDS).await })
    };
    until("the request", || server.stats.connections() == 1).await;
    client.get("nothing", BOUNDS).await.unwrap();
    server.stop.cancel();
    until("the end of listening", || std::net::TcpStream::connect(server.address).is_err()).await;
    gate.add_permits(1);
    assert_eq!(timeout(LONG, asking).await.unwrap().unwrap().unwrap().unwrap(), "wait:1");
    timeout(LONG, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn flipped_bit_is_an_error_naming_the_provider() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let proxy = Proxy::start(server.address, Tampering::Flip).await;
    let client = Client::start(proxy.address, "QmProvider", client::Config::default());
    for size in [100, 1_000_000] {
        let error = client.get(&format!("size:{size}:1"), BOUNDS).await.unwrap_err();
        assert!(matches!(&error, Error::BadBytes { provider, .. } if &**provider == "QmProvider"), "{error}");
        assert!(error.to_string().contains("checksum"), "{error}");
    }
    proxy.set(Tampering::None);
    assert!(client.get("size:100:1", BOUNDS).await.unwrap().is_some(), "the connection was kept");
}

#[tokio::test]
async fn broken_connection_fails_requests_and_is_made_again() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let proxy = Proxy::start(server.address, Tampering::Truncate).await;
    let client = Client::start(proxy.address, "provider", client::Config::default());
    let all = join_all((0..5).map(|_| client.get("size:100000:1", BOUNDS))).await;
    assert!(all.iter().all(|answer| matches!(answer, Err(Error::Disconnected { .. }))), "{all:?}");
    proxy.set(Tampering::None);
    let mut link = client.link();
    timeout(LONG, link.wait_for(|link| *link == client::Link::Up)).await.unwrap().unwrap();
    assert!(client.get("size:100000:1", BOUNDS).await.unwrap().is_some());
}

#[tokio::test]
async fn silence_times_out_but_slowness_does_not() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let proxy = Proxy::start(server.address, Tampering::Swallow).await;
    let client = Client::start(proxy.address, "provider", client::Config::default());
    let short = Bounds { timeout: Duration::from_millis(300), ..BOUNDS };
    let error = client.get("size:10:1", short).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    // About 10 MB at 64 KiB every 20 ms: longer than the timeout, but never silent for that long.
    proxy.set(Tampering::Delay(Duration::from_millis(20)));
    let mut link = client.link();
    timeout(LONG, link.wait_for(|link| *link == client::Link::Up)).await.unwrap().unwrap();
    let bounds = Bounds { timeout: Duration::from_millis(1500), ..BOUNDS };
    let blob = client.get("size:10000000:1", bounds).await.unwrap().unwrap();
    assert_eq!(blob.len(), 10_000_000);
}

#[tokio::test]
async fn blob_over_the_requested_limit_is_refused() {
    let server = Running::start(blobs(), server::Config::default()).await;
    let client = server.client();
    let tight = Bounds { max_bytes: 1000, ..BOUNDS };
    assert!(client.get("size:1000:1", tight).await.unwrap().is_some());
    let error = client.get("size:1001:1", tight).await.unwrap_err();
    assert!(matches!(error, Error::BadBytes { .. }), "{error}");
}

/// A provider that claims 4 GiB is refused by the request's limit, without allocating memory.
#[tokio::test]
async fn provider_that_claims_4_gib_is_refused() {
    let listener = tokio::net::TcpListener::bind(crate::lookups::LOOPBACK).await.unwrap();
    let client = Client::start(listener.local_addr().unwrap(), "liar", client::Config::default());
    let liar = async {
        let (mut stream, _) = timeout(LONG, listener.accept()).await.expect("the client").unwrap();
        let mut request = [0; 32];
        let read = timeout(LONG, stream.read(&mut request)).await.expect("a request").unwrap();
        let mut answer = hex::decode("ffffffff0f").unwrap();
        answer.extend(&request[1..9]);
        answer.extend([0; 8]);
        stream.write_all(&answer).await.unwrap();
        (stream, read)
    };
    let (error, _) = tokio::join!(client.get("size:10:1", BOUNDS), liar);
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::BadBytes { .. }) && error.to_string().contains("4294967279"), "{error}");
}

#[tokio::test]
async fn cancelled_requests_do_not_affect_others() {
    let gate = Arc::new(Semaphore::new(0));
    let gates = HashMap::from([("wait:x".to_owned(), gate.clone())]);
    let server =
        Running::start(Arc::new(Blobs { gates, ..Blobs::default() }), server::Config::default()).await;
    let config = client::Config::default().with_max_in_flight(3);
    let client = Client::start(server.address, "provider", config);
    client.get("nothing", BOUNDS).await.unwrap();
    for _ in 0..2 {
        let mut asking = Box::pin(client.get("wait:x", BOUNDS));
        assert!(futures::poll!(&mut asking).is_pending());
    }
    // Two of three slots are taken by abandoned requests; the third continues to work.
    for i in 1..50 {
        let blob = client.get(&format!("size:{i}:3"), BOUNDS).await.unwrap().unwrap();
        assert_eq!(blob.len(), i);
    }
    gate.add_permits(2);
    let all = join_all((0..3).map(|_| client.get("size:20000:3", BOUNDS)));
    assert!(timeout(LONG, all).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn requests_fail_until_the_server_is_up() {
    let address = Running::start(blobs(), server::Config::default()).await.address;
    until("the port's freedom", || std::net::TcpListener::bind(address).is_ok()).await;
    let client = Client::start(address, "provider", client::Config::default());
    let error = client.get("size:1:1", BOUNDS).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    let _server = Running::start_at(address, blobs(), server::Config::default()).await;
    let mut link = client.link();
    timeout(LONG, link.wait_for(|link| *link == client::Link::Up)).await.unwrap().unwrap();
    assert!(client.get("size:1:1", BOUNDS).await.unwrap().is_some());
    let long = client.get(&"x".repeat(300), BOUNDS).await.unwrap_err();
    assert!(matches!(long, Error::KeyTooLong { .. }));
}
