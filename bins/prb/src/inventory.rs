//! Opens the on-disk inventory of a daemon.

use std::{path::Path, sync::Arc};

use prb_chain::inventory::{Config, HeedInventory};
use prb_core::inventory::Inventory;

use crate::{daemon::Failure, legacy_files};

/// Opens the inventory in a folder, or creates one. `setting` names the setting with the path, for errors.
///
/// # Errors
/// [`Failure::Run`] if it may work later: another process has it open, or the disk is full.
pub(crate) async fn open(path: &Path, setting: &str) -> Result<Arc<dyn Inventory>, Failure> {
    legacy_files::check_inventory(path, setting).map_err(Failure::Configuration)?;
    let opening = path.to_owned();
    let open = move || HeedInventory::open(&opening, Config::default());
    let opened = tokio::task::spawn_blocking(open).await.map_err(|error| Failure::Run(error.into()))?;
    match opened {
        Ok(inventory) => Ok(Arc::new(inventory)),
        Err(error) => {
            let failure = if error.is_retryable() { Failure::Run } else { Failure::Configuration };
            let text = format!("cannot open the inventory {} ({setting})", path.display());
            Err(failure(anyhow::Error::new(error).context(text)))
        }
    }
}
