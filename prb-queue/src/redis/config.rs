//! Configuration of a Redis queue.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use prb_core::{
    primitives::{ParaNumber, PoolId},
    queue::{JobSigner, UNSIGNABLE_LIMIT},
    text::shorten,
};
use redis::IntoConnectionInfo;

/// Names a pool's signer, for jobs that do not carry it: those of the original's lifecycle managers.
#[async_trait]
pub trait PoolSigners: Send + Sync + fmt::Debug {
    /// Returns the pool's signer, or `None` if it is unknown.
    async fn signer(&self, pool: PoolId) -> Option<JobSigner>;
}

/// Returns the parachain block from which on the effects of a job that ends now are visible; see
/// [`Config::block_hint`].
pub type BlockHint = Arc<dyn Fn() -> ParaNumber + Send + Sync>;

/// Settings of a [`RedisQueue`](super::RedisQueue).
#[derive(Clone, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// The server's URL: `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS, or
    /// `redis+unix:///path`. Debug output and errors omit the password.
    ///
    /// TLS trusts the system's certificates, or those in the file named by the variable `SSL_CERT_FILE`. It uses
    /// the process's default crypto provider; if none is installed, the queue installs ring.
    /// Default: `redis://127.0.0.1:6379`.
    pub url: String,
    /// The queue's name: keys start with `bq:NAME:`. Default: `prbmq__main`.
    pub name: String,
    /// Maximum number of open jobs (not ended), in any state and from any submitter. Default: 10,000.
    pub max_jobs: usize,
    /// Maximum bytes of open jobs in Redis, counted as the length of their JSON, about twice [`Job::size_bytes`].
    /// Default: 512 MiB.
    ///
    /// [`Job::size_bytes`]: prb_core::queue::Job::size_bytes
    pub max_bytes: usize,
    /// Time after its submission, by the server's clock, from which a job fails instead of being leased by this process,
    /// zero for no limit: what was wanted then may not be wanted now. Jobs of other programs, and those that an operator
    /// has put back, have no limit. Default: 30 minutes.
    pub max_age: Duration,
    /// How long an ended job is kept at most. Default: 24 hours.
    pub keep_age: Duration,
    /// Maximum number of ended jobs that are kept. Default: 10,000.
    pub keep_jobs: usize,
    /// Maximum bytes of ended jobs that are kept, counted as the length of their JSON. Default: 256 MiB.
    pub keep_bytes: usize,
    /// How long a worker of the original may be silent before its job counts as stalled; it is handed out again
    /// after at most twice this time. The original's `stallInterval`; all processes on one queue should use the
    /// same value. Default: 5 s.
    pub stall_interval: Duration,
    /// How often Redis is polled for the outcomes of submitted jobs, in case an event was missed. Default: 2 s.
    pub poll_interval: Duration,
    /// Timeout of a call, including retries after a lost connection. Default: 10 s.
    pub call_timeout: Duration,
    /// How long Redis may be unavailable before outstanding jobs are reported as failed. Default: 60 s.
    pub outage_limit: Duration,
    /// How long a job whose signer this process does not know is left to the other consumers of the queue, before it
    /// fails. Default: 60 s.
    pub unsignable_limit: Duration,
    /// The name of this submitter: the same after a restart, and of no other submitter of the queue. With it, jobs that
    /// were submitted under this name and whose [`JobHandle`](prb_core::queue::JobHandle) is gone are withdrawn at each
    /// new connection to Redis, except messages of workers and what an operator has put back. Those that a trader has
    /// then are withdrawn if it hands them back. Without a name, all stay. Default: none.
    pub submitter: Option<String>,
    /// Names the signer of jobs that do not carry one. Default: none.
    pub signers: Option<Arc<dyn PoolSigners>>,
    /// The block that an outcome names if the program that ended the job does not report one, as the original's
    /// trader. Submitters wait for an on-chain view at or after that block, so it should be slightly ahead of the
    /// newest finalised height. Without a hint the block is 0, which any view satisfies. Default: none.
    pub block_hint: Option<BlockHint>,
}

impl Config {
    /// Default of [`Config::url`].
    pub const URL: &'static str = "redis://127.0.0.1:6379";
    /// Default of [`Config::name`]: the original's queue.
    pub const NAME: &'static str = "prbmq__main";
    /// Default of [`Config::max_jobs`].
    pub const MAX_JOBS: usize = 10_000;
    /// Default of [`Config::max_bytes`].
    pub const MAX_BYTES: usize = 512 * 1024 * 1024;
    /// Default of [`Config::max_age`].
    pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);
    /// Default of [`Config::keep_age`].
    pub const KEEP_AGE: Duration = Duration::from_secs(24 * 60 * 60);
    /// Default of [`Config::keep_jobs`].
    pub const KEEP_JOBS: usize = 10_000;
    /// Default of [`Config::keep_bytes`].
    pub const KEEP_BYTES: usize = 256 * 1024 * 1024;
    /// Default of [`Config::stall_interval`], as in the original.
    pub const STALL_INTERVAL: Duration = Duration::from_secs(5);
    /// Default of [`Config::poll_interval`].
    pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
    /// Default of [`Config::call_timeout`].
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
    /// Default of [`Config::outage_limit`].
    pub const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

    /// Returns the default configuration for a Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            name: Self::NAME.into(),
            max_jobs: Self::MAX_JOBS,
            max_bytes: Self::MAX_BYTES,
            max_age: Self::MAX_AGE,
            keep_age: Self::KEEP_AGE,
            keep_jobs: Self::KEEP_JOBS,
            keep_bytes: Self::KEEP_BYTES,
            stall_interval: Self::STALL_INTERVAL,
            poll_interval: Self::POLL_INTERVAL,
            call_timeout: Self::CALL_TIMEOUT,
            outage_limit: Self::OUTAGE_LIMIT,
            unsignable_limit: UNSIGNABLE_LIMIT,
            submitter: None,
            signers: None,
            block_hint: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), StartError> {
        let times = [
            ("stall_interval", self.stall_interval),
            ("poll_interval", self.poll_interval),
            ("call_timeout", self.call_timeout),
            ("outage_limit", self.outage_limit),
        ];
        if let Some((what, _)) = times.into_iter().find(|(_, t)| t.as_millis() == 0) {
            return Err(StartError::ZeroSetting { what });
        }
        if self.max_jobs == 0 || self.max_bytes == 0 {
            return Err(StartError::ZeroSetting { what: "max_jobs or max_bytes" });
        }
        // Without quotes and backslashes: the name becomes a part of the Lua scripts' string literals.
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
        {
            return Err(StartError::BadName { name: shorten(&self.name, 64) });
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new(Self::URL)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &without_password(&self.url))
            .field("name", &self.name)
            .field("max_jobs", &self.max_jobs)
            .field("max_bytes", &self.max_bytes)
            .field("max_age", &self.max_age)
            .field("keep_age", &self.keep_age)
            .field("keep_jobs", &self.keep_jobs)
            .field("keep_bytes", &self.keep_bytes)
            .field("stall_interval", &self.stall_interval)
            .field("poll_interval", &self.poll_interval)
            .field("call_timeout", &self.call_timeout)
            .field("outage_limit", &self.outage_limit)
            .field("unsignable_limit", &self.unsignable_limit)
            .field("submitter", &self.submitter)
            .field("signers", &self.signers)
            .field("block_hint", &self.block_hint.is_some())
            .finish()
    }
}

/// Removes credentials from a URL for logs: everything between `//` and the last `@` of the authority, and
/// the query, which may hold a password too.
pub(super) fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match url.split_once("://") {
        // The last one: a password may contain '@'.
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => url.to_owned(),
        },
        None => "***".to_owned(),
    }
}

/// Checks a server's URL as [`RedisQueue::start`](super::RedisQueue::start) does, without connecting to it.
///
/// # Errors
/// Says what is wrong, without quoting the URL, which may contain a password.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    let parsed = redis::parse_redis_url(url).ok_or(NOT_REDIS)?;
    let is_socket = parsed.scheme().contains("unix");
    // The client takes `a,redis:` of a list for the server's name.
    if url.contains(char::is_whitespace) || url.contains(char::is_control) {
        return Err("it has a space or a control character inside");
    }
    if !is_socket && parsed.host_str().is_none_or(|host| host.is_empty() || host.contains(',')) {
        return Err("it does not name one server; lists of servers and clusters are not supported");
    }
    if parsed.port() == Some(0) {
        return Err("it has port 0, on which no server can be reached");
    }
    if parsed
        .fragment()
        .is_some_and(|text| is_socket || !parsed.scheme().ends_with('s') || text != "insecure")
    {
        return Err("it has a #, which must be written as %23 in a password");
    }
    let info = parsed.into_connection_info().map_err(|error| {
        // Only known reasons: others might quote the URL.
        let text = error.to_string();
        let known = [
            ("database number", "its path is not a database number"),
            ("Missing hostname", "it names no server"),
            ("Missing path", "it names no socket"),
            (
                "wildcard",
                "its server is every address of a machine (0.0.0.0 or ::), to which nothing can connect",
            ),
            ("protocol", "its protocol is neither resp2 nor resp3"),
        ];
        known.iter().find(|(part, _)| text.contains(part)).map_or(NOT_REDIS, |(_, reason)| reason)
    })?;
    match info.redis_settings().db() {
        0.. => Ok(()),
        _ => Err("its database number is negative"),
    }
}

const NOT_REDIS: &str = "it cannot be read";

/// An error in the configuration of a [`RedisQueue`](super::RedisQueue).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting that must be greater than zero.
    #[error("the queue's {what} must be greater than zero")]
    ZeroSetting {
        /// The setting's name.
        what: &'static str,
    },
    /// The queue name is empty or has characters that are not allowed.
    #[error("{name:?} is not a valid queue name: use letters, digits and _-.:")]
    BadName {
        /// The name, cut to 64 characters.
        name: String,
    },
    /// The Redis URL cannot be parsed.
    #[error("{url:?} is not a valid Redis URL (redis[s]://[user:password@]host[:port][/database]): {reason}")]
    BadUrl {
        /// The URL without its password.
        url: String,
        /// The reason.
        reason: &'static str,
    },
}

#[cfg(test)]
mod url_tests {
    use super::*;

    #[test]
    fn urls_are_checked_as_by_the_client_without_quotes() {
        for url in [
            "redis://",
            "redis://h/x",
            "redis://h/-1",
            "redis://a,redis://b",
            "redis://h:0",
            "redis://hunter2#@h",
            "rediss://h#hunter2",
            "redis+unix://",
            "redis://0.0.0.0",
            "redis://h h",
            "http://hunter2",
        ] {
            let refused = check_url(url);
            assert!(refused.is_err_and(|reason| !reason.contains("hunter2")), "{url}");
        }
        for url in ["redis://h", "rediss://u:p@h:1/3#insecure", "redis+unix:///run/redis?db=1"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_omits_the_password() {
        let config = Config::new("redis://user:se@cret@host:1/0?x=secret");
        let shown = format!("{config:?}");
        assert!(!shown.contains("cret") && shown.contains("redis://***@host:1/0"), "{shown}");
        assert_eq!(without_password("redis://host:1"), "redis://host:1");
        assert_eq!(without_password("secret"), "***");
    }
}
