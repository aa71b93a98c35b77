//! Tests of identity files with the npm package peer-id, in both directions.

use prb_walkie::identity::{Identity, Role};
use tempfile::tempdir;

use crate::js::Tool;

/// Returns the peer id that peer-id reads from a file, which it creates if necessary.
async fn js_peer_id(file: &std::path::Path) -> String {
    let printed = Tool::run("peer.js", &["identity", "--identity", file.to_str().unwrap()]).await;
    assert_eq!(printed[0]["keyType"], "RsaPrivateKey");
    printed[0]["peerId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn our_file_is_read_by_the_original() {
    let folder = tempdir().unwrap();
    let ours = Identity::load_or_generate(folder.path(), Role::DataProvider).await.unwrap();
    let file = folder.path().join("DATA_PROVIDER");
    let before = std::fs::read(&file).unwrap();
    assert_eq!(js_peer_id(&file).await, ours.peer_id().to_string());
    assert_eq!(std::fs::read(&file).unwrap(), before, "it is read, not written");
}

#[tokio::test]
async fn original_file_is_read_by_us() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("LIFECYCLE");
    let theirs = js_peer_id(&file).await;
    let ours = Identity::load_or_generate(folder.path(), Role::Lifecycle).await.unwrap();
    assert_eq!(ours.peer_id().to_string(), theirs);
    assert_eq!(ours.to_bytes().unwrap().as_slice(), std::fs::read(&file).unwrap());
}
