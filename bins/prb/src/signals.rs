//! Signals: the first SIGINT or SIGTERM shuts down in order, a second one ends the process at once; SIGHUP
//! reloads files; SIGUSR1 and SIGUSR2 are ignored.

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: the usual one of a process killed by SIGINT.
const FORCED: i32 = 130;
/// The one of a process killed by SIGTERM.
const TERMINATED: i32 = 143;

/// Whether [`listen`] handles the signals.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// Lets SIGINT and SIGTERM end a container's first process before [`listen`] handles them. The system ignores signals
/// for which the first process has no handler, while it reads its settings from a pipe, say.
#[cfg(unix)]
pub fn handle_as_first_process() {
    if std::process::id() != 1 {
        return;
    }
    let wait = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let code = tokio::select! {
                _ = int.recv() => FORCED,
                _ = term.recv() => TERMINATED,
            };
            if !LISTENING.load(Ordering::SeqCst) {
                std::process::exit(code);
            }
            std::io::Result::Ok(())
        })
    };
    // An error leaves the signals to the system.
    let _ = std::thread::Builder::new().name("signals".into()).spawn(wait);
}

/// Cancels `stop` at the first SIGINT or SIGTERM and ends the process at the second; notifies `reload` of
/// SIGHUP.
///
/// Never returns; run it beside the daemon.
///
/// # Errors
/// The operating system refuses the handlers.
#[cfg(unix)]
pub async fn listen(
    stop: CancellationToken,
    reload: Option<mpsc::Sender<()>>,
) -> std::io::Result<std::convert::Infallible> {
    // All at once: without a handler, each of these signals would end the process.
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    // Tools that rotate logs send these; the original did not end from the first.
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    // A write beyond a limit of file sizes then fails, and is reported, as one on a full disk.
    let _handled = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    LISTENING.store(true, Ordering::SeqCst);
    loop {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {
                if let Some(reload) = &reload {
                    // If the channel is full, a reload is pending anyway.
                    let _ = reload.try_send(());
                }
                continue;
            }
            _ = user1.recv() => {
                tracing::info!("SIGUSR1 is ignored");
                continue;
            }
            _ = user2.recv() => {
                tracing::info!("SIGUSR2 is ignored");
                continue;
            }
        }
        if stop.is_cancelled() {
            std::process::exit(FORCED);
        }
        tracing::info!("stopping; a second signal stops at once");
        stop.cancel();
    }
}
