//! [`Offline`]: the management API over the inventory of a stopped daemon, within this process.
//!
//! The same handlers as a daemon's, over a manager without a fleet: an edit is checked, versioned and applied as it
//! would be there. The inventory's lock keeps a daemon and this apart.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use prb_chain::{
    inventory::{self as stored, HeedInventory},
    keys::Sr25519Keys,
};
use prb_core::{
    inventory::Inventory,
    manage::{self, Manager},
    vault::{self, Sealed, Vault},
};
use prb_walkie::vault::RsaVault;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::args::{OfflineArgs, Remote};
use crate::{api, identity_check, legacy_files};

/// The largest answer, in bytes: ten thousand workers with their status have some twelve million.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The inventory of a stopped daemon.
pub(super) struct Offline {
    service: TowerToHyperService<Router>,
}

/// Where a daemon keeps its pools and workers, and what it seals keys with.
struct Place {
    folder: PathBuf,
    identity: PathBuf,
    /// What the operator sets to have it there.
    setting: &'static str,
}

impl Place {
    fn of(args: &OfflineArgs, remote: &Remote) -> Self {
        let identity = args.peer_id_prefix.clone();
        match &remote.data {
            Some(data) => Self {
                folder: data.join("inventory"),
                identity: identity.unwrap_or_else(|| data.join("id")),
                setting: "--data, PRB_DATA",
            },
            None => Self {
                folder: remote.local_db_path.clone(),
                identity: identity.unwrap_or_else(|| PathBuf::from("/var/data/keys/id")),
                setting: "--local-db-path, PHALA_LOCAL_DB_PATH",
            },
        }
    }
}

impl Offline {
    /// Opens the inventory and holds it until dropped. A new one is made only for those who add something.
    ///
    /// # Errors
    /// Where there is none, or a daemon has it open.
    pub(super) async fn open(args: &OfflineArgs, remote: &Remote, adds: bool) -> anyhow::Result<Self> {
        let place = Place::of(args, remote);
        let inventory: Arc<dyn Inventory> = Arc::new(open(&place, adds).await?);
        let vault =
            LazyVault { folder: place.identity, inventory: Arc::clone(&inventory), vault: OnceCell::new() };
        let parts =
            manage::Parts { inventory, vault: Arc::new(vault), keys: Arc::new(Sr25519Keys), fleet: None };
        let source = api::Source {
            daemon: "offline",
            manager: Manager::new(parts),
            fleet_file: args.fleet.clone().filter(|_| remote.data.is_some()),
            queue: None,
            chain: None,
            heights: None,
            peers: None,
            providers: None,
        };
        Ok(Self { service: TowerToHyperService::new(api::in_process(source)) })
    }

    /// As a daemon answers over HTTP.
    pub(super) async fn ask(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Vec<u8>)> {
        let request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))?;
        let response = match self.service.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (head, body) = response.into_parts();
        Ok((head.status, head.headers, to_bytes(body, MAX_ANSWER_BYTES).await?.to_vec()))
    }
}

async fn open(place: &Place, adds: bool) -> anyhow::Result<HeedInventory> {
    let Place { folder, setting, .. } = place;
    let shown = folder.display();
    legacy_files::check_inventory(folder, setting)?;
    if !adds && !is_inventory(folder) {
        bail!(
            "there is no inventory at {shown} ({setting}): name the data folder of the daemon that is stopped; \
             adding or importing makes a new one"
        );
    }
    let opening = folder.clone();
    let opened =
        tokio::task::spawn_blocking(move || HeedInventory::open(&opening, stored::Config::default())).await?;
    opened.map_err(|error| match error {
        stored::Error::InUse { .. } => anyhow::anyhow!(
            "the inventory at {shown} is in use: a daemon runs on it, or another command edits it. Leave out --offline \
             to have the running daemon do it, or stop that first"
        ),
        error => anyhow::Error::new(error).context(format!("cannot open the inventory at {shown} ({setting})")),
    })
}

/// Whether somebody has kept pools and workers there.
fn is_inventory(folder: &Path) -> bool {
    folder.join("data.mdb").is_file()
}

/// Seals with the daemon's identity, which is read, or made, when the first secret is there to be sealed.
struct LazyVault {
    folder: PathBuf,
    inventory: Arc<dyn Inventory>,
    vault: OnceCell<RsaVault>,
}

impl fmt::Debug for LazyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyVault").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl LazyVault {
    async fn vault(&self) -> Result<&RsaVault, vault::Error> {
        let made = async {
            let identity = identity_check::of_manager(&self.folder, &*self.inventory).await?;
            let vault = RsaVault::new(&identity);
            // Not a second identity beside that which sealed the other pools' keys.
            identity_check::check(&*self.inventory, &vault, &self.folder).await?;
            anyhow::Ok(vault)
        };
        let named = || format!("the identity in {} cannot be used", self.folder.display());
        let vault = self.vault.get_or_try_init(async || made.await.with_context(named)).await;
        vault.map_err(|error| vault::Error::Unavailable(error.into()))
    }
}

#[async_trait]
impl Vault for LazyVault {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, vault::Error> {
        self.vault().await?.seal(secret).await
    }

    async fn open(&self, sealed: &Sealed) -> Result<SecretString, vault::Error> {
        self.vault().await?.open(sealed).await
    }
}
