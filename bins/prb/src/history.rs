//! Opens the configured history sources.

use std::{sync::Arc, time::Duration};

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
use tokio::{sync::watch, time::sleep};

use crate::{config::HistoryLocation, daemon::Background};

/// Interval at which a data provider's address is looked up.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);
/// The same while it is not known.
const RESOLVE_RETRY: Duration = Duration::from_secs(5);

/// Opens the sources; their tasks run in the background. Without one, only checks them: data providers, which need a
/// task, are left out, and no server is asked.
///
/// # Errors
/// A folder is not an archive, or a URL is invalid.
pub(crate) async fn open(
    places: &[HistoryLocation],
    mut background: Option<&mut Background>,
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
            HistoryLocation::Provider(address) => match background.as_deref_mut() {
                Some(background) => Arc::new(provider(address, background)),
                None => continue,
            },
        });
    }
    Ok(sources)
}

fn provider(address: &str, background: &mut Background) -> BlobHistory<RemoteBlobSource> {
    let (found, candidates) = watch::channel(Vec::new());
    let of = address.to_owned();
    background.spawn(|stop| async move {
        stop.run_until_cancelled(resolve(&of, &found)).await;
        anyhow::anyhow!("the name resolution of {of} has ended")
    });
    let source = RemoteBlobSource::start(candidates, remote::Config::default());
    BlobHistory::new(format!("data provider tcp://{address}"), source)
}

/// Looks up the address of a data provider again and again: its name may be known only later, and its address may
/// change. The last address stays in use while its name is not known.
async fn resolve(address: &str, found: &watch::Sender<Vec<Candidate>>) {
    let mut failed = false;
    loop {
        let resolved = tokio::net::lookup_host(address).await.map(|mut all| all.next());
        let pause = match resolved {
            Ok(Some(resolved)) => {
                failed = false;
                let candidate = Candidate {
                    id: format!("tcp://{address}"),
                    address: resolved,
                    chain_identity: None,
                    announced: None,
                    provenance: Provenance::Named,
                };
                // An unchanged address does not wake the source.
                found.send_if_modified(|old| {
                    let changed = old.first().is_none_or(|old| old.address != resolved);
                    if changed {
                        *old = vec![candidate];
                    }
                    changed
                });
                RESOLVE_INTERVAL
            }
            nothing => {
                if !std::mem::replace(&mut failed, true) {
                    let error = nothing.err().map_or_else(|| "it has none".into(), |error| error.to_string());
                    tracing::warn!(
                        address,
                        error,
                        "the address of the data provider in PRB_HISTORY is not known"
                    );
                }
                RESOLVE_RETRY
            }
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn name_that_is_not_known_is_looked_up_again() {
        let (found, mut candidates) = watch::channel(Vec::new());
        let unknown = resolve("a name without a port", &found);
        assert!(tokio::time::timeout(Duration::from_millis(20), unknown).await.is_err());
        tokio::select! {
            () = resolve("127.0.0.1:1", &found) => panic!("the address is no longer followed"),
            changed = candidates.changed() => changed.unwrap(),
        }
        assert_eq!(candidates.borrow()[0].address, "127.0.0.1:1".parse().unwrap());
    }
}
