//! Time limits of the parts of an ordered shutdown. Those of parts that stop one after the other add up to less than
//! [`WHOLE`], so that a part that takes its whole time takes none from those after it, such as the trader, which has to
//! hand back its jobs.

use std::time::Duration;

/// All parts. What is left of five seconds is for blocking work, see `main.rs`.
pub(crate) const WHOLE: Duration = Duration::from_millis(4500);
/// Ports that are closed at once, and tasks that have nothing to finish.
pub(crate) const HELPERS: Duration = Duration::from_millis(200);
/// Answers to calls of peers.
pub(crate) const CALLS: Duration = Duration::from_millis(300);
/// The connections of peers, after the answers.
pub(crate) const CONNECTIONS: Duration = Duration::from_millis(200);
/// Workers, which write what is to be kept of them.
pub(crate) const WORKERS: Duration = Duration::from_millis(1200);
/// The trader's batches; it then has [`STOP_GRACE`](prb_core::trade::Trader::STOP_GRACE) to hand back its jobs.
pub(crate) const TRADER: Duration = Duration::from_millis(1000);
/// The connection to the queue.
pub(crate) const QUEUE: Duration = Duration::from_millis(300);
/// Blobs that are being sent.
pub(crate) const BLOBS: Duration = Duration::from_millis(1000);
/// Blocks that are being stored.
pub(crate) const INGEST: Duration = Duration::from_millis(1000);

#[cfg(test)]
mod tests {
    use prb_core::trade::Trader;

    use super::*;

    #[test]
    fn parts_fit_into_the_whole() {
        let peers = CALLS + CONNECTIONS;
        let trader = TRADER + Trader::STOP_GRACE + QUEUE;
        let fleet = WORKERS + trader + HELPERS;
        for (daemon, parts) in [
            ("lifecycle", peers.max(HELPERS) + fleet + HELPERS),
            ("all", HELPERS + fleet.max(INGEST)),
            ("data-provider", peers + BLOBS + INGEST),
            ("trader", trader + HELPERS),
            ("monitor", HELPERS + peers),
        ] {
            assert!(parts < WHOLE, "{daemon}: {parts:?}");
        }
    }
}
