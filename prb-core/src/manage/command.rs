//! Commands, previews and status of workers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{Error, MAX_ENTRIES, Manager};
use crate::{
    fleet::{CommandError, NotStored, Receipt},
    inventory::{Snapshot, Worker},
    worker::{Command, Desired, Event, Reason, WorkerStatus},
};

/// The result of a command for several workers.
///
/// Commands are carried out by the workers' tasks after the call has returned. To see the effect, follow
/// [`Fleet::changes`](crate::fleet::Fleet::changes) and read [`Manager::status`] or [`Manager::events`].
///
/// ```
/// use prb_core::{manage::{Error, Manager}, worker::State};
///
/// /// Makes workers in error be tried again now, without their backoff.
/// fn retry_failed(manager: &Manager) -> Result<(), Error> {
///     let all = manager.status(&[])?;
///     let failed: Vec<_> = all.iter().filter(|w| w.state == State::Error).map(|w| w.worker.id).collect();
///     if !failed.is_empty() {
///         let result = manager.restart(&failed)?;
///         for (id, answer) in result.answers {
///             println!("worker {id} {answer}");
///         }
///         for (id, error) in result.refused {
///             println!("worker {id}: {error}");
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CommandResult {
    /// The addressed workers, in the call's order, without duplicates, with their status before the command takes
    /// effect.
    pub workers: Vec<Arc<WorkerStatus>>,
    /// What will happen to each worker that accepted the command, in the same order.
    pub answers: Vec<(Uuid, String)>,
    /// The workers that did not accept it, with the reason.
    pub refused: Vec<(Uuid, CommandError)>,
    /// Why the effect of [`Manager::command_stored`] on some workers is not stored yet; their answers say so, too.
    pub not_stored: Option<NotStored>,
}

/// How long [`Manager::command_stored`] waits for the inventory.
pub const STORED_WITHIN: Duration = Duration::from_secs(2);

/// What a command would do to a worker, or why it cannot be given now.
pub type Preview = (Uuid, Result<String, CommandError>);

impl Manager {
    /// Discards recorded failures of workers and observes them again.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn restart(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Restart)
    }

    /// Like [`restart`](Self::restart), and registers them again with a fresh attestation.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn refresh_ra_and_restart(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::RegisterAgain)
    }

    /// Makes workers' processes exit; their supervisors start them again.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn kick(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Kick)
    }

    /// Makes workers write their state to disk; the result appears in their status.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn checkpoint(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Checkpoint)
    }

    /// Makes workers compute: registers them, adds them to their pools and starts them, as needed.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn start(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Start)
    }

    /// Stops workers; they stay stopped until they are started.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn stop(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Stop)
    }

    /// Reclaims the stake of stopped workers once their cool-down is over; they stay stopped.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn reclaim(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::Reclaim)
    }

    /// Removes workers from their pools on chain once none of their stake is locked; they stay out.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn leave_pool(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::LeavePool)
    }

    /// Accepts the keys that currently answer as those of the workers' entries, so that stake may be locked
    /// for them: a new key at a known worker's endpoint gets none before.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn confirm_key(&self, ids: &[Uuid]) -> Result<CommandResult, Error> {
        self.command(ids, Command::ConfirmKey)
    }

    /// Gives a command to workers. Returns before it is carried out, with a description of what will happen.
    /// An empty list addresses no worker.
    ///
    /// All ids are resolved before any worker is commanded. Workers that do not run are skipped and listed in
    /// [`CommandResult::refused`].
    ///
    /// The workers' new goals are stored a moment later, and are lost if the process is killed before: see
    /// [`command_stored`](Self::command_stored).
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::NoFleet`], [`Error::NotFound`], and [`Error::NotCommanded`] if no worker
    /// accepts it.
    pub fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error> {
        self.give(ids, command).map(|(done, _)| done)
    }

    /// As [`command`](Self::command), and returns once the workers' new goals and keys are stored, after
    /// [`STORED_WITHIN`] at the latest: then answers whose effect is not stored yet say so, with the reason. Commands
    /// that change no goal and no key are not waited for.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    ///
    /// # Cancel safety
    /// A command whose call is cancelled has been given.
    pub async fn command_stored(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error> {
        let (mut done, receipts) = self.give(ids, command)?;
        let until = Instant::now() + STORED_WITHIN;
        for ((_, answer), receipt) in done.answers.iter_mut().zip(receipts) {
            if let Err(reason) = receipt.stored_until(until).await {
                answer.push_str(&format!("; {reason}"));
                done.not_stored = Some(reason);
            }
        }
        if let Some(reason) = &done.not_stored {
            warn!(%command, reason = reason.to_string(), "a command was answered before its effect was stored");
        }
        Ok(done)
    }

    /// Gives a command; the receipts are in the order of the answers.
    fn give(&self, ids: &[Uuid], command: Command) -> Result<(CommandResult, Vec<Receipt>), Error> {
        let view = View::new(self);
        let named = view.resolve(ids)?;
        let fleet = self.running_fleet()?;
        let (mut answers, mut refused) = (Vec::with_capacity(named.len()), Vec::new());
        let mut receipts = Vec::with_capacity(named.len());
        for worker in &named {
            match fleet.command_with_receipt(worker.id, command) {
                Ok((answer, receipt)) => {
                    answers.push((worker.id, answer));
                    receipts.push(receipt);
                }
                Err(error) => refused.push((worker.id, view.with_idle_reason(worker, error))),
            }
        }
        // If some workers accepted the command, the call has had an effect and must not fail.
        if !refused.is_empty() && refused.len() == named.len() {
            return Err(Error::NotCommanded(refused.swap_remove(0).1));
        }
        let workers = named.into_iter().map(|worker| view.status(worker)).collect();
        Ok((CommandResult { workers, answers, refused, not_stored: None }, receipts))
    }

    /// Describes what a command would do to each worker, in the call's order, without giving it.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::NoFleet`], [`Error::NotFound`].
    pub fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        let view = View::new(self);
        let named = view.resolve(ids)?;
        let fleet = self.running_fleet()?;
        let preview = |worker: &Arc<Worker>| {
            let answer = fleet.preview(worker.id, command);
            (worker.id, answer.map_err(|error| view.with_idle_reason(worker, error)))
        };
        Ok(named.into_iter().map(preview).collect())
    }

    /// Returns the events of a worker, oldest first: the most recent ones since the fleet started.
    ///
    /// # Errors
    /// [`Error::NoFleet`], [`Error::NotFound`].
    pub fn events(&self, id: Uuid) -> Result<Vec<Event>, Error> {
        View::new(self).resolve(&[id])?;
        let fleet = self.running_fleet()?;
        // A worker that the fleet has not picked up yet has none.
        Ok(fleet.events(id).unwrap_or_default())
    }

    /// Returns the status of workers, in the call's order, without duplicates. An empty list addresses all,
    /// sorted by name.
    ///
    /// Workers of the inventory that do not run, or not yet, are shown as idle.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::NotFound`].
    pub fn status(&self, ids: &[Uuid]) -> Result<Vec<Arc<WorkerStatus>>, Error> {
        let view = View::new(self);
        if ids.is_empty() {
            return Ok(view.all());
        }
        Ok(view.resolve(ids)?.into_iter().map(|worker| view.status(worker)).collect())
    }
}

/// A snapshot of the inventory, combined with the fleet.
struct View<'a> {
    manager: &'a Manager,
    snapshot: Arc<Snapshot>,
}

impl<'a> View<'a> {
    fn new(manager: &'a Manager) -> Self {
        Self { manager, snapshot: manager.snapshot() }
    }

    /// Resolves ids to workers, without duplicates.
    fn resolve(&self, ids: &[Uuid]) -> Result<Vec<&Arc<Worker>>, Error> {
        if ids.len() > MAX_ENTRIES {
            return Err(Error::TooMany { count: ids.len(), limit: MAX_ENTRIES });
        }
        let wanted: HashSet<Uuid> = ids.iter().copied().collect();
        let workers = self.snapshot.workers.iter().filter(|worker| wanted.contains(&worker.id));
        let mut found: HashMap<Uuid, &Arc<Worker>> = workers.map(|worker| (worker.id, worker)).collect();
        let mut seen = HashSet::with_capacity(ids.len());
        let mut named = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            if seen.insert(*id) {
                named.push(found.remove(id).ok_or_else(|| Error::NotFound {
                    entry: format!("ids[{index}]"),
                    what: "worker",
                    id: id.to_string(),
                })?);
            }
        }
        Ok(named)
    }

    fn all(&self) -> Vec<Arc<WorkerStatus>> {
        let fleet = self.manager.parts.fleet.as_ref().map(|fleet| fleet.status()).unwrap_or_default();
        // By id, because the fleet's list may be older than the inventory's.
        let mut running: HashMap<Uuid, Arc<WorkerStatus>> =
            fleet.workers.into_iter().map(|status| (status.worker.id, status)).collect();
        let workers = self.snapshot.workers.iter();
        workers.map(|worker| self.merged(worker, running.remove(&worker.id))).collect()
    }

    fn status(&self, worker: &Arc<Worker>) -> Arc<WorkerStatus> {
        let fleet = self.manager.parts.fleet.as_ref();
        self.merged(worker, fleet.and_then(|fleet| fleet.worker(worker.id)))
    }

    /// The fleet's status of a worker, with the inventory's entries, which the fleet may not have picked up
    /// yet.
    fn merged(&self, worker: &Arc<Worker>, status: Option<Arc<WorkerStatus>>) -> Arc<WorkerStatus> {
        let pool = self.snapshot.pool(worker.pid);
        let Some(mut status) = status else { return Arc::new(self.idle(worker)) };
        if status.worker != *worker || status.pool.as_ref() != pool {
            // Copies the status only if it differs: it is shared with the fleet.
            let edited = Arc::make_mut(&mut status);
            edited.worker = Arc::clone(worker);
            edited.pool = pool.cloned();
        }
        status
    }

    fn idle(&self, worker: &Arc<Worker>) -> WorkerStatus {
        let desired = self.desired(worker);
        let reason = match &self.manager.parts.fleet {
            None => Reason::NoFleet,
            Some(_) => desired.idle_reason().unwrap_or(Reason::AwaitingRunner),
        };
        let mut status = WorkerStatus::idle(&desired, reason, self.manager.since);
        status.saved = self.snapshot.saved(worker.id);
        status
    }

    fn desired(&self, worker: &Arc<Worker>) -> Desired {
        Desired { worker: Arc::clone(worker), pool: self.snapshot.pool(worker.pid).cloned() }
    }

    /// A worker of the inventory that is unknown to the fleet has not been picked up yet.
    fn with_idle_reason(&self, worker: &Arc<Worker>, error: CommandError) -> CommandError {
        match error {
            CommandError::Unknown { .. } => CommandError::NotRunning {
                name: worker.name.clone(),
                reason: self.desired(worker).idle_reason().unwrap_or(Reason::AwaitingRunner).to_string(),
            },
            error => error,
        }
    }
}
