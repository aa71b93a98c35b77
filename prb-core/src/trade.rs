//! The trade engine: leases jobs, sends them in batches, one lane per operator's account, and reports the
//! outcome of each call.
//!
//! ```text
//! JobQueue ──lease──▶ dispatcher ──▶ lane of operator A ──batch──▶ ChainSubmitter
//!     ▲                     └──────▶ lane of operator B ──batch──▶      │
//!     └── heartbeat, complete, fail ◀──── outcome per call ─────────────┘
//! ```
//!
//! An operator's account has one lane, and a lane has one batch in flight: order and nonce are serialised
//! there. Two pools of one operator share it. Lanes run concurrently; one that hangs does not hold up the
//! others.
//!
//! A lane's first transactions have up to [`Config::first_calls`] calls. The cap doubles after a full
//! transaction was included, is halved after one that was lost or whose outcome is unknown, and is kept while
//! the trader runs. The submitter refuses a batch that needs more than its share of a block.
//!
//! Jobs of one operator are sent in the order of their ids. A job that was released to the queue, because its
//! lane was full or for a retry, holds up the younger ones: none overtakes it.
//!
//! Jobs are delivered at least once, and their effects must happen at most once. So a lane reads
//! from [`ChainSubmitter::effects`] which calls have taken effect already, and omits them: before its first batch,
//! before a job that was leased before, before a call with the same subject as one that it sent recently, and
//! after a transaction whose outcome is unknown.
//!
//! Several traders may work on one queue. An account is used by one of them at a time (see
//! [`accounts::AccountLeases`]): the others release its jobs, and take over when its lease expires.
//!
//! Not for: choosing nonces, fees and watching transactions (see [`ChainSubmitter`]), or deciding what to send (see
//! [`crate::worker`]).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use self::accounts::AccountLeases;
use crate::{chain::ChainSubmitter, queue::JobQueue, signer::Signers, text::duration};

mod account_lease_manager;
pub mod accounts;
mod batch;
mod call_limits;
mod dispatch;
mod inbox;
mod job_leases;
mod lane;
mod progress;
mod recently_sent;
mod released_jobs;
mod sequences;
mod status;
mod unsignable_jobs;
mod verdict;

pub use status::{LaneStatus, Phase, Status};

/// Settings of a [`Trader`].
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Maximum calls in an account's first transaction. From then on the cap doubles after each full
    /// transaction that was included, up to [`Config::max_calls`], and is halved, to no less than one call,
    /// after each that was lost, expired, or has an unknown outcome. Default: 100.
    pub first_calls: usize,
    /// Maximum calls to which a transaction's cap grows. A job with more calls than the cap is sent alone, in
    /// several transactions. Default: 1,000.
    pub max_calls: usize,
    /// Maximum bytes of a batch's calls, by [`Call::size_bytes`](crate::chain::Call::size_bytes). A larger
    /// job is sent alone. Default: 2 MiB.
    pub max_bytes: usize,
    /// How long a batch waits for further jobs after its newest one. Default: 1 s.
    pub linger: Duration,
    /// How long a batch waits at most after its first job: no longer than [`Config::MAX_WAIT`]. Default: 6 s.
    pub max_wait: Duration,
    /// Maximum lanes, that is, operators served at a time. Another one's job closes a lane that holds nothing, or is
    /// released for a while. Default: 128.
    pub max_lanes: usize,
    /// Maximum jobs held by a lane. Further ones are released for a while. Default: 10,000.
    pub max_lane_jobs: usize,
    /// Maximum bytes of a lane's jobs, by [`Job::size_bytes`](crate::queue::Job::size_bytes).
    /// Default: 16 MiB.
    pub max_lane_bytes: usize,
    /// Time after which a lane without jobs ends. Default: 60 s.
    pub lane_idle: Duration,
    /// TTL of a job's lease; renewed three times per TTL. Default: 30 s.
    pub lease_ttl: Duration,
    /// TTL of an account's lease; renewed four times per TTL. If a trader dies, another one takes over after
    /// this time. Default: 15 s.
    pub account_ttl: Duration,
    /// Timeout of the submitter for a batch, or for its effects, after which the batch's outcome counts as
    /// unknown. Longer than a transaction can stay valid: it only covers a submitter that hangs.
    /// Default: 30 minutes.
    pub submit_timeout: Duration,
    /// Delay before a job's first retry; doubles with each retry. Default: 1 s.
    pub retry_min: Duration,
    /// Maximum delay before a retry. Default: 60 s.
    pub retry_max: Duration,
}

impl Config {
    /// Default of [`Config::first_calls`]: the original's maximum, which the chain has accepted for years.
    pub const FIRST_CALLS: usize = 100;
    /// Default of [`Config::max_calls`]: roughly what fits in a block by execution time, without other
    /// limits.
    pub const MAX_CALLS: usize = 1_000;
    /// Default of [`Config::max_bytes`]: half of the parachain's block size.
    pub const MAX_BYTES: usize = 2 * 1024 * 1024;
    /// Default of [`Config::linger`].
    pub const LINGER: Duration = Duration::from_secs(1);
    /// Default of [`Config::max_wait`].
    pub const MAX_WAIT: Duration = Duration::from_secs(6);
    /// Default of [`Config::max_lanes`].
    pub const MAX_LANES: usize = 128;
    /// Default of [`Config::max_lane_jobs`].
    pub const MAX_LANE_JOBS: usize = 10_000;
    /// Default of [`Config::max_lane_bytes`]: several parachain blocks.
    pub const MAX_LANE_BYTES: usize = 16 * 1024 * 1024;
    /// Default of [`Config::lane_idle`].
    pub const LANE_IDLE: Duration = Duration::from_secs(60);
    /// Default of [`Config::lease_ttl`].
    pub const LEASE_TTL: Duration = Duration::from_secs(30);
    /// Default of [`Config::account_ttl`].
    pub const ACCOUNT_TTL: Duration = Duration::from_secs(15);
    /// Default of [`Config::submit_timeout`].
    pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
    /// Default of [`Config::retry_min`].
    pub const RETRY_MIN: Duration = Duration::from_secs(1);
    /// Default of [`Config::retry_max`].
    pub const RETRY_MAX: Duration = Duration::from_secs(60);

    fn check(&self) -> Result<(), Error> {
        let counts = [
            ("first_calls", self.first_calls),
            ("max_calls", self.max_calls),
            ("max_bytes", self.max_bytes),
            ("max_lanes", self.max_lanes),
            ("max_lane_jobs", self.max_lane_jobs),
            ("max_lane_bytes", self.max_lane_bytes),
        ];
        // `linger` and `max_wait` are not in the list: with zero, batches are sent at once.
        let times = [
            ("lane_idle", self.lane_idle),
            ("lease_ttl", self.lease_ttl),
            ("account_ttl", self.account_ttl),
            ("submit_timeout", self.submit_timeout),
            ("retry_min", self.retry_min),
        ];
        let zero = counts.into_iter().find(|(_, n)| *n == 0).map(|(name, _)| name);
        match zero.or(times.into_iter().find(|(_, t)| t.is_zero()).map(|(name, _)| name)) {
            Some(what) => Err(Error::ZeroSetting { what }),
            None if self.max_wait > Self::MAX_WAIT => Err(Error::LongWait { wait: self.max_wait }),
            None => Ok(()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            first_calls: Self::FIRST_CALLS,
            max_calls: Self::MAX_CALLS,
            max_bytes: Self::MAX_BYTES,
            linger: Self::LINGER,
            max_wait: Self::MAX_WAIT,
            max_lanes: Self::MAX_LANES,
            max_lane_jobs: Self::MAX_LANE_JOBS,
            max_lane_bytes: Self::MAX_LANE_BYTES,
            lane_idle: Self::LANE_IDLE,
            lease_ttl: Self::LEASE_TTL,
            account_ttl: Self::ACCOUNT_TTL,
            submit_timeout: Self::SUBMIT_TIMEOUT,
            retry_min: Self::RETRY_MIN,
            retry_max: Self::RETRY_MAX,
        }
    }
}

/// The components of a [`Trader`].
#[derive(Clone, Debug)]
pub struct Parts {
    /// The queue that jobs are leased from.
    pub queue: Arc<dyn JobQueue>,
    /// Submits the batches.
    pub submitter: Arc<dyn ChainSubmitter>,
    /// Signs for the operators.
    pub signers: Arc<dyn Signers>,
    /// Decides which trader may send for an account. All traders that use the same accounts must share it:
    /// two that do not would use the same nonces. [`MemoryAccounts`](accounts::MemoryAccounts) is for traders
    /// within one process.
    pub accounts: Arc<dyn AccountLeases>,
}

/// Why a trader could not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting must be greater than zero.
    #[error("the trade engine's setting {what} must be greater than zero")]
    ZeroSetting {
        /// The setting's name.
        what: &'static str,
    },
    /// The setting exceeds [`Config::MAX_WAIT`].
    #[error("the trade engine's max_wait must be at most {}, not {}", duration(Config::MAX_WAIT), duration(*wait))]
    LongWait {
        /// The configured value.
        wait: Duration,
    },
    /// A task panicked: a bug.
    #[error("a task of the trade engine panicked: {message}")]
    Panicked {
        /// The panic message.
        message: String,
    },
}

/// What a trader released, and left behind, when it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Jobs released to the queue, for the next trader.
    pub jobs_released: usize,
    /// Jobs that the queue did not accept back in time: their leases expire.
    pub jobs_left: usize,
    /// Accounts that were not released in time: their leases expire.
    pub accounts_left: usize,
}

/// A running trade engine.
///
/// Dropping it aborts its work, like a crash: leases expire and jobs are leased again.
#[derive(Debug)]
pub struct Trader {
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<Instant>>,
    dispatcher: JoinSet<Result<StopReport, Error>>,
}

impl Trader {
    /// Additional time for releasing jobs and accounts after [`Trader::stop`]'s deadline.
    pub const STOP_GRACE: Duration = Duration::from_secs(1);

    /// Starts the engine. Requires a tokio runtime.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`], [`Error::LongWait`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, parts: Parts) -> Result<Self, Error> {
        config.check()?;
        status::describe_metrics();
        let (publisher, status) = status::StatusPublisher::new();
        let (stop, stopped) = oneshot::channel();
        let mut dispatcher = JoinSet::new();
        // In a set of one, which aborts the dispatcher, and with it the lanes, when the trader is dropped.
        dispatcher.spawn(dispatch::run(config, parts, publisher, stopped));
        Ok(Self { status, stop: Some(stop), dispatcher })
    }

    /// The trader's status, as a watch.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the trader ends by itself: its queue was closed, or one of its tasks panicked.
    ///
    /// # Errors
    /// [`Error::Panicked`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&mut self) -> Result<StopReport, Error> {
        match self.dispatcher.join_next().await {
            Some(Ok(report)) => report,
            Some(Err(e)) => Err(Error::Panicked { message: dispatch::panic_text(e) }),
            None => Ok(StopReport::default()),
        }
    }

    /// Stops: leases no more jobs, lets batches in flight end for `within`, and releases the rest. The next
    /// trader reads their effects before it sends them again.
    ///
    /// Returns after `within` plus [`Trader::STOP_GRACE`] at the latest, even if queue, submitter, signers or
    /// account leases do not answer; the report contains what could not be released.
    ///
    /// # Errors
    /// [`Error::Panicked`].
    ///
    /// # Cancel safety
    /// Cancelling is equivalent to dropping the trader.
    pub async fn stop(mut self, within: Duration) -> Result<StopReport, Error> {
        if let Some(stop) = self.stop.take() {
            // The dispatcher may have ended already; then its report is returned.
            let _ = stop.send(Instant::now() + within);
        }
        self.ended().await
    }
}
