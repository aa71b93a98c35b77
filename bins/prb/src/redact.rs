//! Decides what may be quoted of a refused value: nothing that may be a secret, in whatever field.

use std::borrow::Cow;

/// The replacement of a secret.
pub(crate) const HIDDEN: &str = "(not shown, it may be a secret)";

/// Longest word that is quoted.
const MAX_WORD: usize = 20;
/// Longest number or address that is quoted.
const MAX_NUMBER: usize = 45;

/// Returns the value in quotes if it cannot be a secret, otherwise a replacement.
pub(crate) fn shown(value: &str) -> Cow<'_, str> {
    if is_harmless(value) { Cow::Owned(format!("'{value}'")) } else { Cow::Borrowed(HIDDEN) }
}

/// Whether a value is a single word in one case, a number, or an address without a path. Passwords and keys
/// mix letters and digits, mnemonics have several words, URLs have a path.
pub(crate) fn is_harmless(value: &str) -> bool {
    let word = |extra: &'static str| {
        let fits = |c: char| c.is_ascii_alphabetic() || extra.contains(c);
        value.len() <= MAX_WORD && value.chars().all(fits)
    };
    let number = value.len() <= MAX_NUMBER && value.chars().all(|c| c.is_ascii_digit() || ".:-+".contains(c));
    let multiaddr = ["/ip4/", "/ip6/"].iter().any(|start| value.starts_with(start))
        && value.len() <= MAX_NUMBER
        && value.split('/').all(|part| part.len() <= 16);
    word("_-") || number || multiaddr
}

/// Returns the path if it looks like one, or if it exists: a secret in place of a path does not, and has spaces, no
/// slash, or two in a row.
pub(crate) fn shown_path(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let is_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start))
        && !text.contains("//")
        && !text.contains(char::is_whitespace);
    if is_path || path.exists() { text } else { format!("the file {}", HIDDEN) }
}

/// Hides quoted text in a parser's message, unless it is harmless.
pub(crate) fn scrubbed(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(['"', '`']) {
        let quote = &rest[start..=start];
        let (before, quoted) = (&rest[..start], &rest[start + 1..]);
        out.push_str(before);
        // For nested quotes, take the last closing one, so that nothing remains unhidden.
        let end = if quote == "\"" { quoted.rfind(quote) } else { quoted.find(quote) };
        let Some(end) = end else {
            out.push_str(HIDDEN);
            return out;
        };
        let value = &quoted[..end];
        if is_harmless(value) {
            out.extend([quote, value, quote]);
        } else {
            out.push_str(HIDDEN);
        }
        rest = &quoted[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_addresses_are_shown() {
        for plain in ["somebody", "80120", "0.0.0.0:1", "/ip4/1.2.3.4", "operator_env", "--chain-endpont", ""]
        {
            assert!(is_harmless(plain), "{plain}");
        }
        for secret in [
            "hunter2",
            "drive obey",
            "//Alice",
            "wss://node.example/key",
            "0xe5be9a",
            "a".repeat(40).as_str(),
        ] {
            assert!(!is_harmless(secret), "{secret}");
            assert!(!shown(secret).contains(secret));
        }
    }

    #[test]
    fn paths_are_shown_and_secrets_in_their_place_are_not() {
        // Tests run in the package's folder.
        for path in ["/etc/prb.toml", "./prb.toml", "Cargo.toml"] {
            assert_eq!(shown_path(path.as_ref()), path);
        }
        for secret in ["hunter2", "/x drive obey lake", "wss://node.example/key"] {
            assert!(!shown_path(secret.as_ref()).contains(secret));
        }
    }

    #[test]
    fn parser_quotes_are_hidden() {
        let message = "invalid type: string \"drive \\\"obey\\\" lake\", expected u64";
        assert_eq!(scrubbed(message), format!("invalid type: string {HIDDEN}, expected u64"));
        let message = "unknown field `drive obey`, expected one of `pid`, `name`";
        assert_eq!(scrubbed(message), format!("unknown field {HIDDEN}, expected one of `pid`, `name`"));
        assert_eq!(scrubbed("missing field `pid`"), "missing field `pid`");
        assert_eq!(scrubbed("x \"open"), format!("x {HIDDEN}"));
    }
}
