//! What a daemon's view is as metrics.

use metrics::{describe_gauge, gauge};

use crate::progress::{Shown, View};

const HEIGHT: &str = "prb_height";
const JOBS: &str = "prb_jobs";
const PEERS: &str = "prb_usable_peers";

pub(super) fn describe() {
    describe_gauge!(
        HEIGHT,
        "Newest block by chain (relay, para) and kind (held: can be given; target: finalised)"
    );
    describe_gauge!(JOBS, "Jobs of the trade queue that are not ended, by state");
    describe_gauge!(
        PEERS,
        "Connected peers of this chain and bridge identity; of a lifecycle manager, its data providers"
    );
}

pub(super) fn set(view: &View) {
    let heights = &view.heights;
    for (chain, kind, height) in [
        ("relay", "held", heights.relay.map(|n| n.0)),
        ("relay", "target", heights.relay_target.map(|n| n.0)),
        ("para", "held", heights.para.map(|n| n.0)),
        ("para", "target", heights.para_target.map(|n| n.0)),
    ] {
        if let Some(height) = height {
            gauge!(HEIGHT, "chain" => chain, "kind" => kind).set(height);
        }
    }
    match view.shown {
        Shown::Provider { peers: n } | Shown::Manager { providers: n } | Shown::Monitor { peers: n } => {
            gauge!(PEERS).set(n as f64)
        }
        Shown::Everything | Shown::Trader => {}
    }
    if matches!(view.shown, Shown::Provider { .. } | Shown::Monitor { .. }) {
        return;
    }
    let jobs = &view.jobs;
    for (state, count) in [("waiting", jobs.waiting), ("delayed", jobs.delayed), ("active", jobs.active)] {
        gauge!(JOBS, "state" => state).set(count as f64);
    }
}
