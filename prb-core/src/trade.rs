//! The trade engine: jobs to lanes, lanes to batches, batches to outcomes.
//!
//! ```text
//! JobQueue ──lease──▶ dispatcher ──▶ lane of operator A ──batch──▶ ChainSubmitter
//!     ▲                     └──────▶ lane of operator B ──batch──▶      │
//!     └── heartbeat, complete, fail ◀───── outcome a call ──────────────┘
//! ```
//!
//! An operator's account has one lane, and a lane one batch in flight: order and nonce live there. Two
//! pools of one operator share it. Lanes run side by side; one that hangs holds up no other.
//!
//! A batch is as large as its share of a block, in weight and in bytes: the submitter tells where one is too
//! large, and the lane remembers. While a batch is on its way the next one grows.
//!
//! Jobs are delivered at least once, and their effects must happen at most once. So a lane asks
//! [`ChainSubmitter::effects`] which calls are done already, and leaves them out: before its first batch,
//! before a job that was handed out before, before a call for what it has sent lately, and after a transaction
//! whose fate is in doubt.
//!
//! Several traders may work on one queue. An account is used by one of them at a time (see
//! [`accounts::AccountLeases`]): the others hand its jobs back, and take over when its lease runs out.
//!
//! Not for: nonces, fees and the watching of a transaction (see [`ChainSubmitter`]), or deciding what to
//! send (see [`crate::worker`]).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use self::accounts::{AccountLeases, MemoryAccounts};
use crate::{chain::ChainSubmitter, queue::JobQueue, vault::Vault};

pub mod accounts;
mod batch;
mod dispatch;
mod holds;
mod inbox;
mod lane;
mod leases;
mod recent;
mod reports;
mod status;

pub use status::{LaneStatus, Phase, Status};

/// Settings of a [`Trader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most calls of a batch, should blocks take more. A job is never split: one with more goes alone.
    pub max_calls: usize,
    /// Most bytes of a batch's calls, by [`Call::size_bytes`](crate::chain::Call::size_bytes). A job with
    /// more goes alone.
    pub max_bytes: usize,
    /// How long a batch waits for company after its newest job.
    pub linger: Duration,
    /// How long it waits at most after its first: no longer than [`Config::MAX_WAIT`].
    pub max_wait: Duration,
    /// Most lanes: operators served at a time. Jobs of others are handed back for a while.
    pub max_lanes: usize,
    /// Most jobs that a lane holds. More are handed back for a while.
    pub max_lane_jobs: usize,
    /// Most bytes of them, by [`Job::size_bytes`](crate::queue::Job::size_bytes).
    pub max_lane_bytes: usize,
    /// How long a lane without jobs lives.
    pub lane_idle: Duration,
    /// How long a job stays leased without a heartbeat; they come three times as often.
    pub lease_ttl: Duration,
    /// How long an account stays this trader's without a renewal; they come four times as often. Where a
    /// trader dies, another one takes over after this long.
    pub account_ttl: Duration,
    /// How long the submitter may take over a batch, or over its effects, before the batch is taken to be
    /// in doubt. Longer than a transaction lives: it is meant for a submitter that hangs.
    pub submit_timeout: Duration,
    /// Delay before a job's first retry; doubles with each.
    pub retry_min: Duration,
    /// Longest delay before a retry.
    pub retry_max: Duration,
}

impl Config {
    /// Default of [`Config::max_calls`]: a little less than `Utility::force_batch` takes.
    pub const MAX_CALLS: usize = 10_000;
    /// Default of [`Config::max_bytes`]: half of what a block of the parachain takes.
    pub const MAX_BYTES: usize = 2 * 1024 * 1024;
    /// Default of [`Config::linger`].
    pub const LINGER: Duration = Duration::from_secs(1);
    /// Default of [`Config::max_wait`].
    pub const MAX_WAIT: Duration = Duration::from_secs(6);
    /// Default of [`Config::max_lanes`].
    pub const MAX_LANES: usize = 128;
    /// Default of [`Config::max_lane_jobs`].
    pub const MAX_LANE_JOBS: usize = 10_000;
    /// Default of [`Config::max_lane_bytes`]: several blocks of the parachain.
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
            ("max_calls", self.max_calls),
            ("max_bytes", self.max_bytes),
            ("max_lanes", self.max_lanes),
            ("max_lane_jobs", self.max_lane_jobs),
            ("max_lane_bytes", self.max_lane_bytes),
        ];
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

/// What a [`Trader`] works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where jobs come from.
    pub queue: Arc<dyn JobQueue>,
    /// Who sends them.
    pub submitter: Arc<dyn ChainSubmitter>,
    /// What opens the operators' keys.
    pub vault: Arc<dyn Vault>,
}

/// Why a trader does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that must be more than zero.
    #[error("the trade engine's {what} must be more than zero")]
    ZeroSetting {
        /// Its name.
        what: &'static str,
    },
    /// Batches must not wait for so long.
    #[error("the trade engine's max_wait must be at most {:?}, not {wait:?}", Config::MAX_WAIT)]
    LongWait {
        /// The setting.
        wait: Duration,
    },
    /// A task panicked: a fault of the program.
    #[error("a task of the trade engine panicked")]
    Panicked,
}

/// What a trader left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Jobs handed back to the queue, for the next trader.
    pub handed_back: usize,
}

/// A running trade engine.
///
/// Dropping it stops its work wherever it is, like a crash: leases run out and jobs are handed out again.
#[derive(Debug)]
pub struct Trader {
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<Instant>>,
    dispatcher: JoinSet<Result<StopReport, Error>>,
}

impl Trader {
    /// Starts working on the queue's jobs, alone: no other trader uses the same accounts. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`], [`Error::LongWait`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, parts: Parts) -> Result<Self, Error> {
        Self::start_among(config, parts, Arc::new(MemoryAccounts::default()))
    }

    /// Starts working on the queue's jobs beside other traders, each account with one of them at a time.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`], [`Error::LongWait`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_among(
        config: Config,
        parts: Parts,
        accounts: Arc<dyn AccountLeases>,
    ) -> Result<Self, Error> {
        config.check()?;
        status::describe_metrics();
        let (board, status) = status::Board::new();
        let (stop, stopped) = oneshot::channel();
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch::run(config, parts, accounts, board, stopped));
        Ok(Self { status, stop: Some(stop), dispatcher })
    }

    /// What it does, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the trader ends by itself: its queue was closed, or a task of it panicked.
    ///
    /// # Errors
    /// [`Error::Panicked`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&mut self) -> Result<StopReport, Error> {
        match self.dispatcher.join_next().await {
            Some(Ok(report)) => report,
            Some(Err(_)) => Err(Error::Panicked),
            None => Ok(StopReport::default()),
        }
    }

    /// Stops: takes no more jobs, hands back those that are not sent yet, lets batches in flight end for
    /// `within`, and hands back the rest. Their effects are asked for before they are sent again.
    ///
    /// # Errors
    /// [`Error::Panicked`].
    ///
    /// # Cancel safety
    /// A cancelled call is as good as dropping the trader.
    pub async fn stop(mut self, within: Duration) -> Result<StopReport, Error> {
        if let Some(stop) = self.stop.take() {
            // The dispatcher may have ended already; then there is a report to read.
            let _ = stop.send(Instant::now() + within);
        }
        self.ended().await
    }
}
