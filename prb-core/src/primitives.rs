//! Identifiers and quantities shared by all modules.
//!
//! Relay and parachain block numbers are distinct types, so that they cannot be confused.

use std::{fmt, str::FromStr};

use codec::{Decode, Encode};
use serde::{Deserialize, Serialize};
use sp_crypto_hashing::{blake2_256, blake2_512};

use crate::text::shorten;

macro_rules! block_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one; saturates at `u32::MAX`.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The number before this one; `None` for block 0.
            pub const fn prev(self) -> Option<Self> {
                match self.0.checked_sub(1) {
                    Some(n) => Some(Self(n)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u32> for $name {
            fn from(n: u32) -> Self {
                Self(n)
            }
        }
    };
}

block_number!(
    /// Number of a relay chain block.
    RelayNumber
);
block_number!(
    /// Number of a parachain block.
    ParaNumber
);

macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode,
        )]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            /// Parses 64 hexadecimal digits, with or without `0x`.
            fn from_str(s: &str) -> Result<Self, ParseError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(s.strip_prefix("0x").unwrap_or(s), &mut bytes)
                    .map_err(|_| ParseError::Hex32 { what: stringify!($name) })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes32!(
    /// A blake2-256 hash: of a block's header, a transaction, a state.
    Hash
);
bytes32!(
    /// A worker's sr25519 public key: its identity on chain (`PhalaRegistry::Workers`).
    WorkerKey
);
bytes32!(
    /// An account's public key. Operators know it by its [address](AccountId::address); `Display` and serde are
    /// hexadecimal, as stored files and jobs have it.
    AccountId
);

impl Hash {
    /// Returns the blake2-256 hash of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(blake2_256(data))
    }
}

/// SS58 address prefix of Phala and Khala.
pub const PHALA_SS58_PREFIX: u16 = 30;
/// SS58 address prefix of Polkadot.
pub const POLKADOT_SS58_PREFIX: u16 = 0;
/// Decimals of PHA: a [`Balance`] of 10^12 is one PHA.
pub const PHA_DECIMALS: u32 = 12;

/// An amount in the chain's smallest unit (10^-12 PHA).
pub type Balance = u128;

/// Parses an amount as operators write it: an integer in 10^-12 PHA, or an amount in PHA with that unit and at most 12
/// decimals.
///
/// ```
/// use prb_core::primitives::parse_amount;
///
/// for text in ["1500000000000", "1.5PHA", "1.5 PHA"] {
///     assert_eq!(parse_amount(text)?, 1_500_000_000_000);
/// }
/// assert!(parse_amount("1.5").is_err());
/// # Ok::<(), prb_core::primitives::ParseError>(())
/// ```
///
/// # Errors
/// [`ParseError::Amount`] for anything else: signs, separators, other units, more decimals, or amounts from 2^128 on;
/// [`ParseError::AmbiguousAmount`] if the point may separate thousands (`30.000 PHA`).
pub fn parse_amount(text: &str) -> Result<Balance, ParseError> {
    let text = text.trim();
    let parsed = match text.strip_suffix("PHA") {
        None => digits(text),
        Some(number) => {
            let number = number.trim_end();
            let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
            if is_ambiguous(whole, decimals) {
                let (amount, whole) = (text.to_owned(), whole.to_owned());
                return Err(ParseError::AmbiguousAmount { amount, whole });
            }
            let width = PHA_DECIMALS as usize;
            // Padded to whole units: `1.5` becomes `1500000000000`.
            Some(format!("{whole}{decimals:0<width$}"))
                .filter(|_| !whole.is_empty() && decimals.len() <= width)
                .and_then(|units| digits(&units))
        }
    };
    parsed.ok_or_else(|| ParseError::Amount { amount: shown_amount(text) })
}

/// Whether an amount may be meant in thousands: `30.000` is written for 30,000 in much of Europe.
fn is_ambiguous(whole: &str, decimals: &str) -> bool {
    let is_group = (1..=3).contains(&whole.len()) && whole.bytes().all(|byte| byte.is_ascii_digit());
    decimals == "000" && is_group && !whole.starts_with('0')
}

/// Returns a refused amount for a message. Whatever is not like an amount may be a secret in the wrong field.
fn shown_amount(text: &str) -> String {
    let is_short = text.len() <= 24 && text.starts_with(|c: char| c.is_ascii_digit());
    if is_short || text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.,_ ePHApha".contains(&byte)) {
        shorten(text, 64)
    } else {
        "(not shown, it may be a secret)".to_owned()
    }
}

fn digits(text: &str) -> Option<Balance> {
    // `parse` would accept a leading `+`.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl AccountId {
    /// The account's address on Phala and Khala, for people: SS58 with their prefix.
    ///
    /// ```
    /// use prb_core::primitives::AccountId;
    ///
    /// let alice: AccountId = "0xd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d".parse()?;
    /// assert_eq!(alice.address(), alice.to_ss58(30));
    /// assert_eq!(AccountId::from_address(&alice.address())?, alice);
    /// # Ok::<(), prb_core::primitives::ParseError>(())
    /// ```
    pub fn address(&self) -> String {
        self.to_ss58(PHALA_SS58_PREFIX)
    }

    /// The account's SS58 address under `prefix`, which must be below 64 (one prefix byte).
    ///
    /// # Panics
    /// If `prefix` is 64 or more.
    pub fn to_ss58(&self, prefix: u16) -> String {
        assert!(prefix < 64, "two-byte SS58 prefixes are not in use here");
        let mut data = Vec::with_capacity(35);
        data.push(prefix as u8);
        data.extend(self.0);
        // SS58: the prefix, the key, and the first two bytes of a blake2b-512 hash of both.
        let sum = blake2_512(&[b"SS58PRE", data.as_slice()].concat());
        data.extend(&sum[..2]);
        bs58::encode(data).into_string()
    }

    /// Parses an SS58 address with any one-byte prefix, or 64 hexadecimal digits after `0x`.
    ///
    /// # Errors
    /// [`ParseError::Address`] if the text is neither, or its checksum is wrong.
    pub fn from_address(s: &str) -> Result<Self, ParseError> {
        if s.starts_with("0x") {
            return s.parse();
        }
        let bad = || ParseError::Address { address: shorten(s, 64) };
        let data = bs58::decode(s).into_vec().map_err(|_| bad())?;
        // One prefix byte and the 32 bytes of the key; a checksum of two bytes follows.
        let (payload, sum) = data.split_at_checked(33).ok_or_else(bad)?;
        let expected = blake2_512(&[b"SS58PRE", payload].concat());
        // 64 and above begin a prefix of two bytes.
        if payload[0] >= 64 || sum != &expected[..2] {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&payload[1..]);
        Ok(Self(bytes))
    }
}

/// Number of a stake pool on chain (`pid`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PoolId(pub u64);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text cannot be parsed as an identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// Not 32 bytes in hexadecimal.
    #[error("{what} must be 64 hexadecimal digits")]
    Hex32 {
        /// The expected type.
        what: &'static str,
    },
    /// Not an amount.
    #[error(
        "{amount:?} is not an amount: write an integer in 10^-12 PHA, or an amount in PHA such as 1500.25 PHA"
    )]
    Amount {
        /// The text, truncated to 64 characters, or a replacement if it may be a secret.
        amount: String,
    },
    /// An amount whose point may separate thousands.
    #[error("{amount:?} can be read in two ways: write {whole} PHA or {whole}000 PHA")]
    AmbiguousAmount {
        /// The text.
        amount: String,
        /// The digits before the point.
        whole: String,
    },
    /// Not an account address.
    #[error("{address:?} is not a valid SS58 address")]
    Address {
        /// The text, truncated to 64 characters.
        address: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_parsed_exactly() {
        for (text, expected) in [
            ("0", 0),
            (" 12 ", 12),
            ("0PHA", 0),
            ("12PHA", 12_000_000_000_000),
            ("12 PHA", 12_000_000_000_000),
            ("\t1.PHA\n", 1_000_000_000_000),
            ("0.000000000001 PHA", 1),
            ("007.5PHA", 7_500_000_000_000),
            ("30.0 PHA", 30_000_000_000_000),
            ("30.0000 PHA", 30_000_000_000_000),
            ("0.000 PHA", 0),
            ("3000.000 PHA", 3_000_000_000_000_000),
            ("340282366920938463463374607431768211455", u128::MAX),
            ("340282366920938463463374607.431768211455 PHA", u128::MAX),
        ] {
            assert_eq!(parse_amount(text), Ok(expected), "{text:?}");
        }
        for text in [
            "",
            " ",
            "PHA",
            " PHA",
            ".5 PHA",
            "1.5",
            "-1",
            "+1",
            "+1 PHA",
            "-1PHA",
            "1e3 PHA",
            "0x10",
            "1,000 PHA",
            "1 000 PHA",
            "1.2.3 PHA",
            "1. 5 PHA",
            "1.1234567890123PHA",
            "1 pha",
            "1 PHA PHA",
            "1 KSM",
            "30k PHA",
            "340282366920938463463374607431768211456",
            "340282366920938463463374607.431768211456 PHA",
        ] {
            let amount = text.trim().to_owned();
            assert_eq!(parse_amount(text), Err(ParseError::Amount { amount }), "{text:?}");
        }
    }

    #[test]
    fn points_that_may_separate_thousands_are_refused() {
        for (text, whole) in [("30.000 PHA", "30"), ("1.000PHA", "1"), (" 999.000 PHA", "999")] {
            let refused = parse_amount(text).unwrap_err().to_string();
            let remedy = format!("write {whole} PHA or {whole}000 PHA");
            assert!(refused.contains(&remedy) && refused.contains(text.trim()), "{refused}");
        }
    }

    #[test]
    fn only_what_is_like_an_amount_is_quoted() {
        for secret in [
            "drive obey lake",
            "//Alice",
            "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a",
            "١ PHA",
        ] {
            let refused = parse_amount(secret).unwrap_err().to_string();
            assert!(!refused.contains(secret) && refused.contains("not shown"), "{refused}");
        }
    }

    /// Alice of every Substrate development chain, in its well-known spellings.
    const ALICE: &str = "0xd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";

    #[test]
    fn ss58_matches_known_addresses() {
        let alice: AccountId = ALICE.parse().unwrap();
        assert_eq!(alice.to_ss58(42), "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY");
        assert_eq!(alice.to_ss58(0), "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5");
        assert_eq!(AccountId::from_address(&alice.to_ss58(PHALA_SS58_PREFIX)).unwrap(), alice);
        assert_eq!(AccountId::from_address(ALICE).unwrap(), alice);
    }

    #[test]
    fn a_wrong_letter_in_an_address_is_refused() {
        let wrong = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ";
        assert!(matches!(AccountId::from_address(wrong), Err(ParseError::Address { .. })));
        assert!(AccountId::from_address("").is_err());
    }
}
