//! Common parts of sources over HTTP.

use std::time::Duration;

use prb_core::pruntime::http::{redirects, tls};
use reqwest::{Client, RequestBuilder, Response, Url, redirect};

use super::Error;

pub(super) fn bad(what: impl Into<String>) -> Error {
    Error::Bad(what.into())
}

pub(super) fn unavailable(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable { what: what.to_owned(), source: Box::new(source) }
}

/// A server with its HTTP client.
pub(super) struct Server {
    /// Scheme, host and port, for messages: a path or query may contain a key.
    pub(super) shown: String,
    pub(super) base: Url,
    pub(super) http: Client,
}

impl Server {
    /// # Errors
    /// The URL is not an HTTP URL, or a certificate is invalid.
    pub(super) fn new(url: &str, timeout: Duration, root_certificates_pem: &[u8]) -> Result<Self, Error> {
        let base = Url::parse(url).map_err(|e| unavailable("the URL cannot be read", e))?;
        let host = base.host_str().filter(|_| matches!(base.scheme(), "http" | "https"));
        let host = host.ok_or_else(|| bad("the URL must start with http:// or https://"))?;
        let port = base.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("{}://{host}{port}", base.scheme());
        let tls = tls::client_config(root_certificates_pem);
        let tls = tls.map_err(|e| unavailable("the certificates cannot be read", e))?;
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_hickory_dns()
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .build()
            .map_err(|e| unavailable("no HTTP client", e.without_url()))?;
        Ok(Self { shown, base, http })
    }

    /// Sends a request. A redirect is an error.
    pub(super) async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, Error> {
        let answer = request.send().await.map_err(|e| unavailable(what, e.without_url()))?;
        match redirects::describe(&answer) {
            Some(redirect) => Err(unavailable(what, std::io::Error::other(redirect))),
            None => Ok(answer),
        }
    }

    /// Returns the URL of a path below the server's.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let below = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{below}/{}", path.trim_start_matches('/')));
        url
    }
}
