//! [`Views`]: the last answers of peers, shared between requests for a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prb_core::inventory::Limits;
use prb_walkie::node::PeerId;

use crate::console::{backend::Error, view::FleetView};

/// How long a view is shared.
const MAX_AGE: Duration = Duration::from_millis(1900);
/// How long a failure is shared: the peer is not asked again meanwhile.
const FAILURE_AGE: Duration = Duration::from_secs(5);
/// How long a failure is remembered: who would wait for the peer's next answer behind another request is told of it.
const FAILURE_KEPT: Duration = Duration::from_secs(60);
/// Most workers in all shared views, some kilobytes each. A view beyond is for the request that it was made for.
const MAX_WORKERS: usize = 8 * Limits::WORKERS;

/// A view, or why there is none.
type Answer = Result<Arc<FleetView>, Error>;

/// The last answers of peers.
#[derive(Debug, Default)]
pub(super) struct Views(Mutex<HashMap<PeerId, (Instant, Answer)>>);

impl Views {
    fn all(&self) -> MutexGuard<'_, HashMap<PeerId, (Instant, Answer)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a peer's last answer while it is shared.
    pub(super) fn get(&self, peer: PeerId) -> Option<Answer> {
        let all = self.all();
        let (at, answer) = all.get(&peer)?;
        let age = if answer.is_ok() { MAX_AGE } else { FAILURE_AGE };
        (at.elapsed() < age).then(|| answer.clone())
    }

    /// Returns why a peer did not answer the last time.
    pub(super) fn failure(&self, peer: PeerId) -> Option<Error> {
        let all = self.all();
        let (at, answer) = all.get(&peer)?;
        answer.clone().err().filter(|_| at.elapsed() < FAILURE_KEPT)
    }

    /// Stores a peer's answer, and drops what is no longer shared.
    pub(super) fn put(&self, peer: PeerId, answer: Answer) {
        let mut all = self.all();
        all.insert(peer, (Instant::now(), answer));
        drop_old(&mut all);
        let workers = |answer: &Answer| answer.as_ref().map_or(0, |view| view.workers.len());
        let mut total: usize = all.values().map(|(_, answer)| workers(answer)).sum();
        // The largest first: one that is much larger than others costs nobody else's viewers anything.
        while total > MAX_WORKERS {
            let largest = all.iter().max_by_key(|(_, (_, answer))| workers(answer)).map(|(peer, _)| *peer);
            let Some((_, answer)) = largest.and_then(|peer| all.remove(&peer)) else { return };
            total -= workers(&answer);
        }
    }

    /// Makes the next request ask the peer.
    pub(super) fn forget(&self, peer: PeerId) {
        self.all().remove(&peer);
    }

    /// Drops what is no longer shared: a view is large.
    pub(super) fn drop_old(&self) {
        drop_old(&mut self.all());
    }
}

fn drop_old(all: &mut HashMap<PeerId, (Instant, Answer)>) {
    all.retain(|_, (at, answer)| at.elapsed() < if answer.is_ok() { MAX_AGE } else { FAILURE_KEPT });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::StatusCode;
    use prb_core::{inventory::Worker, primitives::PoolId};
    use prb_walkie::proto::{WorkerState, db};
    use uuid::Uuid;

    use super::*;
    use crate::console::{peer::values::worker_view, view::WorkerView};

    fn worker() -> WorkerView {
        let worker = db::Worker { uuid: Uuid::nil().to_string(), ..db::Worker::default() };
        let mut view =
            worker_view(WorkerState { worker: Some(worker), ..WorkerState::default() }, None).unwrap();
        view.entry = Arc::new(Worker::new(Uuid::nil(), PoolId(1), "w", "http://w", 1));
        view
    }

    fn fleet(workers: usize) -> Answer {
        Ok(Arc::new(FleetView { workers: vec![worker(); workers], ..FleetView::default() }))
    }

    #[test]
    fn shared_views_are_bounded_by_their_workers() {
        let views = Views::default();
        let [small, large] = [10, Limits::WORKERS];
        let honest: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        for peer in &honest {
            views.put(*peer, fleet(small));
        }
        for _ in 0..12 {
            views.put(PeerId::random(), fleet(large));
            let shared: usize =
                views.all().values().map(|(_, answer)| answer.as_ref().unwrap().workers.len()).sum();
            assert!(shared <= MAX_WORKERS, "{shared}");
        }
        assert!(honest.iter().all(|peer| views.get(*peer).is_some()), "small ones stay");
        assert_eq!(views.all().len(), 20 + 7);
    }

    #[test]
    fn failures_are_shared_until_the_peer_is_asked_again() {
        let (views, peer) = (Views::default(), PeerId::random());
        views.put(peer, Err(Error::new(StatusCode::GATEWAY_TIMEOUT, "late")));
        assert!(views.get(peer).unwrap().is_err() && views.failure(peer).is_some());
        views.all().get_mut(&peer).unwrap().0 -= FAILURE_AGE;
        assert!(views.get(peer).is_none() && views.failure(peer).is_some());
        views.all().get_mut(&peer).unwrap().0 -= FAILURE_KEPT;
        views.drop_old();
        assert!(views.failure(peer).is_none() && views.all().is_empty());
        views.put(peer, fleet(1));
        assert!(views.get(peer).unwrap().is_ok() && views.failure(peer).is_none());
        views.forget(peer);
        assert!(views.get(peer).is_none());
    }
}
