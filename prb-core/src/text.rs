//! Formatting of errors with their causes, and of text from outside.

use std::{error::Error, fmt::Write, io};

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

/// Returns what to do about a system's error with a file or socket, as a text that follows the error's subject; empty
/// if the error explains itself.
///
/// ```
/// use prb_core::text::io_remedy;
///
/// let failing_disk = std::io::Error::from_raw_os_error(5);
/// assert!(io_remedy(&failing_disk).contains("dmesg"));
/// ```
pub fn io_remedy(error: &io::Error) -> &'static str {
    // The numbers of Linux, on all architectures that it runs this on.
    match error.raw_os_error() {
        Some(1 | 13) => " (give this user access to it)",
        Some(5 | 121) => " (its disk fails: see dmesg, then repair or replace it)",
        Some(12) => {
            " (memory or address space is used up: raise the limit, such as ulimit -v or LimitAS of systemd)"
        }
        Some(23 | 24) => {
            " (too many files are open: raise the limit, such as ulimit -n or LimitNOFILE of systemd)"
        }
        Some(27 | 28 | 122) => " (its disk, quota or inode table is full: free space, see df and df -i)",
        Some(30) => {
            " (its file system is mounted read-only, perhaps after a disk error: see dmesg, then mount it writable)"
        }
        Some(116) => " (its network file system has gone: mount it again)",
        _ => "",
    }
}

/// Whether a system's error may be gone at the next attempt, without a change of the configuration: one of a disk, of
/// memory, of the network, or of a limit that is shared with other programs.
pub fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    let by_kind = matches!(
        error.kind(),
        AddrInUse
            | AddrNotAvailable
            | Interrupted
            | NetworkDown
            | OutOfMemory
            | QuotaExceeded
            | ReadOnlyFilesystem
            | StaleNetworkFileHandle
            | StorageFull
            | TimedOut
            | WouldBlock
    );
    // EIO, ENXIO, ENODEV, ENFILE, EMFILE, EFBIG, ENOLCK, ENOTCONN, EREMOTEIO have no kind of their own, or share one.
    by_kind || matches!(error.raw_os_error(), Some(5 | 6 | 19 | 23 | 24 | 27 | 37 | 107 | 121))
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
