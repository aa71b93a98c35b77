//! [`CollateralSource`] over a list of PCCS URLs, with fail-over.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use dcap_qvl::{
    QuoteCollateralV3,
    collateral::CollateralClient,
    configs::DefaultConfig,
    http::{HttpClient, HttpResponse},
    quote::Quote,
    verify::QuoteVerifier,
};
use reqwest::{Client, Url, redirect};
use tracing::warn;

use super::{CollateralSource, Error};
use crate::{
    pruntime::http::{BuildError, origin, redirects, tls, without_password},
    text::{duration, shorten},
    wire::{Collateral, SgxV30QuoteCollateral},
};

/// Default of [`PccsConfig::timeout`].
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a quote, in bytes.
const QUOTE_LIMIT_BYTES: usize = 64 * 1024;
/// Maximum size of a PCCS's answer, in bytes.
const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;
/// Maximum number of headers read from an answer.
const HEADER_LIMIT: usize = 64;
/// Maximum length of a reason in an error, in bytes: it may quote a PCCS's answer.
const REASON_LIMIT_BYTES: usize = 300;

/// Configuration of a [`PccsSource`].
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct PccsConfig {
    /// PCCS servers, tried in this order: `https://pccs.example.org` or
    /// `https://api.trustedservices.intel.com`. No default: [`PccsConfig::new`] takes them.
    pub urls: Vec<String>,
    /// Timeout of one PCCS for all of a quote's collateral. Default: 20 s.
    pub timeout: Duration,
    /// PEM certificates trusted for HTTPS in addition to the well-known ones. Default: none.
    pub root_certificates_pem: Vec<u8>,
}

impl PccsConfig {
    /// Creates a configuration that tries these servers in order.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self { urls: urls.into_iter().collect(), timeout: TIMEOUT, root_certificates_pem: Vec::new() }
    }
}

/// Why a [`PccsSource`] cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The list of URLs is empty.
    #[error("the list of PCCS URLs is empty: name at least one")]
    Empty,
    /// The text is not the URL of a PCCS.
    #[error("{url:?} is not a PCCS URL ({reason}): write it as https://pccs.example.org")]
    Url {
        /// The text.
        url: String,
        /// The problem.
        reason: String,
    },
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Http(#[from] BuildError),
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Fetches collateral from the first PCCS that returns valid one.
///
/// Collateral is verified together with the quote before it is used: the signatures up to Intel's root, and
/// that it has not expired. The next PCCS is tried if one is unreachable, slow, or returns collateral that
/// does not verify.
#[derive(Clone)]
pub struct PccsSource {
    urls: Vec<String>,
    timeout: Duration,
    http: Http,
    clock: Clock,
}

impl fmt::Debug for PccsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PccsSource")
            .field("urls", &self.urls.iter().map(|url| origin(url)).collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl PccsSource {
    /// Creates a source over these servers. Opens no connection yet.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: PccsConfig) -> Result<Self, ConfigError> {
        if config.urls.is_empty() {
            return Err(ConfigError::Empty);
        }
        let urls = config.urls.iter().map(|url| check_url(url)).collect::<Result<_, _>>()?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.root_certificates_pem)?)
            // Uses the system's name resolution even if another crate enables reqwest's own resolver.
            .no_hickory_dns()
            .redirect(redirect::Policy::none())
            .connect_timeout(config.timeout)
            .build()
            .map_err(BuildError::Client)?;
        Ok(Self { urls, timeout: config.timeout, http: Http(client), clock: Arc::new(SystemTime::now) })
    }

    /// Replaces the clock: for tests with recorded collateral, which has expired.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn fetch_from(&self, url: &str, quote: &[u8]) -> Result<Collateral, String> {
        let client = CollateralClient::<DefaultConfig, _>::new(self.http.clone(), url);
        let fetched = tokio::time::timeout(self.timeout, client.fetch(quote))
            .await
            .map_err(|_| format!("no answer within {}", duration(self.timeout)))?
            .map_err(|error| format!("{error:#}"))?;
        // With a clock before 1970 no certificate is valid yet, so that the verification fails.
        let now = (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Verified here although the chain verifies it as well: what does not verify would cost the operator
        // a failed registration's fee, and another PCCS may have newer collateral.
        QuoteVerifier::new_prod()
            .verify(quote, &fetched, now)
            .map_err(|error| format!("its collateral does not verify: {error:#}"))?;
        Ok(Collateral::SgxV30(to_pallet_layout(fetched)))
    }
}

#[async_trait]
impl CollateralSource for PccsSource {
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, Error> {
        check_quote(quote)
            .map_err(|error| Error::Quote { reason: shorten(&format!("{error:#}"), REASON_LIMIT_BYTES) })?;
        let mut attempts = Vec::new();
        for url in &self.urls {
            match self.fetch_from(url, quote).await {
                Ok(collateral) => return Ok(collateral),
                Err(reason) => {
                    let shown = origin(url);
                    let reason = shorten(&with_origins(&reason), REASON_LIMIT_BYTES);
                    warn!(pccs = %shown, %reason, "a PCCS returned no valid collateral");
                    attempts.push((shown, reason));
                }
            }
        }
        Err(Error::Unavailable { attempts })
    }
}

/// Reduces the URLs in a reason to their origins. The client derives them from the configured one, whose user name,
/// password and path may be secrets.
fn with_origins(reason: &str) -> String {
    let mut text = String::new();
    let mut rest = reason;
    while let Some(start) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        let url = rest[start..].split([' ', '\n', '\t', '"', '`', ')', '>']).next().unwrap_or_default();
        let url = url.trim_end_matches([':', ',', ';', '.']);
        text += &rest[..start];
        text += &origin(url);
        rest = &rest[start + url.len()..];
    }
    text + rest
}

/// Validates and normalises the URL of a PCCS: no trailing slash.
///
/// # Errors
/// [`ConfigError::Url`] if `text` is not a valid one.
pub fn check_url(text: &str) -> Result<String, ConfigError> {
    let bad = |reason: &str| ConfigError::Url { url: without_password(text), reason: reason.to_owned() };
    let url = Url::parse(text.trim()).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.query().is_none() && url.fragment().is_none() => {
            Ok(url.as_str().trim_end_matches('/').to_owned())
        }
        "http" | "https" => Err(bad("it has a query or fragment")),
        _ => Err(bad("its scheme is neither http nor https")),
    }
}

/// Checks whether collateral can exist for a quote at all.
fn check_quote(quote: &[u8]) -> anyhow::Result<()> {
    if quote.len() > QUOTE_LIMIT_BYTES {
        bail!("it has {} bytes, more than {QUOTE_LIMIT_BYTES}", quote.len());
    }
    let quote = Quote::parse(quote)?;
    if !quote.header.is_sgx() {
        bail!("it is not from an SGX enclave");
    }
    Ok(())
}

/// Converts to the pallet's layout: revocation lists in hexadecimal, and no platform certificates, which it
/// takes from the quote.
fn to_pallet_layout(fetched: QuoteCollateralV3) -> SgxV30QuoteCollateral {
    SgxV30QuoteCollateral {
        pck_crl_issuer_chain: fetched.pck_crl_issuer_chain,
        root_ca_crl: hex::encode(fetched.root_ca_crl),
        pck_crl: hex::encode(fetched.pck_crl),
        tcb_info_issuer_chain: fetched.tcb_info_issuer_chain,
        tcb_info: fetched.tcb_info,
        tcb_info_signature: fetched.tcb_info_signature,
        qe_identity_issuer_chain: fetched.qe_identity_issuer_chain,
        qe_identity: fetched.qe_identity,
        qe_identity_signature: fetched.qe_identity_signature,
    }
}

/// An HTTP client with bounded answers.
#[derive(Clone)]
struct Http(Client);

impl HttpClient for Http {
    async fn get(&self, url: &str) -> anyhow::Result<HttpResponse> {
        let mut answer = self.0.get(url).send().await.map_err(reqwest::Error::without_url)?;
        if let Some(redirect) = redirects::describe(&answer) {
            bail!(redirect);
        }
        let status = answer.status().as_u16();
        let headers = answer.headers().iter().take(HEADER_LIMIT);
        let headers: BTreeMap<_, _> = headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let mut body = Vec::new();
        let cut_off = "the answer was cut off";
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url).context(cut_off)? {
            // Counted while reading: `Content-Length` may be absent or wrong.
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                bail!("an answer has more than {ANSWER_LIMIT_BYTES} bytes");
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, headers, body })
    }
}
