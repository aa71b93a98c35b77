//! A fleet under random operations of operators, pool owners, machines and nodes: at the end every worker is
//! in the state that its settings require, and no fees or stake were spent twice.
//!
//! Variables: `PRB_TEST_FLEET_STORM_SECS` (30), `PRB_TEST_FLEET_STORM_WORKERS` (40),
//! `PRB_TEST_FLEET_STORM_QUIET_SECS` (180, the time limit until everything is in place) and
//! `PRB_TEST_FLEET_STORM_SEED` (1). The full check runs 600 seconds with 300 workers.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod chain;
mod checks;
mod scene;
mod storm;

use std::time::Duration;

use prb_core::worker::Command;
use prb_devnet::runtime::{PHA, pallets::actions::Action};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use scene::Scene;
use storm::Storm;

/// How long everything must stay in place.
const STEADY: Duration = Duration::from_secs(4);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Waits until nothing has been out of place for a while.
async fn until_in_place(scene: &Scene, limit: Duration) -> Result<(), Vec<String>> {
    let start = Instant::now();
    let mut since = None;
    loop {
        let wrong = checks::misplaced(scene);
        match since {
            _ if !wrong.is_empty() && start.elapsed() > limit => return Err(wrong),
            _ if !wrong.is_empty() => since = None,
            None => since = Some(Instant::now()),
            Some(since) if since.elapsed() > STEADY => return Ok(()),
            Some(_) => {}
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Gives a pool the stake of its first waiting worker: that one must compute then, and no other waiting
/// worker.
async fn the_first_of_those_that_wait_is_served(
    scene: &mut Scene,
    limit: Duration,
) -> Result<(), Vec<String>> {
    let Some((pool, waiting)) = checks::waiting_for_stake(scene) else { return Ok(()) };
    // The same stake for all, so that only the order decides which worker is first.
    let most = waiting.iter().map(|at| scene.entries[*at].stake).max().unwrap();
    waiting.iter().for_each(|at| scene.entries[*at].stake = most);
    scene.reload().await;
    let chosen = scene.net.devnet.pools()[pool].clone();
    let missing = most.saturating_sub(chain::free_stake(scene.net.devnet.para(), chosen.pid));
    scene.net.devnet.act(Action::Contribute {
        pid: chosen.pid,
        who: chosen.operator.clone(),
        amount: missing.max(PHA),
    });
    let names: Vec<_> = waiting.iter().map(|at| scene.entries[*at].name.clone()).collect();
    scene.note(format!("{} PHA for one of {names:?} in pool {}", missing / PHA, chosen.pid));
    let before = checks::described(scene, &waiting);
    let start = Instant::now();
    loop {
        let computing: Vec<&String> = waiting
            .iter()
            .zip(&names)
            .filter(|(at, _)| scene.truth(scene.handle(**at).public_key()).stake.is_some())
            .map(|(_, name)| name)
            .collect();
        match computing[..] {
            [first] if *first == names[0] => return Ok(()),
            [] if start.elapsed() < limit => sleep(Duration::from_millis(200)).await,
            _ => {
                let mut wrong = vec![format!("{computing:?} were started, not the first of {names:?}")];
                wrong.extend(before);
                wrong.extend(checks::described(scene, &waiting));
                return Err(wrong);
            }
        }
    }
}

/// Fails the test; the scene prints its events.
fn report(seed: u64, what: &str, wrong: &[String]) -> ! {
    for line in wrong {
        eprintln!("---- {line}");
    }
    panic!("seed {seed}: {what}: {} faults, listed above", wrong.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_storm_every_worker_is_in_the_required_state() {
    let (secs, workers) =
        (variable("PRB_TEST_FLEET_STORM_SECS", 30), variable("PRB_TEST_FLEET_STORM_WORKERS", 40) as usize);
    let limit = Duration::from_secs(variable("PRB_TEST_FLEET_STORM_QUIET_SECS", 180));
    let seed = variable("PRB_TEST_FLEET_STORM_SEED", 1);
    eprintln!("fleet storm: seed {seed}, {workers} workers, {secs} s");
    let mut scene = Scene::start(workers, StdRng::seed_from_u64(seed)).await;
    // From a new fleet, as far as the stake suffices.
    if let Err(wrong) = until_in_place(&scene, limit).await {
        report(seed, "the fleet does not come up", &wrong);
    }
    scene.note("all in place".into());
    Storm::default().run(&mut scene, Duration::from_secs(secs)).await;
    // Not all of them: some keep their state.
    for at in (0..workers).step_by(2) {
        storm::give(&mut scene, at, Command::Start);
    }
    if let Err(wrong) = until_in_place(&scene, limit).await {
        report(seed, "workers are not where their settings say", &wrong);
    }
    if let Err(wrong) = the_first_of_those_that_wait_is_served(&mut scene, limit).await {
        report(seed, "the order among those that wait", &wrong);
    }
    for (what, wrong) in [
        ("stake was locked twice", checks::staked_twice(&scene)),
        ("refusals were paid for again", checks::paid_again(&scene)),
    ] {
        if !wrong.is_empty() {
            report(seed, what, &wrong);
        }
    }
    for machine in &scene.machines {
        assert_eq!(machine.handle.as_ref().unwrap().overlapping_calls(), 0, "seed {seed}: calls at once");
    }
    scene.shutdown().await;
}
