//! Conformance suite of [`Vault`].

use std::{collections::HashSet, future::Future};

use secrecy::{ExposeSecret, SecretString};

use crate::vault::{Error, MAX_SECRET_BYTES, Sealed, Vault};

/// Runs all checks. Each call of `make` must return a vault with its own key.
///
/// ```
/// use prb_core::{conformance, vault::memory::MemoryVault};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // In a `#[tokio::test]` of the backend.
/// conformance::vault::all(async || MemoryVault::new()).await;
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<V: Vault, F: Future<Output = V>>(make: impl Fn() -> F) {
    let vault = make().await;
    opens_what_it_sealed(&vault).await;
    seals_differ(&vault).await;
    shows_no_secret(&vault).await;
    refuses_what_is_too_large(&vault).await;
    refuses_altered_secrets(&vault).await;
    refuses_secrets_of_another_vault(&vault, &make().await).await;
}

async fn seal(vault: &impl Vault, secret: &str) -> Sealed {
    match vault.seal(&SecretString::from(secret)).await {
        Ok(sealed) => sealed,
        Err(e) => panic!("a secret of {} bytes was not sealed: {e}", secret.len()),
    }
}

async fn opens_what_it_sealed(vault: &impl Vault) {
    // Empty and multi-byte texts as well: a vault seals bytes, whatever they mean.
    let longest = "x".repeat(MAX_SECRET_BYTES);
    for secret in ["", "//Alice", "bottom drive obey lake curtain smoke", "Schlüssel – 鍵", &longest] {
        let sealed = seal(vault, secret).await;
        match vault.open(&sealed).await {
            Ok(opened) => assert!(opened.expose_secret() == secret, "another secret came out"),
            Err(e) => panic!("a secret of {} bytes was not opened: {e}", secret.len()),
        }
    }
}

async fn seals_differ(vault: &impl Vault) {
    let mut seen = HashSet::new();
    for _ in 0..4 {
        assert!(seen.insert(seal(vault, "//Alice").await.0), "two seals of one secret are equal");
    }
}

async fn shows_no_secret(vault: &impl Vault) {
    let secret = "bottom drive obey lake curtain smoke";
    let sealed = seal(vault, secret).await;
    let window = secret.as_bytes();
    assert!(!sealed.0.windows(window.len()).any(|w| w == window), "the sealed bytes contain the secret");
    for shown in [format!("{sealed:?}"), format!("{vault:?}")] {
        assert!(!shown.contains("bottom"), "debug output contains the secret: {shown}");
    }
}

async fn refuses_what_is_too_large(vault: &impl Vault) {
    let secret = SecretString::from("x".repeat(MAX_SECRET_BYTES + 1));
    let result = vault.seal(&secret).await;
    assert!(
        matches!(result, Err(Error::TooLarge { limit_bytes: MAX_SECRET_BYTES })),
        "a secret over the limit gave {result:?}"
    );
}

/// Every truncation, and every byte changed (a sample of them for long envelopes, so that RSA stays fast).
async fn refuses_altered_secrets(vault: &impl Vault) {
    let sealed = seal(vault, "//Alice").await.0;
    let step = sealed.len().div_ceil(64).max(1);
    let places = || (0..sealed.len()).step_by(step).chain([1, 2, sealed.len() - 1]);
    for place in places() {
        let result = vault.open(&Sealed(sealed[..place].to_vec())).await;
        assert!(result.is_err(), "a secret cut to {place} bytes was opened");
        let mut altered = sealed.clone();
        altered[place] ^= 0x10;
        let result = vault.open(&Sealed(altered)).await;
        assert!(
            matches!(result, Err(Error::WrongKey | Error::UnknownVersion { .. })),
            "a secret with byte {place} changed gave {result:?}"
        );
    }
    let longer = [&sealed[..], &[0]].concat();
    assert!(vault.open(&Sealed(longer)).await.is_err(), "a secret with a byte added was opened");
    let unknown = [&[0xee], &sealed[1..]].concat();
    let result = vault.open(&Sealed(unknown)).await;
    assert!(
        matches!(result, Err(Error::UnknownVersion { version: 0xee })),
        "an unknown version gave {result:?}"
    );
}

async fn refuses_secrets_of_another_vault(vault: &impl Vault, other: &impl Vault) {
    let sealed = seal(vault, "//Alice").await;
    let result = other.open(&sealed).await;
    assert!(matches!(result, Err(Error::WrongKey)), "another vault gave {result:?}");
}
