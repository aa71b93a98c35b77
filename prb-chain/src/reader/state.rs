//! The tracked workers in memory: filled from a snapshot, kept up by storage changes. No node is asked here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prb_core::{
    chain::{ChainView, Registration, Session, Unreadable, WorkerOnChain},
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
};

use super::{
    layout::{Layout, SessionInfo, SessionItem, Subject, WorkerItem},
    storage::Values,
};
use crate::metadata;

/// Everything known at one block.
#[derive(Debug)]
pub(super) struct State {
    pub(super) block: u32,
    pub(super) hash: Hash,
    layout: Layout,
    cool_down_period: u64,
    benchmark_duration: u32,
    workers: HashMap<WorkerKey, Tracked>,
    by_session: HashMap<AccountId, WorkerKey>,
    /// Workers whose shown state is out of date.
    touched: HashSet<WorkerKey>,
}

#[derive(Debug, Default)]
struct Tracked {
    registration: Option<Registration>,
    pool: Option<PoolId>,
    ingress_sequence: u64,
    binding: Option<AccountId>,
    session: Option<SessionInfo>,
    stake: Option<Balance>,
    /// A value could not be read.
    unreadable: bool,
    /// What views show; `None` where a value could not be read.
    shown: Option<Arc<WorkerOnChain>>,
}

/// What a block's changes ask for besides themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FollowUp {
    /// The runtime changed: read everything anew.
    pub(super) runtime_changed: bool,
    /// Sessions that are new to a worker: their values may be older than these changes.
    pub(super) sessions: Vec<AccountId>,
}

impl State {
    /// A state without workers at a block, from the values of [`State::global_keys`].
    pub(super) fn new(
        block: u32,
        hash: Hash,
        layout: Layout,
        values: &Values,
    ) -> Result<Self, metadata::Error> {
        let value = |subject| value_of(&layout, values, subject);
        let cool_down_period = layout.cool_down_period(value(Subject::CoolDownPeriod))?;
        let benchmark_duration = layout.benchmark_duration(value(Subject::BenchmarkDuration))?;
        Ok(Self {
            block,
            hash,
            layout,
            cool_down_period,
            benchmark_duration,
            workers: HashMap::new(),
            by_session: HashMap::new(),
            touched: HashSet::new(),
        })
    }

    /// Keys of what is no worker's.
    pub(super) fn global_keys(layout: &Layout) -> Vec<Vec<u8>> {
        [Subject::CoolDownPeriod, Subject::BenchmarkDuration].map(|subject| layout.key(subject)).into()
    }

    /// Keys of what is kept by worker.
    pub(super) fn worker_keys(layout: &Layout, workers: &[WorkerKey]) -> Vec<Vec<u8>> {
        let of = |&worker| WorkerItem::ALL.map(|item| layout.key(Subject::Worker(worker, item)));
        workers.iter().flat_map(of).collect()
    }

    /// Keys of what is kept by session.
    pub(super) fn session_keys(&self, sessions: &[AccountId]) -> Vec<Vec<u8>> {
        let of = |&session| SessionItem::ALL.map(|item| self.layout.key(Subject::Session(session, item)));
        sessions.iter().flat_map(of).collect()
    }

    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn contains(&self, worker: &WorkerKey) -> bool {
        self.workers.contains_key(worker)
    }

    /// Adds workers with the values of their [`State::worker_keys`]; gives the sessions to read next.
    pub(super) fn add(&mut self, workers: &[WorkerKey], values: &Values) -> Vec<AccountId> {
        let mut follow_up = FollowUp::default();
        for &worker in workers {
            self.workers.insert(worker, Tracked::default());
            for item in WorkerItem::ALL {
                let value = value_of(&self.layout, values, Subject::Worker(worker, item));
                let read = self.set_worker(worker, item, value, &mut follow_up);
                self.touch(worker, read);
            }
        }
        follow_up.sessions
    }

    /// Fills in sessions with the values of their [`State::session_keys`].
    pub(super) fn fill_sessions(&mut self, sessions: &[AccountId], values: &Values) {
        for &session in sessions {
            for item in SessionItem::ALL {
                let subject = Subject::Session(session, item);
                if let Some(value) = values.get(&self.layout.key(subject)) {
                    self.apply_one(subject, value.as_deref(), &mut FollowUp::default());
                }
            }
        }
    }

    /// Keeps only the workers that are wanted.
    pub(super) fn retain(&mut self, wanted: &HashSet<WorkerKey>) -> bool {
        let before = self.workers.len();
        self.workers.retain(|worker, _| wanted.contains(worker));
        self.by_session.retain(|_, worker| wanted.contains(worker));
        self.workers.len() != before
    }

    /// Forgets workers.
    pub(super) fn remove(&mut self, workers: &[WorkerKey]) {
        for worker in workers {
            if let Some(session) = self.workers.remove(worker).and_then(|tracked| tracked.binding) {
                self.by_session.remove(&session);
            }
        }
    }

    /// Applies the changes of consecutive blocks, the last of which is `block`.
    pub(super) fn apply(
        &mut self,
        block: u32,
        hash: Hash,
        changes: &[(Vec<u8>, Option<Vec<u8>>)],
    ) -> FollowUp {
        let mut follow_up = FollowUp::default();
        let subjects: Vec<_> = changes
            .iter()
            .filter_map(|(key, value)| Some((self.layout.subject(key)?, value.as_deref())))
            .collect();
        // Bindings first: a block's changes come by key, a new session's values may stand before it.
        let is_binding = |s: &Subject| matches!(s, Subject::Worker(_, WorkerItem::Binding));
        for bindings in [true, false] {
            for (subject, value) in subjects.iter().filter(|(s, _)| is_binding(s) == bindings) {
                self.apply_one(*subject, *value, &mut follow_up);
            }
        }
        (self.block, self.hash) = (block, hash);
        follow_up
    }

    fn apply_one(&mut self, subject: Subject, value: Option<&[u8]>, follow_up: &mut FollowUp) {
        let (worker, read) = match subject {
            Subject::Worker(worker, item) if self.workers.contains_key(&worker) => {
                (worker, self.set_worker(worker, item, value, follow_up))
            }
            Subject::Session(session, item) => match self.by_session.get(&session) {
                Some(&worker) => (worker, self.set_session(worker, item, value)),
                None => return,
            },
            Subject::CoolDownPeriod => match self.layout.cool_down_period(value) {
                Ok(period) => return self.cool_down_period = period,
                Err(e) => return tracing::error!(error = %e, "cannot read the cool-down period"),
            },
            Subject::BenchmarkDuration => match self.layout.benchmark_duration(value) {
                Ok(duration) => return self.benchmark_duration = duration,
                Err(e) => return tracing::error!(error = %e, "cannot read the benchmark's duration"),
            },
            Subject::Runtime => return follow_up.runtime_changed = true,
            Subject::Worker(..) => return,
        };
        self.touch(worker, read);
    }

    fn set_worker(
        &mut self,
        worker: WorkerKey,
        item: WorkerItem,
        value: Option<&[u8]>,
        follow_up: &mut FollowUp,
    ) -> Result<(), metadata::Error> {
        let Some(tracked) = self.workers.get_mut(&worker) else { return Ok(()) };
        match item {
            WorkerItem::Registration => tracked.registration = self.layout.registration(value)?,
            WorkerItem::Ingress => tracked.ingress_sequence = self.layout.ingress(value)?,
            WorkerItem::Pool => tracked.pool = self.layout.pool(value)?.map(PoolId),
            WorkerItem::Binding => {
                let binding = self.layout.binding(value)?;
                if binding == tracked.binding {
                    return Ok(());
                }
                if let Some(old) = tracked.binding.take() {
                    self.by_session.remove(&old);
                }
                (tracked.binding, tracked.session, tracked.stake) = (binding, None, None);
                if let Some(new) = binding {
                    self.by_session.insert(new, worker);
                    follow_up.sessions.push(new);
                }
            }
        }
        Ok(())
    }

    fn set_session(
        &mut self,
        worker: WorkerKey,
        item: SessionItem,
        value: Option<&[u8]>,
    ) -> Result<(), metadata::Error> {
        let Some(tracked) = self.workers.get_mut(&worker) else { return Ok(()) };
        match item {
            SessionItem::Info => tracked.session = self.layout.session(value)?,
            SessionItem::Stake => tracked.stake = self.layout.stake(value)?,
        }
        Ok(())
    }

    /// Notes that a worker's shown state is out of date. A worker whose values cannot be read is taken out of
    /// the views until the next snapshot: nobody shall act on a wrong value, and nobody else is held up.
    fn touch(&mut self, worker: WorkerKey, read: Result<(), metadata::Error>) {
        self.touched.insert(worker);
        if let Err(e) = read {
            tracing::error!(%worker, error = %e, "cannot read the worker's state on chain");
            metrics::counter!("prb_reader_unreadable_values_total").increment(1);
            if let Some(tracked) = self.workers.get_mut(&worker) {
                tracked.unreadable = true;
            }
        }
    }

    /// The view that others see.
    pub(super) fn view(&mut self) -> ChainView {
        for worker in self.touched.drain() {
            if let Some(tracked) = self.workers.get_mut(&worker) {
                tracked.shown = tracked.show();
            }
        }
        let unreadable = || Unreadable::new("its state on chain cannot be read");
        let shown = |(worker, tracked): (&WorkerKey, &Tracked)| {
            (*worker, tracked.shown.clone().ok_or_else(unreadable))
        };
        let mut view = ChainView::default();
        view.block = ParaNumber(self.block);
        view.hash = self.hash;
        view.cool_down_period_secs = self.cool_down_period;
        view.benchmark_blocks = self.benchmark_duration;
        view.workers = self.workers.iter().map(shown).collect();
        view
    }
}

impl Tracked {
    fn show(&self) -> Option<Arc<WorkerOnChain>> {
        if self.unreadable {
            return None;
        }
        let session = self.binding.zip(self.session.as_ref()).map(|(account, info)| Session {
            account,
            state: info.state(),
            ve: info.ve,
            v: info.v,
            v_updated_at: info.v_updated_at,
            p_init: info.benchmark.p_init,
            p_instant: info.benchmark.p_instant,
            iterations: info.benchmark.iterations,
            working_start_time: info.benchmark.working_start_time,
            challenge_time_last: info.benchmark.challenge_time_last,
            cool_down_start: info.cool_down_start,
            total_reward: info.stats.total_reward,
            stake: self.stake,
        });
        let mut shown = WorkerOnChain::default();
        shown.registration = self.registration.clone();
        shown.pool = self.pool;
        shown.session = session;
        shown.ingress_sequence = self.ingress_sequence;
        Some(Arc::new(shown))
    }
}

fn value_of<'v>(layout: &Layout, values: &'v Values, subject: Subject) -> Option<&'v [u8]> {
    values.get(&layout.key(subject))?.as_deref()
}
