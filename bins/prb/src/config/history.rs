//! Settings of the history sources.

use std::{fmt, net::SocketAddr, path::PathBuf};

use clap::Args;

use super::values::{host_only, server_url};

/// History sources.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Chains and blobs")]
pub struct HistoryArgs {
    /// Sources of past blocks, separated by commas; they are asked before the nodes, in this order: the folder
    /// of an archive (written by `prb store export`), archive+http://… or archive+https://… for one in an
    /// object store's bucket or on a web server, http://… or https://… for a headers cache, tcp://HOST:PORT for
    /// another data provider's blob server. Their blocks are verified like those of nodes.
    #[arg(
        long,
        env = "PRB_HISTORY",
        value_delimiter = ',',
        value_parser = history_location,
        value_name = "PLACE",
        hide_env_values = true
    )]
    pub history: Vec<HistoryLocation>,
}

/// A history source. A URL may contain a key, so `Debug` shows the host only.
#[derive(Clone, PartialEq, Eq)]
pub enum HistoryLocation {
    /// A folder with an archive.
    Archive(PathBuf),
    /// The URL of an archive.
    HttpArchive(String),
    /// A headers cache over HTTP.
    HeadersCache(String),
    /// A data provider's blob server: host and port.
    Provider(String),
}

impl fmt::Debug for HistoryLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(folder) => write!(f, "{}", folder.display()),
            Self::HttpArchive(url) => write!(f, "archive+{}", host_only(url)),
            Self::HeadersCache(url) => f.write_str(&host_only(url)),
            Self::Provider(address) => write!(f, "tcp://{address}"),
        }
    }
}

fn history_location(text: &str) -> Result<HistoryLocation, String> {
    const ALLOWED: &str = "must be the folder of an archive, archive+http://… or archive+https://… of one on a server, \
                           http://… or https://… of a headers cache, or tcp://HOST:PORT of a data provider";
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return if text.is_empty() { Err(ALLOWED.into()) } else { Ok(HistoryLocation::Archive(text.into())) };
    };
    let scheme = scheme.to_ascii_lowercase();
    let of_http = |scheme: &str| {
        let url = format!("{scheme}://{rest}");
        server_url(&url, &["http", "https"], ALLOWED).map(|_| url)
    };
    match (scheme.strip_prefix("archive+"), &*scheme) {
        (Some(scheme), _) => of_http(scheme).map(HistoryLocation::HttpArchive),
        (None, "http" | "https") => of_http(&scheme).map(HistoryLocation::HeadersCache),
        (None, "tcp") if is_host_and_port(rest) => Ok(HistoryLocation::Provider(rest.to_owned())),
        _ => Err(ALLOWED.into()),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    text.parse::<SocketAddr>().map_or_else(
        |_| {
            let allowed = |c: char| c.is_alphanumeric() || "-._".contains(c);
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, of)| !host.is_empty() && host.chars().all(allowed) && port(of))
        },
        |address| address.port() > 0,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sources_are_distinguished() {
        assert_eq!(history_location("/srv/archive"), Ok(HistoryLocation::Archive("/srv/archive".into())));
        assert_eq!(history_location("tcp://a:8012"), Ok(HistoryLocation::Provider("a:8012".into())));
        let cache = history_location(" https://a.example:444/key/abc").unwrap();
        assert_eq!(cache, HistoryLocation::HeadersCache("https://a.example:444/key/abc".into()));
        assert_eq!(format!("{cache:?}"), "https://a.example:444");
        let archive = history_location("archive+https://bucket.example/key/abc").unwrap();
        assert_eq!(archive, HistoryLocation::HttpArchive("https://bucket.example/key/abc".into()));
        assert_eq!(format!("{archive:?}"), "archive+https://bucket.example");
        for bad in [
            "",
            "archive+https://",
            "archive+ftp://a",
            "tcp://a",
            "tcp://a:99999",
            "tcp://a:0",
            "tcp://:1",
            "ws://a:1",
            "http://",
        ] {
            assert!(history_location(bad).is_err(), "{bad}");
        }
    }
}
