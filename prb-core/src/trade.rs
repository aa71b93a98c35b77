//! The trade engine: takes jobs, sends them in batches, one lane per operator's account, and reports each
//! call's outcome.
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
//! A lane's first transactions have up to [`Config::first_calls`] calls. The cap doubles after a full
//! transaction was included, is halved after one that was lost or whose outcome is unknown, and is remembered
//! for as long as the trader runs. The submitter refuses what takes more than its share of a block.
//!
//! Jobs of one operator are sent in the order of their ids. One that was given back to the queue, because its
//! lane was full or it is to be retried, is waited for: no younger one overtakes it.
//!
//! Jobs are delivered at least once, and their effects must happen at most once. So a lane asks
//! [`ChainSubmitter::effects`] which calls are done already, and leaves them out: before its first batch,
//! before a job that was handed out before, before a call for what it has sent lately, and after a transaction
//! whose outcome is not known.
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

use self::accounts::AccountLeases;
use crate::{chain::ChainSubmitter, queue::JobQueue, signer::Signers};

mod account_keeper;
pub mod accounts;
mod batch;
mod call_limits;
mod dispatch;
mod inbox;
mod job_leases;
mod lane;
mod order;
mod recently_sent;
mod reports;
mod sequences;
mod status;
mod verdict;

pub use status::{LaneStatus, Phase, Status};

/// Settings of a [`Trader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most calls of an account's first transaction. From then on the cap doubles after each full transaction
    /// that was included, up to [`Config::max_calls`], and is halved, to one call at least, after each that was
    /// lost, has expired, or whose outcome is unknown.
    pub first_calls: usize,
    /// Most calls that a transaction's cap grows to. A job with more than the cap goes alone, in several
    /// transactions.
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
    /// How long the submitter may take over a batch, or over its effects, before the batch's
    /// outcome counts as unknown. Longer than a transaction lives: it is meant for a submitter that hangs.
    pub submit_timeout: Duration,
    /// Delay before a job's first retry; doubles with each.
    pub retry_min: Duration,
    /// Longest delay before a retry.
    pub retry_max: Duration,
}

impl Config {
    /// Default of [`Config::first_calls`]: what the original sends at most, and the chain has taken for years.
    pub const FIRST_CALLS: usize = 100;
    /// Default of [`Config::max_calls`]: about what fits in a block by the time that calls take, were there no
    /// other limit.
    pub const MAX_CALLS: usize = 1_000;
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
            ("first_calls", self.first_calls),
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

/// What a [`Trader`] works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where jobs come from.
    pub queue: Arc<dyn JobQueue>,
    /// What sends them.
    pub submitter: Arc<dyn ChainSubmitter>,
    /// What signs for the operators.
    pub signers: Arc<dyn Signers>,
    /// Which of the traders on the queue may send for an account. All traders that use the same accounts must
    /// share it: two that do not would take the same nonce.
    /// [`MemoryAccounts`](accounts::MemoryAccounts) is for those of one process.
    pub accounts: Arc<dyn AccountLeases>,
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
    #[error("a task of the trade engine panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
}

/// What a trader left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Jobs handed back to the queue, for the next trader.
    pub handed_back: usize,
    /// Jobs that the queue did not take back in time: their leases run out.
    pub jobs_left: usize,
    /// Accounts that were not given back in time: their leases run out.
    pub accounts_left: usize,
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
    /// How long handing back jobs and accounts may take after [`Trader::stop`]'s deadline.
    pub const STOP_GRACE: Duration = Duration::from_secs(1);

    /// Starts working on the queue's jobs. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`], [`Error::LongWait`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, parts: Parts) -> Result<Self, Error> {
        config.check()?;
        status::describe_metrics();
        let (board, status) = status::Board::new();
        let (stop, stopped) = oneshot::channel();
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch::run(config, parts, board, stopped));
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
            Some(Err(e)) => Err(Error::Panicked { message: dispatch::panic_text(e) }),
            None => Ok(StopReport::default()),
        }
    }

    /// Stops: takes no more jobs, lets batches in flight end for `within`, and hands back the rest. Their effects
    /// are asked for before they are sent again.
    ///
    /// Returns after `within` and [`Trader::STOP_GRACE`] at the latest, also where queue, submitter, signers or
    /// account leases do not answer; the report tells what could not be handed back.
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
