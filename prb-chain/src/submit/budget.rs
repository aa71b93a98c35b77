//! Checks whether a transaction fits into its share of a block, and how many of its calls would.

use prb_core::chain::{Call, SubmitError};

use super::{min_weights, prepare::Prepared};
use crate::metadata::BlockLimits;

/// Refuses more calls than the batch pallet accepts, and those that exceed `percent` of a block by our own
/// minimum estimates, whatever the runtime declares.
pub(super) fn check_calls(
    calls: &[Call],
    most: Option<u32>,
    limits: &BlockLimits,
    percent: u128,
) -> Result<(), SubmitError> {
    let too_large = |fits, reason| Err(SubmitError::TooLarge { calls: calls.len(), fits, reason });
    if let Some(most) = most.map(|most| most as usize).filter(|most| calls.len() > *most) {
        return too_large(most, format!("a batch may have {most} calls"));
    }
    match min_weights::fitting(calls, limits, percent) {
        // A single call is always sent: the chain must refuse it.
        (0, Some(_)) if calls.len() == 1 => Ok(()),
        (fits, Some(what)) => {
            let [time, proof] = min_weights::of_batch(calls);
            let reason = format!(
                "it is estimated to take {} ms and {proof} bytes of proof, but a transaction may take {percent}% of \
                 a block's {what}",
                time / 1_000_000_000
            );
            too_large(fits, reason)
        }
        (_, None) => Ok(()),
    }
}

/// Refuses a transaction that is longer than its share.
pub(super) fn check_bytes(prepared: &Prepared, limit: u128) -> Result<(), SubmitError> {
    check(prepared, prepared.extrinsic.len() as u128, Some(limit), "bytes")
}

/// Refuses a transaction whose declared weight exceeds its share.
pub(super) fn check_weight(
    prepared: &Prepared,
    limits: [Option<u128>; 2],
    weight: [u128; 2],
) -> Result<(), SubmitError> {
    // A single call is always sent: the chain must refuse it.
    if prepared.calls == 1 {
        return Ok(());
    }
    check(prepared, weight[0], limits[0], "picoseconds")?;
    check(prepared, weight[1], limits[1], "bytes of proof")
}

fn check(prepared: &Prepared, takes: u128, limit: Option<u128>, unit: &str) -> Result<(), SubmitError> {
    let Some(limit) = limit.filter(|limit| takes > *limit) else { return Ok(()) };
    Err(SubmitError::TooLarge {
        calls: prepared.calls,
        fits: fitting(prepared.calls, takes, limit),
        reason: format!("it takes {takes} {unit}, but a transaction may take {limit} of a block"),
    })
}

/// The number of calls that would fit if all were alike; fewer than there are.
fn fitting(calls: usize, takes: u128, limit: u128) -> usize {
    let share = (calls as u128).saturating_mul(limit) / takes.max(1);
    usize::try_from(share).unwrap_or(usize::MAX).min(calls.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::{PoolId, WorkerKey};

    use super::*;

    #[test]
    fn each_retry_has_fewer_calls() {
        assert_eq!(fitting(1_000, 2_000, 1_000), 500);
        assert_eq!(fitting(1_000, 1_001, 1_000), 999);
        assert_eq!(fitting(3, 1_000_001, 1_000_000), 2);
        assert_eq!(fitting(1, 2, 1), 0);
        assert_eq!(fitting(10, 1_000, 1), 0);
    }

    #[test]
    fn reported_number_of_calls_fits() {
        let add = Call::AddWorker { pool: PoolId(1), worker: WorkerKey([1; 32]) };
        let calls = vec![add; 3_000];
        let limits = BlockLimits::default();
        for (most, expected) in [(Some(10), 10), (None, 238)] {
            match check_calls(&calls, most, &limits, 50) {
                Err(SubmitError::TooLarge { calls: 3_000, fits, .. }) => {
                    assert_eq!(fits, expected);
                    assert!(check_calls(&calls[..fits], most, &limits, 50).is_ok());
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(check_calls(&calls[..1], None, &limits, 0).is_ok(), "one call is for the chain to refuse");
    }
}
