//! Reads files that settings name, within limits of size and time.
//!
//! Such a file may be a pipe, as in `--config <(command)` or `/dev/stdin`, to which nobody ever writes. A thread reads
//! it then, which is given up after a while.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Read, Write},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use zeroize::Zeroizing;

use crate::redact;

/// How long a pipe may take to deliver everything.
const PIPE_TIMEOUT: Duration = Duration::from_secs(60);
/// After which the wait is explained.
const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// Space for the first bytes of a pipe.
const FIRST_BYTES: u64 = 16 * 1024;

/// A file's bytes.
pub(crate) struct Input {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) meta: Metadata,
}

impl Input {
    /// Returns the text, without the byte order mark that some editors put in front of it.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub(crate) fn text(&self) -> io::Result<&str> {
        let text = std::str::from_utf8(&self.bytes);
        text.map(without_mark).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
    }
}

/// Removes a byte order mark, which would become part of a key.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Reads a whole file. Blocks, for a pipe up to a minute; call it from a thread that may block.
///
/// # Errors
/// The file cannot be read, has more bytes, or is a pipe that is not closed in time.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<Input> {
    read_within(path, max_bytes, PIPE_TIMEOUT)
}

fn read_within(path: &Path, max_bytes: u64, timeout: Duration) -> io::Result<Input> {
    if fs::metadata(path)?.is_file() {
        return read_blocking(path, max_bytes);
    }
    let (done, read) = mpsc::sync_channel(1);
    let owned = path.to_owned();
    // If it is given up, the thread ends with the process, or once the pipe is closed.
    thread::Builder::new().name("input".into()).spawn(move || {
        let _ = done.send(read_blocking(&owned, max_bytes));
    })?;
    let first = read.recv_timeout(EXPLAIN_AFTER.min(timeout));
    let read = first.or_else(|_| {
        explain(path);
        read.recv_timeout(timeout.saturating_sub(EXPLAIN_AFTER))
    });
    read.unwrap_or_else(|_| {
        let text = format!("it is a pipe or device, and its end did not come within {} s", timeout.as_secs());
        Err(io::Error::new(ErrorKind::TimedOut, text))
    })
}

fn read_blocking(path: &Path, max_bytes: u64) -> io::Result<Input> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    // Only a guess: a pipe's length is unknown, and a file may grow meanwhile.
    let guess = if meta.is_file() { meta.len() + 1 } else { FIRST_BYTES };
    let mut bytes = Zeroizing::new(Vec::with_capacity(guess.min(max_bytes + 1) as usize));
    while Read::by_ref(&mut file).take((bytes.capacity() - bytes.len()) as u64).read_to_end(&mut bytes)? > 0 {
        if bytes.len() as u64 > max_bytes {
            let text = format!("it has more than {max_bytes} bytes");
            return Err(io::Error::new(ErrorKind::FileTooLarge, text));
        }
        if bytes.len() == bytes.capacity() {
            // Not by the vector itself, which would leave a copy of a secret in freed memory.
            let capacity = (bytes.capacity() as u64 * 2).min(max_bytes + 1);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity as usize));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
    }
    Ok(Input { bytes, meta })
}

/// Says what is waited for: in the log, or before it has started, on standard error.
fn explain(path: &Path) {
    let file = redact::shown_path(path);
    if tracing::dispatcher::has_been_set() {
        tracing::warn!(file, "waiting for this pipe or device: its writer has not closed it yet");
    } else {
        // Ignored: the output may be closed.
        let _ = writeln!(
            io::stderr(),
            "prb: waiting for {file}, a pipe or device: its writer has not closed it yet"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[test]
    fn pipe_without_a_writer_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let error = read_within(&path, 10, Duration::from_millis(50)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // Ends the thread that waits for a writer.
        drop(File::options().write(true).open(&path).unwrap());
    }

    #[test]
    fn pipe_is_read_to_its_end_and_no_further_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        for (text, fits) in [("0123456789", true), ("0123456789a", false)] {
            let to = path.clone();
            let writer = thread::spawn(move || {
                let mut to = File::options().write(true).open(to).unwrap();
                to.write_all(&text.as_bytes()[..5]).unwrap();
                to.write_all(&text.as_bytes()[5..]).unwrap();
            });
            let read = read_within(&path, 10, Duration::from_secs(60));
            assert_eq!(read.ok().map(|read| read.text().unwrap().to_owned()), fits.then(|| text.to_owned()));
            writer.join().unwrap();
        }
        // A device without an end.
        let endless = read_within(Path::new("/dev/zero"), 10, Duration::from_secs(60)).err().unwrap();
        assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
    }
}
