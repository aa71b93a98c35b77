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
    // Parsers quote single characters that they expect, such as `=`.
    value.chars().count() == 1 || word("_-") || number || multiaddr
}

/// Returns the path if it looks like one, or if it exists: a secret in place of a path does not, and has spaces, no
/// slash, two in a row, or a part like a key.
pub(crate) fn shown_path(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let is_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start))
        && !text.contains("//")
        && !text.contains(char::is_whitespace)
        && !text.split('/').any(is_like_a_key);
    if is_path || path.exists() { text } else { format!("the file {}", HIDDEN) }
}

/// Whether a part of a path may be a key in base64 or hexadecimal digits.
fn is_like_a_key(part: &str) -> bool {
    let has = |kind: fn(&char) -> bool| part.chars().any(|c| kind(&c));
    let mixed = has(char::is_ascii_digit) && has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase);
    let hex = part.len() >= 32 && part.chars().all(|c| c.is_ascii_hexdigit());
    part.contains(['+', '=']) || mixed && part.len() >= 16 && !part.contains(['.', '-', '_']) || hex
}

/// Hides quoted text in a parser's message, unless it is harmless, and replaces the parser's names of types.
pub(crate) fn scrubbed(message: &str) -> String {
    let hidden = hidden_quotes(message);
    let text = hidden.strip_prefix("Failed to deserialize query string: ").unwrap_or(&hidden);
    in_plain_words(text).unwrap_or_else(|| {
        text.replace("invalid digit found in string", "must be a whole number")
            .replace("cannot parse integer from empty string", "must be a whole number")
            .replace("number too large to fit in target type", "is too large")
    })
}

/// Rewrites `invalid type: map, expected a sequence` as `expected a list, found a table`.
fn in_plain_words(message: &str) -> Option<String> {
    let start = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.split_once(start));
    let (before, (found, rest)) =
        start.and_then(|(before, rest)| Some((before, rest.split_once(", expected ")?)))?;
    let end = rest.find(" at line ").unwrap_or(rest.len());
    let found = match found.split_once(' ').unwrap_or((found, "")) {
        ("map", _) => "a table".to_owned(),
        ("sequence", _) => "a list".to_owned(),
        ("null", _) => "nothing".to_owned(),
        ("string", text) => format!("the text {text}"),
        ("boolean", yes) => yes.to_owned(),
        ("integer", number) => format!("the number {}", number.split(" as ").next().unwrap_or(number)),
        ("floating", number) => format!("the number {}", number.trim_start_matches("point ")),
        _ => found.to_owned(),
    };
    let expected = match &rest[..end] {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i64" | "i128" => "a whole number",
        "a string" | "a borrowed string" => "text",
        "a sequence" => "a list",
        "a map" => "a table",
        "a boolean" => "true or false",
        text if text.starts_with("struct ") => "a table",
        text => text,
    };
    Some(format!("{before}expected {expected}, found {found}{}", &rest[end..]))
}

fn hidden_quotes(message: &str) -> String {
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
        for secret in [
            "hunter2",
            "/x drive obey lake",
            "wss://node.example/key",
            "/hunter2abcDEF+qrs=",
            "/5f4dcc3b5aa765d61d8327deb882cf99",
        ] {
            assert!(!shown_path(secret.as_ref()).contains(secret));
        }
    }

    #[test]
    fn parser_quotes_are_hidden() {
        let message = "invalid type: string \"drive \\\"obey\\\" lake\", expected u64";
        assert_eq!(scrubbed(message), format!("expected a whole number, found the text {HIDDEN}"));
        for (message, plain) in [
            (
                "x: invalid type: map, expected a sequence at line 1 column 2",
                "x: expected a list, found a table at line 1 column 2",
            ),
            (
                "invalid value: integer `70000` as i128, expected u16",
                "expected a whole number, found the number `70000`",
            ),
            ("invalid type: boolean `true`, expected a string", "expected text, found `true`"),
            (
                "Failed to deserialize query string: limit: invalid digit found in string",
                "limit: must be a whole number",
            ),
        ] {
            assert_eq!(scrubbed(message), plain);
        }
        let message = "unknown field `drive obey`, expected one of `pid`, `name`";
        assert_eq!(scrubbed(message), format!("unknown field {HIDDEN}, expected one of `pid`, `name`"));
        assert_eq!(scrubbed("missing field `pid`"), "missing field `pid`");
        assert_eq!(scrubbed("key with no value, expected `=`"), "key with no value, expected `=`");
        assert_eq!(scrubbed("x \"open"), format!("x {HIDDEN}"));
    }
}
