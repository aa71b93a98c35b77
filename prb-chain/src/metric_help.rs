//! Help texts of this crate's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

const GAUGES: [(&str, &str); 4] = [
    ("prb_chain_finalized", "Newest finalised block announced by a node, by chain"),
    ("prb_reader_block", "Parachain block of the newest view of the chain"),
    ("prb_rpc_node_lacks", "1 if a chain node lacks a required capability, by chain, node and capability"),
    (
        "prb_trade_account_shared",
        "1 if another program has sent from the operator's account within the last hour, otherwise 0, by account",
    ),
];

const COUNTERS: [(&str, &str); 12] = [
    ("prb_history_faults_total", "Failures of history sources, by part"),
    ("prb_ingest_failures_total", "Failures to fetch or verify blocks, by part"),
    ("prb_ingest_rechecks_total", "Ranges of storage changes fetched again from another node, by outcome"),
    (
        "prb_ingest_suspects_total",
        "Blocks whose storage changes a worker refused, by outcome: taken for a recheck, or full",
    ),
    ("prb_reader_failures_total", "Failures to read on-chain state"),
    ("prb_reader_snapshots_total", "Snapshots of the on-chain state, by cause"),
    ("prb_reader_unreadable_values_total", "On-chain values that could not be read"),
    ("prb_rpc_calls_total", "Calls to chain nodes, by chain and method"),
    ("prb_rpc_connections_total", "Connections to chain nodes that were made, by chain and node"),
    ("prb_rpc_node_demotions_total", "Demotions of a chain node for a wrong answer, by chain and node"),
    ("prb_rpc_round_trips_total", "Round trips to chain nodes, by chain; requests sent together count once"),
    (
        "prb_trade_nonces_lost_total",
        "Transactions whose nonce another program's transaction got, by where: in the pool, or in the chain",
    ),
];

const HISTOGRAMS: [(&str, &str); 2] = [
    ("prb_blob_assembly_seconds", "Time to assemble a blob from the store, by kind"),
    ("prb_rpc_request_seconds", "Duration of requests to chain nodes, by chain"),
];

/// Registers the help texts with the recorder.
///
/// Node pools and stores call it when they are created, because everything else in the crate needs one of them.
/// Repeated calls do no harm.
pub(crate) fn describe() {
    for (name, text) in GAUGES {
        describe_gauge!(name, text);
    }
    for (name, text) in COUNTERS {
        describe_counter!(name, text);
    }
    for (name, text) in HISTOGRAMS {
        describe_histogram!(name, Unit::Seconds, text);
    }
}
