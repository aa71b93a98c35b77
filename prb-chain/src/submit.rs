//! [`ChainSubmitter`] over a pool of parachain nodes.
//!
//! A batch becomes one signed, mortal transaction that is tracked until its outcome is final. Normally the
//! node's subscription reports it; if that is lost, silent or reports a loss, the finalised blocks of the
//! transaction's lifetime are searched. A pure function decides the next step. Meanwhile the same transaction
//! is sent again (because of its nonce it takes effect at most once), and it counts as lost only when no
//! block can include it any more. Nodes may lag or disagree: the one that is furthest ahead is used, and
//! never a state older than one already seen.
//!
//! The transaction gets the account's finalised nonce, in a state whose effects are known. So if another
//! process sends the same calls (one that died, or one that is about to lose the account's lease), both have
//! the same nonce, and only one takes effect. A nonce behind others' pending transactions would wait for them
//! in pools that report nothing. That is only done for accounts from which other programs send as well, which shows in
//! blocks that include their transactions: once all that were pending at first are final, none of them can be this
//! process's or its predecessor's.
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
//! Not for: deciding what goes into a batch, and limiting an account to one batch in flight (see
//! [`prb_core::trade`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    chain::{BatchOutcome, Call, CallBatch, ChainSubmitter, Effects, SubmitError, SubmitProgress},
    primitives::{AccountId, PHALA_SS58_PREFIX},
};
use tokio::{sync::mpsc, time::Instant};

use self::{
    prepare::Prepared,
    refusal::Refusal,
    shared::{LostAt, MAX_LOST_NONCES, Unresolved},
};
use crate::{
    metadata::Runtimes,
    rpc::{HeadFloor, Node, NodePool},
};

mod account_nonce;
mod budget;
mod effects;
mod min_weights;
mod nonce_gaps;
mod prepare;
mod queries;
mod refusal;
mod shared;
mod sign;
mod status;
mod tracker;
mod watcher;

/// How long an account counts as active after it has sent a batch.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// Settings of a [`Submitter`].
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Lifetime of a transaction in blocks, counted from the finalised head: a power of two from 4 to 4,096. If
    /// finality lags by more than half of it, transactions live longer by the lag. Default: 64.
    pub mortality_blocks: u32,
    /// Interval at which the finalised chain is polled while no subscription reports on a transaction, or while
    /// an account has transactions pending. Default: 6 s.
    pub poll_interval: Duration,
    /// How long a subscription may be silent before the finalised chain is polled, too. Default: 60 s.
    pub watch_timeout: Duration,
    /// How long nodes may be unreachable before a batch that was not sent is returned. Default: 60 s.
    pub unavailable_after: Duration,
    /// How long nodes may be unreachable before the outcome of a sent transaction counts as unknown.
    /// Default: 15 minutes.
    pub unknown_after: Duration,
    /// Share of a block's capacity for normal transactions that one batch may use while other accounts send as
    /// well, in percent, from 1 to 100: with 50, two batches fill a block.
    ///
    /// A batch counts with at least this crate's own minimum estimates for its calls (execution time and proof
    /// size, by kind of call), however little the runtime declares: Phala's pallets declare next to nothing. By
    /// those estimates it uses at most this share of Khala's block, 375 ms of execution and 3,932,160 bytes of
    /// proof, or of a smaller block that the runtime declares. Default: 50.
    pub max_block_percent: u8,
    /// The same for an account that is the only active one, as far as this submitter knows. A transaction that
    /// takes nearly a whole block waits for an empty one. Default: 85.
    pub lone_block_percent: u8,
    /// Timeout of the signer, after which it counts as unavailable. Default: 30 s.
    pub sign_timeout: Duration,
    /// Whether missing nonces before a transaction are filled at once, with empty batches that cost fees. Otherwise
    /// that happens after four final blocks, in which another program may send them. Default: false.
    pub fill_nonce_gaps: bool,
    /// Address prefix in messages, and in requests to nodes. Default: 30.
    pub ss58_prefix: u16,
    /// Most accounts remembered. An evicted one costs a few requests when it sends again. Default: 1,000.
    pub max_accounts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // 13 minutes of 12 s blocks: long enough for a busy chain, and short enough to wait for.
            mortality_blocks: 64,
            poll_interval: Duration::from_secs(6),
            watch_timeout: Duration::from_secs(60),
            unavailable_after: Duration::from_secs(60),
            // Longer than a transaction's lifetime, so that nodes which return in time can still report
            // its outcome.
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

/// Why a [`Config`] is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Eras are powers of two; above 4,096 they no longer start at every block.
    #[error("a transaction's mortality must be a power of two from 4 to 4096, not {0}")]
    Mortality(u32),
    /// Not a valid percentage.
    #[error("a batch takes 1 to 100 percent of a block, not {0}")]
    BlockPercent(u8),
    /// Two-byte prefixes are not supported.
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
    /// The newest block known to be final: older states are not used.
    finalised: HeadFloor,
}

/// What is remembered about an account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// None of its earlier transactions can take effect unnoticed, as far as this process knows.
    idle: bool,
    /// Nonces below this are used: that of the last transaction with a known outcome, or those below the
    /// finalised nonce when nothing was pending. Effects of calls were read at this nonce or later.
    next_nonce: u64,
    /// The last sign that other programs send from it.
    sharing: Option<shared::Sharing>,
    /// Nodes reported this number of transactions as pending, but no block has included any: as many are not waited
    /// for again.
    unbelieved: u64,
    /// A transaction of this process that is in flight, or whose outcome is not known.
    unresolved: Option<shared::Unresolved>,
    /// Number of its batches in flight.
    sending: u32,
    /// When its last batch ended.
    sent_at: Option<Instant>,
}

/// Marks a batch as in flight: other accounts leave room in a block for it.
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
    /// Creates a submitter. Sends no request yet, and runs no task.
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
        shared::register_metrics();
        let (runtimes, accounts, finalised) = Default::default();
        let inner = Inner { pool, config, runtimes, accounts, finalised };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn address(&self, account: AccountId) -> String {
        account.to_ss58(self.config.ss58_prefix)
    }

    /// The share of a block that a batch of the account may use, in percent.
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
            // An idle account loses least: it has nothing pending that a new search could miss.
            let forgotten = accounts.iter().find(|(_, known)| known.idle).map(|(account, _)| *account);
            if let Some(forgotten) = forgotten.or_else(|| accounts.keys().next().copied()) {
                accounts.remove(&forgotten);
            }
        }
        change(accounts.entry(account).or_default());
    }

    /// Builds, sends and tracks a batch; rebuilds it if the chain has advanced in between, for another node if one
    /// refuses it, after a pause if all do for a temporary reason, and if another program's transaction took its nonce.
    /// A refused transaction is in no pool, so another one may be built.
    async fn send(
        &self,
        batch: &CallBatch,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let account = batch.operator();
        let mut started = Instant::now();
        let (mut rebuilt, mut overtaken, mut lost) = (false, false, 0);
        // The nodes that refused since the last pause, and the last one's reason.
        let (mut refused_by, mut last) = (Vec::new(), None);
        loop {
            if refused_by.is_empty() {
                self.avoid_collision(account).await;
            }
            let Some((node, prepared)) = self.prepare(batch, started, &refused_by).await? else {
                overtaken = self.after_overtaken(batch, overtaken).await?;
                started = Instant::now();
                continue;
            };
            let is_again = refused_by.contains(node.name());
            let refusal = match last.take() {
                // No other node is near enough.
                Some(refusal) if is_again => refusal,
                _ => match self.send_to(&node, &prepared, batch, progress).await {
                    Ok(Err(error))
                        if lost < MAX_LOST_NONCES && self.has_lost_nonce(&prepared, &error).await =>
                    {
                        lost += 1;
                        self.after_lost_nonce(batch).await?;
                        (started, rebuilt) = (Instant::now(), false);
                        refused_by.clear();
                        continue;
                    }
                    Ok(result) => return result,
                    Err(refusal) => refusal,
                },
            };
            if let Refusal::MovedOn { is_signature: true, .. } = &refusal {
                // It may have been signed with what one node falsely returned as the runtime or the genesis.
                self.runtimes.forget(&prepared.runtime);
            }
            refused_by.push(Arc::clone(node.name()));
            // One node's refusal, of whatever kind, may be its own fault.
            if !is_again && self.pool.trusted().iter().any(|other| !refused_by.contains(other.name())) {
                tracing::info!(node = %node.name(), %refusal, "a node refused the transaction, trying another one");
                last = Some(refusal);
                continue;
            }
            refused_by.clear();
            if !refusal.may_pass() || started.elapsed() >= self.config.unavailable_after {
                return Err(self.refused(&node, refusal, &prepared).await);
            }
            tracing::info!(node = %node.name(), %refusal, "rebuilding the transaction");
            self.before_rebuilding(batch, &refusal, rebuilt).await?;
            rebuilt = true;
        }
    }

    /// Sends a transaction to a node and follows it, if the node does not refuse it.
    async fn send_to(
        &self,
        node: &Node,
        prepared: &Prepared,
        batch: &CallBatch,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<Result<BatchOutcome, SubmitError>, Refusal> {
        let account = prepared.account;
        let earlier = self.account(account).unresolved;
        let unresolved = Unresolved { nonce: prepared.nonce, last: prepared.last };
        // Before it is sent: this future may be dropped at any time from then on.
        self.remember(account, |known| known.unresolved = Some(unresolved));
        match self.submit_to(node, prepared).await {
            Ok(watch) => {
                let result = self.follow(prepared, &batch.signer, watch, progress).await;
                if !matches!(result, Err(SubmitError::Unknown { .. })) {
                    self.remember(account, |known| known.unresolved = None);
                }
                Ok(result)
            }
            Err(refusal) => {
                self.remember(account, |known| known.unresolved = earlier);
                Err(refusal)
            }
        }
    }

    /// Waits before a refused transaction is rebuilt.
    async fn before_rebuilding(
        &self,
        batch: &CallBatch,
        refusal: &Refusal,
        rebuilt: bool,
    ) -> Result<(), SubmitError> {
        let account = batch.operator();
        if let Refusal::NonceTaken { .. } = refusal {
            self.count_lost_nonce(account, LostAt::Pool);
            // Another program was faster: the next nonce is free.
            if self.account(account).is_shared() {
                return Ok(());
            }
        }
        let moved_on = matches!(refusal, Refusal::MovedOn { .. });
        // A first transaction that was only too old is rebuilt at once; after that, a node that keeps
        // refusing sets the pace.
        if rebuilt || !moved_on {
            tokio::time::sleep(self.config.poll_interval).await;
        }
        if !moved_on {
            // Another transaction of the account may have its nonce.
            self.wait_again(batch).await?;
        }
        Ok(())
    }

    /// Waits for the account's earlier transactions. If another transaction of it came first, that may
    /// contain the same calls: another trader's, from before it learned that it has lost the account's lease. Returns
    /// whether another one did.
    async fn wait_again(&self, batch: &CallBatch) -> Result<bool, SubmitError> {
        let account = batch.operator();
        let before = self.account(account).next_nonce;
        self.forget(account);
        self.wait_until_idle(account).await?;
        self.forget(account);
        let is_moved = self.account(account).next_nonce != before;
        if is_moved {
            self.check_undone(batch).await?;
        }
        Ok(is_moved)
    }

    fn forget(&self, account: AccountId) {
        self.remember(account, |known| known.idle = false);
    }

    /// Whether the outcome leaves nothing of the account pending.
    const fn leaves_idle(result: &Result<BatchOutcome, SubmitError>) -> bool {
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
        inner.wait_until_idle(account).await?;
        // If this future is dropped, the account does not count as idle.
        inner.forget(account);
        inner.publish_sharing(account);
        let result = inner.send(batch, &progress).await;
        // What is pending on a shared account does not matter.
        let is_refused = matches!(result, Err(SubmitError::Refused { .. }));
        if Inner::leaves_idle(&result) || is_refused && inner.account(account).may_send_behind() {
            inner.remember(account, |known| known.idle = true);
        }
        result
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        self.inner.wait_until_idle(account).await?;
        self.inner.effects(calls).await
    }

    fn forget(&self, account: AccountId) {
        self.inner.remember(account, |known| (known.idle, known.unbelieved) = (false, 0));
    }
}

/// A batch's transaction with nonce 5, for a runtime without a chain.
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
    let head = queries::Head { hash: Default::default(), header };
    let (mortality, timeout, ss58_prefix) = (64, Duration::from_secs(1), PHALA_SS58_PREFIX);
    let terms = sign::Terms { nonce: 5, head: &head, mortality, timeout, ss58_prefix };
    Ok(sign::sign(runtime, batch, terms).await?.extrinsic)
}
