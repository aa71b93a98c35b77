//! Data providers and lifecycle managers as processes that find each other, on a devnet.
//!
//! `PRB_TEST_WORKERS` (8) and `PRB_TEST_KILLS` (2, of data providers, during the sync and at the tip each) make
//! the run with kills larger.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use prb_walkie::proto::{
    Role,
    data_provider::{Info, Status},
};
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, Hand},
};

const LIMIT: Duration = Duration::from_secs(120);

/// A data provider of the net, not started yet.
fn provider(net: &Net, name: &str) -> Daemon {
    Daemon::new(net.dir.path(), "data_provider", name)
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_PARENT_CHAIN_ENDPOINT", net.devnet.relay().url())
        .set("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", support::daemons::free_port())
        .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_provider_tells_how_far_it_is_and_gives_blobs() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider.start();
    let hand = Hand::new(vec![provider.address()], "default").await;
    let client = hand.find(Role::DataProviderInt, "default", LIMIT).await;
    let start = Instant::now();
    let info: Info = loop {
        let info = client.data_provider_info().await.unwrap();
        if info.status() == Status::Idle {
            break info;
        }
        assert!(start.elapsed() < LIMIT, "{info:?}\n{}", provider.log_tail());
        sleep(Duration::from_millis(200)).await;
    };
    assert!(info.para_id > 0 && info.parent_start_header >= 0, "{info:?}");
    assert!(info.parent_target >= info.parent_processed_height, "{info:?}");
    assert!(info.parent_processed_height > 250 && info.para_processed_height > 100, "{info:?}");
    assert!(info.parent_fetched_height >= info.parent_processed_height, "{info:?}");
    assert!(info.para_fetched_height >= info.para_processed_height, "{info:?}");
    assert!(info.para_committed_height >= info.para_processed_height, "{info:?}");

    // One blob by each of the three ways.
    let key = format!("genesis:{}:pb", info.para_id);
    let by_call = client.blob_by_key(&key).await.unwrap().unwrap();
    assert_eq!(client.blob(&key).await.unwrap().unwrap(), by_call);
    let by_tcp = blob_over_tcp(info.blob_server_port as u16, &key).await;
    assert_eq!(by_tcp, by_call);
    assert!(client.blob("genesis:1:pb").await.unwrap().is_none());

    // The hand has heard which chain it is; so has everybody else.
    provider.until_unready(&[], LIMIT).await;
    assert_eq!(provider.ops("/livez").unwrap().0, 200);
    let metrics = provider.ops("/metrics").unwrap().1;
    assert!(metrics.contains("prb_chain_finalized{chain=\"relay\"}"), "{metrics}");

    // Killed and started again, it is the same peer and goes on with what it has.
    let peer = client.peer();
    provider.kill();
    provider.start();
    let again = hand.find(Role::DataProviderInt, "default", LIMIT).await;
    assert_eq!(again.peer(), peer);
    assert!(provider.log().contains(&format!("\"peer_id\":\"{peer}\"")), "{}", provider.log_tail());
    provider.until_unready(&[], LIMIT).await;
    provider.stop().await;
    hand.close().await;
    net.shutdown().await;
}

/// Asks a blob server in the original's frames.
async fn blob_over_tcp(port: u16, key: &str) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let body = [&[1, 2, 3, 4, 5, 6, 7, 8], key.as_bytes()].concat();
    stream.write_all(&[&[u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.unwrap();
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..8], body[..8]);
    answer.split_off(16)
}
