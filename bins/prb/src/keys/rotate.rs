//! `prb keys rotate`: replaces a lifecycle manager's identity, and seals the operators' secrets with the new one.
//!
//! The new identity is written to a folder of its own first and replaces the old one last. If the command was
//! interrupted in between, running it again completes it: each secret is opened by whichever of the two sealed it.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, bail};
use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{Edit, Inventory, Operator, Pool, Snapshot},
    vault::{self, Vault},
};
use prb_walkie::{
    identity::{Identity, Role},
    vault::RsaVault,
};
use secrecy::SecretString;

use super::say;
use crate::{config::RotateArgs, legacy_files};

/// Folder of the new identity until it replaces the old one.
const PENDING: &str = "rotating";
const ROLE: Role = Role::Lifecycle;

/// A pool whose operator's secret is to be sealed with the new identity; `None` discards it.
type Opened = (Pool, Option<SecretString>);

pub(super) async fn rotate(folder: &Path, args: &RotateArgs) -> anyhow::Result<()> {
    let inventory = open(&args.local_db_path)?;
    let pending = folder.join(PENDING);
    let (old, new) = (Identity::load(folder, ROLE)?, Identity::load(&pending, ROLE)?);
    let snapshot = inventory.snapshots().borrow().clone();
    let vaults: Vec<_> = [&new, &old].into_iter().flatten().map(RsaVault::new).collect();
    let opened = open_all(&snapshot, &vaults, args.discard_unopened).await?;

    let new = match new {
        Some(new) => new,
        None => {
            let new = Identity::generate()?;
            // Before a secret is sealed with it: an interruption must not lose it.
            new.store(&pending, ROLE)?;
            new
        }
    };
    let discarded =
        opened.iter().filter(|(_, secret)| secret.is_none()).map(|(pool, _)| pool.pid.to_string());
    let discarded: Vec<_> = discarded.collect();
    let sealed = opened.len() - discarded.len();
    // One transaction: until it is committed the old identity opens every secret, afterwards the new one does.
    inventory.apply(seal_all(opened, &RsaVault::new(&new)).await?).await?;
    replace(&pending, folder)?;

    let was = old.map_or_else(|| "missing".to_owned(), |old| old.peer_id().to_string());
    say(&format!("{} is now peer {} (was {was})", ROLE.file_name(), new.peer_id()))?;
    say(&format!("operators' secrets sealed with it: {sealed}"))?;
    if !discarded.is_empty() {
        let pools = discarded.join(", ");
        say(&format!("pools without an operator now, set each with `prb pool set`: {pools}"))?;
    }
    say("copy the file to the traders of this manager, and replace the peer id in whitelists and boot nodes")
}

fn open(path: &Path) -> anyhow::Result<HeedInventory> {
    let shown = path.display();
    legacy_files::check_inventory(path, "--local-db-path, PHALA_LOCAL_DB_PATH")?;
    if !path.join("data.mdb").is_file() {
        bail!(
            "there is no inventory at {shown} (--local-db-path, PHALA_LOCAL_DB_PATH): name the data folder of the \
             lifecycle manager, or the folder `inventory` in that of a `prb all`"
        );
    }
    HeedInventory::open(path, Config::default()).with_context(|| {
        format!("cannot open the inventory at {shown}; a daemon that uses it must be stopped first")
    })
}

/// Opens the secrets of all pools.
async fn open_all(snapshot: &Snapshot, vaults: &[RsaVault], discard: bool) -> anyhow::Result<Vec<Opened>> {
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for pool in &snapshot.pools {
        let Some(operator) = &pool.operator else { continue };
        match open_one(operator, vaults).await {
            Ok(secret) => opened.push((Pool::clone(pool), Some(secret))),
            Err(_) if discard => opened.push((Pool::clone(pool), None)),
            Err(_) => closed.push(pool.pid.to_string()),
        }
    }
    if !closed.is_empty() {
        bail!(
            "nothing was changed: the identity does not open the operators' secrets of the pools {}. Restore the one that \
             sealed them (`prb keys restore`); if it is lost, use --discard-unopened and set these operators again",
            closed.join(", ")
        );
    }
    Ok(opened)
}

async fn open_one(operator: &Operator, vaults: &[RsaVault]) -> Result<SecretString, vault::Error> {
    let mut result = Err(vault::Error::WrongKey);
    for vault in vaults {
        result = vault.open(&operator.key).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn seal_all(opened: Vec<Opened>, vault: &RsaVault) -> anyhow::Result<Vec<Edit>> {
    let mut edits = Vec::with_capacity(opened.len());
    for (mut pool, secret) in opened {
        pool.operator = match (pool.operator, secret) {
            (Some(operator), Some(secret)) => Some(Operator { key: vault.seal(&secret).await?, ..operator }),
            _ => None,
        };
        edits.push(Edit::PutPool(pool));
    }
    Ok(edits)
}

/// Moves the new identity to the place of the old one.
fn replace(pending: &Path, folder: &Path) -> anyhow::Result<()> {
    let (from, to) = (pending.join(ROLE.file_name()), folder.join(ROLE.file_name()));
    let moved = fs::rename(&from, &to).and_then(|()| File::open(folder)?.sync_all());
    moved.with_context(|| {
        let (from, to) = (from.display(), to.display());
        format!("the secrets are sealed with the new identity, but {from} cannot replace {to}: run the command again")
    })?;
    // Empty now; nothing depends on it.
    let _ = fs::remove_dir(pending);
    Ok(())
}
