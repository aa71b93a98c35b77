//! Lines on standard output and standard error that are not worth a failure: the reader may be gone, or the disk full.

use std::io::{self, Write};

/// Prints a line on standard output.
pub fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints a line on standard error.
pub(crate) fn error_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints text without a new line on standard error, such as a question.
pub(crate) fn error_text(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
