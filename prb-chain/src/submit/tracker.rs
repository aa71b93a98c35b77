//! Decides the next step for a sent transaction: a pure function of what is known and what was just observed.
//!
//! `watcher` carries the actions out and makes the observations. Nothing here does I/O or waits.

use prb_core::primitives::Hash;
use tokio::time::Instant;

use super::{Config, status::Status};

#[cfg(test)]
mod tests;

/// The pause before a transaction is sent again doubles up to this multiple of [`Config::poll_interval`].
const MAX_RESEND_PAUSE: u32 = 16;

/// The finalised chain is searched after this many times [`Config::watch_timeout`], whatever the subscription
/// reports.
const MAX_UNSEARCHED: u32 = 3;

/// Final blocks after which a missing nonce counts as given up by the program that should have sent it.
const GAP_BLOCKS: u32 = 4;

/// What is known of a sent transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Whether a node's subscription reports on it.
    watched: bool,
    place: Place,
    /// The last reported status, for messages.
    seen: &'static str,
    watch_lost: bool,
    /// The next finalised block to search.
    next_block: u32,
    /// The value of `next_block` when the finalised chain was first searched since it has waited behind a gap.
    gap_from: Option<u32>,
    /// It is sent again from then on, while it is in no block.
    resend_at: Instant,
    resend_pause: std::time::Duration,
    resends: usize,
    /// Since when one node reports that no block can include it while others are not as far.
    disputed_since: Option<Instant>,
    /// When a node last answered.
    heard_at: Instant,
    /// When the finalised chain was last searched, or the transaction was first sent.
    searched_at: Instant,
    /// Until then a reported inclusion in a block is believed without being found.
    block_until: Instant,
}

/// The last known place of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Unknown,
    /// In a node's pool.
    Pool,
    /// In a node's pool, behind a missing nonce.
    BehindGap,
    /// In a block that has not been retracted.
    Block,
}

/// An observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// It was sent, with or without a subscription.
    Sent { watched: bool },
    /// The subscription reported a status.
    Status(Status),
    /// The subscription ended, or its message cannot be decoded.
    WatchEnded,
    /// Nothing was reported within the time limit.
    Quiet,
    /// The missing nonces before it were sent, or could not be.
    GapFilled,
    /// The finalised chain was searched.
    Searched(Search),
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// It is in a block, and the outcome of its calls was read.
    Included,
    /// It is in this block, but no node returns the outcome of its calls.
    Unread { block: u32, error: String },
    /// No block can include it any more.
    Excluded { reason: String },
    /// One node reports this, but others that answer are not as far.
    Disputed { reason: String },
    /// It is in no block before this one.
    NotYet { next_block: u32 },
    /// No node answers.
    Failed { error: String },
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Wait for the subscription, until then.
    Listen { until: Instant },
    /// Search the finalised chain from a block on, after checking this block.
    Search { from: u32, first: Option<Hash> },
    /// Send what is missing before it.
    FillGap,
    /// Send it again, with the number of the attempt; to another node than the one that watches it.
    Resend { attempt: usize },
    /// The outcome is known.
    End(End),
}

/// The outcome of tracking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Included,
    Lost { reason: String },
    Unknown { reason: String },
}

impl State {
    /// Creates the state of a transaction about to be sent. Blocks from `first_block` on may include it.
    pub(super) const fn new(first_block: u32, now: Instant, config: &Config) -> Self {
        Self {
            watched: false,
            place: Place::Unknown,
            seen: "sent",
            watch_lost: false,
            next_block: first_block,
            gap_from: None,
            resend_at: now,
            resend_pause: config.poll_interval,
            resends: 0,
            disputed_since: None,
            heard_at: now,
            searched_at: now,
            block_until: now,
        }
    }

    pub(super) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// Describes the state for messages.
    pub(super) fn describe(&self) -> String {
        let lost = if self.watch_lost { ", then the watch was lost" } else { "" };
        format!("{}{lost}", self.seen)
    }

    fn unwatched(&mut self) {
        (self.watched, self.place) = (false, Place::Unknown);
    }

    const fn search(&self, first: Option<Hash>) -> Action {
        Action::Search { from: self.next_block, first }
    }

    /// Whether the nonce before it has been missing for long enough to be filled.
    fn is_gap_old(&mut self, config: &Config) -> bool {
        let from = *self.gap_from.get_or_insert(self.next_block);
        config.fill_nonce_gaps || self.next_block.saturating_sub(from) >= GAP_BLOCKS
    }

    fn listen(&self, now: Instant, config: &Config) -> Action {
        // A missing nonce is noticed by the blocks that do not have it.
        let is_quick = !self.watched || self.place == Place::BehindGap;
        let timeout = if is_quick { config.poll_interval } else { config.watch_timeout };
        // A node that keeps reporting, and never an end, must not keep the finalised chain from being searched.
        let latest = self.searched_at + config.watch_timeout.saturating_mul(MAX_UNSEARCHED);
        Action::Listen { until: (now + timeout).min(latest) }
    }

    fn lost(&self, reason: &str) -> Action {
        Action::End(End::Lost { reason: format!("{reason} (last seen: {})", self.describe()) })
    }
}

/// Applies an observation and returns the next step.
pub(super) fn decide(
    mut state: State,
    observation: Observation,
    now: Instant,
    config: &Config,
) -> (State, Action) {
    let action = match observation {
        Observation::Sent { watched } => {
            if watched {
                (state.watched, state.place) = (true, Place::Pool);
            }
            state.listen(now, config)
        }
        Observation::Status(status) => on_status(&mut state, status, now, config),
        Observation::WatchEnded => {
            state.unwatched();
            state.watch_lost = true;
            state.search(None)
        }
        Observation::Quiet => state.search(None),
        Observation::GapFilled => resend(&mut state, now, config),
        Observation::Searched(search) => {
            state.searched_at = now;
            searched(&mut state, search, now, config)
        }
    };
    (state, action)
}

fn on_status(state: &mut State, status: Status, now: Instant, config: &Config) -> Action {
    (state.heard_at, state.seen, state.watch_lost) = (now, status.name(), false);
    if status != Status::Future {
        state.gap_from = None;
    }
    match status {
        Status::Future => state.place = Place::BehindGap,
        // The node puts a retracted transaction back into its pool, or not: then it is sent again.
        Status::Ready | Status::Broadcast(_) | Status::Retracted(_) => state.place = Place::Pool,
        Status::InBlock(_) => {
            if state.place != Place::Block {
                state.block_until = now + config.watch_timeout.saturating_mul(MAX_UNSEARCHED);
            }
            state.place = Place::Block;
        }
        Status::Finalized(block) => {
            state.watched = false;
            return state.search(Some(block));
        }
        // The pool has dropped it, but a block may include it nevertheless.
        Status::FinalityTimeout(_) | Status::Usurped(_) | Status::Dropped | Status::Invalid => {
            state.unwatched();
            return state.search(None);
        }
    }
    state.listen(now, config)
}

fn searched(state: &mut State, search: Search, now: Instant, config: &Config) -> Action {
    let error = match search {
        Search::Included => return Action::End(End::Included),
        Search::Excluded { reason } => return state.lost(&reason),
        Search::Disputed { reason } => {
            // The node that is further ahead may be right, and the others may lag; or it may be on a false
            // chain.
            let since = *state.disputed_since.get_or_insert(now);
            if now.duration_since(since) >= config.watch_timeout {
                return state.lost(&reason);
            }
            state.heard_at = now;
            return send_or_listen(state, now, config);
        }
        Search::NotYet { next_block } => {
            (state.next_block, state.heard_at) = (next_block, now);
            return send_or_listen(state, now, config);
        }
        Search::Unread { block, error } => {
            state.next_block = block;
            error
        }
        Search::Failed { error } => error,
    };
    if now.duration_since(state.heard_at) >= config.unknown_after {
        let reason = format!("{error} (last seen: {})", state.describe());
        return Action::End(End::Unknown { reason });
    }
    send_or_listen(state, now, config)
}

/// While it is in no block, it is sent again at intervals: its nonce lets it take effect at most once.
fn send_or_listen(state: &mut State, now: Instant, config: &Config) -> Action {
    // If it stays unfinalised, finality lags, or the node is wrong: to another node it is sent at most in vain.
    if state.place == Place::Block && now < state.block_until || state.resend_at > now {
        return state.listen(now, config);
    }
    if state.place == Place::BehindGap && state.is_gap_old(config) {
        return Action::FillGap;
    }
    resend(state, now, config)
}

fn resend(state: &mut State, now: Instant, config: &Config) -> Action {
    let attempt = state.resends;
    state.resends += 1;
    state.resend_at = now + state.resend_pause;
    let longest = config.poll_interval.saturating_mul(MAX_RESEND_PAUSE);
    state.resend_pause = state.resend_pause.saturating_mul(2).min(longest);
    Action::Resend { attempt }
}
