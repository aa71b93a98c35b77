//! A parachain node that lags: its views are older than those that workers' records were decided with. On parts in
//! memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prb_core::{
    blob::BlobSource,
    chain::{
        Call, ChainReader, ChainView, Followed,
        memory::{self as chain_memory, MemoryChain},
    },
    fleet::{self, Command, Fleet},
    inventory::{AfterExternalStop, Goal, Inventory},
    primitives::ParaNumber,
    worker::{Settings, State},
};
use tokio::sync::watch;

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, POOL, Rig, STAKE};

const HOUR: Duration = Duration::from_secs(3600);

/// Shows the chain's views or, like a node that lags, an older one.
#[derive(Clone, Debug)]
struct Node(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    chain: MemoryChain,
    seen: Mutex<Vec<Arc<ChainView>>>,
    shown: watch::Sender<Option<Arc<ChainView>>>,
    lags: AtomicBool,
}

impl Node {
    fn new(chain: MemoryChain) -> Self {
        let (seen, shown) = (Mutex::default(), watch::Sender::new(None));
        let node = Self(Arc::new(Shared { chain, seen, shown, lags: AtomicBool::new(false) }));
        let (shared, mut views) = (Arc::clone(&node.0), node.0.chain.views());
        tokio::spawn(async move {
            loop {
                let view = views.borrow_and_update().clone();
                shared.seen.lock().unwrap().extend(view.clone());
                if !shared.lags.load(Ordering::SeqCst) {
                    shared.shown.send_replace(view);
                }
                if views.changed().await.is_err() {
                    return;
                }
            }
        });
        node
    }

    fn block(&self) -> ParaNumber {
        self.0.seen.lock().unwrap().last().unwrap().block
    }

    /// Falls back to `block`, and stays there.
    fn fall_back(&self, block: ParaNumber) {
        self.0.lags.store(true, Ordering::SeqCst);
        let seen = self.0.seen.lock().unwrap();
        self.0.shown.send_replace(seen.iter().find(|view| view.block == block).cloned());
    }

    /// Shows the blocks since then, one after the other.
    async fn catch_up_block_by_block(&self) {
        let shown = self.0.shown.borrow().as_ref().map(|view| view.block);
        let missed = self.0.seen.lock().unwrap().clone();
        for view in missed.into_iter().filter(|view| Some(view.block) > shown) {
            self.0.shown.send_replace(Some(view));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.catch_up();
    }

    fn catch_up(&self) {
        self.0.lags.store(false, Ordering::SeqCst);
        self.0.shown.send_replace(self.0.seen.lock().unwrap().last().cloned());
    }
}

impl ChainReader for Node {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.0.shown.subscribe()
    }

    fn follow(&self, followed: Followed) {
        self.0.chain.follow(followed);
    }
}

fn start(rig: &mut Rig, node: &Node) {
    start_with(rig, node, Rig::config());
}

fn start_with(rig: &mut Rig, node: &Node, config: fleet::Config) {
    let mut parts = rig.parts(Arc::clone(&rig.source) as Arc<dyn BlobSource>);
    parts.chain = Arc::new(node.clone());
    let settings = Settings::default().with_after_stop(AfterExternalStop::StartAgain);
    rig.fleet = Some(Fleet::start(parts, config.with_settings(settings)));
}

/// Four workers that compute, of which the first three are then stopped, with different goals. Returns the block at
/// which all computed.
async fn stopped() -> (Rig, Node, ParaNumber) {
    let mut rig = Rig::with(chain_memory::Config::default().with_cool_down_secs(7200), 4, 10).await;
    rig.run();
    let node = Node::new(rig.chain.clone());
    start(&mut rig, &node);
    rig.until_all(State::Active).await;
    tokio::time::sleep(BLOCK * 2).await;
    let computed = node.block();
    let command = |index: usize, command| rig.fleet().command(rig.ids[index], command).unwrap();
    (0..3).for_each(|index| drop(command(index, Command::Stop)));
    for index in 0..3 {
        rig.until_worker(index, "cooling down", |w| w.reason.code() == "cooling-down").await;
    }
    command(0, Command::Reclaim);
    command(2, Command::LeavePool);
    tokio::time::sleep(BLOCK).await;
    assert_eq!(goals(&rig), GOALS);
    (rig, node, computed)
}

const GOALS: [Goal; 4] = [Goal::Reclaim, Goal::StayStopped, Goal::LeavePool, Goal::Compute];

/// The goals in the inventory.
fn goals(rig: &Rig) -> [Goal; 4] {
    let stored = rig.inventory.snapshots().borrow().clone();
    [0, 1, 2, 3].map(|index| stored.saved(rig.ids[index]).goal)
}

fn count(rig: &Rig, is: impl Fn(&Call) -> bool) -> usize {
    rig.chain.events().iter().filter(|event| is(&event.call)).count()
}

fn starts(rig: &Rig) -> usize {
    count(rig, |call| matches!(call, Call::StartComputing { .. }))
}

fn stops(rig: &Rig) -> usize {
    count(rig, |call| matches!(call, Call::StopComputing { .. }))
}

/// The goals are carried out once the node has caught up.
async fn carried_out(rig: &Rig) {
    tokio::time::sleep(HOUR * 4).await;
    let codes = [0, 1, 2].map(|index| rig.status(index).reason.code());
    assert_eq!(codes, ["stopped", "cooled-down", "stopped"]);
    let reclaims = count(rig, |call| matches!(call, Call::ReclaimWorker { .. }));
    let removals = count(rig, |call| matches!(call, Call::RemoveWorker { .. }));
    assert_eq!((starts(rig), reclaims, removals), (4, 2, 1));
    assert!(rig.chain.events().iter().all(|event| event.result.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn restart_while_the_node_lags_forgets_nothing() {
    let (mut rig, node, computed) = stopped().await;
    rig.fleet().stop().await;
    let stored = rig.inventory.snapshots().borrow().clone();
    node.fall_back(computed);
    start(&mut rig, &node);
    tokio::time::sleep(HOUR).await;
    assert_eq!(goals(&rig), GOALS);
    for index in 0..4 {
        let now = rig.inventory.snapshots().borrow().saved(rig.ids[index]);
        assert_eq!(now, stored.saved(rig.ids[index]), "worker {index}");
        let shown = rig.status(index);
        assert_eq!(shown.reason.code(), "node-behind", "worker {index}: {}", shown.message);
        assert!(shown.position.is_some_and(|at| at.block > node.block()), "worker {index} is fed");
    }
    node.catch_up();
    carried_out(&rig).await;
    assert_eq!((rig.status(3).state, stops(&rig)), (State::Active, 3));
}

#[tokio::test(start_paused = true)]
async fn node_that_falls_back_changes_no_goal_and_commands_wait() {
    let (rig, node, computed) = stopped().await;
    node.fall_back(computed);
    tokio::time::sleep(BLOCK * 2).await;
    assert_eq!(rig.status(0).reason.code(), "cooling-down", "not shown before it lasts");
    rig.until_worker(0, "the reason", |w| w.reason.code() == "node-behind").await;
    assert!(rig.fleet().status().node_behind.is_some_and(|behind| behind.is_lasting));
    assert_eq!(goals(&rig), GOALS);
    // A command is stored, and carried out later.
    rig.fleet().command(rig.ids[3], Command::Stop).unwrap();
    tokio::time::sleep(HOUR).await;
    assert_eq!(goals(&rig), [GOALS[0], GOALS[1], GOALS[2], Goal::Stop]);
    assert_eq!(stops(&rig), 3, "nothing is sent on an old view");
    node.catch_up();
    rig.until_worker(3, "the stop", |w| w.reason.code() == "cooling-down").await;
    carried_out(&rig).await;
}

#[tokio::test(start_paused = true)]
async fn chain_that_was_set_back_is_followed_if_the_operator_says_so() {
    let (mut rig, node, computed) = stopped().await;
    rig.fleet().stop().await;
    node.fall_back(computed);
    start_with(&mut rig, &node, Rig::config().with_chain_set_back(true));
    rig.until_worker(0, "computing", |w| w.reason.code() == "computing").await;
    tokio::time::sleep(BLOCK * 2).await;
    assert_eq!(goals(&rig), [Goal::Compute; 4]);
    // Once is enough.
    rig.fleet().stop().await;
    start(&mut rig, &node);
    rig.until_worker(0, "computing", |w| w.reason.code() == "computing").await;
    assert_eq!(rig.fleet().status().node_behind, None);
}

/// What the owner does by hand and the operator commands meanwhile is seen in the order in which it happened.
async fn commands_while_the_node_lags(restarts: bool) {
    let mut rig = Rig::with(chain_memory::Config::default().with_cool_down_secs(7200), 4, 10).await;
    rig.run();
    let node = Node::new(rig.chain.clone());
    let settings = Settings::default().with_after_stop(AfterExternalStop::StayStopped);
    let start = |rig: &mut Rig| {
        let mut parts = rig.parts(Arc::clone(&rig.source) as Arc<dyn BlobSource>);
        parts.chain = Arc::new(node.clone());
        rig.fleet = Some(Fleet::start(parts, Rig::config().with_settings(settings)));
    };
    start(&mut rig);
    rig.until_all(State::Active).await;
    tokio::time::sleep(BLOCK * 2).await;
    let computed = node.block();
    let command =
        |rig: &Rig, index: usize, command| drop(rig.fleet().command(rig.ids[index], command).unwrap());
    command(&rig, 0, Command::Stop);
    rig.until_worker(0, "cooling down", |w| w.reason.code() == "cooling-down").await;
    command(&rig, 0, Command::Reclaim);
    tokio::time::sleep(HOUR * 3).await;
    for index in [2, 3] {
        command(&rig, index, Command::Stop);
        rig.until_worker(index, "cooling down", |w| w.reason.code() == "cooling-down").await;
    }
    tokio::time::sleep(BLOCK * 2).await;
    assert_eq!(goals(&rig), [Goal::StayStopped, Goal::Compute, Goal::StayStopped, Goal::StayStopped]);

    node.fall_back(computed);
    rig.until_worker(0, "the reason", |w| w.reason.code() == "node-behind").await;
    let worker = |index: usize| rig.key(index);
    rig.submit(Call::StartComputing { pool: POOL, worker: worker(0), stake: STAKE }).await;
    rig.submit(Call::StopComputing { pool: POOL, worker: worker(1) }).await;
    tokio::time::sleep(BLOCK * 2).await;
    let commands = [Command::Stop, Command::Start, Command::Reclaim, Command::LeavePool];
    (0..).zip(commands).for_each(|(index, given)| command(&rig, index, given));
    tokio::time::sleep(BLOCK).await;
    let given = [Goal::Stop, Goal::StartAgain, Goal::Reclaim, Goal::LeavePool];
    assert_eq!(goals(&rig), given);
    if restarts {
        rig.fleet().stop().await;
        start(&mut rig);
    }
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(goals(&rig), given);

    node.catch_up_block_by_block().await;
    tokio::time::sleep(HOUR * 4).await;
    let codes = [0, 1, 2, 3].map(|index| rig.status(index).reason.code());
    assert_eq!(codes, ["cooled-down", "computing", "stopped", "stopped"]);
    let settled = [Goal::StayStopped, Goal::Compute, Goal::StayStopped, Goal::StayStopped];
    assert_eq!((goals(&rig), starts(&rig), stops(&rig)), (settled, 6, 5));
}

#[tokio::test(start_paused = true)]
async fn commands_while_the_node_lags_are_carried_out() {
    commands_while_the_node_lags(false).await;
}

#[tokio::test(start_paused = true)]
async fn commands_while_the_node_lags_are_carried_out_after_a_restart() {
    commands_while_the_node_lags(true).await;
}
