//! Checks and names of endpoints.

use std::collections::HashSet;

use reqwest::Url;

use super::Error;

/// Checks that each endpoint is a WebSocket's, and that none is listed twice.
// Each endpoint has a vote on the chain's genesis: the same one twice would outvote another.
pub(super) fn check(endpoints: &[String]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for text in endpoints {
        let bad = |reason| Error::BadEndpoint { endpoint: public_name(text), reason };
        if !seen.insert(normal_form(text).map_err(bad)?) {
            return Err(bad("it is listed twice (also if spelled differently), list each endpoint once"));
        }
    }
    Ok(())
}

/// Whether both are valid and lead to the same node, whoever logs in.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    matches!((normal_form(one), normal_form(other)), (Ok(one), Ok(other)) if one == other)
}

/// Returns an endpoint's spelling for comparisons: lower case, without default port, trailing slashes and credentials.
fn normal_form(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "it must be ws:// or wss:// and a host, with a port from 1 to 65535 if any";
    let mut url = Url::parse(text).map_err(|_| WRONG)?;
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
    if !matches!(url.scheme(), "ws" | "wss") || host.is_empty() || url.port() == Some(0) {
        return Err(WRONG);
    }
    if url.fragment().is_some() {
        return Err("remove its fragment (#…): a key belongs into the path or the query");
    }
    // They cannot fail for these schemes.
    let _ = url.set_host(Some(&host));
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url.into())
}

/// Host and port of a URL, for logs and metrics (its path or query may contain a key).
pub(super) fn public_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn checked(endpoints: &[&str]) -> Result<(), String> {
        let endpoints: Vec<_> = endpoints.iter().map(|&text| text.to_owned()).collect();
        check(&endpoints).map_err(|error| error.to_string())
    }

    #[test]
    fn names_contain_no_secrets() {
        assert_eq!(public_name("wss://user:pw@node.example:443/key?token=x"), "node.example:443");
        assert_eq!(public_name("ws://127.0.0.1:9944"), "127.0.0.1:9944");
    }

    #[test]
    fn only_websocket_urls_are_accepted() {
        for url in [
            "http://a:1",
            "ws://",
            "a:1",
            "",
            "ws://a b:1",
            "ws://[::1",
            "ws://a:0",
            "ws://a:99999",
            "ws://a#f",
        ] {
            assert!(checked(&[url]).is_err(), "{url}");
        }
        for url in ["ws://a:1", "WS://A:1", "wss://user:pw@a/key?token=x", "ws://[::1]:9944/"] {
            assert_eq!(checked(&[url]), Ok(()), "{url}");
        }
    }

    #[test]
    fn one_endpoint_twice_is_refused_in_any_spelling() {
        for other in [
            "ws://node.example",
            "WS://Node.Example/",
            "ws://node.example:80",
            "ws://node.example.",
            "ws://u:p@node.example",
        ] {
            let error = checked(&["ws://other", "ws://node.example", other]).unwrap_err();
            assert!(error.contains("listed twice") && !error.contains("u:p"), "{error}");
        }
        assert!(checked(&["wss://a/key", "wss://a:443/key/"]).is_err());
        for different in [
            ["ws://a", "wss://a"],
            ["ws://a:1", "ws://a:2"],
            ["ws://a/x", "ws://a/y"],
            ["ws://a?k=1", "ws://a?k=2"],
        ] {
            assert_eq!(checked(&different), Ok(()));
        }
    }
}
