//! Formatting of errors with their causes.

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
