//! A data provider for chain data from another system.
//!
//! Why: with the blocks at hand (an archive, an indexer, a chain that has ended) there is no need to fetch them
//! from nodes again. Implement `ChainPieces` over the encoded parts (chain.rs), and prb-core assembles batches
//! by pRuntime's rules (source.rs). A fleet can use the source directly, and prb-walkie serves it to lifecycle
//! managers, including those of the original bridge. Test such a source with `prb_core::conformance::{blob,
//! range}`. Only prb-walkie's feature `blob` is needed, without libp2p.
mod chain;
mod source;

use std::sync::Arc;

use chain::{Chain, JustifiedBlock};
use codec::Encode;
use prb_core::{
    blob::{BlobSource, HeaderCursor, Heights},
    conformance::blob::Sample,
    primitives::ParaNumber,
};
use prb_walkie::blob::{keyspace::KeySpace, remote, server::Server};
use source::OwnSource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let source = exported();
    let genesis = source.genesis().await?;
    let lookup = Arc::new(KeySpace::new(Arc::new(source.clone()), Default::default()));
    let server = Server::bind("127.0.0.1:0".parse()?, lookup, Default::default()).await?;
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    let serving = tokio::spawn(server.run(stop.clone()));

    // What a lifecycle manager does with a provider's address.
    let chain_identity = Some(genesis.chain_identity);
    let provenance = remote::Provenance::Named;
    let candidate =
        remote::Candidate { id: "ours".into(), address, chain_identity, announced: None, provenance };
    let (_candidates, found) = watch::channel(vec![candidate]);
    let fetched = remote::RemoteBlobSource::start(found, Default::default());
    fetched.heights().wait_for(|heights| heights.relay.is_some()).await?;
    let start = HeaderCursor { relay: genesis.relay_number.next(), para: ParaNumber(0) };
    let batch = fetched.headers(start, 1 << 20).await?;
    anyhow::ensure!(batch == source.headers(start, 1 << 20).await?, "the fetched batch differs");
    println!("a lifecycle manager fetched {:?}", batch.map(|batch| batch.relay));
    stop.cancel();
    Ok(serving.await?)
}

/// Stands in for the export of another system: a generated chain.
fn exported() -> OwnSource {
    let sample = Sample::generate(1, 60);
    let (relay, para) = sample.heights(sample.relay.len());
    let mut set_id = sample.genesis_set.id;
    let justified = sample.relay.iter().filter_map(|block| {
        let justified = block.justified.clone()?;
        let signed_by = set_id;
        set_id = justified.next_set.as_ref().map_or(set_id, |set| set.id);
        Some(JustifiedBlock {
            number: block.header.number,
            justification: justified.justification,
            set_id: signed_by,
            para_head: justified.para_head,
            proof: justified.proof.encode(),
            next_set: justified.next_set.map(|set| set.encode()),
        })
    });
    let chain = Chain {
        first_relay: sample.genesis_number.next().0,
        justified: justified.collect(),
        relay: sample.relay.iter().map(|block| block.header.encode()).collect(),
        para: sample.para.iter().zip(&sample.changes).map(|(h, c)| (h.encode(), c.encode())).collect(),
    };
    let heights = Heights { relay, para, relay_target: relay, para_target: para };
    OwnSource::new(chain, sample.genesis(), heights)
}
