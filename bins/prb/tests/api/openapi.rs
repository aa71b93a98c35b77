//! The API's OpenAPI document: complete, and equal to docs/openapi.json.

use std::path::Path;

use prb_devnet::Config;
use serde_json::Value;

use super::{chain, client::Client, ended, started};

#[tokio::test(flavor = "multi_thread")]
async fn openapi_document_has_every_route_and_scheme() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let document = api.get("/openapi.json").await.is(200).body;
    is_documented(&document);
    let paths = document["paths"].as_object().unwrap();
    let mut routes = 0;
    for (path, methods) in paths {
        let filled = path.strip_prefix("/api/v1").unwrap().replace("{command}", "stop");
        let filled: String = filled
            .split('/')
            .map(|part| if part.starts_with('{') { "1" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for (method, operation) in methods.as_object().unwrap() {
            let reads = method == "get";
            assert_eq!(operation["security"].is_array(), !reads, "{method} {path}");
            // The route exists: its answer is not the fallback's.
            let anyone = Client { token: None, ..api };
            let method = method.to_ascii_uppercase();
            let answer = anyone.ask(&method, &filled, None, &[("accept", "application/json")]).await;
            assert_eq!(answer.status == 401, !reads, "{method} {path}: {answer:?}");
            assert!(
                answer.status != 405 && !answer.body["message"].as_str().unwrap_or("").contains("openapi")
            );
            routes += 1;
        }
    }
    assert!(routes >= 18, "{routes}");
    // docs/api.md mentions every route.
    let manual = include_str!("../../../../docs/api.md");
    let firsts = paths.keys().filter_map(|path| path.strip_prefix("/api/v1/")?.split('/').next());
    for first in firsts {
        assert!(manual.contains(&format!("/{first}")), "{first}");
    }
    for command in prb_core::worker::Command::ALL {
        assert!(manual.contains(&format!("`{command}`")), "{command}");
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    // References resolve.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    ended(net, bridge).await;
}

/// Compares the document with docs/openapi.json, so that no field that clients read is renamed by the way; writes it
/// instead if `PRB_UPDATE_OPENAPI` is set.
fn is_documented(document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("PRB_UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, format!("{document:#}\n")).unwrap();
    }
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let (served, recorded) = (format!("{document:#}"), format!("{recorded:#}"));
    let differs = served.lines().zip(recorded.lines()).find(|(served, recorded)| served != recorded);
    assert_eq!(differs, None, "(served, docs/openapi.json); PRB_UPDATE_OPENAPI=1 writes the file");
    assert_eq!(served.len(), recorded.len());
}
