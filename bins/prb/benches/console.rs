//! Measures the console with 5,000 workers: CPU time of the serving thread for each page, relative to a
//! static file of the same server in the same run, and of its streams of changes, relative to polling the
//! same part every second.
//!
//! `cargo bench --package prb --bench console`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub, dead_code)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use prb::console::{Local, MAX_STREAMS, backend::Backend};
use prb_core::{
    inventory::{Edit, Inventory, Worker, memory::MemoryInventory},
    manage::{Manager, Parts, memory::MemoryKeys},
    vault::memory::MemoryVault,
};

#[path = "../tests/console/rig.rs"]
mod rig;
use rig::{Made, Page, fleet};

const WORKERS: u64 = 5000;
/// Number of workers that change every second.
const CHANGING: usize = 500;
const REQUESTS: u32 = 50;
const WATCHED: Duration = Duration::from_secs(10);

/// Returns a thread's CPU time, which does not depend on other load of the machine.
fn cpu(thread: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{thread}/schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn this_thread() -> String {
    fs::read_link("/proc/thread-self").unwrap().to_string_lossy().into_owned()
}

/// Starts a console on one thread; returns its address and the thread's name.
fn serve(made: &Arc<Made>) -> (SocketAddr, String) {
    let (tell, told) = std::sync::mpsc::channel();
    let made = Arc::clone(made);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let page = Page::of(&made).await;
            page.console.take_sample(std::time::SystemTime::now()).await;
            tell.send((page.address, this_thread())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

fn open(address: SocketAddr, path: &str, accept: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut text = String::new();
    open(address, path, "text/html").read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{path}: {}", text.lines().next().unwrap_or_default());
    text
}

/// Sends a request; returns CPU and wall time, and the size of the answer in bytes.
fn request(address: SocketAddr, server: &str, path: &str) -> (Duration, Duration, usize) {
    let bytes = get(address, path).len();
    let (spent, start) = (cpu(server), Instant::now());
    (0..REQUESTS).for_each(|_| drop(get(address, path)));
    ((cpu(server) - spent) / REQUESTS, start.elapsed() / REQUESTS, bytes)
}

/// Returns the server's CPU time per second with these readers, and the bytes that each receives per second.
fn watched(
    server: &str,
    readers: usize,
    read: impl Fn(&AtomicUsize, &AtomicBool) + Sync,
) -> (Duration, usize) {
    let (bytes, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        (0..readers).for_each(|_| drop(scope.spawn(|| read(&bytes, &stop))));
        // The initial content is not counted.
        thread::sleep(Duration::from_secs(3));
        let (spent, before) = (cpu(server), bytes.load(Relaxed));
        thread::sleep(WATCHED);
        let seconds = u32::try_from(WATCHED.as_secs()).unwrap();
        let result =
            ((cpu(server) - spent) / seconds, (bytes.load(Relaxed) - before) / readers / seconds as usize);
        stop.store(true, Relaxed);
        result
    })
}

fn stream(address: SocketAddr, path: &str, bytes: &AtomicUsize, stop: &AtomicBool) {
    let mut stream = open(address, path, "text/event-stream");
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while !stop.load(Relaxed) {
        if let Ok(length) = stream.read(&mut buffer) {
            bytes.fetch_add(length, Relaxed);
        }
    }
}

fn ask_again(address: SocketAddr, path: &str, bytes: &AtomicUsize, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let start = Instant::now();
        bytes.fetch_add(get(address, path).len(), Relaxed);
        thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    }
}

/// Builds the view of a manager's workers, which happens once a second.
fn local_view() -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let inventory = MemoryInventory::default();
        let workers: Vec<_> = fleet(WORKERS, 100).workers;
        let edits = workers.iter().map(|worker| Edit::PutWorker(Worker::clone(&worker.entry)));
        inventory.apply(edits.collect()).await.unwrap();
        let manager = Manager::new(Parts {
            inventory: Arc::new(inventory),
            vault: Arc::new(MemoryVault::new()),
            keys: Arc::new(MemoryKeys),
            fleet: None,
        });
        let mut spent = Duration::ZERO;
        for _ in 0..10 {
            // A new instance has no cached view.
            let local = Local::new(manager.clone());
            let start = cpu(&this_thread());
            assert_eq!(local.fleet().await.unwrap().workers.len(), workers.len());
            spent += cpu(&this_thread()) - start;
        }
        spent / 10
    })
}

fn main() {
    let made = Made::new(fleet(WORKERS, 100));
    let (address, server) = serve(&made);
    let style = get(address, "/").split("href=\"").find(|link| link.contains("page.css")).map(str::to_owned);
    let style = style.unwrap().split('"').next().unwrap().to_owned();
    println!("{WORKERS} workers; CPU time of the server's thread");
    measure_requests(address, &server, &style);
    println!(
        "view of the manager's workers: {:.2} ms of CPU, once a second",
        local_view().as_secs_f64() * 1e3
    );
    // A tenth of the workers changes every second, like at the tip.
    let changed = Arc::clone(&made);
    thread::spawn(move || change_every_second(&changed));
    measure_readers(address, &server);
}

fn measure_requests(address: SocketAddr, server: &str, style: &str) {
    let baseline = request(address, server, style);
    println!("{:<44} {:>9} {:>9} {:>7} {:>8}", "request", "CPU ms", "wall ms", "times", "KiB");
    let paths = [
        (style, "the style sheet (baseline)"),
        ("/", "overview"),
        ("/workers", "workers, the first hundred"),
        ("/workers?sort=lag&order=down&size=100&page=20", "workers by lag, page 20"),
        ("/workers?sort=version", "workers by version"),
        ("/workers?text=no+such+text", "workers by a text without matches"),
        ("/workers?columns=all&size=500", "workers, 500 with all columns"),
        ("/pools", "pools"),
        ("/transactions", "transactions"),
    ];
    for (path, name) in paths {
        let (spent, wall, bytes) = request(address, server, path);
        let times = spent.as_secs_f64() / baseline.0.as_secs_f64();
        println!(
            "{name:<44} {:>9.2} {:>9.2} {times:>7.1} {:>8}",
            spent.as_secs_f64() * 1e3,
            wall.as_secs_f64() * 1e3,
            bytes / 1024
        );
    }
}

/// Changes [`CHANGING`] workers a second.
fn change_every_second(made: &Made) {
    for round in 0.. {
        thread::sleep(Duration::from_secs(1));
        let mut fleet = made.fleet.lock().unwrap().as_ref().clone();
        for n in 0..CHANGING {
            let at = (round * CHANGING + n) * 7 % fleet.workers.len();
            fleet.workers[at].para_block = fleet.workers[at].para_block.map(|block| block + 1);
        }
        *made.fleet.lock().unwrap() = Arc::new(fleet);
    }
}

fn measure_readers(address: SocketAddr, server: &str) {
    println!("{CHANGING} of them change every second");
    println!("{:<44} {:>9} {:>9} {:>12}", "readers", "CPU ms/s", "times", "bytes/s each");
    for (part, name) in [("/live/workers", "workers"), ("/live/", "overview"), ("/live/pools", "pools")] {
        let again = watched(server, 8, |bytes, stop| ask_again(address, part, bytes, stop));
        println!(
            "{:<44} {:>9.2} {:>9} {:>12}",
            format!("{name}, 8 that poll (baseline)"),
            again.0.as_secs_f64() * 1e3,
            "1",
            again.1
        );
        for readers in [1, 8, MAX_STREAMS] {
            let streamed = watched(server, readers, |bytes, stop| stream(address, part, bytes, stop));
            let times = streamed.0.as_secs_f64() / again.0.as_secs_f64();
            println!(
                "{:<44} {:>9.2} {times:>9.2} {:>12}",
                format!("{name}, {readers} streams"),
                streamed.0.as_secs_f64() * 1e3,
                streamed.1
            );
        }
    }
}
