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
    pruntime::http::{BuildError, tls},
    wire::{Collateral, SgxV30QuoteCollateral},
};

/// Default of [`PccsConfig::timeout`].
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest quote that is looked at, in bytes.
const QUOTE_LIMIT_BYTES: usize = 64 * 1024;
/// The largest answer of a PCCS that is read, in bytes.
const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;
/// The most headers of an answer that are read.
const HEADER_LIMIT: usize = 64;
/// The longest reason that an error carries, in characters.
const REASON_LIMIT: usize = 300;

/// Where collateral comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PccsConfig {
    /// PCCSs, asked in this order: `https://pccs.example.org` or `https://api.trustedservices.intel.com`.
    pub urls: Vec<String>,
    /// Time that one PCCS may take for all of a quote's collateral.
    pub timeout: Duration,
    /// PEM of certificates that vouch for HTTPS PCCSs besides the well-known ones.
    pub root_certificates_pem: Vec<u8>,
}

impl PccsConfig {
    /// Asks these PCCSs, in this order.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self { urls: urls.into_iter().collect(), timeout: TIMEOUT, root_certificates_pem: Vec::new() }
    }
}

/// Why no [`PccsSource`] can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No URL.
    #[error("a list of PCCSs needs at least one URL")]
    Empty,
    /// Not a URL of a PCCS.
    #[error("{url:?} is not a PCCS URL ({reason}): write it as https://pccs.example.org")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] BuildError),
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Fetches collateral from the first PCCS that gives valid one.
///
/// What a PCCS gives is verified together with the quote before it is used: signatures up to Intel's root, and
/// that it has not expired. The next PCCS is asked where one is away, slow, or serves what does not verify.
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
            .field("urls", &self.urls)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl PccsSource {
    /// A source over these PCCSs. Opens no connection yet.
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
            .no_hickory_dns()
            .redirect(redirect::Policy::limited(2))
            .connect_timeout(config.timeout)
            .build()
            .map_err(BuildError::Client)?;
        Ok(Self { urls, timeout: config.timeout, http: Http(client), clock: Arc::new(SystemTime::now) })
    }

    /// The same source with another clock: collateral expires, and recorded collateral has expired.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn ask(&self, url: &str, quote: &[u8]) -> Result<Collateral, String> {
        let client = CollateralClient::<DefaultConfig, _>::new(self.http.clone(), url);
        let fetched = tokio::time::timeout(self.timeout, client.fetch(quote))
            .await
            .map_err(|_| format!("no answer within {:?}", self.timeout))?
            .map_err(|error| format!("{error:#}"))?;
        let now = (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        QuoteVerifier::new_prod()
            .verify(quote, &fetched, now)
            .map_err(|error| format!("its collateral does not verify: {error:#}"))?;
        Ok(Collateral::SgxV30(as_chain_takes_it(fetched)))
    }
}

#[async_trait]
impl CollateralSource for PccsSource {
    async fn collateral(&self, quote: &[u8]) -> Result<Collateral, Error> {
        check_quote(quote).map_err(|error| Error::Quote { reason: short(&format!("{error:#}")) })?;
        let mut attempts = Vec::new();
        for url in &self.urls {
            match self.ask(url, quote).await {
                Ok(collateral) => return Ok(collateral),
                Err(reason) => {
                    let reason = short(&reason);
                    warn!(pccs = %url, %reason, "a PCCS gave no collateral");
                    attempts.push((url.clone(), reason));
                }
            }
        }
        Err(Error::Unavailable { attempts })
    }
}

/// The URL of a PCCS as it is used, without a slash at its end.
///
/// # Errors
/// [`ConfigError::Url`] where `text` cannot be one.
pub fn check_url(text: &str) -> Result<String, ConfigError> {
    let bad = |reason: &str| ConfigError::Url { url: text.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(text.trim()).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.query().is_none() && url.fragment().is_none() => {
            Ok(url.as_str().trim_end_matches('/').to_owned())
        }
        "http" | "https" => Err(bad("it has something after ? or #")),
        _ => Err(bad("its scheme is neither http nor https")),
    }
}

/// Whether collateral can exist for a quote at all.
fn check_quote(quote: &[u8]) -> anyhow::Result<()> {
    if quote.len() > QUOTE_LIMIT_BYTES {
        bail!("it has {} bytes, more than {QUOTE_LIMIT_BYTES}", quote.len());
    }
    let quote = Quote::parse(quote)?;
    if !quote.header.is_sgx() {
        bail!("it is not of an SGX enclave");
    }
    Ok(())
}

/// The chain's pallet wants revocation lists in hexadecimal, and takes the platform's certificates from the quote.
fn as_chain_takes_it(fetched: QuoteCollateralV3) -> SgxV30QuoteCollateral {
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

fn short(reason: &str) -> String {
    match reason.char_indices().nth(REASON_LIMIT) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// The HTTP client with bounded answers.
#[derive(Clone)]
struct Http(Client);

impl HttpClient for Http {
    async fn get(&self, url: &str) -> anyhow::Result<HttpResponse> {
        let mut answer = self.0.get(url).send().await?;
        let status = answer.status().as_u16();
        let headers = answer.headers().iter().take(HEADER_LIMIT);
        let headers: BTreeMap<_, _> = headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.context("the answer broke off")? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                bail!("an answer has more than {ANSWER_LIMIT_BYTES} bytes");
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, headers, body })
    }
}
