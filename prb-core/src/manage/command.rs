//! Commands and status.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{Error, MAX_ENTRIES, Manager};
use crate::{
    fleet::CommandError,
    inventory::{Snapshot, Worker},
    worker::{Command, Desired, Event, Reason, WorkerStatus},
};

/// What became of a command for several workers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Commanded {
    /// The workers named, in the call's order, each once; how they are now, the command not done yet.
    pub workers: Vec<Arc<WorkerStatus>>,
    /// What will happen to each that took it, in the same order.
    pub answers: Vec<(Uuid, String)>,
    /// Those of them that did not take it, as they do not run.
    pub refused: Vec<(Uuid, CommandError)>,
}

/// What a command would do to a worker, or why it cannot be given now.
pub type Preview = (Uuid, Result<String, CommandError>);

impl Manager {
    /// Has workers forget what failed and observed anew.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn restart(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Restart)
    }

    /// The same, and registered again with a fresh attestation.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn refresh_ra_and_restart(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::RegisterAgain)
    }

    /// Makes workers' processes exit; their supervisors start them again.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn kick(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Kick)
    }

    /// Has workers keep their state on disk; the outcome comes with their status.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn checkpoint(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Checkpoint)
    }

    /// Has workers compute: registers them, adds them to their pools and starts them, as far as that is not so
    /// yet.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn start(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Start)
    }

    /// Stops workers' computing; they stay stopped until they are started.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn stop(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Stop)
    }

    /// Reclaims the stake of stopped workers as soon as their cool-down is over; they stay stopped.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn reclaim(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::Reclaim)
    }

    /// Removes workers from their pools on chain once no stake of theirs is locked; they stay out.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn leave_pool(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::LeavePool)
    }

    /// Takes workers' present keys for those of their entries, so that stake may be locked for them: another
    /// key at a known worker's endpoint gets none before.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn confirm_key(&self, ids: &[Uuid]) -> Result<Commanded, Error> {
        self.command(ids, Command::ConfirmKey)
    }

    /// Tells workers to do something; returns before it is done, and says what will happen. An empty list
    /// means none.
    ///
    /// All ids are looked at before any worker is told. Those that do not run are left out and named in
    /// [`Commanded::refused`].
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::NoFleet`], [`Error::NotFound`], and [`Error::NotCommanded`] where no
    /// worker takes it.
    pub fn command(&self, ids: &[Uuid], command: Command) -> Result<Commanded, Error> {
        let view = View::new(self);
        let named = view.named(ids)?;
        let fleet = self.parts.fleet.as_ref().ok_or(Error::NoFleet)?;
        let (mut answers, mut refused) = (Vec::with_capacity(named.len()), Vec::new());
        for worker in &named {
            match fleet.command(worker.id, command) {
                Ok(answer) => answers.push((worker.id, answer)),
                Err(error) => refused.push((worker.id, view.explained(worker, error))),
            }
        }
        if !refused.is_empty() && refused.len() == named.len() {
            return Err(Error::NotCommanded(refused.swap_remove(0).1));
        }
        let workers = named.into_iter().map(|worker| view.status(worker)).collect();
        Ok(Commanded { workers, answers, refused })
    }

    /// What a command would do to each worker, in the call's order, without giving it.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::NoFleet`], [`Error::NotFound`].
    pub fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        let view = View::new(self);
        let named = view.named(ids)?;
        let fleet = self.parts.fleet.as_ref().ok_or(Error::NoFleet)?;
        let preview = |worker: &Arc<Worker>| {
            let answer = fleet.preview(worker.id, command);
            (worker.id, answer.map_err(|error| view.explained(worker, error)))
        };
        Ok(named.into_iter().map(preview).collect())
    }

    /// What happened to a worker, oldest first: its last events since the fleet has started.
    ///
    /// # Errors
    /// [`Error::NoFleet`], [`Error::NotFound`].
    pub fn events(&self, id: Uuid) -> Result<Vec<Event>, Error> {
        View::new(self).named(&[id])?;
        let fleet = self.parts.fleet.as_ref().ok_or(Error::NoFleet)?;
        // One that the fleet has not taken yet has none.
        Ok(fleet.events(id).unwrap_or_default())
    }

    /// How workers are, in the call's order, each once. An empty list means all, by name.
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
        Ok(view.named(ids)?.into_iter().map(|worker| view.status(worker)).collect())
    }
}

/// The inventory at one moment, beside the fleet.
struct View<'a> {
    manager: &'a Manager,
    snapshot: Arc<Snapshot>,
}

impl<'a> View<'a> {
    fn new(manager: &'a Manager) -> Self {
        Self { manager, snapshot: manager.snapshot() }
    }

    /// The workers of these ids, each once.
    fn named(&self, ids: &[Uuid]) -> Result<Vec<&Arc<Worker>>, Error> {
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
        let mut running: HashMap<Uuid, Arc<WorkerStatus>> =
            fleet.workers.into_iter().map(|status| (status.worker.id, status)).collect();
        let workers = self.snapshot.workers.iter();
        workers.map(|worker| self.shown(worker, running.remove(&worker.id))).collect()
    }

    fn status(&self, worker: &Arc<Worker>) -> Arc<WorkerStatus> {
        let fleet = self.manager.parts.fleet.as_ref();
        self.shown(worker, fleet.and_then(|fleet| fleet.worker(worker.id)))
    }

    /// The fleet's word on a worker, with the inventory's entries, which the fleet may not have taken yet.
    fn shown(&self, worker: &Arc<Worker>, status: Option<Arc<WorkerStatus>>) -> Arc<WorkerStatus> {
        let pool = self.snapshot.pool(worker.pid);
        let Some(mut status) = status else { return Arc::new(self.idle(worker)) };
        if status.worker != *worker || status.pool.as_ref() != pool {
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

    /// A worker of the inventory that the fleet does not know is one that it has not taken yet.
    fn explained(&self, worker: &Arc<Worker>, error: CommandError) -> CommandError {
        match error {
            CommandError::Unknown { .. } => CommandError::NotRunning {
                name: worker.name.clone(),
                reason: self.desired(worker).idle_reason().unwrap_or(Reason::AwaitingRunner).to_string(),
            },
            error => error,
        }
    }
}
