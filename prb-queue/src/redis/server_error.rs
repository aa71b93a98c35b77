//! [`ServerError`]: an error of Redis with the server's address and a remedy.

use std::{error::Error, fmt, sync::Arc};

use redis::RedisError;

/// The oldest version that supports all commands used.
pub(super) const OLDEST: (u32, u32) = (6, 2);

/// Remedies by part of the error text: `(a part of the error, the remedy)`.
const CURES: [(&str, &str); 11] = [
    (
        "unknown command",
        "this Redis is older than 6.2, or a proxy or an ACL hides the command: use Redis 6.2 or newer",
    ),
    ("NOAUTH", "it requires a password: add it to the URL, redis://:PASSWORD@HOST"),
    ("WRONGPASS", "it refuses the password of the URL"),
    ("AuthenticationFailed", "it refuses the user or the password of the URL"),
    ("NOPERM", "its user lacks a permission: scripts (EVALSHA, SCRIPT), BLMOVE and the keys bq:* are needed"),
    ("READONLY", "it is a replica: use the address of the primary"),
    ("MISCONF", "it cannot write its data to disk: free space on its disk or correct its folder"),
    ("OOM", "its memory limit is reached: raise its maxmemory"),
    ("LOADING", "it is loading its data and will be ready by itself"),
    ("MASTERDOWN", "it is a replica that has lost its primary"),
    ("Connection refused", "nothing listens there: is it running, and is the address right?"),
];

/// An error of Redis, with the server's address.
#[derive(Debug)]
pub(super) struct ServerError {
    endpoint: Arc<str>,
    error: RedisError,
}

impl ServerError {
    pub(super) const fn new(endpoint: Arc<str>, error: RedisError) -> Self {
        Self { endpoint, error }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, code) = (self.error.to_string(), self.error.code().unwrap_or_default());
        write!(f, "{}: {text}", self.endpoint)?;
        match CURES.iter().find(|(part, _)| code == *part || text.contains(part)) {
            Some((_, cure)) => write!(f, " ({cure})"),
            None => Ok(()),
        }
    }
}

// `Display` includes the cause, so there is no source.
impl Error for ServerError {}

/// Returns why a server of that version cannot be used, if so.
pub(super) fn too_old(version: &str) -> Option<String> {
    let mut numbers = version.trim().split('.').map(|n| n.parse::<u32>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let (major, minor) = OLDEST;
    (found < OLDEST).then(|| format!("Redis {version} is too old: {major}.{minor} or newer is required"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_server_and_the_cure() {
        let error = RedisError::from((redis::ErrorKind::AuthenticationFailed, "WRONGPASS invalid pair"));
        let text = ServerError::new("redis://***@host:1".into(), error).to_string();
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
