//! Parsers of values, whose errors say what is allowed.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use prb_chain::rpc::NodePool;
use prb_core::{
    inventory::{AfterExternalStop, UnknownAfterExternalStop},
    primitives::Hash,
};
use prb_queue::redis;
use url::Url;

use crate::redact;

/// The longest time, in milliseconds. Caches and timers have limits of their own, beyond this one.
const MAX_MILLIS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

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
        Ok(ms @ 1..=MAX_MILLIS) => Ok(Duration::from_millis(ms)),
        Ok(0) => Err("must be more than 0 ms".into()),
        Ok(_) => Err(format!("must be at most {MAX_MILLIS} ms, which are 100 years")),
        Err(_) => Err("must be a number of milliseconds".into()),
    }
}

/// Parses a time in milliseconds that may be zero.
pub(super) fn millis_or_zero(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" { Ok(Duration::ZERO) } else { millis(text) }
}

/// A node's WebSocket URL. Its path may contain a provider's key, so `Debug` shows the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeUrl(String);

impl NodeUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both lead to the same node, whoever logs in.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        NodePool::is_same_endpoint(&self.0, &other.0)
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
    let url = server_url(text, &["ws", "wss"], "must be a WebSocket URL such as ws://127.0.0.1:9944")?;
    let text = text.trim();
    // Only the scheme of the text is changed: what follows is what the operator wrote.
    let text = format!("{}{}", url.scheme(), &text[url.scheme().len()..]);
    Ok(NodeUrl(text))
}

/// Parses the URL of a server; `allowed` says what it must be.
///
/// # Errors
/// Do not quote the text, which may contain a secret.
pub(super) fn server_url(text: &str, schemes: &[&str], allowed: &str) -> Result<Url, String> {
    let text = text.trim();
    // The parser would remove some of these without a word.
    if text.contains(char::is_whitespace) || text.contains(char::is_control) {
        return Err(format!("has a space or a control character inside; it {allowed}"));
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let url = Url::parse(text).ok().filter(|url| {
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        // The parser skips further slashes in front of the host.
        has_host && schemes.contains(&url.scheme()) && !rest.is_empty() && !rest.starts_with(['/', '\\'])
    });
    let Some(url) = url else { return Err(allowed.to_owned()) };
    if has_late_at(text) {
        return Err(
            "has an @ after its host: write /, ?, # and @ in a user name, password or path as %2F, %3F, %23 \
                    and %40"
                .into(),
        );
    }
    if url.fragment().is_some() {
        return Err("has a # and text after it, which no server gets: remove it".into());
    }
    if url.port() == Some(0) {
        return Err("has port 0, on which no server can be reached".into());
    }
    Ok(url)
}

/// Whether an `@` follows the authority: what is taken for the host may be a part of a password then.
fn has_late_at(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.find(['/', '?', '#', '\\']).is_some_and(|end| rest[end..].contains('@'))
}

/// The URL of a Redis server. It may contain a password, so `Debug` shows the host only.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks the URL as the client does. Not done by the parser, whose error would quote a password.
    ///
    /// # Errors
    /// Say what is wrong, without quoting the URL.
    pub(super) fn check(&self) -> Result<(), String> {
        const ALLOWED: &str =
            "must be a Redis URL such as redis://127.0.0.1:6379/0, rediss://… for TLS, or redis+unix:///path";
        let url = Url::parse(&self.0).ok();
        let Some(url) = url.filter(|url| matches!(url.scheme(), "redis" | "rediss" | "redis+unix")) else {
            return Err(ALLOWED.into());
        };
        if url.scheme() != "redis+unix" && has_late_at(&self.0) {
            return Err(format!(
                "has an @ after its host: write / ? and # in a password as %2F, %3F and %23; it {ALLOWED}"
            ));
        }
        redis::check_url(&self.0).map_err(|reason| format!("{ALLOWED}: {reason}"))
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
        Ok(_) if has_late_at(text) => redact::HIDDEN.into(),
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
    listen_at(text, 18012)
}

/// Parses the address of a port; `example` is one for the message.
pub(super) fn listen_at(text: &str, example: u16) -> Result<OpsListen, String> {
    let text = text.trim();
    if ["none", "off"].iter().any(|off| text.eq_ignore_ascii_case(off)) {
        return Ok(OpsListen::Off);
    }
    text.parse().map(OpsListen::At).map_err(|_| {
        format!("must be an IP address with a port such as 127.0.0.1:{example} or 0.0.0.0:{example}, or none")
    })
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
        for text in ["redis://hunter2#@h:6379", "rediss://hunter2/@h", "wss://hunter2?x@node"] {
            assert_eq!(host_only(text), redact::HIDDEN);
        }
    }

    #[test]
    fn ops_port_is_an_address_or_off() {
        assert_eq!(ops_listen("none"), Ok(OpsListen::Off));
        assert_eq!(ops_listen("[::1]:9"), Ok(OpsListen::At("[::1]:9".parse().unwrap())));
        assert!(ops_listen("9100").is_err() && ops_listen("localhost").is_err());
    }
}
