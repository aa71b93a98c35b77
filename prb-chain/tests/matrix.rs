//! Tests of all faults in docs/nodes.md, alone and in pairs, with one node and with a good one beside it:
//! everything is stored within the time limit, nothing wrong is stored, and the log names the fault without
//! repeating itself endlessly.
//!
//! `PRB_TEST_PAIRS` sets the number of pairs, or `all`; `PRB_TEST_DRAWN` the number of random cases, and
//! `PRB_TEST_SEED` the first one's seed. `PRB_TEST_FAULT` selects the cases with this text in their names.
//! `PRB_TEST_BURST` sets the size of a block with many small changes, in bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

#[path = "matrix/chains.rs"]
mod chains;
#[path = "matrix/faults.rs"]
mod faults;
#[path = "matrix/log.rs"]
mod log;
#[path = "matrix/proxy.rs"]
mod proxy;
#[path = "matrix/rig.rs"]
mod rig;
#[path = "support/workers.rs"]
mod workers;

use faults::{ALL, Alone, corrupted, drawn};
use proxy::Corruption;
use rand::{SeedableRng, rngs::StdRng};
use rig::{Case, run_all};

/// Pairs in a default run.
const PAIRS: usize = 24;
/// Random cases in a default run.
const DRAWN: u64 = 16;

#[test]
fn every_fault_beside_a_good_node() {
    run_all(ALL.iter().map(|fault| Case::beside_a_good_node(&[fault])).collect());
}

#[test]
fn every_fault_of_the_only_node() {
    let alone = ALL.iter().filter(|fault| fault.alone != Alone::Never);
    run_all(alone.map(Case::of_the_only_node).collect());
}

#[test]
fn pairs_of_faults_beside_a_good_node() {
    let mut pairs = Vec::new();
    for (at, one) in ALL.iter().enumerate() {
        let others = ALL[at + 1..].iter().filter(|other| !one.excludes(other));
        pairs.extend(others.map(|other| Case::beside_a_good_node(&[one, other])));
    }
    let wanted = match std::env::var("PRB_TEST_PAIRS") {
        Ok(all) if all == "all" => pairs.len(),
        Ok(count) => count.parse().unwrap(),
        Err(_) => PAIRS,
    };
    // A stride coprime to a row's length covers every fault.
    let stride = pairs.len().div_ceil(wanted.max(1)) | 1;
    let stride = if wanted >= pairs.len() { 1 } else { stride };
    run_all(pairs.into_iter().step_by(stride).collect());
}

/// A number from the environment.
fn number_from_env(name: &str, usually: u64) -> u64 {
    std::env::var(name).map_or(usually, |number| number.parse().unwrap())
}

#[test]
fn faults_drawn_at_random_beside_a_good_node() {
    let first = number_from_env("PRB_TEST_SEED", 1);
    let cases = (first..first + number_from_env("PRB_TEST_DRAWN", DRAWN)).map(|seed| {
        let faults = drawn(&mut StdRng::seed_from_u64(seed));
        Case::beside_a_good_node(&faults).with_seed(seed)
    });
    run_all(cases.collect());
}

#[test]
fn messages_corrupted_in_every_way_beside_a_good_node() {
    let seed = number_from_env("PRB_TEST_SEED", 1);
    let cases =
        Corruption::ALL.map(|corrupt| Case::beside_a_good_node(&[corrupted(corrupt)]).with_seed(seed));
    run_all(cases.into());
}

#[test]
fn messages_of_the_only_node_corrupted_in_every_way() {
    let seed = number_from_env("PRB_TEST_SEED", 1);
    run_all(Corruption::ALL.map(|corrupt| Case::of_the_only_node(corrupted(corrupt)).with_seed(seed)).into());
}

/// How long an answer is waited for; the bounds of docs/nodes.md shrink with it.
const ANSWER: Duration = Duration::from_millis(300);
/// A case that takes longer is stalled, even on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
