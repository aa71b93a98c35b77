//! Collateral of a real DCAP quote, from PCCSs of the test's own.
#![cfg(feature = "pccs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::RawQuery,
    http::{HeaderName, StatusCode, Uri},
    response::Redirect,
    routing::get,
};
use codec::DecodeAll;
use prb_core::{
    attestation::{
        CollateralSource, Error,
        pccs::{ConfigError, PccsConfig, PccsSource},
    },
    wire::{Collateral, SgxV30QuoteCollateral},
};
use tokio::{net::TcpListener, task::JoinSet};

/// 2023-12-01, when the recorded collateral was in force.
const THEN_SECS: u64 = 1_701_388_800;

/// A quote and its collateral, from a folder of recorded data beside the checkout.
fn recorded() -> Option<(Vec<u8>, SgxV30QuoteCollateral)> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("shared/data"));
    let Some(folder) = folders.into_iter().find(|dir| dir.join("dcap_quote").exists()) else {
        eprintln!("skipped: there is no shared/data/dcap_quote beside the checkout");
        return None;
    };
    let quote = std::fs::read(folder.join("dcap_quote")).unwrap();
    let collateral = std::fs::read(folder.join("dcap_quote_collateral")).unwrap();
    Some((quote, SgxV30QuoteCollateral::decode_all(&mut &*collateral).unwrap()))
}

/// Every byte that HTTP headers cannot carry, as %XX.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn chain(name: &'static str, chain: &str) -> [(HeaderName, String); 1] {
    [(HeaderName::from_static(name), escaped(chain))]
}

/// A PCCS that serves this collateral, as version 4 of Intel's API has it.
fn pccs(collateral: &SgxV30QuoteCollateral) -> Router {
    let c = collateral.clone();
    let tcb = format!(r#"{{"tcbInfo":{},"signature":"{}"}}"#, c.tcb_info, hex::encode(&c.tcb_info_signature));
    let qe = format!(
        r#"{{"enclaveIdentity":{},"signature":"{}"}}"#,
        c.qe_identity,
        hex::encode(&c.qe_identity_signature)
    );
    let tcb = (chain("tcb-info-issuer-chain", &c.tcb_info_issuer_chain), tcb);
    let qe = (chain("sgx-enclave-identity-issuer-chain", &c.qe_identity_issuer_chain), qe);
    let crl = (chain("sgx-pck-crl-issuer-chain", &c.pck_crl_issuer_chain), hex::decode(&c.pck_crl).unwrap());
    let api = Router::new()
        .route("/rootcacrl", get(async move || c.root_ca_crl))
        .route(
            "/tcb",
            get(async move |RawQuery(query): RawQuery| {
                assert!(query.unwrap().contains("fmspc="));
                tcb
            }),
        )
        .route("/qe/identity", get(async move || qe))
        .route("/pckcrl", get(async move || crl));
    Router::new().nest("/sgx/certification/v4", api)
}

struct Servers(JoinSet<()>);

impl Servers {
    async fn start(&mut self, router: Router) -> String {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        self.0.spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }
}

fn source(urls: &[&str], at_secs: u64) -> PccsSource {
    let config = PccsConfig::new(urls.iter().map(|&url| url.to_owned()));
    let config = config.with_timeout(Duration::from_millis(700));
    PccsSource::new(config).unwrap().with_clock(move || UNIX_EPOCH + Duration::from_secs(at_secs))
}

async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn collateral_comes_from_the_first_pccs_that_gives_it() {
    let Some((quote, recorded)) = recorded() else { return };
    let mut servers = Servers(JoinSet::new());
    let good = servers.start(pccs(&recorded)).await;
    let hanging = servers.start(Router::new().fallback(async || std::future::pending::<()>().await)).await;
    let failing = servers.start(Router::new().fallback(async || StatusCode::INTERNAL_SERVER_ERROR)).await;
    let endless = Router::new().fallback(async || vec![b'7'; 2 << 20]);
    let endless = servers.start(endless).await;
    let dead = dead().await;
    let began = Instant::now();
    let trailing = format!("{good}/");
    let source = source(&[&dead, &hanging, &failing, &endless, &trailing], THEN_SECS);
    let collateral = source.collateral(&quote).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // As it was recorded, so as a chain took it: the statements' text is what the signatures are about.
    assert_eq!(collateral, Collateral::SgxV30(recorded));
}

#[tokio::test]
async fn collateral_that_does_not_verify_is_not_used() {
    let Some((quote, recorded)) = recorded() else { return };
    let mut servers = Servers(JoinSet::new());
    let good = servers.start(pccs(&recorded)).await;
    let mut altered = recorded.clone();
    altered.tcb_info = altered.tcb_info.replacen("OutOfDate", "UpToDate", 1);
    assert_ne!(altered, recorded);
    let altered = servers.start(pccs(&altered)).await;

    let both = source(&[&altered, &good], THEN_SECS);
    assert_eq!(both.collateral(&quote).await.unwrap(), Collateral::SgxV30(recorded));
    let error = source(&[&altered], THEN_SECS).collateral(&quote).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("does not verify"), "{error}");

    // Today it has expired; and every PCCS is named with its reason.
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let dead = dead().await;
    let Error::Unavailable { attempts } =
        source(&[&good, &dead], today).collateral(&quote).await.unwrap_err()
    else {
        panic!("expired collateral was not refused")
    };
    let named: Vec<_> = attempts.iter().map(|(url, _)| url.as_str()).collect();
    assert_eq!(named, [good.as_str(), dead.as_str()]);
    assert!(attempts[0].1.contains("does not verify"), "{attempts:?}");
}

#[tokio::test]
async fn failures_show_no_credentials_or_paths_of_urls() {
    let Some((quote, _)) = recorded() else { return };
    let mut servers = Servers(JoinSet::new());
    let failing = servers.start(Router::new().fallback(async || StatusCode::UNAUTHORIZED)).await;
    let dead = dead().await;
    // The client replaces this end by others.
    for end in ["", "/tdx/certification/v4", "/sgx/certification/v4/sgx/certification/v4"] {
        let urls = [&failing, &dead]
            .map(|url| url.replace("://", "://fleet:pass-phrase@") + "/subscription-key" + end);
        let source = source(&urls.each_ref().map(String::as_str), THEN_SECS);
        let error = source.collateral(&quote).await.unwrap_err();
        for shown in [error.to_string(), format!("{error:?}"), format!("{source:?}")] {
            assert!(shown.contains("127.0.0.1"), "{shown}");
            assert!(!shown.contains("pass-phrase") && !shown.contains("subscription-key"), "{shown}");
        }
    }
    let error =
        PccsSource::new(PccsConfig::new(["https://u:pass-phrase@pccs.example/?a=b".to_owned()])).unwrap_err();
    assert!(!error.to_string().contains("pass-phrase"), "{error}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let Some((quote, recorded)) = recorded() else { return };
    let mut servers = Servers(JoinSet::new());
    let good = servers.start(pccs(&recorded)).await;
    let target = good.clone();
    let redirects =
        Router::new().fallback(async move |uri: Uri| Redirect::temporary(&format!("{target}{uri}")));
    let redirecting = servers.start(redirects).await;
    let error = source(&[&redirecting], THEN_SECS).collateral(&quote).await.unwrap_err().to_string();
    assert!(error.contains(&format!("it redirects to {good} (307)")), "{error}");
}

#[tokio::test]
async fn malformed_quotes_cause_no_request() {
    let source = source(&["http://192.0.2.1"], THEN_SECS);
    for quote in [vec![], vec![3; 100], vec![0; 100_000]] {
        let error = source.collateral(&quote).await.unwrap_err();
        assert!(matches!(error, Error::Quote { .. }) && !error.is_retryable(), "{error:?}");
    }
}

#[test]
fn urls_are_checked_when_the_source_is_made() {
    assert!(matches!(PccsSource::new(PccsConfig::new([])), Err(ConfigError::Empty)));
    for bad in ["", "pccs.example.org", "ftp://pccs.example.org", "https://pccs.example.org/?a=b"] {
        let made = PccsSource::new(PccsConfig::new([bad.to_owned()]));
        assert!(matches!(made, Err(ConfigError::Url { .. })), "{bad}");
    }
    assert!(PccsSource::new(PccsConfig::new(["https://pccs.example.org/".to_owned()])).is_ok());
}
