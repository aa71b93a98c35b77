//! Opens the on-disk inventory of a daemon.

use std::path::Path;

use prb_chain::inventory::{Config, HeedInventory};

use crate::{daemon::Failure, disk_watch, legacy_files};

/// Opens the inventory in a folder, or creates one. `setting` names the setting with the path, for errors.
///
/// # Errors
/// [`Failure::Run`] if it may work later: another process has it open, or the disk is full or fails.
pub(crate) async fn open(path: &Path, setting: &str) -> Result<HeedInventory, Failure> {
    legacy_files::check_inventory(path, setting).map_err(Failure::Configuration)?;
    let opening = path.to_owned();
    let open = move || HeedInventory::open(&opening, Config::default());
    let opened = disk_watch::open(format!("the inventory {}", path.display()), open).await;
    opened.map_err(Failure::Run)?.map_err(|error| {
        let failure = if error.is_retryable() { Failure::Run } else { Failure::Configuration };
        let text = format!("cannot open the inventory {} ({setting})", path.display());
        failure(anyhow::Error::new(error).context(text))
    })
}
