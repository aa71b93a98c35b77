//! Faults of a node's RPC.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::pool;

/// Blocks after which a node stops watching a transaction that is in a block and not final.
// As in substrate's transaction pool.
const FINALITY_TIMEOUT: u32 = 512;

/// What happens to transactions submitted to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransactionFault {
    /// They go into the pool.
    #[default]
    None,
    /// They are accepted, and nothing more is reported about them.
    Swallowed,
    /// They are accepted and dropped when the next block is authored.
    Dropped,
}

/// How a relay node answers `grandpa_proveFinality`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProofFault {
    /// Correctly.
    #[default]
    None,
    /// With code 4: its database lacks the changes of authority sets, as after a warp sync.
    Uncovered,
    /// With null.
    Null,
    /// With the oldest stored justification, and no headers.
    Old,
    /// With null for blocks of finished sets, and correctly for others.
    TipOnly,
    /// With only this many of the headers.
    Truncated(usize),
}

#[derive(Debug, Default)]
struct Inner {
    proofs: ProofFault,
    false_head: Option<u32>,
    pruned_below: u32,
    forked_at: Option<u32>,
    refused: HashSet<String>,
    headers: HashSet<u32>,
    changes: HashSet<u32>,
    justifications: HashSet<u32>,
    frozen_at: Option<u32>,
    transactions: TransactionFault,
    refusals: VecDeque<pool::Error>,
    finality_timeout: Option<u32>,
    delay: Duration,
    rate_limit: Option<u32>,
    kept_states: Option<u32>,
    alternate: Option<u32>,
    oversize: HashMap<String, usize>,
    endless: HashSet<String>,
}

/// Whether a method is among the names; a name with a trailing `*` stands for all methods with that prefix.
fn matches_any(names: &HashSet<String>, method: &str) -> bool {
    let has_prefix = |name: &String| name.strip_suffix('*').is_some_and(|start| method.starts_with(start));
    names.contains(method) || names.iter().any(has_prefix)
}

/// The current faults of a node, which its RPC shows; its chain is not affected.
#[derive(Debug)]
pub struct Faults {
    inner: Mutex<Inner>,
    hangs: watch::Sender<bool>,
    held: watch::Sender<HashSet<String>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { inner: Mutex::default(), hangs: watch::Sender::new(false), held: watch::Sender::default() }
    }
}

impl Faults {
    /// Refuses a method from now on; with a trailing `*`, all methods with that prefix.
    pub fn refuse(&self, method: &str) {
        self.inner.lock().refused.insert(method.to_owned());
    }

    /// Serves a method again.
    pub fn allow(&self, method: &str) {
        self.inner.lock().refused.remove(method);
    }

    /// Shows a wrong state root in a block's header.
    pub fn corrupt_header(&self, number: u32) {
        self.inner.lock().headers.insert(number);
    }

    /// Flips one bit in a block's storage changes.
    pub fn corrupt_storage_changes(&self, number: u32) {
        self.inner.lock().changes.insert(number);
    }

    /// Flips one bit in a block's justification, also within finality proofs.
    pub fn corrupt_justification(&self, number: u32) {
        self.inner.lock().justifications.insert(number);
    }

    /// Shows a block as the best and final one, whatever follows it; `None` ends this.
    pub fn freeze_at(&self, number: Option<u32>) {
        self.inner.lock().frozen_at = number;
    }

    /// Keeps the states of only this many of the newest blocks, pruning older ones as the chain grows; `None`
    /// keeps all.
    pub fn keep_states(&self, blocks: Option<u32>) {
        self.inner.lock().kept_states = blocks;
    }

    /// Delays every answer.
    pub fn slow(&self, delay: Duration) {
        self.inner.lock().delay = delay;
    }

    /// Limits the requests a second on each connection, and refuses further ones; `None` removes the limit.
    pub fn limit_rate(&self, requests: Option<u32>) {
        self.inner.lock().rate_limit = requests;
    }

    /// Answers every other request as a node that lags by this many blocks, like two nodes behind one address.
    /// `None` ends this.
    pub fn alternate(&self, blocks_behind: Option<u32>) {
        self.inner.lock().alternate = blocks_behind;
    }

    /// Answers a method with a text of this many bytes.
    pub fn oversize(&self, method: &str, bytes: usize) {
        self.inner.lock().oversize.insert(method.to_owned(), bytes);
    }

    /// Answers a method with a message that does not end, on the connection of the call; with a trailing `*`, all
    /// methods with that prefix. Only on WebSockets.
    pub fn endless(&self, method: &str) {
        self.inner.lock().endless.insert(method.to_owned());
    }

    /// Sets how finality proofs are answered.
    pub fn proofs(&self, fault: ProofFault) {
        self.inner.lock().proofs = fault;
    }

    /// Announces a finalised head of this number, which does not exist on the chain; `None` ends this.
    pub fn false_head(&self, number: Option<u32>) {
        self.inner.lock().false_head = number;
    }

    /// Treats another block of this number as the canonical one, as a node whose best chain has not switched yet;
    /// the real one is known by its hash.
    pub fn fork_at(&self, number: Option<u32>) {
        self.inner.lock().forked_at = number;
    }

    /// Prunes the states of the blocks before this one.
    pub fn prune_below(&self, number: u32) {
        self.inner.lock().pruned_below = number;
    }

    /// Stops or resumes answering requests; connections stay open and pings are answered.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// Holds requests of a method until it is released; others are answered meanwhile.
    pub fn hold(&self, method: &str) {
        self.held.send_modify(|held| {
            held.insert(method.to_owned());
        });
    }

    /// Answers the held requests of a method, and later ones.
    pub fn release(&self, method: &str) {
        self.held.send_modify(|held| {
            held.remove(method);
        });
    }

    /// Refuses the next transactions with these errors, one each.
    pub fn refuse_transactions(&self, refusals: impl IntoIterator<Item = pool::Error>) {
        self.inner.lock().refusals.extend(refusals);
    }

    /// Stops watching a transaction whose block is not final after this many more blocks; real nodes, and this
    /// one without the fault, do so after 512.
    pub fn finality_timeout(&self, blocks: u32) {
        self.inner.lock().finality_timeout = Some(blocks);
    }

    /// Sets what happens to transactions.
    pub fn transactions(&self, fault: TransactionFault) {
        self.inner.lock().transactions = fault;
    }

    /// Ends all faults.
    pub fn heal(&self) {
        *self.inner.lock() = Inner::default();
        self.held.send_modify(HashSet::clear);
        self.hang(false);
    }

    pub(crate) fn is_refused(&self, method: &str) -> bool {
        matches_any(&self.inner.lock().refused, method)
    }

    pub(crate) fn is_endless(&self, method: &str) -> bool {
        matches_any(&self.inner.lock().endless, method)
    }

    pub(crate) fn proof_fault(&self) -> ProofFault {
        self.inner.lock().proofs
    }

    pub(crate) fn false_head_number(&self) -> Option<u32> {
        self.inner.lock().false_head
    }

    pub(crate) fn forked_number(&self) -> Option<u32> {
        self.inner.lock().forked_at
    }

    pub(crate) fn has_pruned(&self, number: u32, best: u32) -> bool {
        let inner = self.inner.lock();
        // As `--state-pruning N`: the newest N blocks keep their states.
        let oldest = inner.kept_states.map_or(0, |kept| best.saturating_add(1).saturating_sub(kept));
        number < inner.pruned_below.max(oldest)
    }

    pub(crate) fn delay(&self) -> Duration {
        self.inner.lock().delay
    }

    pub(crate) fn rate_limit(&self) -> Option<u32> {
        self.inner.lock().rate_limit
    }

    pub(crate) fn alternates(&self) -> Option<u32> {
        self.inner.lock().alternate
    }

    pub(crate) fn oversize_of(&self, method: &str) -> Option<usize> {
        self.inner.lock().oversize.get(method).copied()
    }

    pub(crate) fn has_corrupt_header(&self, number: u32) -> bool {
        self.inner.lock().headers.contains(&number)
    }

    pub(crate) fn has_corrupt_changes(&self, number: u32) -> bool {
        self.inner.lock().changes.contains(&number)
    }

    pub(crate) fn has_corrupt_justification(&self, number: u32) -> bool {
        self.inner.lock().justifications.contains(&number)
    }

    pub(crate) fn frozen_at(&self) -> Option<u32> {
        self.inner.lock().frozen_at
    }

    pub(crate) fn transaction_fault(&self) -> TransactionFault {
        self.inner.lock().transactions
    }

    /// Takes the refusal for the next transaction.
    pub(crate) fn refusal(&self) -> Option<pool::Error> {
        self.inner.lock().refusals.pop_front()
    }

    pub(crate) fn finality_timeout_blocks(&self) -> u32 {
        self.inner.lock().finality_timeout.unwrap_or(FINALITY_TIMEOUT)
    }

    /// Waits while a method is held.
    pub(crate) async fn until_released(&self, method: &str) {
        let mut held = self.held.subscribe();
        // Cannot fail: the sender lives in `self`.
        let _ = held.wait_for(|held| !held.contains(method)).await;
    }

    /// Waits while the node hangs.
    pub(crate) async fn until_answering(&self) {
        let mut hangs = self.hangs.subscribe();
        // Cannot fail: the sender lives in `self`.
        let _ = hangs.wait_for(|hangs| !hangs).await;
    }
}
