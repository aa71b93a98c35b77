//! Settings of the history sources.

use std::{fmt, path::PathBuf};

use clap::Args;

use super::values::host_only;

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
    let text = text.trim();
    match text.split_once("://") {
        None if !text.is_empty() => Ok(HistoryLocation::Archive(text.into())),
        Some(("archive+http" | "archive+https", host)) if !host.is_empty() => {
            Ok(HistoryLocation::HttpArchive(text.trim_start_matches("archive+").to_owned()))
        }
        Some(("http" | "https", host)) if !host.is_empty() => Ok(HistoryLocation::HeadersCache(text.to_owned())),
        Some(("tcp", address))
            if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            Ok(HistoryLocation::Provider(address.to_owned()))
        }
        _ => Err(
            "must be the folder of an archive, archive+http://… or archive+https://… of one on a server, http://… or \
             https://… of a headers cache, or tcp://HOST:PORT of a data provider"
                .into(),
        ),
    }
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
        for bad in
            ["", "archive+https://", "archive+ftp://a", "tcp://a", "tcp://a:99999", "ws://a:1", "http://"]
        {
            assert!(history_location(bad).is_err(), "{bad}");
        }
    }
}
