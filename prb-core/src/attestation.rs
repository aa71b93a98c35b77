//! The seam [`CollateralSource`], and the check that a worker's registration passes before anybody pays for it.
//!
//! A worker attests that it runs in an enclave, and the chain verifies that when the worker registers. Workers
//! with DCAP give a bare quote. The chain takes it only together with its *collateral*: certificates, revocation
//! lists and Intel's statements about the platform, which a PCCS (Provisioning Certificate Caching Service)
//! serves. [`registration`] asks the worker, checks what it answers, adds the collateral, and gives the call.
//!
//! Not for: deciding when to register (see [`crate::worker`]), or verifying the enclave's code: the chain does.

use std::fmt;

use async_trait::async_trait;

use crate::wire::Collateral;

#[cfg(feature = "pccs")]
pub mod pccs;
mod registration;

pub use registration::{Difference, Expected, RegistrationError, RegistrationRequest, registration};

/// Why there is no collateral for a quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The worker's quote is none that collateral exists for.
    #[error("the worker's DCAP quote cannot be read: {reason}")]
    Quote {
        /// What is wrong with it.
        reason: String,
    },
    /// No source gave collateral that the quote can be verified with.
    #[error("no PCCS gave valid collateral for the worker's DCAP quote: {}", Attempts(.attempts))]
    Unavailable {
        /// Each source and why it was of no use.
        attempts: Vec<(String, String)>,
    },
}

impl Error {
    /// Whether the same quote may get its collateral later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

struct Attempts<'a>(&'a [(String, String)]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (source, reason)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{source}: {reason}")?;
        }
        Ok(())
    }
}

/// Gives the collateral of DCAP quotes.
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::{attestation::{CollateralSource, Error}, wire::Collateral};
///
/// /// Collateral of one platform, fetched beforehand: for machines without access to a PCCS.
/// #[derive(Debug)]
/// struct Prefetched(Collateral);
///
/// #[async_trait]
/// impl CollateralSource for Prefetched {
///     async fn collateral(&self, _quote: &[u8]) -> Result<Collateral, Error> {
///         Ok(self.0.clone())
///     }
/// }
/// ```
#[async_trait]
pub trait CollateralSource: Send + Sync + fmt::Debug {
    /// The collateral that `quote` is verified with, already checked against it.
    ///
    /// Ends in bounded time: an implementation has time-outs of its own.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Nothing is left behind where the future is dropped.
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, Error>;
}
