//! Settings of the collateral for workers' DCAP quotes, and of attestation timeouts.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use prb_core::attestation::{
    CollateralSource, NoCollateral,
    pccs::{ConfigError, PccsConfig, PccsSource, check_url},
};

use super::values::{millis, server_url};
use crate::redact;

/// What an operator does if a worker needs collateral and no PCCS is set.
const REMEDY: &str = "set PRB_PCCS_URLS (--pccs-urls) to one or more PCCS URLs";

/// Attestation of workers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Attestation of workers")]
pub struct PccsArgs {
    /// PCCS servers that provide the collateral of workers' DCAP quotes, asked in this order. Without any,
    /// workers that attest by DCAP are not registered.
    #[arg(
        long,
        // The earlier name.
        alias = "pccs-url",
        env = "PRB_PCCS_URLS",
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true,
        value_parser = pccs_url
    )]
    pub pccs_urls: Vec<String>,
    /// Timeout of one PCCS server for a quote's collateral, in ms.
    #[arg(long, env = "PRB_PCCS_TIMEOUT", default_value = "20000", value_parser = millis)]
    pub pccs_timeout: Duration,
    /// Timeout of a worker's attestation, in ms.
    #[arg(long, env = "PRB_ATTESTATION_TIMEOUT", default_value = "150000", value_parser = millis)]
    pub attestation_timeout: Duration,
}

fn pccs_url(text: &str) -> Result<String, String> {
    server_url(text, &["http", "https"], "must be a URL such as https://pccs.example.org")?;
    check_url(text.trim()).map_err(|error| redact::scrubbed(&error.to_string()))
}

impl PccsArgs {
    /// Creates the source of collateral; without a PCCS, one whose errors name the settings. `clock` is the chain's:
    /// the chain checks by its own time whether collateral has expired.
    ///
    /// # Errors
    /// The HTTP client cannot be created.
    pub fn source(
        &self,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Arc<dyn CollateralSource>, ConfigError> {
        if self.pccs_urls.is_empty() {
            return Ok(Arc::new(NoCollateral::new(REMEDY)));
        }
        let mut config = PccsConfig::new(self.pccs_urls.iter().cloned());
        config.timeout = self.pccs_timeout;
        Ok(Arc::new(PccsSource::new(config)?.with_clock(clock)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        pccs: PccsArgs,
    }

    fn read(args: &[&str]) -> Result<PccsArgs, clap::Error> {
        Cli::try_parse_from([&["prb"], args].concat()).map(|cli| cli.pccs)
    }

    #[tokio::test]
    async fn pccs_urls_are_a_list_and_are_checked() {
        let none = read(&[]).unwrap();
        let error = none.source(SystemTime::now).unwrap().collateral(&[]).await.unwrap_err();
        assert!(error.to_string().contains("set PRB_PCCS_URLS (--pccs-urls)"), "{error}");
        assert_eq!(none.pccs_timeout, prb_core::attestation::pccs::TIMEOUT);
        assert_eq!(none.attestation_timeout, prb_core::pruntime::http::ATTESTATION_TIMEOUT);

        let urls = "https://a.example/, http://b.example:8081";
        let two = read(&["--pccs-urls", urls, "--pccs-timeout", "5"]).unwrap();
        assert_eq!(read(&["--pccs-url", urls]).unwrap().pccs_urls, two.pccs_urls);
        assert_eq!(two.pccs_urls, ["https://a.example", "http://b.example:8081"]);
        assert_eq!(two.pccs_timeout, Duration::from_millis(5));
        let error = two.source(SystemTime::now).unwrap().collateral(&[]).await.unwrap_err();
        assert!(error.to_string().contains("quote cannot be read"), "{error}");

        let error = read(&["--pccs-urls", "pccs.example"]).unwrap_err().to_string();
        assert!(error.contains("https://pccs.example.org"), "{error}");
    }
}
