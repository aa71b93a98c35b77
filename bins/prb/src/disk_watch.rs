//! [`DiskWatch`]: checks regularly whether a daemon's files are in place and can be written.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prb_chain::{disk::DiskProblem, inventory::HeedInventory, store::Store};
use prb_walkie::identity::Role;
use tokio::task::JoinSet;

use crate::{daemon::Background, ops::Reason, readiness::Code};

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(2);
/// After which a check, or the opening of files, counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// What is checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    store: Option<Arc<Store>>,
    inventory: Option<HeedInventory>,
    identities: Vec<PathBuf>,
}

impl Files {
    pub(crate) fn with_store(self, store: Arc<Store>) -> Self {
        Self { store: Some(store), ..self }
    }

    pub(crate) fn with_inventory(self, inventory: HeedInventory) -> Self {
        Self { inventory: Some(inventory), ..self }
    }

    /// Adds the identity of one of these roles; the first one that the folder has.
    pub(crate) fn with_identity(mut self, folder: &Path, roles: &[Role]) -> Self {
        let mut paths = roles.iter().map(|role| folder.join(role.file_name()));
        self.identities.extend(paths.find(|path| path.exists()));
        self
    }

    /// Blocks on the disk.
    fn check(&self) -> Option<PathBuf> {
        self.store.iter().for_each(|store| store.check_files());
        self.inventory.iter().for_each(HeedInventory::check_files);
        let is_missing =
            |path: &&PathBuf| path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        self.identities.iter().find(is_missing).cloned()
    }
}

/// The results of the checks. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct DiskWatch {
    files: Files,
    checks: Arc<Mutex<Checks>>,
}

#[derive(Debug, Default)]
struct Checks {
    /// When the check in progress began.
    since: Option<Instant>,
    missing: Option<PathBuf>,
}

impl DiskWatch {
    /// Starts the checks.
    pub(crate) fn start(files: Files, background: &mut Background) -> Self {
        let watch = Self { files, checks: Arc::default() };
        let checking = watch.clone();
        background.spawn(|stop| async move {
            stop.run_until_cancelled(checking.run()).await;
            anyhow::anyhow!("the checks of the disk have ended")
        });
        watch
    }

    /// Returns the reasons why data cannot be stored, at most one of each code. Does not block.
    pub(crate) fn reasons(&self) -> Vec<Reason> {
        let store = self.files.store.as_ref().and_then(|store| store.disk_problem());
        let inventory = self.files.inventory.as_ref().and_then(HeedInventory::disk_problem);
        let mut reasons = Vec::<Reason>::new();
        for (code, text) in store.into_iter().chain(inventory).map(of).chain(self.of_checks()) {
            match reasons.iter_mut().find(|reason| reason.code == code.as_str()) {
                Some(reason) => reason.message = format!("{}; {text}", reason.message),
                None => reasons.push(Reason::new(code, text)),
            }
        }
        reasons
    }

    fn of_checks(&self) -> Option<(Code, String)> {
        let checks = self.checks();
        let waiting = checks.since.map(|since| since.elapsed()).unwrap_or_default();
        if waiting >= HANGS_AFTER {
            let text = format!(
                "the disk or network file system with this daemon's files has not answered for {} seconds",
                waiting.as_secs()
            );
            return Some((Code::DiskFailing, text));
        }
        let missing = checks.missing.as_ref()?;
        let text = format!(
            "the identity file {} was moved or deleted while the daemon runs: put it back, or restore it \
             (prb keys restore) before a restart",
            missing.display()
        );
        Some((Code::FilesMissing, text))
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // At most one: a disk that hangs occupies one thread.
        let mut running = JoinSet::new();
        let mut shown = Vec::new();
        loop {
            ticks.tick().await;
            while running.try_join_next().is_some() {}
            if running.is_empty() {
                let watch = self.clone();
                running.spawn_blocking(move || watch.check());
            }
            log_changes(&mut shown, self.reasons());
        }
    }

    fn check(&self) {
        self.checks().since = Some(Instant::now());
        let missing = self.files.check();
        *self.checks() = Checks { since: None, missing };
    }
}

fn of(problem: DiskProblem) -> (Code, String) {
    let code = match problem {
        DiskProblem::Full(_) => Code::DiskFull,
        DiskProblem::Moved(_) => Code::FilesMissing,
        _ => Code::DiskFailing,
    };
    (code, problem.to_string())
}

/// Logs the reasons that are new, and those that are gone.
fn log_changes(shown: &mut Vec<&'static str>, reasons: Vec<Reason>) {
    for reason in reasons.iter().filter(|reason| !shown.contains(&reason.code)) {
        tracing::error!(code = reason.code, problem = reason.message, "files of this daemon have a problem");
    }
    let now: Vec<_> = reasons.iter().map(|reason| reason.code).collect();
    for code in shown.iter().filter(|code| !now.contains(code)) {
        tracing::info!(code, "a problem with files of this daemon is over");
    }
    *shown = now;
}

/// Opens files on a blocking thread.
///
/// # Errors
/// `open` panicked.
pub(crate) async fn open<T: Send + 'static>(
    what: String,
    open: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    Ok(explain(what, tokio::task::spawn_blocking(open)).await?)
}

/// Waits until files are open. Says what it waits for in the log if the disk does not answer.
pub(crate) async fn explain<T>(what: String, opening: impl Future<Output = T>) -> T {
    let mut opening = std::pin::pin!(opening);
    let start = Instant::now();
    loop {
        match tokio::time::timeout(HANGS_AFTER, &mut opening).await {
            Ok(opened) => return opened,
            Err(_) => tracing::warn!(
                seconds = start.elapsed().as_secs(),
                "still opening {what}: its disk or network file system may hang"
            ),
        }
    }
}
