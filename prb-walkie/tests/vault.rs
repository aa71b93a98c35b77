//! Tests of the vault: the seam's conformance suite, and the layout of sealed secrets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::LazyLock;

use prb_core::{
    conformance,
    vault::{Error, MAX_SECRET_BYTES, Sealed, Vault},
};
use prb_walkie::{identity::Identity, vault::RsaVault};
use proptest::prelude::*;
use secrecy::ExposeSecret;

static IDENTITY: LazyLock<Identity> =
    LazyLock::new(|| Identity::from_bytes(include_bytes!("data/js-peer-id.bin")).unwrap());

#[tokio::test]
async fn rsa_vault_passes_conformance_suite() {
    conformance::vault::all(async || {
        let made = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
        RsaVault::new(&made)
    })
    .await;
}

#[tokio::test]
async fn envelope_has_the_documented_layout() {
    let vault = RsaVault::new(&IDENTITY);
    let sealed = vault.seal(&"//Alice".into()).await.unwrap().0;
    assert_eq!(sealed[..3], [1, 1, 0], "version 1, then 256 as two bytes");
    assert_eq!(sealed.len(), 3 + 256 + 12 + "//Alice".len() + 16);
    // Built with Node.js's own RSA-OAEP and AES-256-GCM, following the documented layout.
    let old = include_str!("data/sealed-v1.hex");
    let old: Sealed = serde_json::from_value(old.trim().into()).unwrap();
    assert_eq!(vault.open(&old).await.unwrap().expose_secret(), "//Alice");
}

#[tokio::test]
async fn envelope_over_the_limit_is_refused() {
    let vault = RsaVault::new(&IDENTITY);
    let mut sealed = vault.seal(&"x".repeat(MAX_SECRET_BYTES).into()).await.unwrap();
    vault.open(&sealed).await.unwrap();
    sealed.0.resize(1 << 20, 0);
    assert!(matches!(vault.open(&sealed).await, Err(Error::WrongKey)));
}

#[tokio::test]
async fn debug_output_omits_the_key() {
    let shown = format!("{:?}", RsaVault::new(&IDENTITY));
    assert_eq!(shown, format!("RsaVault {{ peer_id: {}, .. }}", IDENTITY.peer_id()));
}

fn open(bytes: Vec<u8>) -> Result<secrecy::SecretString, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(RsaVault::new(&IDENTITY).open(&Sealed(bytes)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_envelope_is_refused_without_panic(
        header in prop_oneof![Just(vec![1, 1, 0]), proptest::collection::vec(any::<u8>(), 0..3)],
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        prop_assert!(open([header, rest].concat()).is_err());
    }
}
