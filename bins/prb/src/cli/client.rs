//! A client of the management API: of a running daemon, or within this process of a stopped one's inventory.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use prb_core::pruntime::http::{redirects, tls};
use reqwest::{
    Client as Http, Method, StatusCode, Url,
    header::{self, HeaderMap},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Position;

use super::{
    args::{OfflineArgs, Remote},
    offline::Offline,
};
use crate::{
    config::{PageArgs, first_line, host_only},
    token::TOKEN_FILE,
};

/// Time limit for the daemon's answers; slightly longer than its own, whose answer says more than a timeout here.
const TIMEOUT: Duration = Duration::from_secs(65);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer, in bytes: ten thousand workers with their status have some twelve million.
pub(super) const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// Number of entries per request.
const PAGE: usize = 1000;
/// The largest token file, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;
/// How many times a list is read again from its beginning because it changed while it was read.
const READS: usize = 5;

/// A refusal from the daemon.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Refusal {
    pub(super) fn message(&self) -> String {
        let message = self.body["message"].as_str().map(str::to_owned);
        message.unwrap_or_else(|| format!("the daemon answers with status {}", self.status))
    }

    /// Returns the faulty entries.
    pub(super) fn entries(&self) -> &[Value] {
        self.body["entries"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn text(&self) -> String {
        match self.entries() {
            [] | [_] => self.message(),
            entries => {
                let lines = entries.iter().map(|entry| format!("\n  {}", fault(entry)));
                self.message() + &lines.collect::<String>()
            }
        }
    }
}

/// Formats a faulty entry as a line.
pub(super) fn fault(entry: &Value) -> String {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let name = match text("name") {
        "" => String::new(),
        name => format!("{name:?}: "),
    };
    format!("{name}{}", text("message"))
}

/// An answer: its version, if it has one, and its body.
pub(super) struct Answer {
    etag: Option<String>,
    pub(super) status: u16,
    pub(super) body: Value,
}

/// The daemon's API, or that of a stopped one's inventory.
pub(super) enum Client {
    Daemon(Daemon),
    Offline(Offline),
}

/// A daemon's address, and how to speak to it.
pub(super) struct Daemon {
    http: Http,
    base: Url,
    token: Option<SecretString>,
}

impl Daemon {
    fn new(remote: &Remote) -> anyhow::Result<Self> {
        let base = Url::parse(&remote.api).context("--api (PRB_API_URL) is not a URL")?;
        ensure!(matches!(base.scheme(), "http" | "https"), "--api must be an http or https URL");
        let token = token(remote)?;
        if token.is_some() && base.scheme() == "http" && !is_loopback(&base) && !remote.allow_plain_http {
            bail!(
                "the token would go to {} without encryption: use https, or --allow-plain-http in a network that \
                 you trust",
                base.host_str().unwrap_or_default()
            );
        }
        let http = Http::builder()
            .tls_backend_preconfigured(tls::client_config(&[])?)
            // The token must reach no proxy that happens to be configured for other purposes.
            .no_proxy()
            // A daemon redirects nothing; following a redirect could turn a change into a GET.
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { http, base, token })
    }

    async fn ask(
        &self,
        method: Method,
        path_and_query: &Url,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Vec<u8>)> {
        let mut url = self.base.clone();
        // The API may be below a path of a reverse proxy.
        let base = self.base.path().trim_end_matches('/').to_owned();
        url.set_path(&(base + path_and_query.path()));
        url.set_query(path_and_query.query());
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        // As success it would hide that nothing was done.
        if let Some(redirect) = redirects::describe(&response) {
            bail!("the server at {} is not a daemon's API: {redirect}", host_only(self.base.as_str()));
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.context("the daemon's answer was cut off")? {
            ensure!(
                bytes.len() + chunk.len() <= MAX_ANSWER_BYTES,
                "the daemon's answer has more than {MAX_ANSWER_BYTES} bytes"
            );
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, headers, bytes))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let base = host_only(self.base.as_str());
        if error.is_connect() {
            return anyhow::Error::new(error.without_url()).context(format!(
                "no daemon answers at {base}: is `prb all` or `prb lifecycle` running there? --api (PRB_API_URL) \
                 names another address. Pools and workers of one that is stopped are edited with --offline, on its \
                 data folder"
            ));
        }
        let text = format!(
            "the daemon at {base} does not answer; a change may have been made: check before you repeat it"
        );
        anyhow::Error::new(error.without_url()).context(text)
    }
}

impl Client {
    /// Creates the client of a running daemon.
    pub(super) fn new(remote: &Remote) -> anyhow::Result<Self> {
        Daemon::new(remote).map(Self::Daemon)
    }

    /// Creates the client of a running daemon, or with `--offline` that of a stopped one's inventory. With `adds`, a
    /// missing inventory is created.
    pub(super) async fn of(offline: &OfflineArgs, remote: &Remote, adds: bool) -> anyhow::Result<Self> {
        if offline.offline {
            Offline::open(offline, remote, adds).await.map(Self::Offline)
        } else {
            Self::new(remote)
        }
    }

    /// Refuses a command that needs a running daemon.
    pub(super) fn check_running(&self, command: &str) -> anyhow::Result<()> {
        match self {
            Self::Daemon(_) => Ok(()),
            Self::Offline(_) => {
                bail!(
                    "{command} is for a running daemon: --offline edits the inventory of one that is stopped"
                )
            }
        }
    }

    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        Ok(self.ask(Method::GET, path, query, None).await?.body)
    }

    /// Sends a request; a status of 400 or more is returned as a [`Refusal`].
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let answer = self.send(method, path, query, body).await?;
        if answer.status >= 400 {
            return Err(Refusal { status: answer.status, body: answer.body }.into());
        }
        Ok(answer)
    }

    /// Sends a request and returns the answer whatever its status.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut url = Url::parse("http://daemon/api/v1")?;
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("an address without a path"))?.extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let (status, headers, bytes) = match self {
            Self::Daemon(daemon) => daemon.ask(method, &url, body).await?,
            Self::Offline(inventory) => inventory.ask(method, &url[Position::BeforePath..], body).await?,
        };
        let body: Value = match (serde_json::from_slice(&bytes), self) {
            (Ok(body), _) => body,
            (Err(_), Self::Daemon(daemon)) if status == StatusCode::OK => {
                bail!("the server at {} is not a daemon's API", host_only(daemon.base.as_str()))
            }
            _ => Value::Null,
        };
        let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok().map(str::to_owned));
        Ok(Answer { etag, status: status.as_u16(), body })
    }

    /// Reads a complete list, page by page, all of one version of the inventory.
    pub(super) async fn list(&self, kind: &str, query: &[(&str, String)]) -> anyhow::Result<Vec<Value>> {
        'read: for _ in 0..READS {
            let (mut all, mut version) = (Vec::new(), None);
            loop {
                let mut query = query.to_vec();
                query.extend([("offset", all.len().to_string()), ("limit", PAGE.to_string())]);
                let answer = self.ask(Method::GET, &[kind], &query, None).await?;
                // It has changed between two pages: entries could be missing, or be there twice.
                if version.get_or_insert_with(|| answer.etag.clone()) != &answer.etag {
                    continue 'read;
                }
                let page = answer.body[kind].as_array().cloned().unwrap_or_default();
                let total = answer.body["total"].as_u64().unwrap_or_default();
                let last = page.is_empty();
                all.extend(page);
                if last || all.len() as u64 >= total {
                    return Ok(all);
                }
            }
        }
        bail!("the list changes faster than it can be read: try again")
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Finds the token: in the named file, the variable, or the daemon's data folder.
fn token(remote: &Remote) -> anyhow::Result<Option<SecretString>> {
    let named = PageArgs { api_token_file: remote.api_token_file.clone(), ..PageArgs::default() };
    if let Some(token) = named.token()? {
        return Ok(Some(token));
    }
    // A file that this user may not read is passed over: reads on loopback need no token, and the daemon's
    // refusal names the file.
    let folders = remote.data.iter().chain([&remote.local_db_path]);
    let found = folders.map(|folder| folder.join(TOKEN_FILE)).find(|file| may_be_read(file));
    found.map(|file| first_line(&file, MAX_TOKEN_BYTES)).transpose()
}

fn may_be_read(file: &Path) -> bool {
    std::fs::File::open(file).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::{Router, response::Redirect};

    use super::*;

    impl Client {
        /// A client of a daemon that answers with `routes`, for the rest of the test.
        pub(in crate::cli) async fn to_test(routes: Router) -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let http = Http::builder().no_proxy().redirect(redirect::Policy::none()).timeout(TIMEOUT);
            Self::Daemon(Daemon { http: http.build().unwrap(), base, token: None })
        }
    }

    #[tokio::test]
    async fn redirect_is_no_success() {
        let redirects = Router::new().fallback(async || Redirect::temporary("https://login.example/?next=x"));
        let client = Client::to_test(redirects).await;
        let asked = client.ask(Method::POST, &["commands", "stop"], &[], Some(&Value::Null)).await;
        let error = format!("{:#}", asked.map(drop).unwrap_err());
        assert!(error.contains("it redirects to https://login.example (307)"), "{error}");
    }
}
