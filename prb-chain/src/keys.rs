//! Operator keys: from a mnemonic or secret URI to the sr25519 pair that signs.
//!
//! Not for: keeping keys (see [`prb_core::vault`]).

use std::{fmt, str::FromStr};

use prb_core::{
    manage::{KeyError, OperatorKeys},
    primitives::AccountId,
};
use secrecy::{ExposeSecret, SecretString};
use subxt_signer::{SecretUri, sr25519};

/// An operator's sr25519 key pair. The secret half is wiped when the value is dropped and shows in no
/// `Debug` output.
#[derive(Clone)]
pub struct OperatorKey {
    pair: sr25519::Keypair,
}

/// Why a secret is no key. Never holds any part of the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing but white space, or a password alone: these would give a publicly known development key.
    #[error("the secret is empty")]
    Empty,
    /// Neither a phrase nor hexadecimal digits, followed by an optional path and password.
    #[error("the secret is neither a mnemonic nor a secret URI")]
    Format,
    /// The words are no BIP-39 mnemonic.
    #[error("the mnemonic is not valid: {reason}")]
    Mnemonic {
        /// What is wrong, by position at most.
        reason: String,
    },
    /// The seed is not 64 hexadecimal digits.
    #[error("the hexadecimal seed must have 64 digits")]
    Seed,
}

impl OperatorKey {
    /// Reads a BIP-39 mnemonic or a secret URI (`phrase/soft//hard///password`, `0x` and 64 digits, or a
    /// development key such as `//Alice`).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_secret(secret: &SecretString) -> Result<Self, Error> {
        let text = secret.expose_secret().trim();
        if text.is_empty() || text.starts_with("///") {
            return Err(Error::Empty);
        }
        let uri = SecretUri::from_str(text).map_err(|_| Error::Format)?;
        let pair = sr25519::Keypair::from_uri(&uri).map_err(|e| match e {
            sr25519::Error::Phrase(e) => Error::Mnemonic { reason: e.to_string() },
            _ => Error::Seed,
        })?;
        Ok(Self { pair })
    }

    /// The account that the key signs for.
    pub fn account(&self) -> AccountId {
        AccountId(self.pair.public_key().0)
    }

    pub(crate) const fn pair(&self) -> &sr25519::Keypair {
        &self.pair
    }
}

/// Reads secrets as sr25519 keys, for a [`Manager`](prb_core::manage::Manager).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sr25519Keys;

impl OperatorKeys for Sr25519Keys {
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
        let key = OperatorKey::from_secret(secret).map_err(|error| KeyError::Invalid(Box::new(error)))?;
        Ok(key.account())
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorKey").field("account", &self.account()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    /// Alice of every Substrate development chain.
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    fn account(secret: &str) -> Result<AccountId, Error> {
        OperatorKey::from_secret(&secret.to_owned().into()).map(|key| key.account())
    }

    #[test]
    fn phrases_and_uris_give_the_accounts_that_others_derive() {
        let alice = AccountId::from_address(ALICE).unwrap();
        assert_eq!(account("//Alice").unwrap(), alice);
        assert_eq!(account(&format!("  {PHRASE}//Alice\n")).unwrap(), alice);
        // The well-known mini secret of `//Alice`.
        let seed = "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";
        assert_eq!(account(seed).unwrap(), alice);
        assert_ne!(account(&format!("{PHRASE}///password")).unwrap(), account(PHRASE).unwrap());
    }

    #[test]
    fn nothing_is_no_development_key() {
        for secret in ["", "  \n", "///", "///password"] {
            assert_eq!(account(secret), Err(Error::Empty), "{secret:?}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_secret() {
        for secret in [
            "hunter2secret drive obey lake curtain smoke basket hold race lonely fit walk",
            "0xhunter2secret",
            "hunter2secret!?",
            "hunter2secret",
        ] {
            let error = account(secret).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2secret"), "{error:?}");
        }
        assert!(matches!(account("bottom drive"), Err(Error::Mnemonic { .. })));
        assert_eq!(account("0x12"), Err(Error::Seed));
    }

    #[test]
    fn debug_shows_the_account_alone() {
        let key = OperatorKey::from_secret(&"//Alice".to_owned().into()).unwrap();
        assert_eq!(format!("{key:?}"), format!("OperatorKey {{ account: {}, .. }}", key.account()));
    }
}
