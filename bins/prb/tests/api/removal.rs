//! Removing workers that compute.

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
