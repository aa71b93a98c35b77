//! [`EndpointError`]: an error of Redis with the server's address and what to do.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use redis::RedisError;
use tokio::time::Instant;

use super::{Config, leasing::WAIT_SECS};

/// The oldest version that has all commands.
pub(super) const OLDEST: (u32, u32) = (6, 2);

/// What Redis answers, with what an operator can do about it: `(a part of the answer, what to do)`.
const CURES: [(&str, &str); 13] = [
    (
        "unknown command",
        "this Redis is older than 6.2, or a proxy or an ACL hides the command: use Redis 6.2 or newer",
    ),
    ("NOAUTH", "it wants a password: put it into the URL, redis://:PASSWORD@HOST"),
    ("WRONGPASS", "it refuses the password of the URL"),
    ("AuthenticationFailed", "it refuses the user or the password of the URL, or has none and wants none"),
    ("timed out", "it does not answer: is the way to it cut, or is it overloaded?"),
    ("did not answer", "is the way to it cut, or is it overloaded?"),
    ("NOPERM", "its user lacks a permission: scripts (EVALSHA, SCRIPT), BLMOVE and the keys bq:* are needed"),
    ("READONLY", "it is a replica: give the address of the primary"),
    ("MISCONF", "it cannot write its data to disk: free space on its disk or correct its folder"),
    ("OOM", "its memory is full: raise its maxmemory"),
    ("LOADING", "it is reading its data and will be ready by itself"),
    ("MASTERDOWN", "it is a replica that has lost its primary"),
    ("Connection refused", "nothing listens there: is it running, and is the address right?"),
];

/// An error of Redis, and where.
#[derive(Debug)]
pub(super) struct EndpointError {
    endpoint: Arc<str>,
    error: RedisError,
}

impl EndpointError {
    pub(super) const fn new(endpoint: Arc<str>, error: RedisError) -> Self {
        Self { endpoint, error }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, code) = (self.error.to_string(), self.error.code().unwrap_or_default());
        write!(f, "{}: {text}", self.endpoint)?;
        match CURES.iter().find(|(part, _)| code == *part || text.contains(part)) {
            Some((_, cure)) => write!(f, " ({cure})"),
            None => Ok(()),
        }
    }
}

// It tells its cause itself.
impl Error for EndpointError {}

/// What kept those who wait for jobs from getting any.
#[derive(Clone, Debug)]
pub(super) struct ConsumerError {
    text: Arc<str>,
    at: Instant,
}

impl ConsumerError {
    pub(super) fn new(trouble: &EndpointError) -> Self {
        Self { text: trouble.to_string().into(), at: Instant::now() }
    }

    /// What keeps them still: nothing where nobody has tried again since, though somebody who waits would have.
    pub(super) fn now(&self, config: &Config) -> Option<Arc<str>> {
        let try_again = Duration::from_secs(WAIT_SECS) + config.call_timeout * 2;
        (self.at.elapsed() <= try_again).then(|| Arc::clone(&self.text))
    }
}

/// Why a server of that version does not do.
pub(super) fn too_old(version: &str) -> Option<String> {
    let mut numbers = version.trim().split('.').map(|n| n.parse::<u32>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let (major, minor) = OLDEST;
    (found < OLDEST).then(|| format!("Redis {version} is too old: {major}.{minor} or newer is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_server_and_the_cure() {
        let error = RedisError::from((redis::ErrorKind::AuthenticationFailed, "WRONGPASS invalid pair"));
        let text = EndpointError::new("redis://***@host:1".into(), error).to_string();
        assert!(
            text.starts_with("redis://***@host:1: ")
                && text.contains("refuses the password")
                && !text.contains("  "),
            "{text}"
        );
    }

    #[test]
    fn versions_are_numbers() {
        assert!(too_old("6.0.16").is_some_and(|text| text.contains("6.0.16")) && too_old("5.9").is_some());
        assert!(too_old("6.2.0").is_none() && too_old("7.0.15").is_none() && too_old("10.0").is_none());
    }
}
