//! Handlers of a data provider's calls, besides blobs by key.

use std::sync::Arc;

use prb_chain::store::Store;
use prb_core::blob::range::RangeSource;
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
    let tokens = Arc::new(Tokens::<Wanted>::new(tokens::Config::default()));
    let (wanted, given) = ((Arc::clone(&source), Arc::clone(&tokens)), (source, tokens));
    Handlers::new()
        .on(calls::GetFullInfo, move |caller, _| {
            let (info, chain_data) = (info::of(&store, port), chain_data.clone());
            async move {
                // The names and faults of nodes are only for authorised peers.
                let detail = if caller.granted { Some(chain_data.look().await) } else { None };
                Ok(FullInfo::new(info, detail))
            }
        })
        .on(calls::WantBlob, move |caller, request| {
            let ((source, tokens), origin) = (wanted.clone(), origin.clone());
            async move {
                let asking = caller.peer.to_string();
                external::want_blob(&*source, &tokens, &origin, &asking, request).await.map_err(answer)
            }
        })
        .on(calls::GetBlobWithToken, move |caller, request| {
            let (source, tokens) = given.clone();
            async move {
                let asking = caller.peer.to_string();
                external::get_blob(&*source, &tokens, &asking, &request).await.map_err(answer)
            }
        })
}

fn answer(error: Error) -> ResponseError {
    let text = error.to_string();
    match error {
        Error::NotFound => ResponseError::not_found(text),
        Error::BadToken => ResponseError::unauthorized(text),
        Error::Source(cause) => {
            tracing::warn!("cannot read a block requested by a peer: {cause}");
            ResponseError::server(text)
        }
        _ => ResponseError::server(text),
    }
}
