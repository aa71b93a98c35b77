//! Reads the balances of a `System::Account`.

use prb_core::primitives::Balance;
use scale_value::{At, Value};

/// An account's free balance, and how much of it is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(crate) free: Balance,
    /// The part of the free balance that fees cannot be taken from.
    pub(crate) frozen: Balance,
}

impl Balances {
    /// Reads `AccountData`, in the old layout (`misc_frozen`, `fee_frozen`) or the new one (`frozen`); `None` if it
    /// has no free balance.
    pub(crate) fn read(data: &Value<()>) -> Option<Self> {
        let part = |name: &str| data.at(name).and_then(Value::as_u128);
        let free = part("free")?;
        // The new layout freezes a part of the total, of which the reserved balance is the first. The old one
        // freezes a part of the free balance alone, apart from what is reserved.
        let frozen = match part("frozen") {
            Some(frozen) => frozen.saturating_sub(part("reserved").unwrap_or(0)),
            None => part("fee_frozen").unwrap_or(0),
        };
        Some(Self { free, frozen })
    }
}

#[cfg(test)]
mod tests {
    use scale_value::Value;

    use super::Balances;

    fn read(parts: &[(&str, u128)]) -> Option<Balances> {
        Balances::read(&Value::named_composite(
            parts.iter().map(|(name, value)| (name.to_string(), Value::u128(*value))),
        ))
    }

    #[test]
    fn reserved_balance_counts_as_frozen_only_in_the_new_layout() {
        let new = [("free", 100), ("reserved", 30), ("frozen", 50), ("flags", 0)];
        assert_eq!(read(&new), Some(Balances { free: 100, frozen: 20 }));
        let old = [("free", 100), ("reserved", 30), ("misc_frozen", 70), ("fee_frozen", 50)];
        assert_eq!(read(&old), Some(Balances { free: 100, frozen: 50 }));
        let all_reserved = [("free", 100), ("reserved", 80), ("frozen", 50)];
        assert_eq!(read(&all_reserved), Some(Balances { free: 100, frozen: 0 }));
        assert_eq!(read(&[("reserved", 30)]), None);
    }
}
