//! A node's record: demotions, deferrals and missing capabilities.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Config;

/// A capability that some nodes lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// `grandpa_proveFinality` for blocks far below the tip.
    FinalityProofs,
    /// `pha_getStorageChanges`: the node is built with Phala's RPC extension.
    StorageChanges,
    /// The states of all blocks, as on an archive node.
    States,
}

impl Capability {
    /// Its name in logs, metrics and readiness codes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FinalityProofs => "finality_proofs",
            Self::StorageChanges => "storage_changes",
            Self::States => "states",
        }
    }

    /// Code of the problem that no node of a pool offers it.
    pub(super) const fn missing(self) -> &'static str {
        match self {
            Self::FinalityProofs => "finality_proofs_missing",
            Self::StorageChanges => "storage_changes_missing",
            Self::States => "states_missing",
        }
    }

    /// What operators can do about it.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::FinalityProofs => {
                "history comes by blocks' justifications, which is slower; a node that was synced from genesis has proofs"
            }
            Self::StorageChanges => {
                "add a node that offers pha_getStorageChanges (Phala's own node software)"
            }
            Self::States => "add an archive node (--state-pruning archive)",
        }
    }
}

/// A capability that a node was found to lack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingCapability {
    /// The capability.
    pub capability: Capability,
    /// The node's answer.
    pub reason: String,
}

/// A node's health.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The node's host and port.
    pub name: Arc<str>,
    /// Whether a connection is open.
    pub connected: bool,
    /// Whether it is demoted for a wrong answer: it is asked after fit and deferred nodes, and only for verifiable data.
    pub demoted: bool,
    /// Whether other nodes are preferred for a while, because it is slow, behind, or lacks requested data.
    pub deferred: bool,
    /// Whether its last connection failed or was lost recently.
    pub backing_off: bool,
    /// Whether it serves another chain than the pool's.
    pub other_chain: bool,
    /// The capabilities that it was found to lack.
    pub lacks: Vec<MissingCapability>,
    /// The last error.
    pub last_error: Option<String>,
}

/// When a missing capability is tried again.
#[derive(Debug)]
struct Absence {
    reason: String,
    until: Instant,
    term: Duration,
}

/// A node's record.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Until when it is not connected again, and why.
    // Apart from the last error, which may be about an answer.
    backoff: Option<(Instant, Arc<str>)>,
    pub(super) last_error: Option<String>,
    pub(super) other_chain: bool,
    demoted_until: Option<Instant>,
    demotions: u32,
    deferred_until: Option<Instant>,
    deferrals: u32,
    lost_at: Option<Instant>,
    losses: u32,
    lacks: BTreeMap<Capability, Absence>,
}

impl Standing {
    /// Defers the node; the time doubles if it happens again soon.
    pub(super) fn defer(&mut self, least: Duration, most: Duration, reason: &str) {
        let now = Instant::now();
        // A node that fails once a day starts with the shortest pause each time.
        let recent = self.deferred_until.is_some_and(|until| now < until + most);
        self.deferrals = if recent { self.deferrals.saturating_add(1) } else { 0 };
        let pause = least.saturating_mul(1 << self.deferrals.min(16)).min(most.max(least));
        self.deferred_until = Some(now + pause);
        self.last_error = Some(reason.to_owned());
    }

    /// Records a proven wrong answer. The time doubles with each one for as long as the process runs, because a
    /// node that lied twice is not trusted soon. Returns the time if a new demotion begins.
    pub(super) fn demote(&mut self, config: &Config, reason: &str) -> Option<Duration> {
        let now = Instant::now();
        // Several wrong answers that were in flight together count once.
        let is_new = self.demoted_until.is_none_or(|until| until <= now);
        self.demotions = self.demotions.saturating_add(u32::from(is_new));
        let doublings = self.demotions.saturating_sub(1).min(16);
        let term = config.demotion.saturating_mul(1 << doublings).min(config.demotion_max);
        let term = term.max(config.demotion);
        self.demoted_until = Some(now + term);
        self.last_error = Some(reason.to_owned());
        is_new.then_some(term)
    }

    /// Records that no connection is made for this long, and why.
    pub(super) fn back_off(&mut self, pause: Duration, cause: &str) {
        self.backoff = (!pause.is_zero()).then(|| (Instant::now() + pause, cause.into()));
    }

    /// Returns the time until the next connection, and why there is none.
    pub(super) fn backing_off(&self) -> Option<(Duration, Arc<str>)> {
        let (until, cause) = self.backoff.as_ref()?;
        let wait = until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())?;
        Some((wait, Arc::clone(cause)))
    }

    /// Records a lost connection; returns whether to log it: the first one, and every second, fourth, eighth and so
    /// on that follow within `most` of one another.
    // A proxy may close each connection at its first answer, for hours.
    pub(super) fn lost_connection(&mut self, most: Duration) -> bool {
        let now = Instant::now();
        let recent = self.lost_at.is_some_and(|at| now < at + most);
        self.losses = if recent { self.losses.saturating_add(1) } else { 1 };
        self.lost_at = Some(now);
        self.losses.is_power_of_two()
    }

    /// Whether the last loss of a connection was logged, or there was none.
    pub(super) const fn is_loss_logged(&self) -> bool {
        self.losses == 0 || self.losses.is_power_of_two()
    }

    /// Records a missing capability; returns whether this is new.
    pub(super) fn lacks(&mut self, config: &Config, capability: Capability, reason: &str) -> bool {
        let now = Instant::now();
        let before = self.lacks.get(&capability);
        let is_new = before.is_none();
        let term = match before {
            // Requests that were in flight together count once.
            Some(absence) if absence.until > now => absence.term,
            Some(absence) => (absence.term * 2).min(config.demotion_max),
            None => config.demotion,
        };
        self.lacks.insert(capability, Absence { reason: reason.to_owned(), until: now + term, term });
        is_new
    }

    /// Records that the node offers it; returns whether this is new.
    pub(super) fn offers(&mut self, capability: Capability) -> bool {
        self.lacks.remove(&capability).is_some()
    }

    /// The node may have been restarted with other flags.
    pub(super) fn reconnected(&mut self) {
        self.backoff = None;
        self.last_error = None;
        self.other_chain = false;
        let now = Instant::now();
        // Not removed: if it is still missing, the pause keeps doubling, and the log does not repeat it.
        self.lacks.values_mut().for_each(|absence| absence.until = now);
    }

    pub(super) fn is_deferred(&self) -> bool {
        self.deferred_until.is_some_and(|until| until > Instant::now())
    }

    pub(super) fn is_demoted(&self) -> bool {
        self.demoted_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether it is known, for now, to lack it.
    pub(super) fn is_lacking(&self, capability: Capability) -> bool {
        self.lacks.get(&capability).is_some_and(|absence| absence.until > Instant::now())
    }

    /// The capabilities that it was found to lack and has not offered since.
    pub(super) fn all_lacks(&self) -> Vec<MissingCapability> {
        let lack = |(capability, absence): (&Capability, &Absence)| MissingCapability {
            capability: *capability,
            reason: absence.reason.clone(),
        };
        self.lacks.iter().map(lack).collect()
    }

    /// The node's rank, lower is better: fit, deferred, demoted, lacking a needed capability, recently
    /// failed.
    pub(super) fn rank(&self, needed: &[Capability]) -> u8 {
        let now = Instant::now();
        let lasts = |until: Option<Instant>| u8::from(until.is_some_and(|until| until > now));
        let lacking = u8::from(needed.iter().any(|needed| self.is_lacking(*needed)));
        // Powers of two, so that each reason outweighs all lesser ones together.
        lasts(self.deferred_until)
            + 2 * lasts(self.demoted_until)
            + 4 * lacking
            + 8 * u8::from(self.backing_off().is_some())
    }

    pub(super) fn health(&self, name: Arc<str>, connected: bool) -> Health {
        Health {
            name,
            connected,
            demoted: self.is_demoted(),
            deferred: self.is_deferred(),
            backing_off: self.backing_off().is_some(),
            other_chain: self.other_chain,
            lacks: self.all_lacks(),
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn demotions_grow() {
        let config = Config::default();
        let mut standing = Standing::default();
        for doublings in 0..4 {
            assert_eq!(standing.demote(&config, "lie"), Some(config.demotion * (1 << doublings)));
            assert_eq!(standing.demote(&config, "the same lie"), None);
            tokio::time::advance(config.demotion * (1 << doublings)).await;
            assert!(!standing.is_demoted());
        }
        for _ in 0..40 {
            standing.demote(&config, "lie");
            tokio::time::advance(config.demotion_max).await;
        }
        assert_eq!(standing.demote(&config, "lie"), Some(config.demotion_max));
    }

    #[tokio::test(start_paused = true)]
    async fn lost_connections_are_logged_at_growing_intervals() {
        let (most, mut standing) = (Duration::from_secs(300), Standing::default());
        let logged: Vec<u32> = (1..=20).filter(|_| standing.lost_connection(most)).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        assert!(!standing.is_loss_logged());
        tokio::time::advance(most).await;
        assert!(standing.lost_connection(most) && standing.is_loss_logged(), "it is news after a quiet time");
    }

    #[tokio::test(start_paused = true)]
    async fn missing_capability_is_retried_with_backoff_and_after_reconnection() {
        let (config, proofs) = (Config::default(), Capability::FinalityProofs);
        let mut standing = Standing::default();
        assert!(standing.lacks(&config, proofs, "code 4"));
        assert!(standing.is_lacking(proofs) && !standing.is_lacking(Capability::States));
        assert_eq!(standing.rank(&[proofs]), 4);
        assert_eq!(standing.rank(&[]), 0);
        tokio::time::advance(config.demotion).await;
        assert!(!standing.is_lacking(proofs) && standing.all_lacks().len() == 1);
        assert!(!standing.lacks(&config, proofs, "code 4"), "it is no news");
        tokio::time::advance(config.demotion).await;
        assert!(standing.is_lacking(proofs), "the term has doubled");
        standing.reconnected();
        assert!(!standing.is_lacking(proofs));
        assert!(standing.offers(proofs) && standing.all_lacks().is_empty());
    }
}
