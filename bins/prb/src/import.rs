//! `prb import`: imports pools and workers of other programs into an inventory.
//!
//! Everything is read, shown and checked first, and every invalid row is reported; only then it is applied as
//! one transaction. The source is not changed. Secrets are sealed and never shown.

use std::{io::Write, path::Path, sync::Arc};

use anyhow::{Context, bail};
use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{Edit, Inventory, Operator, Snapshot},
    vault::Vault,
};
use prb_walkie::{
    identity::{Identity, Role},
    vault::RsaVault,
};

use crate::{
    cli::resumed_line,
    config::{ImportArgs, ImportFrom, ImportInto},
    daemon::Failure,
    legacy_files,
};

mod plan;
mod v2;
mod v3;

use plan::{CheckedPool, Plan};

/// Shows what would be imported, and imports it unless this is a dry run.
///
/// # Errors
/// [`Failure::Configuration`] with every row that cannot be imported; nothing was imported then.
pub async fn run(args: &ImportArgs) -> Result<(), Failure> {
    import(args).await.map_err(Failure::Configuration)
}

async fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let into = match &args.from {
        ImportFrom::V2(args) => &args.into,
        ImportFrom::V3(args) => &args.into,
    };
    legacy_files::check_inventory(&into.to, "--to, PHALA_LOCAL_DB_PATH")?;
    // First: it stays locked, so that no daemon changes what the rows are checked against.
    let there = open(&into.to, into.dry_run).await?;
    let present = there.as_ref().map(|inventory| inventory.snapshots().borrow().clone()).unwrap_or_default();
    let (rows, identity) = match &args.from {
        ImportFrom::V2(args) => {
            let identity = Identity::load(&into.peer_id_prefix, Role::Lifecycle)?;
            let identity = identity.with_context(|| missing_identity(&into.peer_id_prefix))?;
            (v2::read(&args.database, &identity)?, Some(identity))
        }
        ImportFrom::V3(args) => (v3::read(args)?, Identity::load(&into.peer_id_prefix, Role::Lifecycle)?),
    };
    let plan = rows.checked(&present, &into.leave_out);
    print(&plan.shown())?;
    if let Some(faults) = plan.faults() {
        bail!(
            "nothing was imported; correct these rows at their source, or skip them with --leave-out:{faults}"
        );
    }
    let count = format!("{} pools and {} workers", plan.pools.len(), plan.workers.len());
    let to = into.to.display();
    let Some(inventory) = there.filter(|_| !into.dry_run) else {
        return print(&format!("{count} would be imported to {to}; nothing was changed\n"));
    };
    let after = apply(plan, inventory, identity, into).await?;
    let resumed = after.resumed(&present);
    let resumed = resumed.iter().map(|(worker, goal)| resumed_line(&worker.name, goal.as_str()));
    print(&resumed.collect::<String>())?;
    print(&format!(
        "{count} were imported to {to}. Their source is unchanged. Do not run the other program any more: two programs \
         that sign for one account interfere with each other\n"
    ))
}

fn missing_identity(folder: &Path) -> String {
    format!(
        "there is no {} in {} (PHALA_PEER_ID_PREFIX): it opens the operators' keys in the database. Copy it from the \
         original's folder of that name",
        Role::Lifecycle.file_name(),
        folder.display()
    )
}

/// Opens the inventory in a folder. A dry run does not create one.
async fn open(path: &Path, dry_run: bool) -> anyhow::Result<Option<HeedInventory>> {
    if dry_run && !path.join("data.mdb").exists() {
        return Ok(None);
    }
    let opening = path.to_owned();
    let opened =
        tokio::task::spawn_blocking(move || HeedInventory::open(&opening, Config::default())).await?;
    opened
        .map(Some)
        .with_context(|| format!("cannot open the inventory {} (stop the daemon first)", path.display()))
}

async fn apply(
    plan: Plan,
    inventory: HeedInventory,
    identity: Option<Identity>,
    into: &ImportInto,
) -> anyhow::Result<Arc<Snapshot>> {
    let identity = match identity {
        Some(identity) => identity,
        // Generated only now that nothing can refuse the import any more: a dry run leaves no key behind.
        None => Identity::load_or_generate(&into.peer_id_prefix, Role::Lifecycle).await?,
    };
    let vault = RsaVault::new(&identity);
    let mut edits = Vec::with_capacity(plan.pools.len() + plan.workers.len());
    for CheckedPool { mut pool, key } in plan.pools {
        if let Some((account, secret)) = key {
            let key = vault
                .seal(&secret)
                .await
                .with_context(|| format!("cannot seal the key of pool {}", pool.pid))?;
            pool.operator = Some(Operator { account, key });
        }
        edits.push(Edit::PutPool(pool));
    }
    edits.extend(plan.workers.into_iter().map(Edit::PutWorker));
    Ok(inventory.apply(edits).await?)
}

/// Prints; a closed pipe is not a failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
