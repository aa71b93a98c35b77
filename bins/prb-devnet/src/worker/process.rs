//! A worker's process: its exits, and the supervisor that restarts it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{
    Request, Uri,
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use parking_lot::Mutex;
use prb_core::prpc::Method;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Restart,
    faults::{Calls, Faults, InFlight},
    http,
    record::Recorder,
    verifier::{Options, Verifier},
};
use crate::port::ReservedPort;

/// Maximum number of concurrent connections of one worker; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long, and at which interval, the worker tries to bind its port again.
const REBIND_LIMIT: Duration = Duration::from_secs(10);
const REBIND_INTERVAL: Duration = Duration::from_millis(20);

/// Why the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// A request to `/kick`.
    Kick,
    /// `Stop`, possibly with removal of the checkpoints.
    Stop {
        /// Whether the checkpoints are removed.
        forget: bool,
    },
    /// It aborted on a request.
    Abort,
}

#[derive(Debug)]
pub(crate) enum Command {
    Exit(Exit),
    GoAway { keep_state: bool, done: oneshot::Sender<()> },
    ComeBack { done: oneshot::Sender<io::Result<()>> },
}

/// The time between a start and an exit.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) core: Mutex<Verifier>,
    pub(crate) in_flight: InFlight,
    /// When the last attestation is finished.
    pub(crate) attesting_until: Mutex<Option<Instant>>,
}

/// State that survives restarts.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) faults: Faults,
    pub(crate) calls: Calls,
    pub(crate) address: SocketAddr,
    index: u32,
    restart_delay: Duration,
    options: Arc<Options>,
    recorder: Option<Recorder>,
    commands: mpsc::Sender<Command>,
    kicks: AtomicU64,
    restarts: AtomicU64,
    persistent: Mutex<Persistent>,
}

#[derive(Debug)]
struct Persistent {
    run: Arc<Run>,
    checkpoint: Option<Box<Verifier>>,
    restart: Restart,
}

impl Run {
    fn new(core: Verifier) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(core),
            in_flight: InFlight::default(),
            attesting_until: Mutex::new(None),
        })
    }
}

/// The parts of a [`Process`].
pub(crate) struct Parts {
    pub(crate) address: SocketAddr,
    pub(crate) index: u32,
    pub(crate) restart: Restart,
    pub(crate) restart_delay: Duration,
    pub(crate) options: Arc<Options>,
    pub(crate) faults: Faults,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Process {
    pub(crate) fn new(parts: Parts) -> Self {
        let run = Run::new(Verifier::new(parts.options.clone()));
        Self {
            faults: parts.faults,
            calls: Calls::default(),
            address: parts.address,
            index: parts.index,
            restart_delay: parts.restart_delay,
            options: parts.options,
            recorder: parts.recorder,
            commands: parts.commands,
            kicks: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            persistent: Mutex::new(Persistent { run, checkpoint: None, restart: parts.restart }),
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn run(&self) -> Arc<Run> {
        self.persistent.lock().run.clone()
    }

    pub(crate) fn kicked(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn set_restart(&self, restart: Restart) {
        self.persistent.lock().restart = restart;
    }

    pub(crate) fn record(&self, method: Method, body: &[u8]) {
        if let Some(recorder) = &self.recorder {
            recorder.write(method, body);
        }
    }

    pub(crate) fn take_checkpoint(&self, run: &Run) {
        let checkpoint = run.core.lock().restarted();
        self.persistent.lock().checkpoint = Some(Box::new(checkpoint));
    }

    /// Notifies the supervisor. If its queue is full, it is about to end the process anyway.
    pub(crate) async fn exit(&self, exit: Exit) {
        let _ = self.commands.try_send(Command::Exit(exit));
    }

    pub(crate) async fn command(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    fn end_run(&self, restart: Restart) {
        let mut persistent = self.persistent.lock();
        let restored = match restart {
            // Without the mark of a running dispatch, which ended with the process.
            Restart::Kept => Some(persistent.run.core.lock().restarted()),
            Restart::Checkpoint => persistent.checkpoint.as_deref().map(Verifier::restarted),
            Restart::Lost => None,
        };
        if restored.is_none() {
            persistent.checkpoint = None;
            if let Some(recorder) = &self.recorder {
                recorder.start_next_file();
            }
        }
        persistent.run = Run::new(restored.unwrap_or_else(|| Verifier::new(self.options.clone())));
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    fn restart_mode(&self) -> Restart {
        self.persistent.lock().restart
    }
}

enum Down {
    Until(Instant),
    Offline,
}

/// Serves, and restarts after exits, until cancelled.
pub(crate) async fn supervise(
    process: Arc<Process>,
    listener: TcpListener,
    mut commands: mpsc::Receiver<Command>,
    cancel: CancellationToken,
) {
    let mut listener = Some(listener);
    let mut started: Option<oneshot::Sender<io::Result<()>>> = None;
    loop {
        let bound = match listener.take() {
            Some(listener) => Ok(listener),
            None => rebind(process.address, &cancel).await,
        };
        let (bound, report) = match bound {
            Ok(bound) => (Some(bound), Ok(())),
            Err(error) => {
                tracing::error!(worker = process.index, %error, "the worker's port is not available");
                (None, Err(error))
            }
        };
        if let Some(started) = started.take() {
            let _ = started.send(report);
        }
        // Without its port the worker stays down and tries again, like a process that its supervisor restarts.
        let down = match bound {
            Some(bound) => serve(&process, bound, &mut commands, &cancel).await,
            None => Some(Down::Until(Instant::now() + process.restart_delay)),
        };
        let Some(down) = down else { return };
        match stay_down(&process, down, &mut commands, &cancel).await {
            Some(waiting) => started = waiting,
            None => return,
        }
    }
}

/// Serves until the next exit; afterwards all its connections are closed. `None` if cancelled.
async fn serve(
    process: &Arc<Process>,
    listener: TcpListener,
    commands: &mut mpsc::Receiver<Command>,
    cancel: &CancellationToken,
) -> Option<Down> {
    let router = http::router(process.clone(), process.run());
    let mut connections = JoinSet::new();
    let down = loop {
        tokio::select! {
            () = cancel.cancelled() => break None,
            command = commands.recv() => match command? {
                Command::Exit(exit) => {
                    tracing::info!(worker = process.index, ?exit, "the worker exits");
                    let forget = matches!(exit, Exit::Stop { forget: true });
                    process.end_run(if forget { Restart::Lost } else { process.restart_mode() });
                    break Some(Down::Until(Instant::now() + process.restart_delay));
                }
                Command::GoAway { keep_state, done } => {
                    drop(listener);
                    connections.shutdown().await;
                    process.end_run(if keep_state { Restart::Kept } else { Restart::Lost });
                    let _ = done.send(());
                    return Some(Down::Offline);
                }
                Command::ComeBack { done } => {
                    let _ = done.send(Ok(()));
                }
            },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone()));
                }
                // Out of file descriptors: give connections time to end.
                Err(_) => tokio::time::sleep(REBIND_INTERVAL).await,
            },
        }
    };
    drop(listener);
    connections.shutdown().await;
    down
}

async fn connection(stream: TcpStream, router: axum::Router) {
    // Best effort: answers are small and written whole.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        single_slashes(request.uri_mut());
        router.call(request)
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Real workers also answer `//prpc/…`, because some bridges' endpoints end in a slash.
fn single_slashes(uri: &mut Uri) {
    if !uri.path().contains("//") {
        return;
    }
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let path: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    if let Ok(cleaned) = format!("/{}{query}", path.join("/")).parse() {
        *uri = cleaned;
    }
}

/// Waits until the worker should serve again. The inner option is the waiter for that; `None` if cancelled.
#[allow(clippy::option_option)]
async fn stay_down(
    process: &Process,
    mut down: Down,
    commands: &mut mpsc::Receiver<Command>,
    cancel: &CancellationToken,
) -> Option<Option<oneshot::Sender<io::Result<()>>>> {
    // Freed before it serves again.
    let _reserved = ReservedPort::new(process.address);
    loop {
        let due = async {
            match down {
                Down::Until(due) => tokio::time::sleep_until(due).await,
                Down::Offline => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = due => return Some(None),
            command = commands.recv() => match command? {
                // Queued before the worker went down.
                Command::Exit(_) => {}
                Command::GoAway { keep_state, done } => {
                    if !keep_state {
                        process.end_run(Restart::Lost);
                    }
                    let _ = done.send(());
                    down = Down::Offline;
                }
                Command::ComeBack { done } => return Some(Some(done)),
            },
        }
    }
}

async fn rebind(address: SocketAddr, cancel: &CancellationToken) -> io::Result<TcpListener> {
    let deadline = Instant::now() + REBIND_LIMIT;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if Instant::now() < deadline => {
                tracing::debug!(%address, %error, "the port is not free yet");
                tokio::select! {
                    () = cancel.cancelled() => return Err(error),
                    () = tokio::time::sleep(REBIND_INTERVAL) => {}
                }
            }
            result => return result,
        }
    }
}
