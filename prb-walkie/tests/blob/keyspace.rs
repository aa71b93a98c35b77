//! Tests of the original's keys, requested in the order of an original lifecycle manager.

use std::{sync::Arc, time::Duration};

use codec::{Decode, DecodeAll};
use prb_core::{
    conformance::blob::Sample,
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::{AuthoritySetChange, BlockHeaderWithChanges, Header, HeaderToSync},
};
use prb_walkie::{
    blob::{
        Lookup, answer,
        client::Client,
        keyspace::{self, KeySpace},
        server,
    },
    proto::db,
};
use prost::Message;

use crate::lookups::{BOUNDS, LONG, Running, source_of};

/// pRuntime's rules for the next header or block, as far as they can be checked without keys and tries.
struct Worker<'s> {
    sample: &'s Sample,
    relay: u32,
    para: u32,
    block: u32,
}

type Request = (Vec<HeaderToSync>, Option<AuthoritySetChange>, Vec<Header>, Vec<Vec<u8>>);

impl<'s> Worker<'s> {
    fn new(sample: &'s Sample) -> Self {
        Self { sample, relay: sample.genesis_number.0 + 1, para: 0, block: 1 }
    }

    fn sync_headers(&mut self, request: &[u8]) {
        let (relay, change, para, proof) = Request::decode_all(&mut &*request).unwrap();
        let before = self.sample.relay.len();
        let mut stop = None;
        for (i, item) in relay.iter().enumerate() {
            let at = (item.header.number - self.sample.genesis_number.0 - 1) as usize;
            assert!(at < before && item.header == self.sample.relay[at].header);
            assert_eq!(item.justification.is_some(), i + 1 == relay.len(), "only the last is justified");
            stop = self.sample.relay[at].justified.as_ref();
        }
        let stop = stop.expect("it ends at a justified block");
        assert!(relay[0].header.number <= self.relay && relay.last().unwrap().header.number >= self.relay);
        assert_eq!(relay.last().unwrap().justification.as_ref(), Some(&stop.justification));
        assert_eq!(change.map(|change| change.authority_set), stop.next_set);
        self.relay = relay.last().unwrap().header.number + 1;
        let Some(first) = para.first() else { return };
        assert!(first.number <= self.para, "header {} is missing", self.para);
        assert_eq!(proof, stop.proof);
        assert_eq!(para.last().unwrap().number, stop.para_head.unwrap().0);
        assert_eq!(para, self.sample.para[first.number as usize..=para.last().unwrap().number as usize]);
        self.para = self.para.max(para.last().unwrap().number + 1);
    }

    fn dispatch(&mut self, request: &[u8]) -> usize {
        let blocks = Vec::<BlockHeaderWithChanges>::decode_all(&mut &*request).unwrap();
        assert_eq!(blocks[0].block_header.number, self.block);
        for block in &blocks {
            assert!(self.block < self.para, "NoStateRoot");
            assert_eq!(block.block_header, self.sample.para[self.block as usize]);
            assert_eq!(block.storage_changes, self.sample.changes[self.block as usize]);
            self.block += 1;
        }
        blocks.len()
    }
}

async fn text(client: &Client, key: &str) -> Option<String> {
    let blob = client.get(key, BOUNDS).await.unwrap()?;
    Some(String::from_utf8(blob.to_vec()).unwrap())
}

async fn meta(client: &Client, from: u32) -> Option<db::RangeMeta> {
    let blob = client.get(&format!("rangeByParentBlock:{from}:pb"), BOUNDS).await.unwrap()?;
    Some(db::RangeMeta::decode(blob).unwrap())
}

async fn serve(sample: &Sample) -> (Running, Client) {
    let keys = KeySpace::new(source_of(sample), keyspace::Config::default());
    let server = Running::start(Arc::new(keys), server::Config::default()).await;
    let client = server.client();
    (server, client)
}

#[tokio::test]
async fn original_lifecycle_manager_syncs_from_genesis_to_tip() {
    for seed in 0..4 {
        let sample = Sample::generate(seed, 160);
        let (_server, client) = serve(&sample).await;
        let mut worker = Worker::new(&sample);
        let (mut dry, mut whole_sets, mut buffers, mut single) = (0, 0, 0, 0);
        while let Some(meta) = meta(&client, worker.relay).await {
            assert_eq!(meta.parent_start_block, worker.relay);
            // The dry key at first, as the original does.
            let key = if worker.para <= 1 || meta.blob_sync_header_req_key.is_empty() {
                dry += 1;
                meta.dry_sync_header_req_key
            } else {
                whole_sets += 1;
                meta.blob_sync_header_req_key
            };
            let blob = client.get(&key, BOUNDS).await.unwrap().unwrap();
            worker.sync_headers(&blob);
            while worker.block < worker.para {
                let range = text(&client, &format!("rangeParaBlock:key:{}", worker.block)).await.unwrap();
                let range: serde_json::Value = serde_json::from_str(&range).unwrap();
                assert_eq!(range["firstBlockNumber"], worker.block);
                let last = range["lastBlockNumber"].as_u64().unwrap() as u32;
                let key = match range["bufferKey"].as_str().filter(|_| last < worker.para) {
                    Some(key) => key.to_owned(),
                    None => format!("dryParaBlock:{}", worker.block),
                };
                let blob = client.get(&key, BOUNDS).await.unwrap().unwrap();
                let dispatched = worker.dispatch(&blob);
                if key.starts_with("dry") {
                    single += 1
                } else {
                    buffers += 1
                }
                assert!(dispatched == 1 || dispatched == 15);
            }
        }
        let (relay, para) = sample.heights(sample.relay.len());
        assert_eq!((worker.relay, worker.block), (relay.unwrap().0 + 1, para.unwrap().0 + 1), "seed {seed}");
        assert!(dry > 0 && single > 0, "{dry} {whole_sets} {buffers} {single}");
    }
}

#[tokio::test]
async fn range_metas_match_the_original() {
    let sample = Sample::generate(2, 60);
    let (_server, client) = serve(&sample).await;
    let first = sample.genesis_number.0 + 1;
    let stop = sample.relay.iter().find(|block| block.justified.is_some()).unwrap();
    let mut ends = sample.relay.iter().filter(|b| b.justified.as_ref().is_some_and(|j| j.next_set.is_some()));
    let end = ends.clone().next().unwrap();
    let head = |block: &prb_core::conformance::blob::RelayBlock| {
        block.justified.as_ref().unwrap().para_head.unwrap().0
    };
    let meta = meta(&client, first).await.unwrap();
    let (a, b, c) = (stop.header.number, head(stop), end.header.number);
    let ends_set = u64::from(a == c);
    let expected = db::RangeMeta {
        parent_start_block: first,
        parent_stop_block: a,
        para_start_block: 0,
        para_stop_block: b as i32,
        parent_range: (first..=a).collect(),
        para_range: (0..=b).collect(),
        dry_sync_header_req_key: format!("drySyncHeader:{first}:{a}:0:{b}"),
        latest_set_id: (sample.genesis_set.id + ends_set) as i32,
        blob_parent_stop_block: c,
        blob_para_stop_block: head(end) as i32,
        blob_sync_header_req_key: format!("blobRange:{first}:{c}:0:{}:SyncHeaderReq", head(end)),
    };
    assert_eq!(meta, expected);
    // An authority set that is still active has no blob of its whole, because its name would not last.
    let last_end = ends.next_back().unwrap().header.number;
    let open = self::meta(&client, last_end + 1).await.unwrap();
    assert_eq!((open.blob_sync_header_req_key.as_str(), open.blob_parent_stop_block), ("", 0));
}

#[tokio::test]
async fn genesis_and_block_ranges_match_the_original() {
    let sample = Sample::generate(5, 120);
    let (_server, client) = serve(&sample).await;
    let genesis = client.get("genesis:2004:pb", BOUNDS).await.unwrap().unwrap();
    let genesis = db::Genesis::decode(genesis).unwrap();
    let ours = sample.genesis();
    assert_eq!((genesis.para_id, genesis.para_number, genesis.parent_number), (2004, 0, ours.relay_number.0));
    assert_eq!((genesis.bridge_genesis_info, genesis.genesis_state), (ours.info, ours.state));

    let tip = sample.heights(sample.relay.len()).1.unwrap().0;
    let range = |first: u32| format!("rangeParaBlock:key:{first}");
    let expected = r#"{"bufferKey":"rangeParaBlock:buffer:1","firstBlockNumber":1,"lastBlockNumber":15}"#;
    assert_eq!(text(&client, &range(1)).await.unwrap(), expected);
    let near = tip - 13;
    let expected = format!(r#"{{"firstBlockNumber":{near},"lastBlockNumber":{near}}}"#);
    assert_eq!(text(&client, &range(near)).await.unwrap(), expected, "a buffer would be cut by the tip");
    for missing in [
        range(0),
        range(tip + 1),
        format!("rangeParaBlock:buffer:{near}"),
        format!("dryParaBlock:{}", tip + 1),
        "dryParaBlock:0".to_owned(),
        "genesis:2005:pb".to_owned(),
        format!("rangeByParentBlock:{}:pb", sample.genesis_number),
        format!("rangeByParentBlock:{}:pb", sample.genesis_number.0 + 1000),
        format!("drySyncHeader:{0}:{0}:7:9", sample.genesis_number.0 + 1000),
        "something else".to_owned(),
        String::from("é"),
    ] {
        assert_eq!(client.get(&missing, BOUNDS).await.unwrap(), None, "{missing}");
    }
}

/// Names that do not fit the chain have no blob.
#[tokio::test]
async fn header_ranges_with_other_boundaries_are_missing() {
    let sample = Sample::generate(2, 60);
    let (_server, client) = serve(&sample).await;
    let meta = meta(&client, sample.genesis_number.0 + 1).await.unwrap();
    let (first, stop, head) = (meta.parent_start_block, meta.parent_stop_block, meta.para_stop_block);
    assert!(client.get(&meta.dry_sync_header_req_key, BOUNDS).await.unwrap().is_some());
    for key in [
        format!("drySyncHeader:{first}:{stop}:0:{}", head + 1),
        format!("drySyncHeader:{}:{stop}:0:{head}", sample.genesis_number),
        format!("blobRange:{first}:{}:0:{head}:SyncHeaderReq", meta.blob_parent_stop_block + 1),
    ] {
        assert_eq!(client.get(&key, BOUNDS).await.unwrap(), None, "{key}");
    }
    // Without parachain headers: what the original requests if the parachain has not advanced.
    let without = client.get(&format!("drySyncHeader:{first}:{stop}:-1:-1"), BOUNDS).await.unwrap().unwrap();
    let (relay, _, para, proof) = Request::decode(&mut &*without).unwrap();
    assert_eq!((relay.len() as u32, para.len(), proof.len()), (stop - first + 1, 0, 0));
}

#[tokio::test]
async fn heights_are_delayed_until_they_grow() {
    let sample = Sample::generate(1, 40);
    let source = source_of(&sample);
    let keys = KeySpace::new(source.clone(), keyspace::Config::default().with_max_wait(LONG));
    let heights = |key: String| {
        let keys = &keys;
        async move { answer::read_heights(keys.get(&key).await.unwrap().unwrap()).unwrap() }
    };
    let now = heights("heights:-1:-1:600000".into()).await;
    let (relay, para) = sample.heights(sample.relay.len());
    assert_eq!((now.heights.relay, now.heights.para), (relay, para));
    assert_eq!(now.identity, Some(sample.para[1].hash()));
    let (relay, para) = (relay.unwrap(), para.unwrap());
    // The wait is over, so the answer is the same.
    assert_eq!(heights(format!("heights:{relay}:{para}:10")).await, now);
    let mut held = Box::pin(heights(format!("heights:{relay}:{para}:600000")));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut held).await.is_err());
    let parent = sample.relay.last().unwrap();
    let header =
        Header { number: parent.header.number + 1, parent_hash: Hash::default(), ..parent.header.clone() };
    let justified = prb_core::blob::memory::JustifiedBlock {
        justification: vec![1],
        para_head: Some(ParaNumber(para.0)),
        proof: vec![],
        next_set: None,
    };
    source.push_relay(&header, Some(justified));
    let grown = tokio::time::timeout(LONG, held).await.unwrap();
    assert_eq!(grown.heights.relay, Some(RelayNumber(header.number)));
}
