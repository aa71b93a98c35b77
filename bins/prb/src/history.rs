//! Opens the configured history sources.

use std::sync::Arc;

use anyhow::Context;
use prb_chain::history::{
    HistorySource,
    archive::{ArchiveHistory, HttpArchive, HttpConfig},
    blobs::BlobHistory,
    headers_cache::{self, HeadersCache},
};
use prb_walkie::{
    blob::remote::{self, Candidate, RemoteBlobSource},
    node::Provenance,
};
use tokio::sync::watch;

use crate::{config::HistoryLocation, daemon::Background};

/// Opens the sources; their tasks run in the background.
///
/// # Errors
/// A folder is not an archive, a URL is invalid, or a host has no address.
pub(crate) async fn open(
    places: &[HistoryLocation],
    background: &mut Background,
) -> anyhow::Result<Vec<Arc<dyn HistorySource>>> {
    let mut sources: Vec<Arc<dyn HistorySource>> = Vec::new();
    for place in places {
        sources.push(match place {
            HistoryLocation::Archive(folder) => {
                let folder = folder.clone();
                Arc::new(tokio::task::spawn_blocking(move || ArchiveHistory::open(&folder)).await??)
            }
            HistoryLocation::HttpArchive(url) => Arc::new(HttpArchive::new(url, HttpConfig::default())?),
            HistoryLocation::HeadersCache(url) => {
                Arc::new(HeadersCache::new(url, headers_cache::Config::default())?)
            }
            HistoryLocation::Provider(address) => Arc::new(provider(address, background).await?),
        });
    }
    Ok(sources)
}

async fn provider(
    address: &str,
    background: &mut Background,
) -> anyhow::Result<BlobHistory<RemoteBlobSource>> {
    let found = tokio::net::lookup_host(address).await.with_context(|| format!("no address of {address}"))?;
    let address_found = found.into_iter().next().with_context(|| format!("no address of {address}"))?;
    let candidate = Candidate {
        id: format!("tcp://{address}"),
        address: address_found,
        chain_identity: None,
        announced: None,
        provenance: Provenance::Named,
    };
    let (candidates, candidate_list) = watch::channel(vec![candidate]);
    background.spawn(|stop| async move {
        stop.cancelled().await;
        drop(candidates);
        anyhow::anyhow!("stopped")
    });
    let source = RemoteBlobSource::start(candidate_list, remote::Config::default());
    Ok(BlobHistory::new(format!("data provider tcp://{address}"), source))
}
