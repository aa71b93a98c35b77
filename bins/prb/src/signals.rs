//! Signals: the first SIGINT or SIGTERM shuts down in order, a second one ends the process at once; SIGHUP
//! reloads files; SIGUSR1 and SIGUSR2 are ignored.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: the usual one of a process killed by SIGINT.
const FORCED: i32 = 130;

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
    use tokio::signal::unix::{SignalKind, signal};
    // All at once: without a handler, each of these signals would end the process.
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    // Tools that rotate logs send these; the original did not end from the first.
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
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
