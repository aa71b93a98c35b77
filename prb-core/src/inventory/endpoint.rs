//! Rules for the URLs of workers: what [`Worker`](super::Worker) accepts, what the HTTP client can use, and which
//! spellings are the same endpoint.

use std::net::IpAddr;

use url::{Host, Url};

use super::MAX_ENDPOINT_BYTES;

/// Parses a URL that requests can be sent to.
///
/// # Errors
/// What is wrong, without quoting more than the scheme: the rest may contain a secret, such as an API key.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    if text.len() > MAX_ENDPOINT_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_ENDPOINT_BYTES}", text.len()));
    }
    // The URL parser would drop them silently.
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has white space or control characters".into());
    }
    let url = Url::parse(text).map_err(|e| format!("it is not a URL such as http://10.0.0.2:8000 ({e})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("its scheme is {:?}, not http or https", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must end with its path: remove the query or fragment".into());
    }
    if url.port() == Some(0) {
        return Err("its port is 0, which is not the port of a server".into());
    }
    match url.host() {
        Some(Host::Domain(name)) if name.trim_end_matches('.').is_empty() => Err("it has no host".into()),
        Some(host) if ip(&host).is_some_and(|ip| ip.is_unspecified()) => {
            Err("its address is unspecified: use 127.0.0.1 for a worker on this machine".into())
        }
        _ => Ok(url),
    }
}

/// Normalises a URL so that all spellings of an endpoint compare equal: case of the host, default port,
/// trailing slash, trailing dot of the host, IPv4 addresses in the form of IPv6. Text that is not a URL is returned
/// unchanged.
pub fn normal_endpoint(endpoint: &str) -> String {
    let Ok(mut url) = Url::parse(endpoint) else { return endpoint.to_owned() };
    let host = match url.host() {
        Some(Host::Domain(name)) => name.strip_suffix('.').map(str::to_owned),
        Some(host @ Host::Ipv6(_)) => ip(&host).filter(IpAddr::is_ipv4).map(|ip| ip.to_string()),
        _ => None,
    };
    // Cannot fail for a host that was one before; if it does, the spellings differ.
    let _ = host.map(|host| url.set_host(Some(&host)));
    url.as_str().trim_end_matches('/').to_owned()
}

/// The host's IP address; an IPv4 address in the form of IPv6 is that IPv4 address.
fn ip(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(ip) => Some((*ip).into()),
        Host::Ipv6(ip) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(*ip), IpAddr::V4)),
        Host::Domain(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unusable_endpoints_are_refused_without_being_quoted() {
        for (bad, reason) in [
            ("http://a/?key=hunter2", "query"),
            ("http://a?", "query"),
            ("http://a/#hunter2", "fragment"),
            ("http://a#", "fragment"),
            ("http://a:0/hunter2", "port is 0"),
            ("http://0.0.0.0:8000", "127.0.0.1"),
            ("http://[::]:8000", "127.0.0.1"),
            ("http://[::ffff:0.0.0.0]", "127.0.0.1"),
            ("http://a\t:1", "white space"),
            ("http://a\n", "white space"),
            ("http://a/\u{7f}", "control"),
            ("http://a/x y", "white space"),
            ("http://./", "host"),
            ("ftp://hunter2", "ftp"),
            ("10.0.0.1:8000", "http://10.0.0.2:8000"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{bad:?}: {error}");
        }
        for good in ["http://10.0.0.1:8000", "https://worker.example.org/some/path/", "http://[fe80::1]:1"] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn spellings_of_an_endpoint_are_equal() {
        for (a, b) in [
            ("http://h.:1", "http://H:1/"),
            ("http://[::ffff:10.0.0.1]:1", "http://10.0.0.1:1"),
            ("http://[0:0::1]/", "http://[::1]:80"),
            ("https://h:443", "https://h"),
        ] {
            assert_eq!(normal_endpoint(a), normal_endpoint(b));
        }
        assert_ne!(normal_endpoint("http://h/a"), normal_endpoint("http://h/b"));
        assert_eq!(normal_endpoint("no URL"), "no URL");
    }
}
