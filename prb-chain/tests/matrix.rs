//! Tests of all faults in docs/nodes.md, alone and in pairs, with one node and with a good one beside it:
//! everything is stored within the time limit, nothing wrong is stored, and the log names the fault without
//! repeating itself endlessly.
//!
//! `PRB_TEST_PAIRS` sets the number of pairs, or `all`; if it is set, bursts of changes have 20 MB.
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

/// Pairs in a default run.
const PAIRS: usize = 24;

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

/// Request timeout; the limits of docs/nodes.md shrink with it.
const ANSWER: Duration = Duration::from_millis(300);
/// A case that takes longer is stalled, even on a busy machine.
const BOUND: Duration = Duration::from_secs(20);
