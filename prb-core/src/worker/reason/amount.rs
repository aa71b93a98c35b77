//! Formats amounts and durations for messages.

use std::fmt;

use crate::primitives::{Balance, PHA_DECIMALS};

/// An amount in PHA with thousands separators, truncated to four decimals: `1,200.5 PHA`.
pub(crate) struct Pha(pub(crate) Balance);

impl fmt::Display for Pha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: u32 = 4;
        let unit = 10u128.pow(PHA_DECIMALS);
        // Truncated, not rounded: an amount must not look sufficient if it is not.
        let (whole, part) = (self.0 / unit, self.0 % unit / 10u128.pow(PHA_DECIMALS - SHOWN));
        let digits = whole.to_string();
        for (i, digit) in digits.char_indices() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        if part > 0 {
            let part = format!("{part:04}");
            write!(f, ".{}", part.trim_end_matches('0'))?;
        } else if whole == 0 && self.0 > 0 {
            // Smaller than the precision, but not zero.
            f.write_str(".0001")?;
        }
        f.write_str(" PHA")
    }
}

/// Formats a duration in whole hours or minutes, so that a message does not change with every block.
pub(crate) fn span_in_words(secs: u64) -> String {
    match secs {
        0..60 => "a minute".to_owned(),
        60..7200 => format!("{} minutes", secs.div_ceil(60)),
        _ => format!("{} hours", secs.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        let unit = 1_000_000_000_000;
        for (amount, text) in [
            (0, "0 PHA"),
            (1, "0.0001 PHA"),
            (unit, "1 PHA"),
            (999 * unit, "999 PHA"),
            (1_200 * unit + unit / 2, "1,200.5 PHA"),
            (1_234_567 * unit + 1, "1,234,567 PHA"),
            (5 * unit + unit / 10_000 * 25, "5.0025 PHA"),
        ] {
            assert_eq!(Pha(amount).to_string(), text);
        }
    }
}
