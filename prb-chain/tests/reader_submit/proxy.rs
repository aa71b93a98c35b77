//! A proxy in front of the devnet's node that garbles some values.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use jsonrpsee::{
    core::{client::ClientT, traits::ToRpcParams},
    server::{RpcModule, Server, ServerHandle},
    types::ErrorObjectOwned,
    ws_client::{WsClient, WsClientBuilder},
};
use serde_json::{Value, value::RawValue};

/// The methods that a reader calls. Subscriptions are not supported, so it polls.
const METHODS: [&str; 8] = [
    "chain_getBlockHash",
    "chain_getFinalizedHead",
    "chain_getHeader",
    "pha_getStorageChanges",
    "state_call",
    "state_getMetadata",
    "state_getRuntimeVersion",
    "state_queryStorageAt",
];

#[derive(Debug)]
pub(crate) struct Proxy {
    url: String,
    server: ServerHandle,
    garbled: Arc<Garbled>,
}

#[derive(Debug)]
struct Garbled {
    client: WsClient,
    keys: Mutex<HashSet<String>>,
}

/// Unparsed parameters.
struct Raw(Option<String>);

impl ToRpcParams for Raw {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        self.0.map(RawValue::from_string).transpose()
    }
}

impl Proxy {
    pub(crate) async fn start(node: &str) -> Self {
        const MAX_BYTES: u32 = 64 * 1024 * 1024;
        let client = WsClientBuilder::new().max_response_size(MAX_BYTES).build(node).await.unwrap();
        let garbled = Arc::new(Garbled { client, keys: Mutex::default() });
        let mut module = RpcModule::from_arc(Arc::clone(&garbled));
        for method in METHODS {
            module
                .register_async_method(method, move |params, context, _| async move {
                    let params = Raw(params.as_str().map(ToOwned::to_owned));
                    let answer: Result<Value, _> = context.client.request(method, params).await;
                    let mut answer = answer.map_err(|e| match e {
                        jsonrpsee::core::ClientError::Call(e) => e,
                        e => ErrorObjectOwned::owned(-32_000, e.to_string(), None::<()>),
                    })?;
                    garble(&mut answer, &context.keys.lock().unwrap());
                    Ok::<_, ErrorObjectOwned>(answer)
                })
                .unwrap();
        }
        let config = jsonrpsee::server::ServerConfig::builder().max_response_body_size(MAX_BYTES).build();
        let server = Server::builder().set_config(config).build("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", server.local_addr().unwrap());
        Self { url, server: server.start(module), garbled }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Starts or stops garbling the values of a key.
    pub(crate) fn set_garbled(&self, key: &[u8], garbled: bool) {
        let key = format!("0x{}", hex::encode(key));
        let mut keys = self.garbled.keys.lock().unwrap();
        if garbled {
            keys.insert(key)
        } else {
            keys.remove(&key)
        };
    }

    pub(crate) fn stop(&self) {
        // It may be stopped already.
        let _ = self.server.stop();
    }
}

/// Changes the value of every `[key, value]` in an answer.
fn garble(answer: &mut Value, keys: &HashSet<String>) {
    match answer {
        Value::Array(items) => match items.as_mut_slice() {
            [Value::String(key), value] if keys.contains(key) => *value = "0x01".into(),
            items => items.iter_mut().for_each(|item| garble(item, keys)),
        },
        Value::Object(fields) => fields.values_mut().for_each(|field| garble(field, keys)),
        _ => {}
    }
}
