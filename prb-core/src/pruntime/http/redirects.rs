//! Redirects, which no HTTP client of the bridge follows.
//!
//! An address is configured, or was checked before it was stored. Whoever answers there must not choose another one,
//! such as a service that only this machine can reach.

use reqwest::{Response, StatusCode, Url, header};

/// Describes where an answer redirects to and what to do, if it is a redirect.
pub fn describe(answer: &Response) -> Option<String> {
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    description(answer.status(), answer.url(), location)
}

fn description(status: StatusCode, from: &Url, location: Option<&str>) -> Option<String> {
    if !status.is_redirection() {
        return None;
    }
    // Without path and query, which may hold a key or a signature.
    let target = location
        .and_then(|location| from.join(location).ok())
        .filter(Url::has_host)
        .map_or_else(|| "an address that is not shown".into(), |url| url.origin().ascii_serialization());
    Some(format!(
        "it redirects to {target} ({}), which is not followed: configure the address that it leads to",
        status.as_u16()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(status: u16, location: Option<&str>) -> Option<String> {
        let from = Url::parse("http://pccs.example:8081/api").unwrap();
        description(StatusCode::from_u16(status).unwrap(), &from, location)
    }

    #[test]
    fn only_the_origin_of_the_target_is_shown() {
        let text = shown(307, Some("https://user:pw@inside.example:8443/secret?key=x")).unwrap();
        assert!(text.starts_with("it redirects to https://inside.example:8443 (307)"), "{text}");
        assert!(!text.contains("secret") && !text.contains("pw"), "{text}");
        assert!(shown(302, Some("/elsewhere?key=x")).unwrap().contains(" to http://pccs.example:8081 (302)"));
        for odd in [None, Some("mailto:a@b"), Some("http://")] {
            assert!(shown(302, odd).unwrap().contains("not shown"), "{odd:?}");
        }
        assert_eq!(shown(200, Some("http://a")), None);
    }
}
