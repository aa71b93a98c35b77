//! [`EndpointError`]: a Redis error with the server's address and a remedy.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use redis::RedisError;
use tokio::time::Instant;

use super::{Config, leasing::WAIT_SECS};

/// The oldest version that has all commands.
pub(super) const OLDEST: (u32, u32) = (6, 2);

/// The remedy for a server that is loading its data.
pub(super) const LOADING: &str = "the server is loading its data set; no action is needed";

/// The remedy for a node of a cluster.
const CLUSTER: &str = "the server is a node of a Redis cluster, which is not supported: use a single server";

/// Known errors and their remedies: `(a part of the error, the remedy)`.
const REMEDIES: [(&str, &str); 20] = [
    ("MOVED", CLUSTER),
    ("ASK", CLUSTER),
    ("CLUSTERDOWN", CLUSTER),
    // Of scripts, whose keys are not declared.
    ("non local key in a cluster", CLUSTER),
    ("in cluster mode", "a Redis cluster has no databases: use a single server"),
    (
        "DB index is out of range",
        "the server has no database of this number: raise its `databases`, or change the number in the URL's path",
    ),
    (
        "unknown command",
        "this Redis is older than 6.2, or a proxy or an ACL hides the command: use Redis 6.2 or newer",
    ),
    (
        "WRONGTYPE",
        "another program has written to the queue's keys (bq:*): use another database, and delete the key that is not the \
         queue's",
    ),
    ("NOAUTH", "the server requires a password: set it in the URL, redis://:PASSWORD@HOST"),
    ("WRONGPASS", "the server rejects the password in the URL"),
    ("AuthenticationFailed", "the server rejects the user or password in the URL, or has no password set"),
    ("timed out", "the server does not answer: check the network path and the server's load"),
    ("did not answer", "check the network path and the server's load"),
    (
        "NOPERM",
        "the user lacks a permission: scripts (EVALSHA, SCRIPT), BLMOVE, SUBSCRIBE, the keys bq:* and the channels bq:* \
         are needed (~bq:* &bq:*)",
    ),
    ("READONLY", "the server is a replica: set the address of the primary"),
    ("MISCONF", "the server cannot write its data to disk: free disk space or correct its data directory"),
    ("OOM", "the server is out of memory: raise its maxmemory"),
    ("LOADING", LOADING),
    ("MASTERDOWN", "the server is a replica that has lost its primary"),
    (
        "Connection refused",
        "nothing listens at this address: check that Redis is running and that the address is right",
    ),
];

/// A Redis error with the server's address.
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
        match REMEDIES.iter().find(|(part, _)| code == *part || text.contains(part)) {
            Some((_, remedy)) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

// The text includes the cause, so there is no `source`.
impl Error for EndpointError {}

/// The last error while waiting for jobs.
#[derive(Clone, Debug)]
pub(super) struct ConsumerError {
    text: Arc<str>,
    at: Instant,
}

impl ConsumerError {
    pub(super) fn new(error: &EndpointError) -> Self {
        Self { text: error.to_string().into(), at: Instant::now() }
    }

    /// Returns the error while it is current. It becomes stale when no consumer has tried again since, although a
    /// waiting one would have: then no consumer waits any more.
    pub(super) fn current(&self, config: &Config) -> Option<Arc<str>> {
        let try_again = Duration::from_secs(WAIT_SECS) + config.call_timeout * 2;
        (self.at.elapsed() <= try_again).then(|| Arc::clone(&self.text))
    }
}

/// Returns why a server's version is not supported.
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
    fn error_names_the_server_and_the_remedy() {
        let error = RedisError::from((redis::ErrorKind::AuthenticationFailed, "WRONGPASS invalid pair"));
        let text = EndpointError::new("redis://***@host:1".into(), error).to_string();
        assert!(
            text.starts_with("redis://***@host:1: ")
                && text.contains("rejects the password")
                && !text.contains("  "),
            "{text}"
        );
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(too_old("6.0.16").is_some_and(|text| text.contains("6.0.16")) && too_old("5.9").is_some());
        assert!(too_old("6.2.0").is_none() && too_old("7.0.15").is_none() && too_old("10.0").is_none());
    }
}
