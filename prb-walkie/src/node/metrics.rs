//! Metrics of a node.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::rpc::Method;

const CALLS: &str = "prb_walkie_calls_total";
const SECONDS: &str = "prb_walkie_call_seconds";
const REFUSED: &str = "prb_walkie_refused_total";
const PEERS: &str = "prb_walkie_peers";
const CONNECTIONS: &str = "prb_walkie_connections";
const DIALS: &str = "prb_walkie_dials_total";

pub(super) fn describe() {
    describe_counter!(CALLS, "Calls between peers, by side (in, out), method and outcome");
    describe_histogram!(SECONDS, "Duration of calls between peers, by side and method");
    describe_counter!(REFUSED, "Inbound calls refused unread, by reason");
    describe_gauge!(PEERS, "Peers in the table, by whether they are connected");
    describe_gauge!(CONNECTIONS, "Connections with peers");
    describe_counter!(DIALS, "Dials of peers, by outcome");
}

/// Counts a call. `None` stands for a method that this service does not have.
pub(super) fn call(side: &'static str, method: Option<Method>, outcome: &'static str, took: Duration) {
    let method = method.map_or("other", Method::name);
    counter!(CALLS, "side" => side, "method" => method, "outcome" => outcome).increment(1);
    histogram!(SECONDS, "side" => side, "method" => method).record(took.as_secs_f64());
}

/// Counts a call over `/blob`.
pub(super) fn blob(outcome: &'static str, took: Duration) {
    counter!(CALLS, "side" => "in", "method" => "/blob", "outcome" => outcome).increment(1);
    histogram!(SECONDS, "side" => "in", "method" => "/blob").record(took.as_secs_f64());
}

/// Counts a call that was refused unread.
pub(super) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub(super) fn peers(connected: usize, away: usize) {
    gauge!(PEERS, "connected" => "yes").set(connected as f64);
    gauge!(PEERS, "connected" => "no").set(away as f64);
}

pub(super) fn connections(n: u32) {
    gauge!(CONNECTIONS).set(f64::from(n));
}

pub(super) fn dial(outcome: &'static str) {
    counter!(DIALS, "outcome" => outcome).increment(1);
}
