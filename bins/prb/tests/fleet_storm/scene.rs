//! The machines, the fleet file's entries for them, and the daemon that manages them.

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr, time::Duration};

use prb::all::Bridge;
use prb_core::{
    inventory::{AfterExternalStop, FleetRecord, Goal},
    manage::Manager,
    primitives::{AccountId, PHALA_SS58_PREFIX, WorkerKey},
    worker::WorkerStatus,
};
use prb_devnet::{
    Config, Devnet,
    runtime::types::WorkerState,
    truth::{self, WorkerTruth},
    worker::{Shared, Worker, WorkerConfig, WorkerHandle},
};
use rand::{Rng, rngs::StdRng};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{Net, STAKE, chain, pool_toml};

/// Number of pools, and how many of them (the last ones) have an owner behind a proxy.
pub(crate) const POOLS: usize = 10;
const PROXIED: u64 = 2;
/// Cool-down in chain seconds.
const COOL_DOWN_SECS: u64 = 12;
/// The offset between the seeds of a machine's successive keys.
const NEXT_KEY: u32 = 100_000;

/// A machine with a pRuntime.
pub(crate) struct Machine {
    pub(crate) handle: Option<WorkerHandle>,
    /// Its keys so far with their start times; the present one is last.
    pub(crate) keys: Vec<(WorkerKey, Instant)>,
    /// Whether it is currently away.
    pub(crate) away: bool,
}

/// A worker's entry in the fleet file, and what was done to it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Index of its pool.
    pub(crate) pool: usize,
    pub(crate) stake: u128,
    pub(crate) enabled: bool,
    pub(crate) sync_only: bool,
    pub(crate) after_stop: Option<AfterExternalStop>,
    /// Whether it is in the file.
    pub(crate) present: bool,
    /// When its keys were confirmed, or forgotten with the entry.
    pub(crate) trusted: Vec<Instant>,
    /// The expected final state, if known.
    pub(crate) expected: Option<Expected>,
    /// When it last got a command.
    pub(crate) commanded: Option<Instant>,
    /// When its owner last stopped it.
    pub(crate) stopped_elsewhere: Option<Instant>,
}

/// The final state that a command, or a stop by somebody else, leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) goal: Goal,
    /// Whether no stake is locked in that state.
    pub(crate) reclaimed: bool,
}

impl Expected {
    pub(crate) const fn of(goal: Goal) -> Self {
        Self { goal, reclaimed: false }
    }

    pub(crate) const RECLAIMED: Self = Self { goal: Goal::StayStopped, reclaimed: true };
}

/// The whole setup.
pub(crate) struct Scene {
    pub(crate) net: Net,
    /// One for each entry.
    pub(crate) machines: Vec<Machine>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) random: StdRng,
    pub(crate) events: Vec<String>,
    bridge: Option<Bridge>,
    shared: Shared,
    start: Instant,
}

/// The observed state of an entry.
pub(crate) struct Observed {
    pub(crate) status: std::sync::Arc<WorkerStatus>,
    pub(crate) saved: FleetRecord,
    pub(crate) key: WorkerKey,
    pub(crate) truth: WorkerTruth,
}

impl Scene {
    pub(crate) async fn start(workers: usize, random: StdRng) -> Self {
        let each = workers.div_ceil(POOLS) as u128;
        let config = Config {
            pools: POOLS as u64,
            proxied_pools: PROXIED,
            // Enough for two thirds of the workers, and a part of another.
            free_stake: each * 2 / 3 * STAKE + STAKE / 2,
            cool_down_secs: COOL_DOWN_SECS,
            history: 100,
            // All workers verify each block, on few cores.
            block_ms: if workers > 100 { 1_500 } else { 400 },
            ..chain()
        };
        let devnet = Devnet::start(config).await.unwrap();
        devnet.spawn_ticker().await;
        let net = Net::of(devnet, Vec::new(), 0).await;
        let mut scene = Self {
            net,
            machines: Vec::new(),
            entries: Vec::new(),
            random,
            events: Vec::new(),
            bridge: None,
            shared: Shared::default(),
            start: Instant::now(),
        };
        for index in 0..workers {
            let handle = scene.spawn(index as u32, SocketAddr::from(([127, 0, 0, 1], 0))).await;
            let keys = vec![(handle.public_key(), Instant::now())];
            scene.machines.push(Machine { handle: Some(handle), keys, away: false });
            scene.entries.push(Entry {
                name: format!("w{index:03}"),
                pool: index % POOLS,
                stake: STAKE,
                enabled: true,
                sync_only: false,
                after_stop: None,
                present: true,
                trusted: Vec::new(),
                expected: Some(Expected::of(Goal::Compute)),
                commanded: None,
                stopped_elsewhere: None,
            });
        }
        scene.write_fleet();
        scene.start_bridge().await;
        scene
    }

    async fn spawn(&self, index: u32, listen: SocketAddr) -> WorkerHandle {
        let mut config = WorkerConfig::new("storm", index);
        (config.listen, config.shared) = (listen, self.shared.clone());
        Worker::spawn(config).await.unwrap()
    }

    pub(crate) fn handle(&self, machine: usize) -> &WorkerHandle {
        self.machines[machine].handle.as_ref().unwrap()
    }

    /// The machine returns with a lost seal: with another key, and empty.
    pub(crate) async fn change_key(&mut self, machine: usize) {
        let handle = self.machines[machine].handle.take().unwrap();
        let listen = handle.endpoint().trim_start_matches("http://").parse().unwrap();
        handle.shutdown().await;
        let index = machine as u32 + NEXT_KEY * self.machines[machine].keys.len() as u32;
        let handle = self.spawn(index, listen).await;
        self.machines[machine].keys.push((handle.public_key(), Instant::now()));
        self.machines[machine].handle = Some(handle);
    }

    pub(crate) fn write_fleet(&self) {
        let pools = self.net.devnet.pools();
        let mut text: String = pools.iter().map(named).collect();
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.present) {
            let Entry { name, stake, enabled, sync_only, .. } = entry;
            let (pid, endpoint) = (pools[entry.pool].pid, self.handle(index).endpoint());
            write!(
                text,
                "[[workers]]\nname = \"{name}\"\npid = {pid}\nendpoint = \"{endpoint}\"\nstake = \"{stake}\"\n\
                 enabled = {enabled}\nsync_only = {sync_only}\n"
            )
            .unwrap();
            if let Some(after_stop) = entry.after_stop {
                writeln!(text, "after_stop = \"{after_stop}\"").unwrap();
            }
        }
        std::fs::write(self.net.fleet(), text).unwrap();
    }

    /// Writes the file with the current entries and makes the daemon reload it.
    pub(crate) async fn reload(&self) {
        self.write_fleet();
        self.bridge().reload().await.unwrap();
    }

    pub(crate) async fn start_bridge(&mut self) {
        self.bridge = Some(self.net.bridge().await);
    }

    pub(crate) async fn stop_bridge(&mut self) {
        if let Some(bridge) = self.bridge.take() {
            bridge.stop().await;
        }
    }

    fn bridge(&self) -> &Bridge {
        self.bridge.as_ref().unwrap()
    }

    pub(crate) fn manager(&self) -> &Manager {
        self.bridge().manager()
    }

    /// Returns the ids of entries by name.
    pub(crate) fn ids(&self) -> HashMap<String, Uuid> {
        self.manager().workers().iter().map(|worker| (worker.name.clone(), worker.id)).collect()
    }

    /// Returns the current state of every entry in the file.
    pub(crate) fn observed(&self) -> Vec<(usize, Observed)> {
        let snapshot = self.manager().snapshots().borrow().clone();
        let mut statuses: HashMap<Uuid, _> = self
            .manager()
            .status(&[])
            .unwrap()
            .into_iter()
            .map(|status| (status.worker.id, status))
            .collect();
        let ids = self.ids();
        let present = self.entries.iter().enumerate().filter(|(_, entry)| entry.present);
        let observe = |(index, entry): (usize, &Entry)| {
            let id = ids[&entry.name];
            let key = self.handle(index).public_key();
            let truth = self.truth(key);
            let status = statuses.remove(&id).unwrap();
            (index, Observed { status, saved: snapshot.saved(id), key, truth })
        };
        present.map(observe).collect()
    }

    pub(crate) fn truth(&self, key: WorkerKey) -> WorkerTruth {
        truth::worker(self.net.devnet.para(), key.0).unwrap()
    }

    /// Returns whether it computes on chain under its present key.
    pub(crate) fn computes(&self, at: usize) -> bool {
        self.truth(self.handle(at).public_key()).session.is_some_and(WorkerState::is_computing)
    }

    /// Returns a random duration between two numbers of seconds.
    pub(crate) fn seconds(&mut self, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(self.random.random_range(from..to))
    }

    /// Records an event, printed if the test fails.
    pub(crate) fn note(&mut self, line: String) {
        self.events.push(format!("{:7.2} {line}", self.start.elapsed().as_secs_f64()));
    }

    pub(crate) async fn shutdown(mut self) {
        self.stop_bridge().await;
        for machine in &mut self.machines {
            machine.handle.take().unwrap().shutdown().await;
        }
        self.net.devnet.shutdown().await;
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.events.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Formats the pool for the file, with its owner if that is another account.
fn named(pool: &prb_devnet::Pool) -> String {
    let mut text = pool_toml(pool, Some(&pool.mnemonic));
    if pool.proxied {
        let owner = AccountId(pool.owner.clone().into()).to_ss58(PHALA_SS58_PREFIX);
        writeln!(text, "proxied = \"{owner}\"\n").unwrap();
    }
    text
}
