//! The thread that writes log lines.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use prb_core::text::is_invisible;

use crate::progress::Display;

/// Most queued lines, and most of their bytes.
const MAX_LINES: usize = 8192;
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// How long writing the last lines may take at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Sends lines to the thread.
#[derive(Clone)]
pub(super) struct LineWriter {
    messages: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    /// Number of dropped lines since the start.
    dropped: AtomicU64,
}

/// Waits briefly for the last lines on drop.
#[derive(Debug)]
pub struct Flush(SyncSender<Message>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            // A blocked reader must not keep the process from ending.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

/// Standard output without the standard library's buffer and lock, which a blocked write would hold.
pub(super) fn stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

pub(super) fn stderr() -> io::Result<File> {
    io::stderr().as_fd().try_clone_to_owned().map(File::from)
}

pub(super) fn start(to: File, display: Display) -> io::Result<(LineWriter, Flush)> {
    let (messages, lines) = mpsc::sync_channel(MAX_LINES);
    let shared = Arc::<Shared>::default();
    let (counted, flush) = (Arc::clone(&shared), Flush(messages.clone()));
    // Ends with the process: the subscriber is never dropped, and a write may block forever.
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_all(to, &display, &lines, &counted))?;
    Ok((LineWriter { messages, shared }, flush))
}

fn write_all(to: File, display: &Display, lines: &Receiver<Message>, shared: &Shared) {
    let mut reported = 0;
    let mut output = Output { to, cut: false, lost: 0 };
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => {
                // Relaxed: the lines themselves are handed over by the channel.
                shared.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                let lost = display.suspended(|| output.write(&line));
                if lost > 0 {
                    tracing::warn!(
                        lines = lost,
                        "log lines were lost: they could not be written, such as to a full disk"
                    );
                }
                let dropped = shared.dropped.load(Ordering::Relaxed);
                if dropped > reported {
                    let lines = dropped - reported;
                    reported = dropped;
                    // Goes through the same queue, without blocking; if that is full, the line is counted as
                    // dropped itself.
                    tracing::warn!(lines, "log lines were dropped: the reader of the log is too slow");
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Where lines go.
struct Output<W> {
    to: W,
    /// Whether the last thing written is only the beginning of a line.
    cut: bool,
    /// Number of lines since the last one that was written.
    lost: u64,
}

impl<W: Write> Output<W> {
    /// Writes a line; returns the number of lines that were lost before it. Errors are ignored: a full disk may have
    /// space again later, a closed pipe stays closed.
    fn write(&mut self, line: &[u8]) -> u64 {
        // Otherwise the rest of a line that was cut off and this one would look like one line.
        if std::mem::take(&mut self.cut) && self.to.write_all(b"\n").is_err() {
            self.cut = true;
            self.lost += 1;
            return 0;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    self.cut = rest.len() < line.len();
                    self.lost += 1;
                    return 0;
                }
            }
        }
        std::mem::take(&mut self.lost)
    }
}

impl LineWriter {
    pub(super) const fn line(&self) -> Line<'_> {
        Line { writer: self, bytes: Vec::new() }
    }

    fn send(&self, line: Vec<u8>) {
        let bytes = line.len();
        // Added before sending: the thread may have written the line, and subtracted it, before `try_send`
        // returns.
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = if waiting + bytes > MAX_BYTES {
            Err(TrySendError::Full(Message::Line(line)))
        } else {
            self.messages.try_send(Message::Line(line))
        };
        if sent.is_err() {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A line being formatted; sent when it is dropped.
pub(super) struct Line<'a> {
    writer: &'a LineWriter,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.writer.send(escaped(std::mem::take(&mut self.bytes)));
        }
    }
}

/// Escapes what could make a line look like several, or like another one: it may quote workers, nodes and peers. Line
/// breaks occur in text only, and all else in JSON is within a string, where these escapes stand for the same text.
fn escaped(line: Vec<u8>) -> Vec<u8> {
    let is_break = |c| matches!(c, '\n' | '\r');
    // Others of ASCII are escaped already, except for those of colours.
    let is_escaped = |c: char| is_break(c) || !c.is_ascii() && is_invisible(c);
    let Some(text) = std::str::from_utf8(&line).ok().map(|text| text.strip_suffix('\n').unwrap_or(text))
    else {
        return line;
    };
    if !text.contains(is_escaped) {
        return line;
    }
    let mut out = String::with_capacity(line.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if is_escaped(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out += &format!("\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    /// A disk with some space.
    #[derive(Default)]
    struct Disk {
        written: Vec<u8>,
        space: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.space);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.space -= fits;
            self.written.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_after_a_full_disk_begins_on_a_line_of_its_own() {
        let mut output = Output { to: Disk { space: 14, ..Disk::default() }, cut: false, lost: 0 };
        let lost: Vec<_> =
            ["first\n", "second\n", "third\n"].map(|line| output.write(line.as_bytes())).into();
        output.to.space = 100;
        assert_eq!((lost, output.write(b"fourth\n"), output.write(b"fifth\n")), (vec![0, 0, 0], 1, 0));
        assert_eq!(String::from_utf8(output.to.written).unwrap(), "first\nsecond\nt\nfourth\nfifth\n");
        // With no space for a single byte of the line, nothing is cut.
        let mut output = Output { to: Disk::default(), cut: false, lost: 0 };
        output.write(b"first\n");
        output.to.space = 100;
        assert_eq!(output.write(b"second\n"), 1);
        assert_eq!(output.to.written, b"second\n");
    }

    #[test]
    fn text_of_others_does_not_forge_lines() {
        let line = |text: &str| String::from_utf8(escaped(text.as_bytes().to_vec())).unwrap();
        for plain in ["INFO caf\u{e9} \u{1b}[32mgreen\u{1b}[0m \"a\\nb\"\n", "{}\n"] {
            assert_eq!(line(plain), plain);
        }
        assert_eq!(line("it said x\n2026 INFO\tall is well\r\n"), "it said x\\n2026 INFO\tall is well\\r\n");
        let text = "a\u{202e}b\u{9b}31m\u{2028}c\u{e0041}";
        let json = serde_json::json!({ "error": text }).to_string();
        let escaped = line(&format!("{json}\n"));
        assert_eq!(escaped, "{\"error\":\"a\\u202eb\\u009b31m\\u2028c\\udb40\\udc41\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap()["error"], text);
    }

    #[test]
    fn logging_never_blocks_and_its_queue_is_bounded() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (lines, flush) = start(File::from(std::os::fd::OwnedFd::from(writer)), Display::Plain).unwrap();
        let line = vec![b'x'; 1023];
        for _ in 0..3 * MAX_BYTES / 1024 {
            lines.line().write_all(&line).unwrap();
        }
        assert!(lines.shared.waiting_bytes.load(Ordering::Relaxed) <= MAX_BYTES);
        assert!(lines.shared.dropped.load(Ordering::Relaxed) > 1000);
        let ended = std::time::Instant::now();
        drop(flush);
        assert!(ended.elapsed() < FLUSH_TIMEOUT * 3, "shutdown waits for a reader that does not read");
        // The reader continues, and so do the lines.
        let mut some = vec![0; 100_000];
        reader.read_exact(&mut some).unwrap();
        assert!(some.iter().all(|byte| *byte == b'x'));
    }
}
