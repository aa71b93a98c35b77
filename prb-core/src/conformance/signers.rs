//! Conformance suite of [`Signers`].

use std::sync::Arc;

use crate::{
    primitives::AccountId,
    queue::JobSigner,
    signer::{Error, SIGNATURE_BYTES, Signer, Signers},
};

/// Lengths of signed bytes: around the hash of a long payload (32 bytes), usual payloads (121 to 249), the longest that
/// is not hashed (256), and longer ones, which a signer must not hash either.
const LENGTHS: [usize; 7] = [1, 31, 32, 121, 249, 256, 1000];

/// The signers under test, and jobs' signers for them.
#[derive(Debug)]
pub struct TestSigners<S> {
    /// The backend.
    pub signers: S,
    /// Two operators that it can sign for.
    pub known: [JobSigner; 2],
    /// An operator with the key of another account, if keys come with the jobs.
    pub mismatched: Option<JobSigner>,
}

/// Runs all checks. `verify` returns whether a signature over bytes is the account's: for real keys
/// `prb_chain::keys::verify`.
///
/// ```
/// use std::sync::Arc;
///
/// use prb_core::{
///     conformance::signers::{self, TestSigners},
///     queue::JobSigner,
///     signer::memory::{MemorySigner, MemorySigners},
///     vault::{Vault, memory::MemoryVault},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In a `#[tokio::test]` of the backend.
/// # use prb_core::signer::Signer;
/// let vault = Arc::new(MemoryVault::new());
/// let [alice, bob] = ["//Alice", "//Bob"].map(MemorySigner::new);
/// let job_signer = async |operator, secret: &str| {
///     Ok::<_, prb_core::vault::Error>(JobSigner { operator, proxied: None, key: vault.seal(&secret.into()).await? })
/// };
/// let subject = TestSigners {
///     signers: MemorySigners::new(vault.clone()),
///     known: [job_signer(alice.account(), "//Alice").await?, job_signer(bob.account(), "//Bob").await?],
///     mismatched: Some(job_signer(alice.account(), "//Bob").await?),
/// };
/// let verify = |account, bytes: &[u8], signature: &[u8; 64]| {
///     let signer = if account == alice.account() { alice } else { bob };
///     signer.sign_now(bytes) == *signature
/// };
/// signers::all(&subject, verify).await;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<S: Signers>(
    subject: &TestSigners<S>,
    verify: impl Fn(AccountId, &[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) {
    let [one, other] = &subject.known;
    assert!(one.operator != other.operator, "the suite needs two operators");
    let signers = [signer(&subject.signers, one).await, signer(&subject.signers, other).await];
    signs_bytes_as_they_are(&signers, &verify).await;
    signs_concurrently(&signers, &verify).await;
    if let Some(mismatched) = &subject.mismatched {
        refuses_another_accounts_key(&subject.signers, mismatched).await;
    }
}

async fn signer(signers: &impl Signers, of: &JobSigner) -> Arc<dyn Signer> {
    match signers.signer(of).await {
        Ok(signer) => {
            assert!(signer.account() == of.operator, "the signer of {} is {}", of.operator, signer.account());
            signer
        }
        Err(e) => panic!("no signer for {}: {e}", of.operator),
    }
}

async fn sign(signer: &dyn Signer, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
    match signer.sign(bytes).await {
        Ok(signature) => signature,
        Err(e) => panic!("{} bytes were not signed: {e}", bytes.len()),
    }
}

async fn signs_bytes_as_they_are(
    [one, other]: &[Arc<dyn Signer>; 2],
    verify: &impl Fn(AccountId, &[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) {
    for length in LENGTHS {
        let mut bytes = vec![7; length];
        let signature = sign(&**one, &bytes).await;
        assert!(verify(one.account(), &bytes, &signature), "the signature of {length} bytes is not valid");
        assert!(!verify(other.account(), &bytes, &signature), "the signature is valid for another account");
        bytes[length - 1] ^= 1;
        assert!(!verify(one.account(), &bytes, &signature), "the signature is valid for other bytes");
    }
}

async fn signs_concurrently(
    signers: &[Arc<dyn Signer>; 2],
    verify: &impl Fn(AccountId, &[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) {
    let payloads: Vec<_> = (0..32_u8).map(|n| [n; 100]).collect();
    let signed = payloads.iter().enumerate().map(|(n, bytes)| sign(&*signers[n % 2], bytes));
    for (n, signature) in futures::future::join_all(signed).await.iter().enumerate() {
        let account = signers[n % 2].account();
        assert!(verify(account, &payloads[n], signature), "concurrent calls got each other's signatures");
    }
}

async fn refuses_another_accounts_key(signers: &impl Signers, mismatched: &JobSigner) {
    match signers.signer(mismatched).await {
        Err(e @ Error::BadKey { .. }) => assert!(!e.is_retryable(), "a bad key is not worth a retry: {e}"),
        Err(e) => panic!("another account's key gave {e}, not `Error::BadKey`"),
        Ok(signer) => panic!("another account's key gave a signer of {}", signer.account()),
    }
}
