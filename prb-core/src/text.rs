//! Formatting of errors with their causes, and of text from outside.

use std::{error::Error, fmt::Write};

/// Formats an error and its causes in one line, as log fields and messages for operators have it.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat their source.
        if !text.ends_with(&next) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// Shortens a text to at most `max_bytes` (at least 3): its beginning and its end, with `…` in place of the middle.
/// For texts from other programs, which may have any length.
///
/// ```
/// use prb_core::text::shorten;
///
/// assert_eq!(shorten("short", 100), "short");
/// assert_eq!(shorten("0123456789abcdef", 11), "0123…cdef");
/// ```
pub fn shorten(text: &str, max_bytes: usize) -> String {
    const GAP: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let kept = max_bytes.saturating_sub(GAP.len());
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    // Cuts between characters: slicing inside of one would panic.
    let head = (0..=kept.div_ceil(2)).rev().find(is_boundary).unwrap_or_default();
    let tail = (text.len() - kept / 2..=text.len()).find(is_boundary).unwrap_or(text.len());
    format!("{}{GAP}{}", &text[..head], &text[tail..])
}
