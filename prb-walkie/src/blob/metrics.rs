//! Metrics of blobs.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

const REQUESTS: &str = "prb_blob_server_requests_total";
const QUEUED: &str = "prb_blob_server_queued_bytes";
const CONNECTIONS: &str = "prb_blob_server_connections";
const REFUSED: &str = "prb_blob_server_refused_total";
const ENDED: &str = "prb_blob_server_ended_total";
const ACCEPT_ERRORS: &str = "prb_blob_server_accept_errors_total";
const DISCONNECTS: &str = "prb_blob_client_disconnects_total";
const HEDGED: &str = "prb_blob_hedged_requests_total";
const USABLE: &str = "prb_blob_providers_usable";
// Older than the word "suspended", and kept for dashboards.
const ASIDE: &str = "prb_blob_providers_put_aside_total";

pub(super) fn describe_server() {
    describe_counter!(REQUESTS, "Requests to the blob server, by outcome: found, missing");
    describe_gauge!(QUEUED, "Bytes of blobs that are assembled and not yet written to their sockets");
    describe_gauge!(CONNECTIONS, "Connections of the blob server");
    describe_counter!(REFUSED, "Connections that the blob server refused because there were too many");
    describe_counter!(ENDED, "Connections of the blob server that ended, by reason");
    describe_counter!(ACCEPT_ERRORS, "Connections that could not be accepted");
}

pub(super) fn describe_remote() {
    describe_counter!(DISCONNECTS, "Connections to data providers that were lost or could not be made");
    describe_counter!(HEDGED, "Requests also sent to a second data provider because the first was slow");
    describe_gauge!(USABLE, "Data providers that can be asked now");
    describe_counter!(ASIDE, "Times that a data provider was suspended");
}

/// Requests by outcome.
pub(super) fn requests(found: bool) -> Counter {
    counter!(REQUESTS, "outcome" => if found { "found" } else { "missing" })
}

pub(super) fn queued() -> Gauge {
    gauge!(QUEUED)
}

pub(super) fn connections(open: usize) {
    gauge!(CONNECTIONS).set(open as f64);
}

pub(super) fn refused() {
    counter!(REFUSED).increment(1);
}

pub(super) fn ended(reason: &'static str) {
    counter!(ENDED, "reason" => reason).increment(1);
}

pub(super) fn accept_error() {
    counter!(ACCEPT_ERRORS).increment(1);
}

pub(super) fn disconnected() {
    counter!(DISCONNECTS).increment(1);
}

pub(super) fn hedged() {
    counter!(HEDGED).increment(1);
}

pub(super) fn usable(providers: usize) {
    gauge!(USABLE).set(providers as f64);
}

pub(super) fn suspended() {
    counter!(ASIDE).increment(1);
}
