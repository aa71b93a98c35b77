//! Formatting of errors with their causes, of durations, and of text from outside.

use std::{error::Error, fmt::Write, io, time::Duration};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

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

/// Formats a duration for messages, rounded to its two largest units.
///
/// ```
/// use std::time::Duration;
///
/// use prb_core::text::duration;
///
/// assert_eq!(duration(Duration::from_micros(721_401)), "721 ms");
/// assert_eq!(duration(Duration::from_millis(2_042)), "2 s");
/// assert_eq!(duration(Duration::from_millis(2_742)), "2.7 s");
/// assert_eq!(duration(Duration::from_secs(305)), "5 min 5 s");
/// assert_eq!(duration(Duration::from_secs(7_200)), "2 h");
/// ```
pub fn duration(duration: Duration) -> String {
    let two = |large: u64, name: &str, small: u64, part: &str| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {part}"),
    };
    let ms = duration.as_millis();
    match (ms, duration.as_secs()) {
        (0, _) if !duration.is_zero() => "less than 1 ms".to_owned(),
        (0..1_000, _) => format!("{ms} ms"),
        (1_000..9_950, _) => match (ms + 50) / 100 {
            tenths if tenths % 10 == 0 => format!("{} s", tenths / 10),
            tenths => format!("{}.{} s", tenths / 10, tenths % 10),
        },
        (_, _) if ms < 59_500 => format!("{} s", (ms + 500) / 1_000),
        (_, secs) if secs < 3_600 => {
            let secs = (duration + Duration::from_millis(500)).as_secs();
            two(secs / 60, "min", secs % 60, "s")
        }
        (_, secs) if secs < 48 * 3_600 => two(secs / 3_600, "h", secs % 3_600 / 60, "min"),
        (_, secs) => two(secs / 86_400, "d", secs % 86_400 / 3_600, "h"),
    }
}

/// A duration in seconds for the fields of logs, to the millisecond: 2.786, not 2.7865200039999998.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
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

/// Whether a character is not shown, but changes how a text is: control characters, those without width or that change
/// the direction, line separators. A text from outside could look like another one with them.
///
/// ```
/// use prb_core::text::is_invisible;
///
/// assert!(['\n', '\u{1b}', '\u{202e}', '\u{200b}', '\u{2028}'].into_iter().all(is_invisible));
/// assert!(!"naïve 名前 …".contains(is_invisible));
/// ```
pub fn is_invisible(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let ms = Duration::from_millis;
        for (value, shown) in [
            (Duration::ZERO, "0 ms"),
            (Duration::from_nanos(1), "less than 1 ms"),
            (ms(999), "999 ms"),
            (ms(1_000), "1 s"),
            (ms(1_049), "1 s"),
            (ms(1_050), "1.1 s"),
            (ms(9_949), "9.9 s"),
            (ms(9_950), "10 s"),
            (ms(59_499), "59 s"),
            (ms(59_500), "1 min"),
            (ms(60_000), "1 min"),
            (ms(90_700), "1 min 31 s"),
            (ms(3_600_000), "1 h"),
            (ms(3_900_000), "1 h 5 min"),
            (ms(172_800_000), "2 d"),
            (Duration::MAX, "213503982334601 d 7 h"),
        ] {
            assert_eq!(duration(value), shown, "{value:?}");
        }
    }
}
