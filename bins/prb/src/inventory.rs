//! Opens the on-disk inventory of a daemon.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use prb_chain::inventory::{Config, HeedInventory};
use prb_core::inventory::Inventory;

use crate::legacy_files;

/// Opens the inventory in a folder, or creates one. `setting` names the setting with the path, for errors.
pub(crate) async fn open(path: &Path, setting: &str) -> anyhow::Result<Arc<dyn Inventory>> {
    legacy_files::check_inventory(path, setting)?;
    let opening = path.to_owned();
    let open = move || HeedInventory::open(&opening, Config::default());
    let inventory = tokio::task::spawn_blocking(open)
        .await?
        .with_context(|| format!("cannot open the inventory {} ({setting})", path.display()))?;
    Ok(Arc::new(inventory))
}
