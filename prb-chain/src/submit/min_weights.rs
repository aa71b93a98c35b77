//! Minimum estimates of the block capacity that calls use, whatever the runtime declares for them.
//!
//! Phala's pallets declare no weight for most of their calls, 195,000,000 ps for `restart_computing`, and 100
//! µs without proof size for `sync_offchain_message`. A block filled by those figures would take seconds to
//! execute and have a proof several times the relay chain's limit, so it would not be backed.

use prb_core::chain::Call;

use crate::metadata::BlockLimits;

/// One microsecond in picoseconds.
const MICROSECOND: u128 = 1_000_000;
/// One KiB in bytes.
const KIB: u128 = 1_024;

/// Execution time in picoseconds, and proof size in bytes.
pub(super) type Taken = [u128; 2];

/// The base cost of a transaction: fee, nonce, and the batch or proxy around the calls.
const TRANSACTION: Taken = [500 * MICROSECOND, 16 * KIB];

/// The minimum of each kind of call; `None` for one that this crate does not know, which is not sent. Each storage item
/// that a call accesses adds 1 to 2 KiB of trie nodes to the proof, besides its value; a call accesses four to eight.
fn floor(call: &Call) -> Option<Taken> {
    Some(match call {
        // One sr25519 verification in wasm (150 to 200 µs), and the message's handler: sessions, stakes, payouts.
        Call::SyncOffchainMessage(_) => [300 * MICROSECOND, 8 * KIB],
        // The attestation's certificate chain and quote: several signature checks, 1 to 2 ms in wasm.
        Call::RegisterWorker { .. } | Call::RegisterWorkerV1 { .. } => [2_500 * MICROSECOND, 8 * KIB],
        // One sr25519 verification, one worker's items.
        Call::UpdateWorkerEndpoint { .. } => [300 * MICROSECOND, 4 * KIB],
        // The pool's two structures with up to 200 workers each count once in a batch's proof, but each call decodes
        // and encodes them.
        Call::AddWorker { .. } | Call::RemoveWorker { .. } => [300 * MICROSECOND, 8 * KIB],
        // The same, plus the session, and a transfer between two accounts of an asset.
        Call::StartComputing { .. } | Call::StopComputing { .. } | Call::ReclaimWorker { .. } => {
            [400 * MICROSECOND, 8 * KIB]
        }
        // A stop, a reclaim and a start in one.
        Call::RestartComputing { .. } => [1_000 * MICROSECOND, 12 * KIB],
        // `Call` is non-exhaustive.
        _ => return None,
    })
}

/// The minimum of a batch.
pub(super) fn of_batch(calls: &[Call]) -> Taken {
    calls.iter().filter_map(floor).fold(TRANSACTION, plus)
}

/// The number of calls, from the first on, that use at most `percent` of a block by [`BlockLimits::share`];
/// and what limits them, if not all fit.
pub(super) fn fitting(calls: &[Call], limits: &BlockLimits, percent: u128) -> (usize, Option<&'static str>) {
    let most = limits.share(percent);
    let mut taken = TRANSACTION;
    for (count, call) in calls.iter().enumerate() {
        taken = plus(taken, floor(call).unwrap_or_default());
        let over = taken.iter().zip(most).position(|(taken, most)| *taken > most);
        if let Some(part) = over {
            return (count, Some(["execution time", "proof size"][part]));
        }
    }
    (calls.len(), None)
}

fn plus(a: Taken, b: Taken) -> Taken {
    [a[0].saturating_add(b[0]), a[1].saturating_add(b[1])]
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::{PoolId, WorkerKey};

    use super::*;

    fn add() -> Call {
        Call::AddWorker { pool: PoolId(1), worker: WorkerKey([1; 32]) }
    }

    fn register() -> Call {
        Call::RegisterWorker {
            worker: WorkerKey([1; 32]),
            runtime_info: vec![],
            attestation: vec![],
            replaces: None,
        }
    }

    /// With Khala's limits and observed backlogs of the real chain: no batch exceeds its share.
    #[test]
    fn batches_stay_within_their_share_without_declared_weights() {
        let limits = BlockLimits::default();
        for (call, percent, most) in
            [(add(), 50, 250), (add(), 85, 420), (register(), 50, 80), (register(), 85, 130)]
        {
            let calls = vec![call; 3_000];
            let (fits, why) = fitting(&calls, &limits, percent);
            assert!(fits >= 60 && fits <= most, "{}: {fits}", calls[0].name());
            assert!(why.is_some());
            let [time, proof] = of_batch(&calls[..fits]);
            assert!(time <= 375_000 * MICROSECOND * percent / 100 && proof <= 3_932_160 * percent / 100);
        }
        assert_eq!(fitting(&[add()], &limits, 1), (1, None));
        assert_eq!(fitting(&[], &limits, 1), (0, None));
    }

    #[test]
    fn every_call_has_a_minimum() {
        for call in Call::samples() {
            assert!(floor(&call).is_some_and(|floor| floor.iter().all(|part| *part > 0)), "{call:?}");
        }
    }
}
