//! Tests of the external role's tokens and blocks.

use codec::DecodeAll;
use prb_core::{
    conformance::blob::Sample,
    wire::{BlockHeaderWithChanges, HeaderToSync},
};
use prb_walkie::{
    blob::{
        external::{Error, get_blob, want_blob},
        tokens::{self, Tokens},
    },
    proto::data_provider::{BlobType, GetBlob, WantBlob},
};

use crate::lookups::source_of;

#[tokio::test]
async fn token_fetches_its_block() {
    let sample = Sample::generate(9, 60);
    let source = source_of(&sample);
    let tokens = Tokens::new(tokens::Config::default());
    let want = |kind: BlobType, number| WantBlob { number, r#type: kind.into() };
    let tip = sample.heights(sample.relay.len()).0.unwrap().0;
    for block in sample.relay.iter().filter(|block| block.header.number <= tip) {
        let wanted = want(BlobType::ParentBlock, block.header.number);
        let meta = want_blob(&*source, &tokens, "us", "A", wanted).await.unwrap();
        assert_eq!((&meta.hash[..], meta.origin_peer.as_str()), (&block.header.hash().0[..], "us"));
        let request = GetBlob { token: meta.get_token.clone() };
        let blob = get_blob(&*source, &tokens, "A", &request).await.unwrap();
        let item = HeaderToSync::decode_all(&mut &*blob.data).unwrap();
        assert_eq!((item.header, blob.number), (block.header.clone(), block.header.number));
        assert_eq!(item.justification, block.justified.as_ref().map(|at| at.justification.clone()));
        let stolen = get_blob(&*source, &tokens, "B", &request).await;
        assert!(matches!(stolen, Err(Error::BadToken)), "{stolen:?}");
    }
    let meta = want_blob(&*source, &tokens, "us", "A", want(BlobType::ParaBlock, 2)).await.unwrap();
    assert_eq!(&meta.hash[..], &sample.para[2].hash().0[..]);
    let blob = get_blob(&*source, &tokens, "A", &GetBlob { token: meta.get_token }).await.unwrap();
    let block = BlockHeaderWithChanges::decode_all(&mut &*blob.data).unwrap();
    assert_eq!(
        (block.block_header, block.storage_changes),
        (sample.para[2].clone(), sample.changes[2].clone())
    );

    let before = sample.genesis_number.0;
    for missing in
        [want(BlobType::ParaBlock, 0), want(BlobType::ParaBlock, 9999), want(BlobType::ParentBlock, before)]
    {
        let answer = want_blob(&*source, &tokens, "us", "A", missing).await;
        assert!(matches!(answer, Err(Error::NotFound)), "{missing:?}: {answer:?}");
    }
    for other in [0, 7] {
        let answer = want_blob(&*source, &tokens, "us", "A", WantBlob { number: 1, r#type: other }).await;
        assert!(matches!(answer, Err(Error::BadType(_))), "{answer:?}");
    }
}
