//! [`ChainSubmitter`] over a pool of parachain nodes.
//!
//! A batch becomes one signed, mortal transaction, which is followed to its end: the watch at the node tells it in
//! the ordinary case, and where the watch is lost, falls silent or tells of a loss, the finalised blocks of
//! the transaction's lifetime are searched for it. What is done next is decided by one pure function. It is sent again as it is meanwhile (its nonce lets it
//! take effect once at most), and counts as lost only when no block can hold it any more. Nodes may lag or
//! disagree: the one that is furthest is believed, and no state older than one seen before.
//!
//! It gets the account's final nonce, of a state whose effects are known: whoever else sends the same calls, a
//! process that died or one that is about to learn that the account is another's, has the same nonce, and one
//! of the two takes effect. Behind others' transactions it would wait for them in pools that tell nobody; that
//! is done only where others send all the time.
//!
//! ```no_run
//! use std::sync::Arc;
//! use prb_chain::{rpc::{self, NodePool}, signer::VaultSigners, submit::{Config, Submitter}};
//! use prb_core::{
//!     queue::JobQueue,
//!     trade::{self, Trader, accounts::MemoryAccounts},
//!     vault::Vault,
//! };
//!
//! # fn example(queue: Arc<dyn JobQueue>, vault: Arc<dyn Vault>) -> Result<(), Box<dyn std::error::Error>> {
//! let nodes = NodePool::new("para", rpc::Config::new(["ws://127.0.0.1:9944"]))?;
//! let parts = trade::Parts {
//!     queue,
//!     submitter: Arc::new(Submitter::new(nodes, Config::default())?),
//!     signers: Arc::new(VaultSigners::new(vault)),
//!     accounts: Arc::new(MemoryAccounts::default()),
//! };
//! let trader = Trader::start(trade::Config::default(), parts)?;
//! # drop(trader);
//! # Ok(())
//! # }
//! ```
//!
//! Not for: deciding what goes in a batch, and keeping one batch in flight an account (see
//! [`prb_core::trade`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    chain::{BatchOutcome, Call, CallBatch, ChainSubmitter, Effect, Effects, SubmitError, SubmitProgress},
    primitives::{AccountId, PHALA_SS58_PREFIX},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    metadata::Runtimes,
    rpc::{HeadFloor, NodePool},
};

mod account;
mod ask;
mod budget;
mod effects;
mod floors;
mod gap;
mod prepare;
mod refusal;
mod sign;
mod status;
mod tracker;
mod watcher;

/// How long an account that has sent is taken to send again soon.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// How a [`Submitter`] sends.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Blocks that a transaction lives, counted from the finalised head: a power of two from 4 to 4,096. Where
    /// finality lags by more than half of it, transactions live longer by the lag.
    pub mortality_blocks: u32,
    /// How often the finalised chain is asked while no watch tells of a transaction, or while an account has
    /// transactions pending.
    pub poll_interval: Duration,
    /// How long a watch may be silent before the finalised chain is asked as well.
    pub watch_patience: Duration,
    /// How long nodes may be unreachable before a batch that was not sent is given back.
    pub unavailable_after: Duration,
    /// How long nodes may be unreachable before it counts as unknown what became of a sent transaction.
    pub unknown_after: Duration,
    /// How much of what a block has for ordinary transactions one batch may take, in percent, from 1 to 100,
    /// while other accounts send as well: with halves, two of them fill a block.
    ///
    /// A batch takes at least what this crate's own floors say for its calls (execution time and proof, by kind
    /// of call), however little the runtime declares: Phala's pallets declare next to nothing. By them it takes
    /// at most this share of Khala's block, 375 ms of execution and 3,932,160 bytes of proof, or of a smaller one
    /// that the runtime declares.
    pub max_block_percent: u8,
    /// The same for an account that is alone, as far as this submitter knows. A transaction that takes nearly
    /// all of a block waits for one that is empty.
    pub lone_block_percent: u8,
    /// How long the signer may take over a signature, before it counts as unavailable.
    pub sign_timeout: Duration,
    /// Whether nonces that are missing before a transaction are filled with empty batches, which cost fees.
    /// Otherwise it waits: until somebody sends them, or until it expires and is built anew.
    pub fill_nonce_gaps: bool,
    /// Address prefix in messages, and in questions to nodes.
    pub ss58_prefix: u16,
    /// Accounts remembered at most. A forgotten one costs a few questions when it sends again.
    pub max_accounts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // 13 minutes of 12 s blocks: long enough for a busy chain, short enough to wait for.
            mortality_blocks: 64,
            poll_interval: Duration::from_secs(6),
            watch_patience: Duration::from_secs(60),
            unavailable_after: Duration::from_secs(60),
            unknown_after: Duration::from_secs(15 * 60),
            max_block_percent: 50,
            lone_block_percent: 85,
            sign_timeout: Duration::from_secs(30),
            fill_nonce_gaps: false,
            ss58_prefix: PHALA_SS58_PREFIX,
            max_accounts: 1_000,
        }
    }
}

/// Why a [`Config`] cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Eras have powers of two; above 4,096 they no longer start at every block.
    #[error("a transaction's mortality must be a power of two from 4 to 4096, not {0}")]
    Mortality(u32),
    /// Not a share of a block.
    #[error("a batch takes 1 to 100 percent of a block, not {0}")]
    BlockPercent(u8),
    /// Two-byte prefixes are not in use here.
    #[error("the SS58 prefix must be below 64, not {0}")]
    Prefix(u16),
}

/// Sends batches through a pool of nodes. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Submitter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: NodePool,
    config: Config,
    runtimes: Runtimes,
    accounts: Mutex<HashMap<AccountId, Account>>,
    /// The newest block that was seen final: what older states tell is not taken.
    finalised: HeadFloor,
}

/// What is remembered of an account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Nothing of it is pending, as far as this process knows.
    settled: bool,
    /// Nonces below are used up: the last transaction's that was seen to its end, or those below the final nonce
    /// when it had nothing pending. What is known of calls' effects was asked at this nonce or later.
    next_nonce: u64,
    /// Others send all the time: it was never seen without something pending.
    busy: bool,
    /// Batches of it on their way.
    sending: u32,
    /// When the last one ended.
    sent_at: Option<Instant>,
}

/// A batch on its way: others leave room in a block for its account.
struct Sending<'a>(&'a Inner, AccountId);

impl<'a> Sending<'a> {
    fn start(inner: &'a Inner, account: AccountId) -> Self {
        inner.remember(account, |known| known.sending += 1);
        Self(inner, account)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.remember(self.1, |known| {
            known.sending = known.sending.saturating_sub(1);
            known.sent_at = Some(Instant::now());
        });
    }
}

impl Submitter {
    /// A submitter. Asks nothing yet, and runs no task.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(pool: NodePool, config: Config) -> Result<Self, ConfigError> {
        if !config.mortality_blocks.is_power_of_two() || !(4..=4096).contains(&config.mortality_blocks) {
            return Err(ConfigError::Mortality(config.mortality_blocks));
        }
        let percents = [config.max_block_percent, config.lone_block_percent];
        if let Some(percent) = percents.into_iter().find(|percent| !(1..=100).contains(percent)) {
            return Err(ConfigError::BlockPercent(percent));
        }
        if config.ss58_prefix >= 64 {
            return Err(ConfigError::Prefix(config.ss58_prefix));
        }
        let (runtimes, accounts, finalised) = Default::default();
        let inner = Inner { pool, config, runtimes, accounts, finalised };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn address(&self, account: AccountId) -> String {
        account.to_ss58(self.config.ss58_prefix)
    }

    /// How much of a block a batch of the account may take, in percent.
    fn share(&self, account: AccountId) -> u8 {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let sends =
            |known: &Account| known.sending > 0 || known.sent_at.is_some_and(|at| at.elapsed() < SHARED_FOR);
        let beside_others = accounts.iter().any(|(other, known)| *other != account && sends(known));
        let Config { max_block_percent, lone_block_percent, .. } = self.config;
        if beside_others { max_block_percent } else { lone_block_percent }
    }

    fn account(&self, account: AccountId) -> Account {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.get(&account).copied().unwrap_or_default()
    }

    fn remember(&self, account: AccountId, change: impl FnOnce(&mut Account)) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= self.config.max_accounts && !accounts.contains_key(&account) {
            let forgotten = accounts.iter().find(|(_, known)| known.settled).map(|(account, _)| *account);
            if let Some(forgotten) = forgotten.or_else(|| accounts.keys().next().copied()) {
                accounts.remove(&forgotten);
            }
        }
        change(accounts.entry(account).or_default());
    }

    /// Builds, sends and follows a batch; anew where the chain has moved on in between, or where the node's
    /// refusal may pass. A transaction that was refused is in no pool, so that another one may be built.
    async fn send(
        &self,
        batch: &CallBatch,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let started = Instant::now();
        let mut rebuilt = false;
        loop {
            let Some((node, prepared)) = self.prepare(batch, started).await? else {
                self.look_again(batch, started).await?;
                continue;
            };
            let refusal = match self.submit_to(&node, &prepared).await {
                Ok(watch) => return self.follow(&prepared, &batch.signer, watch, progress).await,
                Err(refusal) => refusal,
            };
            if !refusal.may_pass() || started.elapsed() >= self.config.unavailable_after {
                return Err(self.refused(&node, refusal, &prepared).await);
            }
            tracing::info!(node = %node.name(), %refusal, "building the transaction anew");
            let moved_on = matches!(refusal, refusal::Refusal::MovedOn { .. });
            if rebuilt || !moved_on {
                tokio::time::sleep(self.config.poll_interval).await;
            }
            rebuilt = true;
            if !moved_on {
                // Another transaction of the account may be in the way.
                self.look_again(batch, started).await?;
            }
        }
    }

    /// Waits until the account has nothing pending. Where another transaction of it came first, that may hold the
    /// same calls: another trader's, before it learned that the account is not its own any more.
    async fn look_again(&self, batch: &CallBatch, started: Instant) -> Result<(), SubmitError> {
        let account = batch.operator();
        let before = self.account(account).next_nonce;
        self.forget(account);
        self.settle(account).await?;
        self.forget(account);
        if self.account(account).next_nonce == before {
            return Ok(());
        }
        let others = || format!("another transaction of {} came first", self.address(account));
        if self.effects(&batch.calls).await?.calls.contains(&Effect::Present) {
            let reason = format!("{}, and some of its calls are on chain", others());
            return Err(SubmitError::Lost { reason });
        }
        if started.elapsed() >= self.config.unavailable_after {
            return Err(SubmitError::Refused { reason: others(), retryable: true });
        }
        Ok(())
    }

    fn forget(&self, account: AccountId) {
        self.remember(account, |known| known.settled = false);
    }

    /// Whether the outcome leaves nothing of the account pending.
    const fn settles(result: &Result<BatchOutcome, SubmitError>) -> bool {
        match result {
            Ok(_) => true,
            Err(SubmitError::Refused { retryable, .. }) => !*retryable,
            Err(e) => matches!(
                e,
                SubmitError::BadKey { .. }
                    | SubmitError::NotSigned(_)
                    | SubmitError::InsufficientFees { .. }
                    | SubmitError::Dispatch(_)
                    | SubmitError::TooLarge { .. }
                    | SubmitError::Unsupported { .. }
            ),
        }
    }
}

#[async_trait]
impl ChainSubmitter for Submitter {
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let inner = &*self.inner;
        let account = batch.operator();
        let _sending = Sending::start(inner, account);
        inner.settle(account).await?;
        // A cancelled call leaves it so.
        inner.forget(account);
        let result = inner.send(batch, &progress).await;
        if Inner::settles(&result) {
            inner.remember(account, |known| known.settled = true);
        }
        result
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        self.inner.settle(account).await?;
        self.inner.effects(calls).await
    }

    fn forget(&self, account: AccountId) {
        self.inner.forget(account);
    }
}

/// A batch's transaction with nonce 5, for a runtime of which there is no chain.
#[cfg(test)]
pub(crate) async fn sign_for_test(
    runtime: &Arc<crate::metadata::Runtime>,
    batch: &CallBatch,
) -> Result<Vec<u8>, SubmitError> {
    let header = prb_core::wire::Header {
        parent_hash: Default::default(),
        number: 100,
        state_root: Default::default(),
        extrinsics_root: Default::default(),
        digest: Vec::new(),
    };
    let head = ask::Head { hash: Default::default(), header };
    let (mortality, patience, ss58_prefix) = (64, Duration::from_secs(1), PHALA_SS58_PREFIX);
    let terms = sign::Terms { nonce: 5, head: &head, mortality, patience, ss58_prefix };
    Ok(sign::sign(runtime, batch, terms).await?.extrinsic)
}
