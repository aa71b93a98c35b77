//! Tests of all faults in docs/nodes.md, alone and in pairs, with one node and with a good one beside it:
//! everything is stored within the time limit, nothing wrong is stored, and the log names the fault without
//! repeating itself endlessly.
//!
//! `PRB_TEST_PAIRS` says how many pairs are run, or `all`. `PRB_TEST_DRAWN` says how many cases are drawn at random,
//! `PRB_TEST_SEED` the first one's seed. `PRB_TEST_FAULT` runs those cases alone that have this in their names.
//! `PRB_TEST_BURST` says how many bytes a block changes that has many small changes.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

#[path = "matrix/chains.rs"]
mod chains;
#[path = "matrix/log.rs"]
mod log;
#[path = "matrix/proxy.rs"]
mod proxy;
#[path = "matrix/rig.rs"]
mod rig;
#[path = "matrix/troubles.rs"]
mod troubles;
#[path = "support/workers.rs"]
mod workers;

use proxy::Mangle;
use rand::{SeedableRng, rngs::StdRng};
use rig::{Case, run_all};
use troubles::{ALL, Alone, drawn, mangled};

/// Pairs in a default run.
const PAIRS: usize = 24;
/// Cases that are drawn in a usual run.
const DRAWN: u64 = 16;

#[test]
fn every_fault_beside_a_good_node() {
    run_all(ALL.iter().map(|trouble| Case::beside_a_good_node(&[trouble])).collect());
}

#[test]
fn every_fault_of_the_only_node() {
    let alone = ALL.iter().filter(|trouble| trouble.alone != Alone::Never);
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
fn number(name: &str, usually: u64) -> u64 {
    std::env::var(name).map_or(usually, |number| number.parse().unwrap())
}

#[test]
fn faults_drawn_at_random_beside_a_good_node() {
    let first = number("PRB_TEST_SEED", 1);
    let cases = (first..first + number("PRB_TEST_DRAWN", DRAWN)).map(|seed| {
        let troubles = drawn(&mut StdRng::seed_from_u64(seed));
        Case::beside_a_good_node(&troubles).with_seed(seed)
    });
    run_all(cases.collect());
}

#[test]
fn messages_mangled_in_every_way_beside_a_good_node() {
    let seed = number("PRB_TEST_SEED", 1);
    let cases = Mangle::ALL.map(|mangle| Case::beside_a_good_node(&[mangled(mangle)]).with_seed(seed));
    run_all(cases.into());
}

#[test]
fn messages_of_the_only_node_mangled_in_every_way() {
    let seed = number("PRB_TEST_SEED", 1);
    run_all(Mangle::ALL.map(|mangle| Case::of_the_only_node(mangled(mangle)).with_seed(seed)).into());
}

/// How long an answer is waited for; the bounds of docs/nodes.md shrink with it.
const ANSWER: Duration = Duration::from_millis(300);
/// A case that takes longer is stalled, even on a busy machine.
const BOUND: Duration = Duration::from_secs(20);
