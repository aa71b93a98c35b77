//! Every fault of docs/nodes.md alone and in pairs, with one node and with a good one beside it: everything is
//! stored within the bound, nothing wrong is, and the log says what is wrong without repeating itself for ever.
//!
//! `PRB_TEST_PAIRS` says how many pairs are run, or `all`; with it, bursts of changes have 20 MB. `PRB_TEST_FAULT`
//! runs those cases alone that have this in their names.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

#[path = "matrix/chains.rs"]
mod chains;
#[path = "matrix/endless.rs"]
mod endless;
#[path = "matrix/log.rs"]
mod log;
#[path = "matrix/rig.rs"]
mod rig;
#[path = "matrix/troubles.rs"]
mod troubles;

use rig::{Case, run_all};
use troubles::{ALL, Alone};

/// Pairs of a usual run.
const PAIRS: usize = 24;

#[test]
fn each_fault_beside_a_good_node() {
    run_all(ALL.iter().map(|trouble| Case::beside_a_good_node(&[trouble])).collect());
}

#[test]
fn each_fault_of_the_only_node() {
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
    // A stride that has no divisor in common with a row's length meets every fault.
    let stride = pairs.len().div_ceil(wanted.max(1)) | 1;
    let stride = if wanted >= pairs.len() { 1 } else { stride };
    run_all(pairs.into_iter().step_by(stride).collect());
}

/// How long an answer is waited for; the bounds of docs/nodes.md shrink with it.
const ANSWER: Duration = Duration::from_millis(300);
/// A case that takes longer stalls, on however busy a machine.
const BOUND: Duration = Duration::from_secs(20);
