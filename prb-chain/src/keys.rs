//! Operator keys: parses a mnemonic, a secret URI or an expanded key into the sr25519 pair that signs, and verifies
//! signatures.
//!
//! Not for: storing keys (see [`prb_core::vault`]).

use std::{fmt, str::FromStr};

use prb_core::{
    manage::{KeyError, OperatorKeys},
    primitives::AccountId,
    signer::SIGNATURE_BYTES,
};
use secrecy::{ExposeSecret, SecretString};
use subxt_signer::{SecretUri, sr25519};
use zeroize::Zeroizing;

mod keystore;

/// The signing context of Substrate chains.
const SIGNING_CONTEXT: &[u8] = b"substrate";
/// Hexadecimal digits of an expanded secret key.
const EXPANDED_DIGITS: usize = 128;

/// An operator's sr25519 key pair. The secret half is wiped from memory on drop and never shown by `Debug`.
#[derive(Clone)]
pub struct OperatorKey {
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    /// Derived from a seed.
    Seed(sr25519::Keypair),
    /// An expanded key without a known seed, as exported by polkadot.js.
    Expanded(schnorrkel::Keypair),
}

/// Why a secret is not a valid key. Never contains any part of the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Only white space or a password: Substrate would derive a publicly known development key from it.
    #[error("the secret is empty")]
    Empty,
    /// It begins with `/`: Substrate would derive a key from its published development phrase, so that everybody
    /// could sign with it.
    #[error(
        "the secret begins with '/' and has no phrase: if it is the path of a file, set it as operator_file (fleet file), \
         secret_file (list of pools) or --secret-file (command line); if it is a development key, write the whole phrase \
         before the path"
    )]
    WithoutPhrase,
    /// Neither a phrase nor hexadecimal digits, followed by an optional path and password.
    #[error("the secret is neither a mnemonic nor a secret URI")]
    Format,
    /// The words are not a valid BIP-39 mnemonic.
    #[error("the mnemonic is not valid: {reason}")]
    Mnemonic {
        /// What is wrong, at most naming a position.
        reason: String,
    },
    /// The seed is not 64 hexadecimal digits.
    #[error("the hexadecimal seed must have 64 digits")]
    Seed,
    /// The 128 hexadecimal digits are not a valid key.
    #[error("the 128 hexadecimal digits are not an sr25519 secret key")]
    Expanded,
    /// The JSON is not a keystore that can be read without a password.
    #[error("the keystore {reason}")]
    Keystore {
        /// What is wrong.
        reason: &'static str,
    },
}

impl OperatorKey {
    /// Parses one of these:
    ///
    /// - a BIP-39 mnemonic or a secret URI (`phrase/soft//hard///password`, or `0x` and 64 digits);
    /// - an expanded secret key in 128 hexadecimal digits without `0x`, which Phala's worker manager (PRB v3) calls
    ///   `SecretKey`;
    /// - the JSON of a polkadot.js account without a password, as stored by PRB v2.
    ///
    /// A path without a phrase, such as `//Alice`, is refused: it derives a publicly known key, and it may be the path of
    /// the file that holds the secret.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_secret(secret: &SecretString) -> Result<Self, Error> {
        let text = secret.expose_secret().trim();
        if text.is_empty() || text.starts_with("///") {
            return Err(Error::Empty);
        }
        if text.starts_with('/') {
            return Err(Error::WithoutPhrase);
        }
        if text.starts_with('{') {
            return Ok(Self { pair: Pair::Expanded(keystore::read(text)?) });
        }
        if text.len() == EXPANDED_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            let mut bytes = Zeroizing::new([0; EXPANDED_DIGITS / 2]);
            hex::decode_to_slice(text, &mut *bytes).map_err(|_| Error::Expanded)?;
            let pair = keystore::expanded(&*bytes).ok_or(Error::Expanded)?;
            return Ok(Self { pair: Pair::Expanded(pair) });
        }
        let uri = SecretUri::from_str(text).map_err(|_| Error::Format)?;
        let pair = sr25519::Keypair::from_uri(&uri).map_err(|e| match e {
            sr25519::Error::Phrase(e) => Error::Mnemonic { reason: e.to_string() },
            _ => Error::Seed,
        })?;
        Ok(Self { pair: Pair::Seed(pair) })
    }

    /// The account that the key signs for.
    pub fn account(&self) -> AccountId {
        match &self.pair {
            Pair::Seed(pair) => AccountId(pair.public_key().0),
            Pair::Expanded(pair) => AccountId(pair.public.to_bytes()),
        }
    }

    pub(crate) fn sign(&self, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
        match &self.pair {
            Pair::Seed(pair) => pair.sign(payload).0,
            Pair::Expanded(pair) => pair.sign_simple(SIGNING_CONTEXT, payload).to_bytes(),
        }
    }
}

/// Whether `signature` is the account's over `payload`, as [`Signer::sign`](prb_core::signer::Signer::sign) makes it. For
/// tests of own signers: `prb_core::conformance::signers::all` takes this function.
///
/// ```
/// use prb_chain::keys::{self, OperatorKey};
/// use prb_core::signer::Signer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = OperatorKey::from_secret(&format!("0x{}", "07".repeat(32)).into())?;
/// let signature = key.sign(b"payload").await?;
/// assert!(keys::verify(key.account(), b"payload", &signature));
/// assert!(!keys::verify(key.account(), b"another", &signature));
/// # Ok(())
/// # }
/// ```
pub fn verify(account: AccountId, payload: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    sr25519::verify(&sr25519::Signature(*signature), payload, &sr25519::PublicKey(account.0))
}

/// Parses secrets as sr25519 keys, for a [`Manager`](prb_core::manage::Manager).
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
    /// Alice, on every Substrate development chain.
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    fn account(secret: &str) -> Result<AccountId, Error> {
        OperatorKey::from_secret(&secret.to_owned().into()).map(|key| key.account())
    }

    #[test]
    fn phrases_and_uris_derive_the_known_accounts() {
        let alice = AccountId::from_address(ALICE).unwrap();
        assert_eq!(account(&format!("  {PHRASE}//Alice\n")).unwrap(), alice);
        // The well-known mini secret of `//Alice`.
        let seed = "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";
        assert_eq!(account(seed).unwrap(), alice);
        assert_ne!(account(&format!("{PHRASE}///password")).unwrap(), account(PHRASE).unwrap());
    }

    /// `//Alice` as expanded by polkadot.js.
    const EXPANDED: &str = "98319d4ff8a9508c4bb0cf0b5a78d760a0b2082c02775e6e82370816fedfff48\
                            925a225d97aa00682d6a59b95b18780c10d7032336e88f3442b42361f4a66011";

    #[test]
    fn expanded_key_signs_for_the_account_of_its_seed() {
        let alice = AccountId::from_address(ALICE).unwrap();
        let key = OperatorKey::from_secret(&EXPANDED.to_owned().into()).unwrap();
        assert_eq!(key.account(), alice);
        let signature = sr25519::Signature(key.sign(b"payload"));
        assert!(sr25519::verify(&signature, b"payload", &sr25519::PublicKey(alice.0)));
        // With 0x, Substrate's tools would take it for another form of key.
        assert_eq!(account(&format!("0x{EXPANDED}")), Err(Error::Seed));
    }

    #[test]
    fn keystore_without_a_password_is_parsed() {
        let mut pkcs8 = vec![48, 83, 2, 1, 1, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
        pkcs8.extend(hex::decode(EXPANDED).unwrap());
        pkcs8.extend([161, 35, 3, 33, 0]);
        pkcs8.extend(AccountId::from_address(ALICE).unwrap().0);
        let json = |pkcs8: &[u8], kind: &str, lock: &str| {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(pkcs8);
            serde_json::json!({
                "encoded": encoded, "encoding": { "content": ["pkcs8", kind], "type": [lock], "version": "3" },
                "address": ALICE, "meta": {},
            })
            .to_string()
        };
        assert_eq!(account(&json(&pkcs8, "sr25519", "none")).unwrap().to_string(), {
            AccountId::from_address(ALICE).unwrap().to_string()
        });
        let reason = |text: String| match account(&text) {
            Err(Error::Keystore { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(json(&pkcs8, "sr25519", "scrypt")).contains("password"));
        assert!(reason(json(&pkcs8, "ed25519", "none")).contains("sr25519"));
        assert!(reason(json(&pkcs8[1..], "sr25519", "none")).contains("encoded"));
        pkcs8[116] ^= 1;
        assert!(reason(json(&pkcs8, "sr25519", "none")).contains("belong together"));
        assert!(reason("{\"encoded\": 1}".into()).contains("polkadot.js"));
    }

    #[test]
    fn empty_secret_is_not_a_development_key() {
        for secret in ["", "  \n", "///", "///password"] {
            assert_eq!(account(secret), Err(Error::Empty), "{secret:?}");
        }
    }

    #[test]
    fn path_without_a_phrase_is_not_a_secret() {
        for path in ["/run/secrets/pool-12", " /x\n", "//Alice", "//home//operator", "/"] {
            let error = account(path).unwrap_err();
            assert_eq!(error, Error::WithoutPhrase, "{path}");
            let text = error.to_string();
            assert!(["operator_file", "--secret-file"].iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains("pool-12") && !text.contains("Alice"), "{text}");
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
    fn debug_output_shows_only_the_account() {
        let key = OperatorKey::from_secret(&PHRASE.to_owned().into()).unwrap();
        assert_eq!(format!("{key:?}"), format!("OperatorKey {{ account: {}, .. }}", key.account()));
    }
}
