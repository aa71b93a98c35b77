//! The seam [`CollateralSource`], and the validation of a worker's registration before its fee is paid.
//!
//! A worker attests that it runs in an enclave, and the chain verifies the attestation when the worker
//! registers. Workers that attest by DCAP return a bare quote. The chain accepts it only together with its
//! *collateral*: certificates, revocation lists and Intel's statements about the platform, as served by a
//! PCCS (Provisioning Certificate Caching Service). [`registration`] queries the worker, validates its
//! answer, adds the collateral, and returns the call.
//!
//! Not for: deciding when to register (see [`crate::worker`]), or verifying the enclave's code: the chain
//! does that.

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
    /// The worker's quote cannot be read, or is of a kind without collateral.
    #[error("the worker's DCAP quote cannot be read: {reason}")]
    Quote {
        /// The problem.
        reason: String,
    },
    /// No source returned collateral that verifies the quote.
    #[error("no PCCS returned valid collateral for the worker's DCAP quote: {}", Attempts(.attempts))]
    Unavailable {
        /// Each source (scheme, host and port), and why it failed.
        attempts: Vec<(String, String)>,
    },
    /// The program has no source of collateral.
    #[error("no source of collateral is configured: {remedy}")]
    NotConfigured {
        /// How the operator of the program configures one.
        remedy: String,
    },
}

impl Error {
    /// Whether collateral for the same quote may be available later.
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

/// Provides the collateral of DCAP quotes.
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
    /// Returns the collateral of `quote`, already verified against it.
    ///
    /// Returns in bounded time: an implementation has its own timeouts.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Safe: a dropped future leaves nothing behind.
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, Error>;
}

/// A source for programs in which none is configured: every request fails with [`Error::NotConfigured`].
///
/// This crate does not know the program's settings, so that the program says itself how to configure a source:
///
/// ```
/// use prb_core::attestation::NoCollateral;
///
/// let source = NoCollateral::new("set pccs_urls in the program's configuration");
/// # let _ = source;
/// ```
#[derive(Clone, Debug)]
pub struct NoCollateral {
    remedy: String,
}

impl NoCollateral {
    /// Creates the source. `remedy` is a clause for operators, as in the example.
    pub fn new(remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into() }
    }
}

#[async_trait]
impl CollateralSource for NoCollateral {
    async fn collateral(&self, _quote: &[u8]) -> Result<Collateral, Error> {
        Err(Error::NotConfigured { remedy: self.remedy.clone() })
    }
}
