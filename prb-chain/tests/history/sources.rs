//! Tests of a headers cache over HTTP, and of another data provider.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::Redirect,
    routing::get,
};
use codec::{Decode, Encode};
use prb_chain::{
    history::{
        HistorySource,
        blobs::BlobHistory,
        headers_cache::{self, HeadersCache},
    },
    internals::history::Blocks,
    source::StoreSource,
    store::Part,
};
use prb_core::wire::{AuthoritySet, AuthoritySetChange, BlockHeaderWithChanges, Header, StorageChanges};
use tokio_util::task::AbortOnDropHandle;

use super::{
    setup::{PARA, RELAY, blocks_of, empty, filled, heights, is_part_of, replay},
    suite,
};

/// A record of the cache, as written by `standalone/pherry`.
#[derive(Encode)]
struct BlockInfo {
    header: Header,
    justification: Option<Vec<u8>>,
    para_header: Option<(u32, Vec<Vec<u8>>)>,
    authority_set_change: Option<AuthoritySetChange>,
}

/// A cache's content.
#[derive(Clone, Default)]
struct Cache {
    start: u32,
    genesis: Vec<u8>,
    infos: Vec<Vec<u8>>,
    justified: Vec<bool>,
    first: u32,
    para_headers: Vec<Header>,
    /// From block 0 on.
    changes: Vec<BlockHeaderWithChanges>,
    /// If set, the answer to every request for headers.
    answer: Option<Bytes>,
}

type Found = Result<Vec<u8>, StatusCode>;

impl Cache {
    fn of(blocks: &Blocks) -> Self {
        let genesis = blocks.genesis.clone().unwrap();
        let mut cache = Self {
            start: genesis.relay_number.0,
            genesis: genesis.info.to_vec(),
            first: blocks.first_relay.0,
            ..Self::default()
        };
        for piece in &blocks.relay {
            for (at, header) in piece.headers.iter().enumerate() {
                let is_last = at + 1 == piece.headers.len();
                let header = Header::decode(&mut &header[..]).unwrap();
                let set = AuthoritySet { list: vec![], id: 0 };
                let change = AuthoritySetChange { authority_set: set, authority_proof: piece.proof.clone() };
                let info = BlockInfo {
                    justification: is_last.then(|| piece.justification.clone()),
                    para_header: is_last.then(|| (0, piece.proof.clone())),
                    authority_set_change: header.scheduled_change().map(|_| change),
                    header,
                };
                cache.infos.push(info.encode());
                cache.justified.push(is_last);
            }
        }
        cache.para_headers =
            blocks.para_headers.iter().map(|h| Header::decode(&mut &h[..]).unwrap()).collect();
        let pairs = Vec::<(Vec<u8>, Vec<u8>)>::decode(&mut &genesis.state[..]).unwrap();
        let main = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let zero = StorageChanges { main, child: vec![] };
        let rest = blocks.changes.iter().map(|changes| StorageChanges::decode(&mut &changes[..]).unwrap());
        let all = std::iter::once(zero).chain(rest).zip(&cache.para_headers);
        cache.changes = all
            .map(|(storage_changes, header)| BlockHeaderWithChanges {
                block_header: header.clone(),
                storage_changes,
            })
            .collect();
        cache
    }

    fn headers(&self, from: u32) -> Found {
        if let Some(answer) = &self.answer {
            return Ok(answer.to_vec());
        }
        let at = from.checked_sub(self.first).ok_or(StatusCode::NOT_FOUND)? as usize;
        let end =
            self.justified.iter().skip(at).position(|justified| *justified).ok_or(StatusCode::NOT_FOUND)?;
        let infos = &self.infos[at..=at + end];
        let mut body = codec::Compact(infos.len() as u32).encode();
        infos.iter().for_each(|info| body.extend_from_slice(info));
        Ok(body)
    }

    fn span<T: Encode>(all: &[T], first: u32, count: u32) -> Found {
        let span = all.get(first as usize..(first + count) as usize);
        span.map(|span| span.encode()).ok_or(StatusCode::NOT_FOUND)
    }
}

async fn serve(cache: Cache) -> (String, AbortOnDropHandle<()>) {
    type Has = State<Arc<Cache>>;
    let state = format!(
        r#"{{"genesis":[{}],"recent_imported":{{"header":3,"para_header":null,"storage_changes":0}},
            "higest":{{"header":{},"para_header":{},"storage_changes":{}}}}}"#,
        cache.start,
        cache.first + cache.infos.len() as u32 - 1,
        cache.para_headers.len() - 1,
        cache.changes.len().max(1) - 1,
    );
    let genesis = |State(cache): Has, Path(n): Path<u32>| async move {
        if n == cache.start { Ok(cache.genesis.clone()) } else { Err(StatusCode::NOT_FOUND) }
    };
    let headers = |State(cache): Has, Path(n): Path<u32>| async move { cache.headers(n) };
    let para = |State(cache): Has, Path((n, count)): Path<(u32, u32)>| async move {
        Cache::span(&cache.para_headers, n, count)
    };
    let changes = |State(cache): Has, Path((n, count)): Path<(u32, u32)>| async move {
        Cache::span(&cache.changes, n, count)
    };
    let app = Router::new()
        .route("/cache/state", get(|| async move { state }))
        .route("/cache/genesis/{n}", get(genesis))
        .route("/cache/headers/{n}", get(headers))
        .route("/cache/parachain-headers/{n}/{count}", get(para))
        .route("/cache/storage-changes/{n}/{count}", get(changes))
        .with_state(Arc::new(cache));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}/cache/", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, AbortOnDropHandle::new(task))
}

fn cache_at(url: &str) -> Arc<dyn HistorySource> {
    let config = headers_cache::Config::default().with_blocks_per_request(6);
    Arc::new(HeadersCache::new(url, config).unwrap())
}

#[tokio::test]
async fn headers_cache_passes_the_suite() {
    let mut blocks = blocks_of(&filled().store);
    let (url, _server) = serve(Cache::of(&blocks)).await;
    let source = cache_at(&url);
    assert!(!source.name().contains("/cache"), "a path may hold a key: {}", source.name());
    // The state's pairs are returned in the cache's own order.
    blocks.genesis = source.genesis().await.unwrap();
    assert_eq!(blocks.genesis.as_ref(), filled().store.genesis().map(|(_, genesis)| genesis));
    // The cache only knows its extent after it was asked.
    suite::gives_all(source, &blocks).await;
}

#[tokio::test]
async fn other_sources_complete_a_cache_of_relay_headers() {
    let whole = filled();
    let blocks = blocks_of(&whole.store);
    let mut cache = Cache::of(&blocks);
    cache.changes.clear();
    let (url, _server) = serve(cache).await;
    let source = cache_at(&url);
    assert_eq!(source.genesis().await.unwrap(), None);
    let rest = Blocks { relay: vec![], para_headers: vec![], ..blocks };
    let rest = prb_chain::internals::history::MemoryHistory::new("rest", rest, 4);
    let into = empty();
    assert_eq!(replay(&into, vec![source, Arc::new(rest)]).await.faults, []);
    assert_eq!(heights(&into.store), (RELAY, PARA));
    is_part_of(&into.store, &whole.store);
}

#[tokio::test]
async fn wrong_or_unreachable_cache_is_reported() {
    let whole = filled();
    let blocks = blocks_of(&whole.store);
    let (start, genesis) = whole.store.genesis().unwrap().clone();
    let endless = codec::Compact(u32::MAX).encode();
    let nonsense = vec![0x28; 5000];
    for answer in [vec![], vec![0xff; 40], endless, nonsense] {
        let cache = Cache { answer: Some(answer.clone().into()), ..Cache::of(&blocks) };
        let (url, _server) = serve(cache).await;
        let into = empty();
        into.store.set_genesis(&start, &genesis).unwrap();
        let drained = replay(&into, vec![cache_at(&url)]).await;
        let fault = drained.faults.iter().find(|fault| fault.part == Part::Relay).expect("a fault");
        assert!(fault.source.starts_with("headers cache http://127.0.0.1:"), "{fault:?}");
        assert_eq!(into.store.tips().borrow().relay, None);
    }
    let (url, server) = serve(Cache::of(&blocks)).await;
    drop(server);
    let into = empty();
    into.store.set_genesis(&start, &genesis).unwrap();
    let drained = replay(&into, vec![cache_at(&url)]).await;
    assert!(!drained.faults.is_empty() && !drained.faults[0].what.contains("/cache"), "{drained:?}");
    assert!(HeadersCache::new("ftp://a", headers_cache::Config::default()).is_err());
    assert!(HeadersCache::new("nonsense", headers_cache::Config::default()).is_err());
}

#[tokio::test]
async fn redirect_of_a_cache_is_not_followed() {
    let (url, _server) = serve(Cache::of(&blocks_of(&filled().store))).await;
    let redirects = Router::new().fallback(move |uri: Uri| async move {
        Redirect::temporary(&format!("{}{uri}", url.trim_end_matches("/cache/")))
    });
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}/cache/", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, redirects).await.unwrap() });
    let _task = AbortOnDropHandle::new(task);
    let error = prb_core::text::describe(&cache_at(&url).genesis().await.unwrap_err());
    assert!(error.contains("it redirects to http://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn oversized_answer_is_refused() {
    let blocks = blocks_of(&filled().store);
    let (url, _server) = serve(Cache::of(&blocks)).await;
    let config = headers_cache::Config::default().with_max_answer_bytes(2000);
    let source = HeadersCache::new(&url, config).unwrap();
    let refused = source.genesis().await.unwrap_err().to_string();
    assert!(refused.contains("more than 2000 bytes"), "{refused}");
}

#[tokio::test]
async fn data_provider_passes_the_suite() {
    let whole = filled();
    let provider = || BlobHistory::new("provider", StoreSource::new(Arc::clone(&whole.store)));
    let blocks = blocks_of(&whole.store);
    suite::gives_all(Arc::new(provider()), &blocks).await;

    // A partial store, continued from a provider that was not asked before.
    for (relay, para) in [(20, 5), (30, 12), (10, 1)] {
        let part = filled();
        part.store.drop_relay_from(super::setup::relay(relay)).unwrap();
        part.store.drop_para_from(prb_core::primitives::ParaNumber(para), true).unwrap();
        assert_eq!(replay(&part, vec![Arc::new(provider())]).await.faults, []);
        assert_eq!(heights(&part.store), (RELAY, PARA));
        is_part_of(&part.store, &whole.store);
    }
}
