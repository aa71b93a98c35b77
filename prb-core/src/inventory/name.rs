//! Rules for the names of pools and workers.

use std::{borrow::Cow, ops::RangeInclusive};

use unicode_normalization::UnicodeNormalization;

use super::MAX_NAME_BYTES;
use crate::text::is_invisible;

/// Numbers of words of BIP-39 mnemonics, and those between: a word may be missing or mistyped.
const MNEMONIC_WORDS: RangeInclusive<usize> = 12..=24;

/// Returns a name as it is stored: without white space around it, in Unicode's composed form (NFC), in which two names
/// that look the same compare equal. Every source of names applies it.
///
/// ```
/// use prb_core::inventory::clean_name;
///
/// assert_eq!(clean_name(" cafe\u{301}\u{a0}"), "caf\u{e9}");
/// ```
pub fn clean_name(name: &str) -> String {
    name.trim().nfc().collect()
}

/// Returns a name for a message: whatever it is, unless it seems to be a secret in the wrong field.
pub fn shown_name(name: &str) -> Cow<'_, str> {
    if looks_like_secret(name) {
        Cow::Borrowed("(not shown, it may be a secret)")
    } else {
        Cow::Borrowed(name)
    }
}

/// Returns what is wrong with a name, without quoting it.
pub(super) fn fault(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        Some("it is empty".into())
    } else if name.len() > MAX_NAME_BYTES {
        Some(format!("it has {} bytes, more than {MAX_NAME_BYTES}", name.len()))
    } else if name.chars().any(char::is_control) {
        Some("it has control characters".into())
    } else if let Some(c) = name.chars().find(|c| is_invisible(*c)) {
        Some(format!("it has the invisible character U+{:04X}", u32::from(c)))
    } else if looks_like_secret(name) {
        Some("it looks like a mnemonic or a key, and names are shown everywhere".into())
    } else if name.trim() != name {
        Some("it begins or ends with white space".into())
    } else if clean_name(name) != name {
        Some("it is not in Unicode's composed form (NFC)".into())
    } else {
        None
    }
}

/// Whether a text seems to be an operator's secret: as many words as a mnemonic has, or the digits of a key, with or
/// without a derivation path. 64 digits without `0x` are no secret URI, but may be a worker's public key.
fn looks_like_secret(text: &str) -> bool {
    let phrase = text.split('/').next().unwrap_or_default().trim();
    let is_word = |word: &str| (3..=8).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphabetic());
    let words = phrase.split_whitespace().count();
    let (prefixed, digits) = match phrase.strip_prefix("0x") {
        Some(digits) => (true, digits),
        None => (false, phrase),
    };
    let is_key = digits.bytes().all(|b| b.is_ascii_hexdigit())
        && (digits.len() == 128 || digits.len() == 64 && prefixed);
    is_key || MNEMONIC_WORDS.contains(&words) && phrase.split_whitespace().all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

    #[test]
    fn names_that_cannot_be_told_apart_are_refused() {
        for (name, reason) in [
            ("", "empty"),
            (" \u{a0}", "empty"),
            ("a\nb", "control"),
            ("a\u{200b}", "U+200B"),
            ("rack-1\u{202e}", "U+202E"),
            ("\u{feff}a", "U+FEFF"),
            ("a\u{2028}b", "U+2028"),
            ("a ", "white space"),
            ("\u{a0}a", "white space"),
            ("e\u{301}", "NFC"),
        ] {
            let fault = fault(name).unwrap_or_default();
            assert!(fault.contains(reason), "{name:?}: {fault}");
        }
        let long = "x".repeat(MAX_NAME_BYTES);
        for name in ["rack 1, \"left\" <b>", "\u{e9}", "=1+1", "http://10.0.0.1:8000", "労働者", &long] {
            assert_eq!(fault(name), None, "{name:?}");
        }
    }

    #[test]
    fn secrets_are_no_names_and_are_not_shown() {
        let (seed, expanded) = (format!("0x{}", "e5".repeat(32)), "98".repeat(64));
        let derived = format!("  {MNEMONIC}//1///password ");
        for secret in [MNEMONIC, &MNEMONIC.to_uppercase(), &derived, &seed, &expanded] {
            assert!(fault(secret).is_some_and(|fault| fault.contains("mnemonic") && !fault.contains(secret)));
            assert!(!shown_name(secret).contains(secret.trim()));
        }
        let key = "e5".repeat(32);
        for name in [&key, "eleven words are not enough for them being one of those phrases", "rack 1"] {
            assert_eq!((fault(name), &*shown_name(name)), (None, name));
        }
    }
}
