//! [`Offline`]: the management API over the inventory of a stopped daemon, within this process.
//!
//! Uses a daemon's handlers with a manager without a fleet: edits are checked, versioned and applied like in a
//! daemon. The inventory's lock excludes a daemon at the same time.

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

/// The inventory of a stopped daemon.
pub(super) struct Offline {
    service: TowerToHyperService<Router>,
    inventory: Arc<dyn Inventory>,
    made: Made,
}

/// What opening has created.
struct Made {
    inventory: PathBuf,
    /// The outermost folder; `None` if there was an inventory before.
    outermost: Option<PathBuf>,
}

impl Drop for Offline {
    /// Removes an inventory that this command has created and nothing was added to, such as after a refused edit.
    fn drop(&mut self) {
        let Some(outermost) = &self.made.outermost else { return };
        let snapshot = self.inventory.snapshots().borrow().clone();
        if !snapshot.pools.is_empty() || !snapshot.workers.is_empty() {
            return;
        }
        for name in ["data.mdb", "lock.mdb", "in-use"] {
            let _ = std::fs::remove_file(self.made.inventory.join(name));
        }
        // Fails at the first one that has something else in it.
        let created = self.made.inventory.ancestors().take_while(|folder| folder.starts_with(outermost));
        let _ = created.into_iter().try_for_each(std::fs::remove_dir);
    }
}

/// The folders of a daemon's pools and workers, and of the identity that seals its keys.
struct DataFolder {
    folder: PathBuf,
    identity: PathBuf,
    /// The setting with the folder, for messages.
    setting: &'static str,
}

impl DataFolder {
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
    /// Opens the inventory, which stays locked until this is dropped. Only with `adds`, a missing one is created.
    ///
    /// # Errors
    /// There is none, or a daemon has it open.
    pub(super) async fn open(args: &OfflineArgs, remote: &Remote, adds: bool) -> anyhow::Result<Self> {
        let location = DataFolder::of(args, remote);
        let missing = location.folder.ancestors().take_while(|folder| !folder.exists()).last();
        let outermost = match missing {
            Some(folder) => Some(folder.to_owned()),
            // An empty folder stays.
            None => (!is_inventory(&location.folder)).then(|| location.folder.join("data.mdb")),
        };
        let made = Made { inventory: location.folder.clone(), outermost };
        let inventory: Arc<dyn Inventory> = Arc::new(open(&location, adds).await?);
        let vault = LazyVault {
            folder: location.identity,
            inventory: Arc::clone(&inventory),
            vault: OnceCell::new(),
        };
        let opened = Arc::clone(&inventory);
        let parts =
            manage::Parts { inventory, vault: Arc::new(vault), keys: Arc::new(Sr25519Keys), fleet: None };
        let source = api::Source {
            daemon: "offline",
            manager: Manager::new(parts),
            // Only a `prb all` has one; for the inventory of a `prb lifecycle`, PRB_FLEET means nothing.
            fleet_file: args.fleet.clone().filter(|_| remote.data.is_some()),
            queue: None,
            chain: None,
            heights: None,
            peers: None,
            providers: None,
            probe: None,
        };
        Ok(Self { service: TowerToHyperService::new(api::in_process(source)), inventory: opened, made })
    }

    /// Answers a request like a daemon over HTTP.
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
        Ok((head.status, head.headers, to_bytes(body, super::client::MAX_ANSWER_BYTES).await?.to_vec()))
    }
}

async fn open(location: &DataFolder, adds: bool) -> anyhow::Result<HeedInventory> {
    let DataFolder { folder, setting, .. } = location;
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
            "the inventory at {shown} is in use by a daemon or by another command: omit --offline to send the request to \
             the running daemon, or stop it first"
        ),
        error => anyhow::Error::new(error).context(format!("cannot open the inventory at {shown} ({setting})")),
    })
}

/// Whether the folder contains an inventory.
fn is_inventory(folder: &Path) -> bool {
    folder.join("data.mdb").is_file()
}

/// Seals with the daemon's identity, which is read, or generated, with the first secret: most edits need none, and
/// the user of the command may have no access to it.
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
            // All pools must be sealed with one identity: a daemon refuses to start if it cannot open one of them.
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
