//! [`Reserve`]: connections beyond the shares, which are served briefly, and the answers that they get.

use std::collections::VecDeque;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::task::{AbortHandle, JoinSet};

use super::{Activity, Limits, Phase, Shares, body::Held, peer_of};

/// Most connections of the reserve.
const MAX_CONNECTIONS: usize = 16;
/// Requests answered by the reserve at a time: 8 from this machine, 8 from all others, and 2 from one address. Fewer than
/// the connections: some are left to be refused on.
const REQUESTS: Limits = Limits { total: 12, per_address: 2, reserve: 4 };

/// Connections beyond the shares.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<(Activity, AbortHandle)>,
}

impl Reserve {
    /// Serves a connection. If there are too many, the oldest one that waits for a request ends, or the oldest of all: it
    /// has had the most time. Clients that keep such connections open cannot block the reserve.
    pub(super) fn spawn(
        &mut self,
        activity: Activity,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() >= MAX_CONNECTIONS {
            let oldest = self.open.iter().position(|(activity, _)| activity.is(Phase::Receiving));
            if let Some((_, task)) = self.open.remove(oldest.unwrap_or(0)) {
                task.abort();
            }
        }
        let task = self.tasks.spawn(connection);
        self.open.push_back((activity, task));
    }

    /// Waits for the end of a connection, forever if there is none. Cancel safe.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Answers plain requests of clients beyond their share, a few at a time: whatever holds the connections of an address,
/// above all streams, the requests of others behind it are answered. All else is refused.
pub(super) fn plain_requests(router: &Router) -> Router {
    router.clone().layer(middleware::from_fn_with_state(Shares::new(REQUESTS), answer))
}

async fn answer(State(slots): State<Shares>, request: Request, next: Next) -> Response {
    let is_stream = |headers: &HeaderMap, name| {
        headers
            .get(name)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.contains("event-stream"))
    };
    if is_stream(request.headers(), header::ACCEPT) {
        return busy();
    }
    let Some(slot) = slots.take(peer_of(request.extensions())) else { return busy() };
    let answer = next.run(request).await;
    if is_stream(answer.headers(), header::CONTENT_TYPE) {
        return busy();
    }
    answer.map(|body| Body::new(Held::new(body, slot)))
}

pub(super) fn busy() -> Response {
    let wait = [(header::RETRY_AFTER, "2")];
    let text = "too many connections: close some, or try again in a moment\n";
    (StatusCode::SERVICE_UNAVAILABLE, wait, text).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn oldest_connection_that_waits_for_its_client_makes_room() {
        let (mut reserve, working) = (Reserve::default(), Activity::default());
        working.set(Phase::Working);
        reserve.spawn(working.clone(), pending());
        for _ in 0..MAX_CONNECTIONS {
            reserve.spawn(Activity::default(), pending());
        }
        reserve.ended().await;
        assert_eq!((reserve.tasks.len(), reserve.open.len()), (MAX_CONNECTIONS, MAX_CONNECTIONS));
        assert!(reserve.open.front().unwrap().0.is(Phase::Working), "the second oldest has made room");
        // If all work, the oldest.
        reserve.open.iter().for_each(|(activity, _)| activity.set(Phase::Working));
        reserve.spawn(Activity::default(), pending());
        reserve.ended().await;
        working.set(Phase::Answering);
        assert!(reserve.open.front().unwrap().0.is(Phase::Working));
    }
}
