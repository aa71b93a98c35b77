//! Tests of deliberately slow readers, and of what they leave to others.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prb_core::{
    blob::{BlobSource, HeaderCursor},
    conformance::blob::Sample,
    primitives::ParaNumber,
};
use prb_walkie::blob::{
    Lookup, answer, frame,
    keys::Key,
    keyspace::{self, KeySpace},
    server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    lookups::{BOUNDS, Blobs, LONG, Running, source_of, until},
    rig::provider,
};

const MIB: usize = 1 << 20;

/// Connects from a given local address, with small buffers.
async fn connect(to: SocketAddr, from: &str) -> TcpStream {
    connect_with(16 * 1024, to, from).await
}

async fn connect_with(buffer_bytes: u32, to: SocketAddr, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer_bytes).unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn ask(stream: &mut TcpStream, keys: impl IntoIterator<Item = &str>) {
    let mut out = Vec::new();
    keys.into_iter()
        .enumerate()
        .for_each(|(i, key)| frame::put_request((i as u64).to_be_bytes(), key, &mut out));
    stream.write_all(&out).await.unwrap();
}

/// Reads the next answer and returns its payload's length.
async fn next_len(stream: &mut TcpStream) -> usize {
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let byte = timeout(LONG, stream.read_u8()).await.unwrap().unwrap();
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    timeout(LONG, stream.read_exact(&mut body)).await.unwrap().unwrap();
    len.saturating_sub(16)
}

/// A reader that takes a few bytes now and then is dropped nevertheless: it must not hold a large answer for
/// hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_below_the_least_rate_is_dropped() {
    let config = server::Config::default()
        .with_write_timeout(Duration::from_millis(400))
        .with_min_bytes_per_second(MIB as u64);
    let server = Running::start(Arc::new(Blobs::default()), config).await;
    // So that its system takes bytes all the time.
    let mut slow = connect_with(256 * 1024, server.address, "127.0.0.1").await;
    // More than the system's buffers hold.
    const ANSWER: usize = 32_000_000;
    ask(&mut slow, [&*format!("size:{ANSWER}:1")]).await;
    until("its answer", || server.stats.queued_bytes() >= ANSWER).await;
    let (mut got, began) = (0, Instant::now());
    let mut buffer = vec![0; 32 * 1024];
    loop {
        assert!(began.elapsed() < LONG / 2, "it is served all along");
        match timeout(LONG, slow.read(&mut buffer)).await.unwrap() {
            Ok(0) | Err(_) => break,
            Ok(n) => got += n,
        }
        // About 320 KiB a second; once the server has closed, what the system buffered is read out.
        if server.stats.queued_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(got < ANSWER, "it was served all along");
    until("its end", || server.stats.connections() == 0).await;
    // A reader at the required rate gets everything, however long it takes.
    let mut steady = connect(server.address, "127.0.0.1").await;
    ask(&mut steady, ["size:3000000:1"]).await;
    let (start, mut left) = (Instant::now(), 3_000_000 + 16 + 4);
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let n = timeout(LONG, steady.read(&mut buffer)).await.unwrap().unwrap();
        assert!(n > 0, "closed with {left} bytes left");
        left -= n.min(left);
        let due = Duration::from_secs_f64((3_000_020 - left) as f64 / (3 * MIB) as f64);
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
    }
    assert!(start.elapsed() > config.write_timeout * 2);
}

/// Six silent readers of one address hold no more than that address's share: another address is served large
/// answers meanwhile, and theirs small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_only_their_address_share() {
    let config = server::Config::default()
        .with_max_bytes(16 * MIB)
        .with_max_bytes_per_ip(4 * MIB)
        .with_write_timeout(LONG * 10);
    let server = Running::start(Arc::new(Blobs::default()), config).await;
    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut stream = connect(server.address, "127.0.0.2").await;
        ask(&mut stream, ["size:3000000:1"; 8]).await;
        slow.push(stream);
    }
    until("holding", || server.stats.queued_bytes() > 2 * MIB).await;
    let client = server.client();
    for _ in 0..4 {
        let blob =
            timeout(LONG, client.get("size:3000000:7", BOUNDS)).await.expect("another address's share");
        assert_eq!(blob.unwrap().unwrap().len(), 3_000_000);
    }
    let mut small = connect(server.address, "127.0.0.2").await;
    ask(&mut small, ["size:60000:1"]).await;
    assert_eq!(next_len(&mut small).await, 60_000);
    assert!(server.stats.queued_bytes() <= 4 * MIB);
}

/// All bytes for large answers are in use, by as many addresses as it takes: a request for headers gets fewer
/// of them, and syncing continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_budget_yields_smaller_batches() {
    let sample = Sample::generate(31, 60);
    let source = source_of(&sample);
    let config = server::Config::default()
        .with_max_bytes(8 * MIB)
        .with_max_bytes_per_ip(4 * MIB)
        .with_write_timeout(LONG * 10);
    let lookup: Arc<dyn Lookup> = Arc::new(Both {
        keys: KeySpace::new(source.clone(), keyspace::Config::default()),
        blobs: Blobs::default(),
    });
    let server = Running::start(lookup, config).await;
    let mut slow = Vec::new();
    for host in [2, 3, 4] {
        let mut stream = connect(server.address, &format!("127.0.0.{host}")).await;
        ask(&mut stream, ["size:4000000:1"; 4]).await;
        slow.push(stream);
    }
    until("holding", || server.stats.queued_bytes() > 7 * MIB).await;
    let client = server.client();
    let cursor = HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) };
    let key = Key::Headers { cursor, max_bytes: 64 << 20 }.to_string();
    let blob = timeout(LONG, client.get(&key, BOUNDS)).await.expect("a smaller batch").unwrap().unwrap();
    let batch = answer::read_headers(blob).unwrap().unwrap();
    assert_eq!(batch, source.headers(cursor, MIB).await.unwrap());
    let heights = Key::Heights { relay: None, para: None, wait_ms: 0 }.to_string();
    assert!(timeout(LONG, client.get(&heights, BOUNDS)).await.expect("heights").unwrap().is_some());
    drop(slow);
}

/// One address after the other takes all that it can of both budgets, and reads nothing, until both are taken: whoever
/// comes then has its part all the same, and theirs is the only loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer_has_its_part_beside_any_number_of_slow_addresses() {
    const LARGE: usize = 16 * MIB;
    const SMALL: usize = 4 * MIB;
    let config = server::Config::default()
        .with_max_bytes(LARGE)
        .with_max_bytes_per_ip(LARGE / 4)
        .with_small_bytes(SMALL)
        .with_write_timeout(LONG * 10);
    let server = Running::start(Arc::new(Blobs::default()), config).await;
    let (mut slow, mut hosts) = (Vec::new(), 2..60);
    // Those that come while others are still being served get less, so it takes more of them on a busy machine.
    while server.stats.queued_bytes() < (LARGE + SMALL) * 9 / 10 {
        let host = hosts.next().expect("the budgets are never taken");
        for key in ["size:500000:1", "size:60000:1"] {
            let mut stream = connect(server.address, &format!("127.0.0.{host}")).await;
            ask(&mut stream, [key; 64]).await;
            slow.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What it can have beside all of them.
    let part = slow.len() / 2 + 4;
    let sizes = [LARGE / part - 100_000, (SMALL / part).min(60_000)];
    assert!(sizes[0] > 64 * 1024, "a large answer");
    let keys = sizes.map(|size| format!("size:{size}:1"));
    let mut honest = connect(server.address, "127.0.0.100").await;
    let is_served = async {
        for _ in 0..4 {
            ask(&mut honest, keys.iter().map(String::as_str)).await;
            let mut got = [next_len(&mut honest).await, next_len(&mut honest).await];
            got.sort_by_key(|size| std::cmp::Reverse(*size));
            assert_eq!(got, sizes);
        }
    };
    timeout(LONG, is_served).await.expect("its part, in seconds on an idle machine");
    let left = server.stats.connections();
    assert!(left > slow.len() / 2, "{left} of {} are left", slow.len());
}

/// An answer that the system's buffers hold is as good as sent; but not if the peer leaves it there.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_left_in_the_buffers_ends_the_connection() {
    let config = server::Config::default().with_write_timeout(Duration::from_millis(200));
    let server = Running::start(Arc::new(Blobs::default()), config).await;
    let mut deaf = connect(server.address, "127.0.0.1").await;
    ask(&mut deaf, ["size:100000:1"]).await;
    until("its answer", || server.stats.sent_bytes() >= 100_000).await;
    assert_eq!(server.stats.queued_bytes(), 0);
    until("its end", || server.stats.connections() == 0).await;
}

/// A key space, and blobs of any size.
#[derive(Debug)]
struct Both {
    keys: KeySpace,
    blobs: Blobs,
}

#[async_trait::async_trait]
impl Lookup for Both {
    async fn get(&self, key: &str) -> Result<Option<bytes::Bytes>, prb_core::blob::Error> {
        if key.starts_with("size:") { self.blobs.get(key).await } else { self.keys.get(key).await }
    }

    async fn smaller(
        &self,
        key: &str,
        max_bytes: usize,
    ) -> Result<Option<prb_walkie::blob::Parts>, prb_core::blob::Error> {
        self.keys.smaller(key, max_bytes).await
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        if key.starts_with("size:") { self.blobs.reserve_bytes(key) } else { self.keys.reserve_bytes(key) }
    }
}

/// An answer that waits holds no bytes, but memory and a wake-up at each block.
#[tokio::test]
async fn few_requests_of_a_connection_wait_for_heights() {
    let server = provider(source_of(&Sample::generate(1, 10))).await;
    let mut stream = connect(server.address, "127.0.0.1").await;
    ask(&mut stream, ["heights:4294967295:4294967295:60000"; 100]).await;
    for _ in 0..96 {
        assert!(next_len(&mut stream).await > 0);
    }
    let more = timeout(Duration::from_millis(500), stream.peek(&mut [0])).await;
    assert!(more.is_err(), "those that may wait do not");
    ask(&mut stream, ["heights:-1:-1:60000"]).await;
    assert!(next_len(&mut stream).await > 0, "others are answered meanwhile");
}

#[tokio::test]
async fn connection_without_requests_is_closed() {
    let config = server::Config::default().with_first_request_timeout(Duration::from_millis(100));
    let server = Running::start(Arc::new(Blobs::default()), config).await;
    let mut silent = connect(server.address, "127.0.0.1").await;
    assert_eq!(timeout(LONG, silent.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    let mut asked = connect(server.address, "127.0.0.1").await;
    ask(&mut asked, ["size:5:1"]).await;
    assert_eq!(next_len(&mut asked).await, 5);
    assert!(timeout(Duration::from_millis(600), asked.read(&mut [0; 1])).await.is_err(), "it may ask again");
}

/// A link is shared by connections: those of one address take turns, and leave little with the system meanwhile.
#[tokio::test]
async fn many_connections_of_an_address_write_in_turn() {
    let key = "size:8388608:1";
    let fixed = [(key.to_owned(), vec![1; 8 * MIB].into())].into();
    let blobs = Arc::new(Blobs { fixed, ..Blobs::default() });
    let server = Running::start(blobs, server::Config::default()).await;
    let mut readers = Vec::new();
    let (mut sent, start) = (Vec::new(), Instant::now());
    for count in [8, 6] {
        for _ in 0..count {
            let mut reader = connect(server.address, "127.0.0.2").await;
            ask(&mut reader, [key]).await;
            readers.push(reader);
        }
        for reader in &mut readers {
            // Each has its turn, and leaves the rest unread.
            timeout(LONG, reader.read_exact(&mut [0; 1])).await.unwrap().unwrap();
        }
        sent.push(server.stats.sent_bytes());
    }
    assert!(start.elapsed() >= Duration::from_millis(250), "more than eight have written at a time");
    let more = sent[1] - sent[0];
    assert!(more / 6 < sent[0] / 8 / 4, "{sent:?} bytes are with the system");
}
