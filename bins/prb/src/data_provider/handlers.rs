//! Handlers of a data provider's calls, besides blobs by key.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prb_chain::store::Store;
use prb_core::{blob::range::RangeSource, text::describe};
use prb_walkie::{
    blob::{
        external::{self, Error, Wanted},
        tokens::{self, Tokens},
    },
    proto::provider_detail::FullInfo,
    rpc::{Handlers, ResponseError, calls},
};

use super::info;
use crate::chain_data::ChainData;

/// The handlers of the provider with the peer id `origin` and its blob server at `port`.
pub(super) fn of(
    store: Arc<Store>,
    chain_data: ChainData,
    source: Arc<dyn RangeSource>,
    origin: String,
    port: u16,
) -> Handlers {
    // Shared by both calls: the first gives the token that the second takes.
    let tokens = Arc::new(Tokens::<Wanted>::new(tokens::Config::default()));
    let last_logged = LastLogged::default();
    let (logged_by_want, logged_by_get) = (Arc::clone(&last_logged), last_logged);
    let (wanted, given) = ((Arc::clone(&source), Arc::clone(&tokens)), (source, tokens));
    Handlers::new()
        .on(calls::GetFullInfo, move |caller, _| {
            let (info, chain_data) = (info::of(&store, port), chain_data.clone());
            async move {
                // The names and faults of nodes are only for authorised peers.
                let detail = if caller.granted { Some(chain_data.detail().await) } else { None };
                Ok(FullInfo::new(info, detail))
            }
        })
        .on(calls::WantBlob, move |caller, request| {
            let ((source, tokens), origin) = (wanted.clone(), origin.clone());
            let last_logged = Arc::clone(&logged_by_want);
            async move {
                let asking = caller.peer.to_string();
                external::want_blob(&*source, &tokens, &origin, &asking, request)
                    .await
                    .map_err(|error| answer(error, &asking, &last_logged))
            }
        })
        .on(calls::GetBlobWithToken, move |caller, request| {
            let (source, tokens) = given.clone();
            let last_logged = Arc::clone(&logged_by_get);
            async move {
                let asking = caller.peer.to_string();
                external::get_blob(&*source, &tokens, &asking, &request)
                    .await
                    .map_err(|error| answer(error, &asking, &last_logged))
            }
        })
}

/// Interval between two log lines about blocks that cannot be read: peers may request them at any rate.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// When such a line was last logged.
type LastLogged = Arc<Mutex<Option<Instant>>>;

fn answer(error: Error, peer: &str, last_logged: &Mutex<Option<Instant>>) -> ResponseError {
    let text = error.to_string();
    match error {
        Error::NotFound => ResponseError::not_found(text),
        Error::BadToken => ResponseError::unauthorized(text),
        Error::Source(cause) => {
            let mut last_logged = last_logged.lock().unwrap_or_else(PoisonError::into_inner);
            if last_logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                *last_logged = Some(Instant::now());
                tracing::warn!(peer, error = %describe(&cause), "a block that a peer wanted cannot be read");
            }
            ResponseError::server(text)
        }
        _ => ResponseError::server(text),
    }
}
