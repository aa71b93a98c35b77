//! Stake rules: `PhalaComputation::TokenomicParameters` and the values computed from it.
//!
//! Numbers are U64F64 bits; balances are converted through U80F48 as in Phala's pallets, so that a stake
//! exactly at a limit is treated the same.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::U256;

use crate::PHA;

/// Fractional bits of U64F64.
const FRACTION_BITS: u32 = 64;
/// Fractional bits of U80F48, the form in which balances are converted.
const BALANCE_BITS: u32 = 48;
/// One, as U64F64 bits.
const ONE: u128 = 1 << FRACTION_BITS;

/// The tokenomic parameters.
#[derive(
    Encode,
    Decode,
    DecodeWithMemTracking,
    TypeInfo,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct TokenomicParameters {
    /// Price of a PHA.
    pub pha_rate: u128,
    /// Growth of V per block.
    pub rho: u128,
    /// PHA paid out per block.
    pub budget_per_block: u128,
    /// The maximum of a session's initial V.
    pub v_max: u128,
    /// Cost of operation per block by score: factor.
    pub cost_k: u128,
    /// Cost of operation per block by score: fixed part.
    pub cost_b: u128,
    /// Part of V that an unresponsive worker loses per block.
    pub slash_rate: u128,
    /// The treasury's part of the rewards.
    pub treasury_ratio: u128,
    /// Blocks within which a challenged worker must answer.
    pub heartbeat_window: u32,
    /// Cost of a machine by score: factor.
    pub rig_k: u128,
    /// Cost of a machine by score: fixed part.
    pub rig_b: u128,
    /// The factor of a fully trusted worker's initial V.
    pub re: u128,
    /// The minimum stake is this times the square root of the score, in PHA.
    pub k: u128,
    /// Not in use.
    pub kappa: u128,
}

/// A decimal fraction as U64F64 bits.
const fn fixed(numerator: u128, denominator: u128) -> u128 {
    // Integer part and remainder separately, because the product of both would overflow.
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    (whole << FRACTION_BITS) + ((rest << FRACTION_BITS) / denominator)
}

impl TokenomicParameters {
    /// The values of Phala's genesis (source: the default genesis of the pallet): a minimum stake of 100 × √score
    /// PHA, a maximum V of 30,000.
    pub const PHALA: Self = Self {
        pha_rate: ONE,
        rho: fixed(1_000_000_666_600_231, 1_000_000_000_000_000),
        budget_per_block: fixed(100, 1),
        v_max: fixed(30_000, 1),
        cost_k: fixed(415_625 * 12, 10_000_000 * 31_536_000),
        cost_b: fixed(8_859_375 * 12, 100_000 * 31_536_000),
        slash_rate: fixed(12, 1_000 * 3_600),
        treasury_ratio: fixed(1, 5),
        heartbeat_window: 10,
        rig_k: fixed(3, 10),
        rig_b: 0,
        re: fixed(13, 10),
        k: fixed(100, 1),
        kappa: ONE,
    };

    /// [`Self::PHALA`] with a minimum stake of √score PHA, for networks with little stake.
    pub const SMALL: Self = Self { k: ONE, ..Self::PHALA };

    /// Returns the same with a minimum stake of `k` × √score PHA.
    #[must_use]
    pub const fn with_k(self, k: u32) -> Self {
        Self { k: (k as u128) << FRACTION_BITS, ..self }
    }

    /// Returns the minimum stake of a worker with that score.
    #[must_use]
    pub fn minimal_stake(&self, score: u32) -> u128 {
        let root = (U256::from(score) << (2 * FRACTION_BITS)).integer_sqrt();
        balance(mul(self.k, low(root)))
    }

    /// Returns the initial V of a session, U64F64 bits.
    #[must_use]
    pub fn ve(&self, stake: u128, score: u32, confidence_level: u8) -> u128 {
        let trust = mul(self.re.saturating_sub(ONE), confidence(confidence_level)).saturating_add(ONE);
        let rig = mul(self.rig_k, u128::from(score) << FRACTION_BITS).saturating_add(self.rig_b);
        mul(trust, number(stake).saturating_add(rig))
    }
}

impl Default for TokenomicParameters {
    fn default() -> Self {
        Self::SMALL
    }
}

/// The confidence factor of an attestation tier, U64F64 bits.
const fn confidence(level: u8) -> u128 {
    match level {
        4 => fixed(8, 10),
        5 => fixed(7, 10),
        _ => ONE,
    }
}

fn mul(a: u128, b: u128) -> u128 {
    low((U256::from(a) * U256::from(b)) >> FRACTION_BITS)
}

fn low(value: U256) -> u128 {
    u128::try_from(value).unwrap_or(u128::MAX)
}

/// Converts a number to a balance.
fn balance(bits: u128) -> u128 {
    let short = bits >> (FRACTION_BITS - BALANCE_BITS);
    low((U256::from(short) * U256::from(PHA)) >> BALANCE_BITS)
}

/// Converts a balance to a number.
fn number(balance: u128) -> u128 {
    let short = (U256::from(balance) << BALANCE_BITS) / U256::from(PHA);
    low(short << (FRACTION_BITS - BALANCE_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stakes_and_values_follow_the_formulas() {
        let rules = TokenomicParameters::PHALA;
        assert_eq!(rules.minimal_stake(2500), 5_000 * PHA);
        // 100 × √2000 = 4472.135954999579…, in steps of 2^-48.
        assert_eq!(rules.minimal_stake(2000) / 100, 44_721_359_549_995);
        // 1.3 × (1000 + 0.3 × 2000)
        let ve = |level| rules.ve(1_000 * PHA, 2_000, level) >> (FRACTION_BITS - 20);
        assert_eq!(ve(1) + 1, 2_080 << 20, "rounded down once");
        assert_eq!(ve(128), ve(1));
        // 1.24 and 1.21 × 1600
        assert_eq!((ve(4) + 1, ve(5) + 1), (1_984 << 20, 1_936 << 20));
        assert_eq!(TokenomicParameters::SMALL.minimal_stake(6_000) / PHA, 77);
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let rules = TokenomicParameters { k: u128::MAX, re: u128::MAX, ..TokenomicParameters::PHALA };
        assert_eq!(rules.ve(u128::MAX, u32::MAX, 1), u128::MAX);
        let _ = rules.minimal_stake(u32::MAX);
    }
}
