//! The chain's limits of stakes: minimum and maximum stake of a worker.
//!
//! Fixed-point numbers are U64F64, as bits in a `u128`, as stored by the chain. Sums and products saturate.

use crate::primitives::{Balance, PHA_DECIMALS};

/// One, as U64F64 bits.
const ONE: u128 = 1 << 64;
/// 0.8 and 0.7, rounded to nearest like the runtime's literals.
const EIGHT_TENTHS: u128 = 14_757_395_258_967_641_293;
const SEVEN_TENTHS: u128 = 12_912_720_851_596_686_131;
/// Units per PHA.
const PHA: Balance = 10_u128.pow(PHA_DECIMALS);

/// The chain's stake parameters (`PhalaComputation::TokenomicParameters`); numbers are U64F64 bits.
///
/// ```
/// use prb_core::chain::StakeRules;
///
/// let one = 1_u128 << 64;
/// let rules = StakeRules::new(50 * one, 30_000 * one, one + one / 2, 0, 0);
/// // 50 × √1600 PHA.
/// assert_eq!(rules.min_stake(1_600), 2_000_000_000_000_000);
/// // A factor of 1.5, and at most 30,000.
/// assert_eq!(rules.max_stake(1_600, 1), 20_000_000_000_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StakeRules {
    /// A worker's minimum stake is this times the square root of its score, in PHA.
    pub k: u128,
    /// Maximum of a session's initial value.
    pub v_max: u128,
    /// The factor on a fully trusted worker's initial value.
    pub re: u128,
    /// Cost of a machine by its score: factor.
    pub rig_k: u128,
    /// Cost of a machine by its score: constant.
    pub rig_b: u128,
}

impl StakeRules {
    /// Creates the rules from U64F64 bits.
    pub const fn new(k: u128, v_max: u128, re: u128, rig_k: u128, rig_b: u128) -> Self {
        Self { k, v_max, re, rig_k, rig_b }
    }

    /// The minimum stake of a worker with that benchmark score, in 10^-12 PHA, rounded up: k × √score.
    pub fn min_stake(&self, score: u32) -> Balance {
        let pha = mul(self.k, sqrt(score), Round::Up);
        mul(pha, PHA, Round::Up)
    }

    /// A session's initial value (ve) with that stake (in 10^-12 PHA), score and confidence level, as U64F64
    /// bits: ((re − 1) × c + 1) × (stake + rig_k × score + rig_b). Saturates at `u128::MAX`.
    pub fn initial_value(&self, stake: Balance, score: u32, confidence_level: u8) -> u128 {
        let confidence = match confidence_level {
            // As in the pallet: 128 is the level of workers without attestation; 5 and all others count as the lowest.
            1 | 2 | 3 | 128 => ONE,
            4 => EIGHT_TENTHS,
            _ => SEVEN_TENTHS,
        };
        let factor = mul(self.re.saturating_sub(ONE), confidence, Round::Down).saturating_add(ONE);
        let machine = self.rig_k.saturating_mul(u128::from(score)).saturating_add(self.rig_b);
        mul(factor, to_bits(stake).saturating_add(machine), Round::Down)
    }

    /// The maximum stake, in 10^-12 PHA, with which the initial value is within `v_max`; 0 if there is none.
    pub fn max_stake(&self, score: u32, confidence_level: u8) -> Balance {
        let fits = |stake| self.initial_value(stake, score, confidence_level) <= self.v_max;
        // The value is monotonic in the stake, so bisection finds the exact maximum under the chain's
        // rounding.
        let (mut fitting, mut too_much) = (0, Balance::MAX);
        if fits(too_much) {
            return too_much;
        }
        while too_much - fitting > 1 {
            let middle = fitting + (too_much - fitting) / 2;
            if fits(middle) { fitting = middle } else { too_much = middle }
        }
        fitting
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Down,
    Up,
}

/// Converts an amount in 10^-12 PHA to PHA as U64F64 bits, rounded down.
fn to_bits(stake: Balance) -> u128 {
    let (whole, part) = (stake / PHA, stake % PHA);
    match whole.checked_mul(ONE) {
        // `part` is below 2^40, so its shift fits.
        Some(bits) => bits.saturating_add((part << 64) / PHA),
        None => u128::MAX,
    }
}

/// The square root of a whole number as U64F64 bits, rounded up.
fn sqrt(n: u32) -> u128 {
    // The root's bits are the root of n × 2^128, which is below 2^80: the search interval contains every
    // root.
    let square = (u128::from(n), 0);
    let (mut low, mut high) = (0, 1 << 80);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if wide_mul(middle, middle) <= square { low = middle } else { high = middle }
    }
    if wide_mul(low, low) < square { low + 1 } else { low }
}

/// `a × b / 2^64`: the product of two U64F64 numbers, or of one and an integer.
fn mul(a: u128, b: u128, round: Round) -> u128 {
    let (high, low) = wide_mul(a, b);
    if high >> 64 != 0 {
        return u128::MAX;
    }
    let down = high << 64 | low >> 64;
    let rest = low & (ONE - 1) != 0;
    down.saturating_add(u128::from(rest && round == Round::Up))
}

/// The 256-bit product as its upper and lower halves.
const fn wide_mul(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = ONE - 1;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, cross_a, cross_b, high) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    let middle = (low >> 64) + (cross_a & LOW) + (cross_b & LOW);
    let lower = (low & LOW) | (middle << 64);
    (high + (cross_a >> 64) + (cross_b >> 64) + (middle >> 64), lower)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Khala's parameters of 2023, roughly: k 50, v_max 30,000, re 1.5, rig_k 0.3 / 0.08, rig_b 60 / 0.08.
    fn rules() -> StakeRules {
        StakeRules::new(50 * ONE, 30_000 * ONE, ONE + ONE / 2, 15 * ONE / 4, 750 * ONE)
    }

    #[test]
    fn the_least_stake_is_k_times_the_root_of_the_score() {
        let rules = rules();
        assert_eq!(rules.min_stake(0), 0);
        assert_eq!(rules.min_stake(1), 50 * PHA);
        assert_eq!(rules.min_stake(1_600), 2_000 * PHA);
        // 50 × √2 = 70.710678118654752…: the digit after the twelfth is rounded up.
        assert_eq!(rules.min_stake(2), 70_710_678_118_655);
        // 50 × √2000 = 2236.06797749978969…
        assert_eq!(rules.min_stake(2_000), 2_236_067_977_499_790);
    }

    #[test]
    fn the_initial_value_depends_on_stake_score_and_confidence() {
        let rules = rules();
        // (3.75 × 1000 + 750 + 5500) × 1.5
        assert_eq!(rules.initial_value(5_500 * PHA, 1_000, 1), 15_000 * ONE);
        for level in [2, 3, 128] {
            assert_eq!(rules.initial_value(5_500 * PHA, 1_000, level), 15_000 * ONE);
        }
        let pha = |level| rules.initial_value(5_500 * PHA, 1_000, level) as f64 / ONE as f64;
        assert!((pha(4) - 14_000.0).abs() < 1e-9, "{}", pha(4));
        for level in [0, 5, 127, 129, 255] {
            assert!((pha(level) - 13_500.0).abs() < 1e-9, "{level}: {}", pha(level));
        }
    }

    #[test]
    fn the_largest_stake_is_the_last_one_whose_value_fits() {
        let rules = rules();
        // 20,000 − 4,500
        assert_eq!(rules.max_stake(1_000, 1), 15_500 * PHA);
        for level in [1, 4, 5] {
            let max = rules.max_stake(1_777, level);
            assert!(rules.initial_value(max, 1_777, level) <= rules.v_max);
            // One unit more is less than a fixed-point step may show; a millionth of a PHA is not.
            assert!(rules.initial_value(max + 1_000_000, 1_777, level) > rules.v_max);
        }
        // The machine alone is worth more than is allowed.
        assert_eq!(rules.max_stake(1_000_000, 1), 0);
    }

    #[test]
    fn nothing_overflows() {
        let most = StakeRules::new(u128::MAX, u128::MAX, u128::MAX, u128::MAX, u128::MAX);
        // More PHA than a fixed-point number holds, and so more than there can be.
        assert!(most.min_stake(u32::MAX) >= PHA << 64);
        assert_eq!(most.initial_value(u128::MAX, u32::MAX, 1), u128::MAX);
        assert_eq!(most.max_stake(u32::MAX, 1), u128::MAX);
        let none = StakeRules::default();
        assert_eq!((none.min_stake(u32::MAX), none.max_stake(0, 1)), (0, 0));
    }

    proptest! {
        #[test]
        fn wide_products_are_right(a: u128, b: u64) {
            // In 64-bit parts, with carries by hand.
            let low = (a & (ONE - 1)) * u128::from(b);
            let high = (a >> 64) * u128::from(b) + (low >> 64);
            prop_assert_eq!(wide_mul(a, u128::from(b)), (high >> 64, high << 64 | (low & (ONE - 1))));
            prop_assert_eq!(wide_mul(u128::from(b), a), wide_mul(a, u128::from(b)));
        }

        #[test]
        fn roots_are_the_next_number_up(n: u32) {
            let root = sqrt(n);
            prop_assert!(wide_mul(root, root) >= (u128::from(n), 0));
            prop_assert!(root == 0 || wide_mul(root - 1, root - 1) < (u128::from(n), 0));
        }

        #[test]
        fn the_value_grows_with_the_stake(stake in 0..u128::MAX / 2, more: u64, score: u32, level: u8) {
            let rules = rules();
            let value = |stake| rules.initial_value(stake, score, level);
            prop_assert!(value(stake) <= value(stake + u128::from(more)));
        }
    }
}
