//! Captures the log of a test.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::LONG;

/// A captured log. Clones share it.
#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// Returns an empty log, and a subscriber that writes to it.
    pub fn with_subscriber() -> (Self, impl tracing::Subscriber + Send + Sync) {
        let log = Self::default();
        let writer = log.clone();
        (log, tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish())
    }

    /// The number of lines that contain all of these words.
    pub fn count(&self, words: &[&str]) -> usize {
        self.text().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Waits for a line that contains all of these words.
    pub async fn until(&self, words: &[&str]) {
        let until = Instant::now() + LONG;
        while self.count(words) == 0 {
            assert!(Instant::now() < until, "{words:?} is not in the log");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
