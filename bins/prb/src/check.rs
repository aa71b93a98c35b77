//! `--check`: reports what would fail at a start, without starting anything.

use std::{io::Write, path::Path};

use anyhow::Context;
use prb_core::inventory::memory::MemoryInventory;
use prb_walkie::identity::Role;

use crate::{
    blocks::Location,
    config::{AllArgs, Cli, Command, DataProviderArgs, LifecycleArgs, MonitorArgs, TraderArgs, WorkerArgs},
    daemon::{Failure, pool},
    data_provider,
    fleet_file::FleetFile,
    history, identity_check, legacy_files,
};

mod notes;
mod resources;

use resources::{Keys, Resources};

/// Prints the effective settings to standard output and checks what they refer to, without creating a file,
/// connecting to anything, or listening. What needs no file was checked when the settings were read.
///
/// # Errors
/// [`Failure`], with the first error that a start would report.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    // The reader may have closed the pipe; the exit code still tells the result.
    let _ = write!(std::io::stdout(), "{}", cli.effective);
    notes::start();
    cli.warn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(error.into()))?;
    runtime.block_on(check(&cli.command))
}

async fn check(command: &Command) -> Result<(), Failure> {
    let resources = Resources::new(command.listeners());
    match command {
        Command::All(args) => all(args, resources).await,
        Command::DataProvider(args) => provider(args, resources).await,
        Command::Lifecycle(args) => lifecycle(args, resources).await,
        Command::Trader(args) => trader(args, resources).await.map_err(Failure::Configuration),
        Command::Monitor(args) => monitor(args, resources).await.map_err(Failure::Configuration),
        Command::Keys(_) | Command::Import(_) | Command::Healthcheck(_) | Command::Request(_) => Ok(()),
    }
}

async fn all(args: &AllArgs, mut resources: Resources) -> Result<(), Failure> {
    let (inventory, blocks) = (args.data.join("inventory"), args.data.join("blocks"));
    let folder = args.peer_id_prefix.clone().unwrap_or_else(|| args.data.join("id"));
    let settings = async {
        pool("relay", &args.parent_chain_endpoint, args.parent_chain_genesis)?;
        pool("para", &args.chain_endpoint, args.chain_genesis)?;
        workers(&args.workers)?;
        resources.check_identity(&folder, Role::Lifecycle)?;
        let keys = match &args.fleet {
            Some(path) => Keys::InFile(fleet_file(path).await?, path),
            None => Keys::SealedBy(&folder),
        };
        resources.check_inventory(&inventory, "PRB_DATA", keys).await?;
        resources.check_token(&args.pages, &args.data, "PRB_DATA")?;
        history::open(&args.history.history, None).await.context("PRB_HISTORY")
    };
    settings.await.map_err(Failure::Configuration)?;
    resources.check_store(Location { path: &blocks, setting: "PRB_DATA" })?;
    resources.check().await.map_err(Failure::Configuration)
}

async fn provider(args: &DataProviderArgs, mut resources: Resources) -> Result<(), Failure> {
    args.warn_of_no_effect();
    legacy_files::warn_of_blocks(&args.local_db_path, "PHALA_LOCAL_DB_PATH");
    let settings = async {
        data_provider::chains(args)?;
        resources.check_identity(&args.walkie.peer_id_prefix, Role::DataProvider)?;
        history::open(&args.history.history, None).await.context("PRB_HISTORY")
    };
    settings.await.map_err(Failure::Configuration)?;
    resources.check_store(data_provider::store_location(args))?;
    resources.check().await.map_err(Failure::Configuration)
}

async fn lifecycle(args: &LifecycleArgs, mut resources: Resources) -> Result<(), Failure> {
    const SETTING: &str = "PHALA_LOCAL_DB_PATH";
    let folder = &args.walkie.peer_id_prefix;
    let settings = async {
        pool("para", &args.chain_endpoint, args.chain_genesis)?;
        workers(&args.workers)?;
        resources.check_identity(folder, Role::Lifecycle)?;
        resources.check_inventory(&args.local_db_path, SETTING, Keys::SealedBy(folder)).await?;
        resources.check_token(&args.pages, &args.local_db_path, SETTING)?;
        resources.check().await
    };
    settings.await.map_err(Failure::Configuration)
}

async fn trader(args: &TraderArgs, resources: Resources) -> anyhow::Result<()> {
    args.warn_of_no_effect();
    pool("para", &args.chain_endpoint, args.chain_genesis)?;
    identity_check::check_trader(&args.peer_id_prefix, args.trader_pools.is_some())?;
    if let Some(file) = &args.trader_pools {
        let pools = fleet_file(file).await.context("PRB_TRADER_POOLS")?;
        resources::changes(pools, file, &MemoryInventory::default()).await.context("PRB_TRADER_POOLS")?;
    }
    resources.check().await
}

async fn monitor(args: &MonitorArgs, mut resources: Resources) -> anyhow::Result<()> {
    args.warn_of_no_effect();
    let folder = args.walkie().peer_id_prefix;
    resources.check_identity(&folder, Role::Monitor)?;
    resources.check_token(&args.pages, &folder, "PHALA_PEER_ID_PREFIX")?;
    resources.check().await
}

fn workers(args: &WorkerArgs) -> anyhow::Result<()> {
    args.connect()?;
    args.pccs.source(std::time::SystemTime::now)?;
    Ok(())
}

/// Reads the file, without what it refers to, and warns if it is empty.
async fn fleet_file(path: &Path) -> anyhow::Result<FleetFile> {
    let file = FleetFile::read(path).await?;
    if file.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "prb: warning: the fleet file {} names no pools and no workers: nothing would run",
            path.display()
        );
    }
    Ok(file)
}
