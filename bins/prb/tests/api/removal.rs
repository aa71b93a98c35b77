//! Removing workers that compute, and their pools.

use serde_json::json;

use crate::client::Client;

pub async fn computing_worker_is_not_deleted(api: &Client) {
    let delete = json!({ "items": [{ "id": "w0", "delete": true }] });
    for refused in [
        api.delete("/workers/w0").await,
        api.delete("/workers/w0?dry_run=true").await,
        api.patch("/workers", delete.clone()).await,
    ] {
        let refused = refused.is(409);
        assert_eq!(refused.code(), "in-use");
        let message = refused.body["message"].as_str().unwrap();
        assert!(
            message.contains("stop it first, reclaim its stake") && message.contains("force=true"),
            "{message}"
        );
    }
    api.delete("/workers/w0?dry_run=true&force=true").await.is(200);
    api.patch("/workers?dry_run=true&force=true", delete).await.is(200);
    assert_eq!(api.get("/workers/w0").await.is(200).body["state"], "S_ACTIVE");
}

/// Without its entry, or with another number, its workers have no pool and send no heartbeats.
pub async fn pool_of_computing_worker_is_kept(api: &Client, pid: u64) {
    let (path, renumber) = (format!("/pools/{pid}"), json!({ "pid": 99_999 }));
    let items = json!({ "items": [{ "id": pid, "set": renumber }] });
    for refused in [
        api.patch(&path, renumber.clone()).await,
        api.patch(&format!("{path}?dry_run=true"), renumber.clone()).await,
        api.patch("/pools", items).await,
        api.delete(&path).await,
    ] {
        let refused = refused.is(409);
        assert_eq!(refused.code(), "in-use");
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains("1 of them compute, whose stake is slashed"), "{message}");
    }
    api.patch(&path, json!({ "pid": pid, "name": "same number" })).await.is(200);
    api.patch(&format!("{path}?dry_run=true&force=true"), renumber).await.is(200);
    assert_eq!(api.get(&path).await.is(200).body["workers"], 1);
}
