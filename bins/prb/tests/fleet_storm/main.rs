//! A fleet under everything that operators, owners, machines and nodes do to it at once: at the end every worker
//! is where its settings say, and nobody has paid for it twice.
//!
//! `PRB_TEST_FLEET_STORM_SECS` (30), `PRB_TEST_FLEET_STORM_WORKERS` (40), `PRB_TEST_FLEET_STORM_QUIET_SECS` (180, the
//! most that it takes until all is in place) and `PRB_TEST_FLEET_STORM_SEED` (1) make it another run; the full check
//! is one of 600 seconds and 300 workers.
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

/// How long all stays in place before it counts.
const STEADY: Duration = Duration::from_secs(4);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Waits until nothing is out of place, for a while.
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

/// Gives a pool what its first waiting worker needs: that one computes then, and no other of those that waited.
async fn the_first_of_those_that_wait_is_served(
    scene: &mut Scene,
    limit: Duration,
) -> Result<(), Vec<String>> {
    let Some((pool, waiting)) = checks::waiting_for_stake(scene) else { return Ok(()) };
    // The same for all: who comes first is a matter of the order alone.
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
            _ => return Err(vec![format!("{computing:?} were started, not the first of {names:?}")]),
        }
    }
}

/// Fails; the scene lists its events then.
fn report(seed: u64, what: &str, wrong: &[String]) -> ! {
    for line in wrong {
        eprintln!("---- {line}");
    }
    panic!("seed {seed}: {what}: {} faults, listed above", wrong.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_every_worker_ends_where_its_settings_say() {
    let (secs, workers) =
        (variable("PRB_TEST_FLEET_STORM_SECS", 30), variable("PRB_TEST_FLEET_STORM_WORKERS", 40) as usize);
    let limit = Duration::from_secs(variable("PRB_TEST_FLEET_STORM_QUIET_SECS", 180));
    let seed = variable("PRB_TEST_FLEET_STORM_SEED", 1);
    eprintln!("fleet storm: seed {seed}, {workers} workers, {secs} s");
    let mut scene = Scene::start(workers, StdRng::seed_from_u64(seed)).await;
    // From nothing, as far as the stake goes.
    if let Err(wrong) = until_in_place(&scene, limit).await {
        report(seed, "the fleet does not come up", &wrong);
    }
    scene.note("all in place".into());
    Storm::default().run(&mut scene, Duration::from_secs(secs)).await;
    // Not all of them: some stay as they were left.
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
