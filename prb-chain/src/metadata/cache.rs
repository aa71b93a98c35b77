//! Caches runtimes by version, each fetched once.

use std::sync::{Arc, Mutex, PoisonError};

use codec::{Decode, Encode};
use prb_core::primitives::Hash;
use serde::Deserialize;

use super::{Error, Runtime};
use crate::rpc::{self, Node, json::HexBytes};

/// Most cached runtimes: the current one, the previous one, and some for reading old blocks.
const MAX_RUNTIMES: usize = 4;
/// The newest metadata version that is requested.
// 14 and 15 were checked against the runtimes of Khala, Kusama and Polkadot; old runtimes offer 14 only.
const METADATA_VERSION: u32 = 15;

/// Why a runtime is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    #[error(transparent)]
    Metadata(#[from] Error),
}

/// The runtimes of one chain, by `spec_version`.
#[derive(Debug, Default)]
pub struct Runtimes {
    known: Mutex<Vec<Arc<Runtime>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    spec_version: u32,
    transaction_version: u32,
}

impl Runtimes {
    /// Returns the runtime in the state of a block (of the best block by default), which executes the block's
    /// children.
    pub(crate) async fn at(&self, node: &Node, block: Option<Hash>) -> Result<Arc<Runtime>, FetchError> {
        let version: Version = match block {
            Some(hash) => node.request("state_getRuntimeVersion", [hash]).await?,
            None => node.request("state_getRuntimeVersion", rpc::NO_PARAMS).await?,
        };
        if let Some(known) = self.known(version.spec_version) {
            return Ok(known);
        }
        // Signed payloads contain the genesis hash, so it belongs to what a runtime is used for.
        let genesis: Hash = node.request("chain_getBlockHash", [0_u32]).await?;
        let metadata = fetch(node, block).await?;
        let runtime = Runtime::new(genesis, version.spec_version, version.transaction_version, &metadata)?;
        // Version and metadata are two requests: the runtime may have been upgraded in between, or two nodes behind
        // one address may have answered. A wrong pair would be used for as long as the process runs.
        if let Some(declared) =
            runtime.declared_version().filter(|declared| *declared != version.spec_version)
        {
            let reason = format!("it is of version {declared}, but the runtime of {}", version.spec_version);
            return Err(Error::Unreadable { reason }.into());
        }
        tracing::info!(spec_version = version.spec_version, "read the metadata of a runtime");
        let runtime = Arc::new(runtime);
        // Two callers may have fetched the same version; either copy serves.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_RUNTIMES {
            known.remove(0);
        }
        known.push(Arc::clone(&runtime));
        Ok(runtime)
    }

    /// Removes a runtime, which is then read again.
    pub(crate) fn forget(&self, runtime: &Arc<Runtime>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| !Arc::ptr_eq(other, runtime));
    }

    fn known(&self, spec_version: u32) -> Option<Arc<Runtime>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|runtime| runtime.spec_version() == spec_version).cloned()
    }
}

/// Requests metadata of a supported version, or the node's default if that fails.
async fn fetch(node: &Node, block: Option<Hash>) -> Result<Vec<u8>, rpc::Error> {
    let version = HexBytes(METADATA_VERSION.encode());
    let method = "Metadata_metadata_at_version";
    let answer = match block {
        Some(hash) => node.request::<HexBytes>("state_call", (method, version, hash)).await,
        None => node.request::<HexBytes>("state_call", (method, version)).await,
    };
    match answer {
        Ok(bytes) => {
            if let Ok(Some(metadata)) = Option::<Vec<u8>>::decode(&mut &*bytes.0) {
                return Ok(metadata);
            }
        }
        Err(e) if e.is_retryable() => return Err(e),
        // Old runtimes lack this method.
        Err(_) => {}
    }
    let metadata: HexBytes = match block {
        Some(hash) => node.request("state_getMetadata", [hash]).await?,
        None => node.request("state_getMetadata", rpc::NO_PARAMS).await?,
    };
    Ok(metadata.0)
}
