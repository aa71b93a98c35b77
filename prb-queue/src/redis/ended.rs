//! [`EndedJobs`]: the jobs that this process has ended, in case Redis returns to an older snapshot in which they wait.
//!
//! # Jobs in flight
//!
//! A job whose transaction is on its way when Redis returns to a snapshot is not known here yet. In the snapshot it waits
//! and seems to be new ([`Lease::attempt`](prb_core::queue::Lease::attempt) is 0), so this process or another one leases
//! it a second time. It takes effect once nevertheless:
//!
//! - The snapshot does not have the lease of the account either, so the trader that sends next acquires it anew. After
//!   that, and for calls that it sent recently, it reads effects before it sends
//!   ([`ChainSubmitter::effects`](prb_core::chain::ChainSubmitter::effects)), once the account's pending transactions are
//!   final. The second lease ends as already done (`tests/redis_in_flight.rs`, for every kind of call).
//! - A trader that still believes for some seconds that the account is its own may send at the same moment as the next
//!   one. Both transactions have the same nonce, or the chain refuses the second call: messages have sequence numbers,
//!   sessions and assignments have states, and a restart must raise the stake. A registration or an announcement of
//!   endpoints has the same content twice, which costs a fee and, for a registration, another benchmark.
//! - The opposite operation (a stop after the start) is not sent in between: the job stays open for its submitter, which
//!   has one operation of a worker in flight at a time. If the submitter gives it up, it withdraws it (see
//!   [`orphans`](super::orphans)). And a session starts again only after its cool-down of days, when a job that waits is
//!   too old to be leased ([`Config::max_age`](super::Config::max_age)).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prb_core::sync::RateLimit;

use super::{consume::End, record::Tail};

/// Maximum number of jobs that are remembered; the oldest ones are forgotten first.
const MAX_ENDED: usize = 10_000;
/// Minimum time between two warnings of jobs that had ended.
const WARNING_EVERY: Duration = Duration::from_secs(60);

/// The ends of jobs, by their submitters' marks.
pub(super) struct EndedJobs(Mutex<State>);

struct State {
    ends: HashMap<String, End>,
    /// Oldest first.
    order: VecDeque<String>,
    log: RateLimit<()>,
}

impl Default for EndedJobs {
    fn default() -> Self {
        let log = RateLimit::new(WARNING_EVERY, 1);
        Self(Mutex::new(State { ends: HashMap::new(), order: VecDeque::new(), log }))
    }
}

impl EndedJobs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how a job has ended for good.
    pub(super) fn add(&self, mark: &str, end: End) {
        let mut state = self.state();
        if state.ends.insert(mark.to_owned(), end).is_none() {
            state.order.push_back(mark.to_owned());
        }
        if state.order.len() > MAX_ENDED
            && let Some(oldest) = state.order.pop_front()
        {
            state.ends.remove(&oldest);
        }
    }

    /// Returns the end of a job that waits although this process has ended it. `None` for what an operator has put
    /// back after that end: Redis knows of the end then.
    pub(super) fn end_of(&self, mark: &str, tail: &Tail) -> Option<End> {
        let state = self.state();
        let end = state.ends.get(mark)?;
        let is_known = match end {
            End::Failed { .. } => tail.is_failed(),
            _ => tail.is_done(),
        };
        (!is_known).then(|| end.clone())
    }

    /// Warns of a job that Redis has brought back.
    pub(super) fn warn(&self, job: &str) {
        tracing::debug!(job, "a job that had ended waits again and is ended as before");
        if self.state().log.admit(()) {
            tracing::warn!(
                job,
                "Redis has returned to an older snapshot: jobs that had ended wait again, and are ended as before; set \
                 appendonly yes in Redis"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::record::Record, *};

    fn failed() -> End {
        End::Failed { message: "no".into(), retry_after: None }
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let (ended, tail) = (EndedJobs::default(), Record::read(br#"{"data":0}"#).unwrap().tail);
        for n in 0..=MAX_ENDED {
            ended.add(&n.to_string(), failed());
            ended.add(&n.to_string(), failed());
        }
        assert!(ended.end_of("0", &tail).is_none() && ended.end_of("1", &tail).is_some());
        let state = ended.state();
        assert_eq!((state.ends.len(), state.order.len()), (MAX_ENDED, MAX_ENDED));
    }

    #[test]
    fn what_an_operator_has_put_back_has_not_ended() {
        let ended = EndedJobs::default();
        let with =
            |status| Record::read(format!(r#"{{"data":0,"status":"{status}"}}"#).as_bytes()).unwrap().tail;
        ended.add("a", failed());
        assert!(ended.end_of("a", &with("failed")).is_none());
        assert!(ended.end_of("a", &with("created")).is_some());
        assert!(ended.end_of("a", &with("retrying")).is_some());
        assert!(ended.end_of("b", &with("created")).is_none());
    }
}
