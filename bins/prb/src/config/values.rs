//! Parsers of values, whose errors say what is allowed.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use prb_core::{
    inventory::{AfterExternalStop, UnknownAfterExternalStop},
    primitives::Hash,
};
use url::Url;

/// Parses `true` or `false`, in the spellings of the original's variables.
pub(super) fn yes_no(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("must be true or false (1, yes, on, 0, no and off are accepted, too)".into()),
    }
}

/// Parses an integer within bounds.
pub(super) fn whole<N>(
    allowed: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + fmt::Display + Copy + Send + Sync + 'static,
{
    move |text| match text.trim().parse() {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", allowed.start(), allowed.end())),
    }
}

/// Parses the behaviour after an external stop.
pub(super) fn after_stop(text: &str) -> Result<AfterExternalStop, UnknownAfterExternalStop> {
    text.parse()
}

/// Parses a time in milliseconds.
pub(super) fn millis(text: &str) -> Result<Duration, String> {
    match text.trim().parse() {
        Ok(0) => Err("must be more than 0 ms".into()),
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => Err("must be a number of milliseconds".into()),
    }
}

/// A node's WebSocket URL. Its path may contain a provider's key, so `Debug` shows the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeUrl(String);

impl NodeUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<NodeUrl> for String {
    fn from(url: NodeUrl) -> Self {
        url.0
    }
}

impl fmt::Debug for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_only(&self.0))
    }
}

/// Parses a block's hash.
pub(super) fn block_hash(text: &str) -> Result<Hash, String> {
    // The prefix is required: 64 digits without it could be something else, such as a key.
    let hash = text.trim().strip_prefix("0x").and_then(|_| text.trim().parse().ok());
    hash.ok_or_else(|| "must be a block's hash, 0x and 64 hexadecimal digits".into())
}

pub(super) fn ws_url(text: &str) -> Result<NodeUrl, String> {
    let text = text.trim();
    match text.split_once("://") {
        Some(("ws" | "wss", host)) if !host.is_empty() => Ok(NodeUrl(text.to_owned())),
        _ => Err("must be a WebSocket URL such as ws://127.0.0.1:9944".into()),
    }
}

/// The URL of a Redis server. It may contain a password, so `Debug` shows the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks the URL. Not done by the parser, whose error would quote a password.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match Url::parse(&self.0) {
            Ok(url) if matches!(url.scheme(), "redis" | "rediss" | "redis+unix") => Ok(()),
            _ => Err(
                "must be a Redis URL such as redis://127.0.0.1:6379/0, rediss://… for TLS, or redis+unix:///path",
            ),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_only(&self.0))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap's form; a refusal here would quote a password")]
pub(super) fn redis_url(text: &str) -> Result<RedisUrl, String> {
    Ok(RedisUrl(text.trim().to_owned()))
}

/// Removes possible secrets from an address.
pub(crate) fn host_only(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        }
        Err(_) => "(not a URL)".into(),
    }
}

/// The address of the ops port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpsListen {
    /// Disabled.
    Off,
    /// The address.
    At(SocketAddr),
}

pub(super) fn ops_listen(text: &str) -> Result<OpsListen, String> {
    match text.trim() {
        "none" | "off" => Ok(OpsListen::Off),
        text => text
            .parse()
            .map(OpsListen::At)
            .map_err(|_| "must be an address with a port such as 127.0.0.1:18012, or none".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn boolean_spellings_are_accepted() {
        for text in ["true", "TRUE", "1", "yes", "on", " y "] {
            assert_eq!(yes_no(text), Ok(true), "{text}");
        }
        for text in ["false", "0", "no", "Off", "n"] {
            assert_eq!(yes_no(text), Ok(false), "{text}");
        }
        assert!(yes_no("maybe").is_err() && yes_no("2").is_err());
    }

    #[test]
    fn genesis_hash_is_whole() {
        let digits = "ab".repeat(32);
        assert_eq!(block_hash(&format!(" 0x{digits} ")), Ok(Hash([0xab; 32])));
        for bad in [&digits[..], "0xab", "", "0x"] {
            assert!(block_hash(bad).unwrap_err().contains("64 hexadecimal digits"), "{bad}");
        }
    }

    #[test]
    fn bounds_are_enforced_and_named() {
        let port = whole(1u16..=u16::MAX);
        assert_eq!(port("8012"), Ok(8012));
        for bad in ["0", "65536", "-1", "8e3", ""] {
            assert_eq!(port(bad).unwrap_err(), "must be a whole number from 1 to 65535", "{bad}");
        }
    }

    #[test]
    fn possible_secrets_show_only_the_host() {
        let node = ws_url("wss://user:word@node.example:444/v1/key?token=x").unwrap();
        assert_eq!(format!("{node:?}"), "wss://node.example:444");
        let redis = redis_url("redis://:word@10.0.0.1/0").unwrap();
        assert_eq!(format!("{redis:?}"), "redis://10.0.0.1");
        assert!(redis.check().is_ok() && redis_url("http://x").unwrap().check().is_err());
    }

    #[test]
    fn ops_port_is_an_address_or_off() {
        assert_eq!(ops_listen("none"), Ok(OpsListen::Off));
        assert_eq!(ops_listen("[::1]:9"), Ok(OpsListen::At("[::1]:9".parse().unwrap())));
        assert!(ops_listen("9100").is_err() && ops_listen("localhost").is_err());
    }
}
