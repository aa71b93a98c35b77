//! Whether a transaction fits in a block, and how many of its calls would.

use prb_core::chain::SubmitError;

use super::prepare::Prepared;

/// What is measured, in the order of weights.
const WEIGHT: [&str; 2] = ["picoseconds", "bytes of proof"];
const BYTES: [&str; 2] = ["bytes", ""];

/// Refuses a transaction that takes more than `limits` of a block, in weight if one is given, else in bytes.
pub(super) fn check<const N: usize>(
    prepared: &Prepared,
    limits: [Option<u128>; N],
    weight: Option<[u128; N]>,
) -> Result<(), SubmitError> {
    let units = if weight.is_some() { WEIGHT } else { BYTES };
    let takes = weight.unwrap_or([prepared.extrinsic.len() as u128; N]);
    for ((limit, takes), unit) in limits.into_iter().zip(takes).zip(units) {
        let Some(limit) = limit.filter(|limit| takes > *limit) else { continue };
        return Err(SubmitError::TooLarge {
            calls: prepared.calls,
            fits: fitting(prepared.calls, takes, limit),
            reason: format!("it takes {takes} {unit}, and a transaction may take {limit} of a block"),
        });
    }
    Ok(())
}

/// Refuses a transaction of more calls than the batch pallet takes.
pub(super) fn check_calls(prepared: &Prepared, limit: usize) -> Result<(), SubmitError> {
    if prepared.calls <= limit {
        return Ok(());
    }
    let reason = format!("a batch may have {limit} calls");
    Err(SubmitError::TooLarge { calls: prepared.calls, fits: limit, reason })
}

/// How many of the calls fit, if all are alike: fewer than there are.
fn fitting(calls: usize, takes: u128, limit: u128) -> usize {
    let share = (calls as u128).saturating_mul(limit) / takes.max(1);
    usize::try_from(share).unwrap_or(usize::MAX).min(calls.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_calls_are_tried_each_time() {
        assert_eq!(fitting(1_000, 2_000, 1_000), 500);
        assert_eq!(fitting(1_000, 1_001, 1_000), 999);
        assert_eq!(fitting(3, 1_000_001, 1_000_000), 2);
        assert_eq!(fitting(1, 2, 1), 0);
        assert_eq!(fitting(10, 1_000, 1), 0);
    }
}
