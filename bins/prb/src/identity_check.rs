//! Checks that the identity opens the sealed operators' keys, before a daemon starts with it.

use std::path::Path;

use anyhow::{Context, bail};
use prb_core::{inventory::Inventory, vault::Vault};
use prb_walkie::{
    identity::{self, Identity, Role},
    vault::RsaVault,
};

use crate::{disk_watch, peers};

/// Returns the lifecycle manager's identity. A new one is generated if no key has been sealed yet.
///
/// # Errors
/// As [`existing`].
pub(crate) async fn of_manager(folder: &Path, inventory: &dyn Inventory) -> anyhow::Result<Identity> {
    existing(folder, inventory, Identity::load).await?;
    peers::identity(folder, Role::Lifecycle).await
}

/// Reads an identity, and changes its mode or not.
type Read = fn(&Path, Role) -> Result<Option<Identity>, identity::Error>;

/// Checks that the lifecycle manager's identity opens every sealed key, without generating one or changing its mode.
///
/// # Errors
/// As [`of_manager`] and [`check`].
pub(crate) async fn check_manager(folder: &Path, inventory: &dyn Inventory) -> anyhow::Result<()> {
    match existing(folder, inventory, Identity::peek).await? {
        Some(identity) => check(inventory, &RsaVault::new(&identity), folder).await,
        None => Ok(()),
    }
}

/// Returns the lifecycle manager's identity, if there is one.
///
/// # Errors
/// The inventory has sealed keys but there is no identity: a new one could open none of them, and would be in
/// the way of restoring the old one.
async fn existing(folder: &Path, inventory: &dyn Inventory, read: Read) -> anyhow::Result<Option<Identity>> {
    let identity = blocking(read, folder, Role::Lifecycle).await?;
    let sealed = inventory.snapshots().borrow().pools.iter().filter(|pool| pool.operator.is_some()).count();
    if sealed > 0 && identity.is_none() {
        bail!(
            "the keys of {sealed} pools are sealed, but the identity that opens them is missing: there is no {}. \
             Restore it with `prb keys restore --peer-id-prefix {}`, from a backup or from the folder that \
             PHALA_PEER_ID_PREFIX named before. If it is lost, `prb keys rotate --discard-unopened` makes a new one, \
             and the operators have to be set again",
            folder.join(Role::Lifecycle.file_name()).display(),
            folder.display()
        );
    }
    Ok(identity)
}

/// Returns a trader's identity, which is its lifecycle manager's, because that has sealed the keys in the
/// jobs. A trader that seals keys itself, from a file of pools, may have its own.
///
/// # Errors
/// It is missing.
pub(crate) async fn of_trader(folder: &Path, has_pools: bool) -> anyhow::Result<Identity> {
    if let Some(identity) = blocking(Identity::load, folder, Role::Lifecycle).await? {
        tracing::info!(peer_id = %identity.peer_id(), "Got my peer id");
        return Ok(identity);
    }
    check_trader(folder, has_pools)?;
    peers::identity(folder, Role::Trade).await
}

/// Checks that a trader can open the keys in its jobs.
///
/// # Errors
/// As [`of_trader`].
pub(crate) fn check_trader(folder: &Path, has_pools: bool) -> anyhow::Result<()> {
    if Identity::peek(folder, Role::Lifecycle)?.is_some() || has_pools {
        return Ok(());
    }
    bail!(
        "there is no {} in {}: a trader opens the operators' keys with the identity of its lifecycle manager. Copy \
         that file from the manager's PHALA_PEER_ID_PREFIX, or run `prb keys backup` there and `prb keys restore` \
         here; a trader for original lifecycle managers takes the operators from PRB_TRADER_POOLS instead",
        Role::Lifecycle.file_name(),
        folder.display()
    )
}

async fn blocking(read: Read, folder: &Path, role: Role) -> anyhow::Result<Option<Identity>> {
    let folder = folder.to_owned();
    let what = format!("the identity in {}", folder.display());
    Ok(disk_watch::open(what, move || read(&folder, role)).await??)
}

/// Opens every sealed key once.
///
/// # Errors
/// Names the pools whose key cannot be opened.
pub(crate) async fn check(inventory: &dyn Inventory, vault: &dyn Vault, folder: &Path) -> anyhow::Result<()> {
    let snapshot = inventory.snapshots().borrow().clone();
    let mut closed = Vec::new();
    let mut cause = None;
    for pool in &snapshot.pools {
        let Some(operator) = &pool.operator else { continue };
        match vault.open(&operator.key).await {
            Ok(_) => {}
            // A key management service may be temporarily unavailable.
            Err(error) if error.is_retryable() => {}
            Err(error) => {
                closed.push(pool.pid.to_string());
                cause = Some(error);
            }
        }
    }
    let Some(cause) = cause else { return Ok(()) };
    Err(cause).with_context(|| {
        format!(
            "the identity in {} cannot open the sealed keys of the pools {}: restore the one that sealed them \
             (`prb keys restore`), or discard these keys with `prb keys rotate --discard-unopened` and set the operators \
             again",
            folder.display(),
            closed.join(", ")
        )
    })
}
