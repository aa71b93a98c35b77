//! Opens the on-disk inventory of a daemon.

use std::path::Path;

use prb_chain::inventory::{Config, Error, HeedInventory};
use uuid::Uuid;

use crate::{daemon::Failure, disk_watch, legacy_files};

/// Opens the inventory in a folder, or creates one. `setting` names the setting with the path, for errors.
///
/// # Errors
/// [`Failure::Run`] if it may work later: another process has it open, or the disk is full or fails.
pub(crate) async fn open(path: &Path, setting: &str) -> Result<HeedInventory, Failure> {
    let (opening, owner) = (path.to_owned(), setting.to_owned());
    let open = move || {
        legacy_files::check_inventory(&opening, &owner).map_err(Failure::Configuration)?;
        HeedInventory::open(&opening, Config::default()).map_err(|error| {
            failure(error, format!("cannot open the inventory {} ({owner})", opening.display()))
        })
    };
    let opened = disk_watch::open(format!("the inventory {}", path.display()), open).await;
    opened.map_err(Failure::Run)?
}

/// Returns the id of an inventory.
///
/// # Errors
/// As [`open`].
pub(crate) async fn id(inventory: &HeedInventory) -> Result<Uuid, Failure> {
    let (what, inventory) = (format!("the inventory {}", inventory.path().display()), inventory.clone());
    let read = disk_watch::open(what.clone(), move || inventory.id()).await;
    read.map_err(Failure::Run)?.map_err(|error| failure(error, format!("cannot read the id of {what}")))
}

fn failure(error: Error, text: String) -> Failure {
    let failure = if error.is_retryable() { Failure::Run } else { Failure::Configuration };
    failure(anyhow::Error::new(error).context(text))
}
