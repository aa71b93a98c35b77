//! Parses the JSON of a polkadot.js account without a password.
//!
//! Layout of `encoded`: a PKCS#8 header, the expanded secret key (64 bytes, in Ed25519 form), a divider and
//! the public key (32 bytes), in base64 (polkadot-js/common, packages/keyring/src/pair/encode.ts).

use base64::Engine;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Error;

const HEADER: [u8; 16] = [48, 83, 2, 1, 1, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
const DIVIDER: [u8; 5] = [161, 35, 3, 33, 0];
const SECRET_BYTES: usize = 64;

#[derive(Deserialize)]
struct Keystore<'a> {
    #[serde(borrow)]
    encoded: &'a str,
    encoding: Encoding,
}

#[derive(Deserialize)]
struct Encoding {
    content: Vec<String>,
    r#type: OneOrMore,
    version: String,
}

/// Versions 1 and 2 of the format have a single text.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

pub(super) fn read(json: &str) -> Result<schnorrkel::Keypair, Error> {
    let bad = |reason| Error::Keystore { reason };
    // serde's message could quote the key, so it is not shown.
    let keystore: Keystore<'_> =
        serde_json::from_str(json).map_err(|_| bad("is not the JSON of a polkadot.js account"))?;
    let Encoding { content, r#type, version } = &keystore.encoding;
    let plain = match r#type {
        OneOrMore::One(lock) => lock == "none",
        OneOrMore::More(locks) => locks.iter().all(|lock| lock == "none"),
    };
    if !plain {
        return Err(bad(
            "is encrypted with a password: export the account without one, or give its mnemonic",
        ));
    }
    if !content.iter().any(|word| word == "sr25519") || version == "1" {
        return Err(bad("does not hold an sr25519 key"));
    }
    let encoded = base64::engine::general_purpose::STANDARD.decode(keystore.encoded.as_bytes());
    let encoded = Zeroizing::new(encoded.map_err(|_| bad("has an encoded key that is not base64"))?);
    let keys = encoded.strip_prefix(&HEADER).and_then(|rest| rest.split_at_checked(SECRET_BYTES));
    let (secret, public) = keys
        .and_then(|(secret, rest)| Some((secret, rest.strip_prefix(&DIVIDER)?)))
        .ok_or_else(|| bad("has an encoded key that is not laid out as PKCS#8"))?;
    let pair = expanded(secret).ok_or_else(|| bad("has an encoded key that is not valid"))?;
    if pair.public.to_bytes() != public {
        return Err(bad("has a secret key and a public key that do not belong together"));
    }
    Ok(pair)
}

/// Parses an expanded secret key; `None` if it is invalid.
pub(super) fn expanded(secret: &[u8]) -> Option<schnorrkel::Keypair> {
    let secret = schnorrkel::SecretKey::from_ed25519_bytes(secret).ok()?;
    Some(secret.to_keypair())
}
