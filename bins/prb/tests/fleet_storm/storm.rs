//! Random operations of operators, pool owners, machines and nodes on a fleet.

use std::time::Duration;

use prb_core::{
    inventory::{AfterExternalStop, Goal},
    worker::Command,
};
use prb_devnet::runtime::{
    PHA,
    pallets::actions::{Action, PoolCall},
    types::WorkerPublicKey,
};
use rand::{Rng, seq::IndexedRandom};
use tokio::time::{Instant, sleep};

use crate::scene::{Expected, POOLS, Scene};

/// Commands with their weights.
const COMMANDS: [(Command, u32); 9] = [
    (Command::Start, 4),
    (Command::Stop, 3),
    (Command::Reclaim, 2),
    (Command::LeavePool, 1),
    (Command::Restart, 2),
    (Command::RegisterAgain, 1),
    (Command::Kick, 2),
    (Command::Checkpoint, 1),
    (Command::ConfirmKey, 1),
];
/// An entry is not renamed this soon after a command: it may not have been processed yet and would be lost
/// with the name.
const SETTLED: Duration = Duration::from_secs(5);
/// Within this time the daemon has observed an event on chain, even with a node that hangs for a while.
const SEEN: Duration = Duration::from_secs(20);
/// Number of daemon restarts.
const RESTARTS: u32 = 2;

/// The end of a temporary disturbance.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Para,
    Relay,
    Machine(usize),
    Entry(usize),
}

/// Disturbances in progress.
#[derive(Default)]
pub(crate) struct Storm {
    pending: Vec<(Instant, Undo)>,
    restarts: u32,
    contributions: usize,
}

impl Storm {
    /// Runs random operations for some time, then ends all disturbances.
    pub(crate) async fn run(&mut self, scene: &mut Scene, time: Duration) {
        let (start, mut count) = (Instant::now(), 0u32);
        // More operations with more workers, as far as two cores can keep up.
        let pause = 1.0 / (4.0 + scene.entries.len() as f64 / 40.0);
        while start.elapsed() < time {
            self.undo(scene, |due| due <= Instant::now()).await;
            self.step(scene, start.elapsed().as_secs_f64() / time.as_secs_f64()).await;
            count += 1;
            let pause = scene.seconds(0.2 * pause, 1.8 * pause);
            sleep(pause).await;
        }
        self.undo(scene, |_| true).await;
        scene.net.devnet.para().faults().heal();
        scene.net.devnet.relay().faults().heal();
        scene.note(format!("quiet after {count} steps"));
    }

    async fn step(&mut self, scene: &mut Scene, done: f64) {
        match scene.random.random_range(0..100) {
            0..45 => command(scene),
            45..65 => self.edit(scene).await,
            65..82 => self.kill(scene).await,
            82..86 => self.change_key(scene).await,
            86..90 => self.outage(scene),
            90..98 => self.elsewhere(scene),
            _ if done * f64::from(RESTARTS) > f64::from(self.restarts) => {
                self.restarts += 1;
                scene.note("the daemon is started again".into());
                scene.stop_bridge().await;
                scene.start_bridge().await;
            }
            _ => {}
        }
    }

    async fn undo(&mut self, scene: &mut Scene, due: impl Fn(Instant) -> bool) {
        let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(|(at, _)| due(*at));
        self.pending = later;
        for (_, undo) in now {
            match undo {
                Undo::Para => scene.net.devnet.para().faults().hang(false),
                Undo::Relay => scene.net.devnet.relay().faults().hang(false),
                Undo::Machine(machine) => {
                    scene.handle(machine).come_back().await.unwrap();
                    scene.machines[machine].away = false;
                }
                Undo::Entry(entry) => {
                    scene.entries[entry].present = true;
                    scene.reload().await;
                }
            }
            scene.note(format!("over: {undo:?}"));
        }
    }

    fn later(&mut self, scene: &mut Scene, undo: Undo) {
        let after = scene.seconds(0.5, 6.0);
        self.pending.push((Instant::now() + after, undo));
    }

    async fn edit(&mut self, scene: &mut Scene) {
        let Some(at) = any(scene, |scene, at| scene.entries[at].present) else { return };
        let kind = scene.random.random_range(0..12);
        let after_stop = *[
            None,
            Some(AfterExternalStop::StayStopped),
            Some(AfterExternalStop::Reclaim),
            Some(AfterExternalStop::StartAgain),
        ]
        .choose(&mut scene.random)
        .unwrap();
        let entry = &mut scene.entries[at];
        let name = entry.name.clone();
        let what = match kind {
            0 | 1 => {
                entry.enabled = !entry.enabled;
                format!("enabled: {}", entry.enabled)
            }
            2 => {
                entry.sync_only = !entry.sync_only;
                format!("sync only: {}", entry.sync_only)
            }
            3..6 => {
                entry.after_stop = after_stop;
                if entry.stopped_elsewhere.is_some() {
                    // It may have been requested before the stop was seen, or after.
                    entry.expected = None;
                }
                format!("after a stop: {after_stop:?}")
            }
            6..9 => {
                entry.stake += 10 * PHA;
                format!("stake {}", entry.stake / PHA)
            }
            9 | 10 if entry.commanded.is_none_or(|at| at.elapsed() > SETTLED) => {
                entry.name = format!("{}+", entry.name);
                "renamed".to_owned()
            }
            11 => {
                entry.present = false;
                entry.expected = None;
                // Removing the entry also forgets its key.
                entry.trusted.push(Instant::now());
                "removed".to_owned()
            }
            _ => return,
        };
        if kind == 11 {
            self.later(scene, Undo::Entry(at));
        }
        scene.note(format!("{name} edited: {what}"));
        scene.reload().await;
    }

    async fn kill(&mut self, scene: &mut Scene) {
        let Some(at) = any(scene, |scene, at| !scene.machines[at].away) else { return };
        let kept = scene.random.random_bool(0.85);
        scene.handle(at).go_away(kept).await;
        scene.machines[at].away = true;
        self.later(scene, Undo::Machine(at));
        scene.note(format!("{} is killed, state kept: {kept}", scene.entries[at].name));
    }

    fn outage(&mut self, scene: &mut Scene) {
        let undo = *[Undo::Para, Undo::Relay].choose(&mut scene.random).unwrap();
        let node = match undo {
            Undo::Para => scene.net.devnet.para(),
            _ => scene.net.devnet.relay(),
        };
        node.faults().hang(true);
        self.later(scene, undo);
        scene.note(format!("hangs: {undo:?}"));
    }

    /// A machine returns with a lost seal.
    async fn change_key(&mut self, scene: &mut Scene) {
        let Some(at) = any(scene, |scene, at| !scene.machines[at].away) else { return };
        // Few: each leaves a session behind whose stake stays locked.
        let changed = scene.machines.iter().filter(|machine| machine.keys.len() > 1).count();
        if changed * 10 > scene.machines.len() {
            return self.kill(scene).await;
        }
        scene.change_key(at).await;
        let key = scene.handle(at).public_key();
        // Only the missing confirmation prevents stake from being locked a second time.
        let entry = &scene.entries[at];
        let (pool, amount) = (scene.net.devnet.pools()[entry.pool].clone(), 2 * entry.stake);
        let name = entry.name.clone();
        scene.net.devnet.act(Action::Contribute { pid: pool.pid, who: pool.operator, amount });
        scene.note(format!("{name} has another key: {key}; {} PHA more for its pool", amount / PHA));
    }

    /// Somebody contributes, or an owner stops a worker.
    fn elsewhere(&mut self, scene: &mut Scene) {
        let pools = scene.net.devnet.pools().to_vec();
        if scene.random.random_bool(0.2) && self.contributions * 10 < scene.entries.len() {
            self.contributions += 1;
            let pool = &pools[scene.random.random_range(0..POOLS)];
            let amount = 30 * PHA;
            scene.net.devnet.act(Action::Contribute { pid: pool.pid, who: pool.operator.clone(), amount });
            return scene.note(format!("30 PHA more for pool {}", pool.pid));
        }
        let Some(at) = any(scene, Scene::computes) else { return };
        let key = scene.handle(at).public_key();
        let pid = scene.truth(key).pool.unwrap();
        let who = pools.iter().find(|pool| pool.pid == pid).unwrap().owner.clone();
        let call = PoolCall::Stop(WorkerPublicKey::from_raw(key.0));
        scene.net.devnet.act(Action::Call { who, pid, call });
        let entry = &mut scene.entries[at];
        entry.stopped_elsewhere = Some(Instant::now());
        entry.expected = match entry.expected {
            Some(Expected { goal: Goal::Compute, .. }) => Some(match entry.after_stop {
                None | Some(AfterExternalStop::StayStopped) => Expected::of(Goal::StayStopped),
                Some(AfterExternalStop::Reclaim) => Expected::RECLAIMED,
                Some(AfterExternalStop::StartAgain) => Expected::of(Goal::Compute),
            }),
            // It should stop anyway, or the result is unknown.
            known => known,
        };
        let name = entry.name.clone();
        scene.note(format!("{name} is stopped by its owner"));
    }
}

/// Picks a random index that qualifies.
fn any(scene: &mut Scene, qualifies: impl Fn(&Scene, usize) -> bool) -> Option<usize> {
    let all: Vec<usize> = (0..scene.entries.len()).filter(|at| qualifies(scene, *at)).collect();
    all.choose(&mut scene.random).copied()
}

fn command(scene: &mut Scene) {
    let (command, _) = *COMMANDS.choose_weighted(&mut scene.random, |(_, weight)| *weight).unwrap();
    for _ in 0..scene.random.random_range(1..=3) {
        let Some(at) = any(scene, |scene, at| scene.entries[at].present) else { return };
        give(scene, at, command);
    }
}

/// Gives a command and records its expected result.
pub(crate) fn give(scene: &mut Scene, at: usize, command: Command) {
    let name = scene.entries[at].name.clone();
    let id = scene.ids()[&name];
    let answer = match scene.manager().command(&[id], command) {
        Ok(done) => done.answers.into_iter().next().map(|(_, answer)| answer).unwrap_or_default(),
        Err(error) => return scene.note(format!("{name}: {command:?} is refused: {error}")),
    };
    scene.note(format!("{name}: {command:?}: {answer}"));
    let computes = scene.computes(at);
    let entry = &mut scene.entries[at];
    entry.commanded = Some(Instant::now());
    // The daemon may observe an earlier stop only after this command.
    let unseen = entry.stopped_elsewhere.is_some_and(|at| at.elapsed() < SEEN);
    match command {
        Command::Start => entry.expected = (!unseen).then_some(Expected::of(Goal::Compute)),
        Command::Stop => entry.expected = Some(Expected::of(Goal::StayStopped)),
        // Neither command stops a computing worker.
        Command::Reclaim => entry.expected = (!computes).then_some(Expected::RECLAIMED),
        Command::LeavePool => entry.expected = (!computes).then_some(Expected::of(Goal::LeavePool)),
        Command::ConfirmKey => entry.trusted.push(Instant::now()),
        _ => {}
    }
}
