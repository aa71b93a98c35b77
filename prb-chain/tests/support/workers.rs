//! A worker that verifies everything, fed from a source.

use prb_chain::source::StoreSource;
use prb_core::{
    blob::{BlobSource, BlockCursor, Error, HeaderCursor},
    prpc::InitRuntimeRequest,
    pruntime::{
        Connect, PRuntime,
        http::{HttpConfig, HttpConnect},
    },
};
use prb_devnet::worker::{Worker, WorkerConfig, WorkerHandle};

/// More bytes than any batch of these tests has.
pub(crate) const ENOUGH: usize = 1 << 26;

/// Starts a worker and initialises it from the source.
pub(crate) async fn start(source: &StoreSource) -> (WorkerHandle, PRuntime) {
    let handle = Worker::spawn(WorkerConfig::new("fed", 0)).await.unwrap();
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    let api = PRuntime::new(connect.connect(&handle.endpoint()).unwrap());
    let genesis = source.genesis().await.unwrap();
    let init = InitRuntimeRequest {
        skip_ra: true,
        encoded_genesis_info: genesis.info,
        encoded_genesis_state: genesis.state,
        is_parachain: true,
        ..Default::default()
    };
    api.init(&init).await.unwrap();
    (handle, api)
}

/// Feeds the worker with batches of at most `max_bytes()` each, from whatever cursors these lead to, until the source
/// has no more. Any refusal fails the test.
pub(crate) async fn feed(source: &StoreSource, api: &PRuntime, mut max_bytes: impl FnMut() -> usize) {
    loop {
        let info = api.info().await.unwrap();
        let cursor = HeaderCursor { relay: info.headernum.into(), para: info.para_headernum.into() };
        let most = max_bytes();
        let headers = match source.headers(cursor, most).await {
            Err(Error::TooLarge { .. }) => source.headers(cursor, ENOUGH).await.unwrap(),
            other => other.unwrap(),
        };
        let mut moved = false;
        if let Some(batch) = headers {
            assert_eq!(batch.relay.first, cursor.relay);
            let synced = api.sync_headers(batch.body).await.unwrap();
            assert_eq!(synced.relaychain_synced_to, batch.relay.last.0);
            moved = true;
        }
        let info = api.info().await.unwrap();
        if info.para_headernum > info.blocknum {
            let cursor = BlockCursor { from: info.blocknum.into(), to: (info.para_headernum - 1).into() };
            let blocks = match source.blocks(cursor, most).await {
                Err(Error::TooLarge { .. }) => source.blocks(cursor, ENOUGH).await.unwrap(),
                other => other.unwrap(),
            };
            if let Some(batch) = blocks {
                let synced = api.dispatch_blocks(batch.body).await.unwrap();
                assert_eq!(synced.synced_to, batch.blocks.last.0);
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}
