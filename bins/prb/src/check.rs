//! `--check`: reports what would fail at a start, without starting anything.

use std::{io::Write, path::Path};

use anyhow::Context;
use prb_core::{inventory::memory::MemoryInventory, vault::DiscardVault};
use prb_walkie::identity::{Identity, Role};

use crate::{
    all::Bridge,
    config::{AllArgs, Cli, Command, LifecycleArgs, NodeUrl, OpsListen, WorkerArgs},
    daemon::{Daemon, Failure, pool},
    data_provider::DataProvider,
    fleet_file::FleetFile,
    identity_check, legacy_files,
    lifecycle::LifecycleManager,
    monitor::Monitor,
    trader::TraderDaemon,
};

mod resources;

use resources::{Keys, Resources};

/// Prints the effective settings to standard output and checks what they refer to, without creating a file,
/// connecting to anything, or listening.
///
/// # Errors
/// [`Failure::Configuration`], with the first error that a start would report.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    // The reader may have closed the pipe; the exit code still tells the result.
    let _ = write!(std::io::stdout(), "{}", cli.effective);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(error.into()))?;
    runtime.block_on(check(&cli.command)).map_err(Failure::Configuration)
}

async fn check(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::All(args) => all(args).await,
        Command::DataProvider(args) => {
            if !args.chain_endpoint.is_empty() {
                nodes("relay", &args.parent_chain_endpoint)?;
                nodes("para", &args.chain_endpoint)?;
            }
            // Loaded, not generated: a check creates no file.
            Identity::load(&args.walkie.peer_id_prefix, Role::DataProvider)?;
            let mut resources = Resources::new(args.ops.ops_listen, DataProvider::OPS_PORT)
                .with_blob_server(args.blob_server_address, args.local_server_port)
                .with_peers(&args.walkie.walkie_listen_addresses)
                .with_folder("PHALA_LOCAL_DB_PATH", &args.local_db_path)
                .with_folder("PHALA_PEER_ID_PREFIX", &args.walkie.peer_id_prefix);
            resources.check_store(&args.local_db_path);
            resources.check().await
        }
        Command::Lifecycle(args) => lifecycle(args).await,
        Command::Trader(args) => {
            nodes("para", &args.chain_endpoint)?;
            identity_check::check_trader(&args.peer_id_prefix, args.trader_pools.is_some())?;
            if let Some(file) = &args.trader_pools {
                fleet_file(file).await?;
            }
            Resources::new(args.ops.ops_listen, TraderDaemon::OPS_PORT)
                .with_port("PRB_QUEUE_PAGE_LISTEN", args.pages.queue_page_listen)
                .check()
                .await
        }
        Command::Monitor(args) => {
            let walkie = args.walkie();
            Identity::load(&walkie.peer_id_prefix, Role::Monitor)?;
            Resources::new(args.ops.ops_listen, Monitor::OPS_PORT)
                .with_port("HOST and PORT", Some(OpsListen::At(args.listen())))
                .with_peers(&walkie.walkie_listen_addresses)
                .with_folder("PHALA_PEER_ID_PREFIX", &walkie.peer_id_prefix)
                .check()
                .await
        }
        Command::Keys(_) | Command::Import(_) | Command::Healthcheck(_) | Command::Request(_) => Ok(()),
    }
}

async fn all(args: &AllArgs) -> anyhow::Result<()> {
    nodes("relay", &args.parent_chain_endpoint)?;
    nodes("para", &args.chain_endpoint)?;
    let folder = args.peer_id_prefix.clone().unwrap_or_else(|| args.data.join("id"));
    Identity::load(&folder, Role::Lifecycle)?;
    workers(&args.workers)?;
    let inventory = args.data.join("inventory");
    let keys = match &args.fleet {
        Some(path) => {
            fleet_file(path).await?;
            Keys::InFile
        }
        None => Keys::SealedBy(&folder),
    };
    legacy_files::check_inventory(&inventory, "PRB_DATA")?;
    let mut resources = Resources::new(args.ops.ops_listen, Bridge::OPS_PORT)
        .with_port("PRB_API_LISTEN", args.api.api_listen)
        .with_port("PRB_CONSOLE_LISTEN", args.pages.console_listen)
        .with_port("PRB_QUEUE_PAGE_LISTEN", args.pages.queue_page_listen)
        .with_folder("PRB_DATA", &args.data)
        .with_folder("PHALA_PEER_ID_PREFIX", &folder);
    resources.check_inventory(&inventory, keys).await?;
    resources.check_store(&args.data.join("blocks"));
    resources.check().await
}

async fn lifecycle(args: &LifecycleArgs) -> anyhow::Result<()> {
    nodes("para", &args.chain_endpoint)?;
    legacy_files::check_inventory(&args.local_db_path, "PHALA_LOCAL_DB_PATH")?;
    let folder = &args.walkie.peer_id_prefix;
    Identity::load(folder, Role::Lifecycle)?;
    workers(&args.workers)?;
    let mut resources = Resources::new(args.ops.ops_listen, LifecycleManager::OPS_PORT)
        .with_port("PRB_API_LISTEN", args.api.api_listen)
        .with_port("PRB_CONSOLE_LISTEN", args.pages.console_listen)
        .with_peers(&args.walkie.walkie_listen_addresses)
        .with_folder("PHALA_LOCAL_DB_PATH", &args.local_db_path)
        .with_folder("PHALA_PEER_ID_PREFIX", folder);
    if args.use_built_in_trader {
        resources = resources.with_port("PRB_QUEUE_PAGE_LISTEN", args.pages.queue_page_listen);
    }
    resources.check_inventory(&args.local_db_path, Keys::SealedBy(folder)).await?;
    resources.check().await
}

fn nodes(chain: &'static str, endpoints: &[NodeUrl]) -> anyhow::Result<()> {
    pool(chain, endpoints, None).map(drop)
}

fn workers(args: &WorkerArgs) -> anyhow::Result<()> {
    args.connect()?;
    args.pccs.source(std::time::SystemTime::now)?;
    Ok(())
}

/// Reads the file and everything that it refers to: variables with secrets, keys, addresses.
async fn fleet_file(path: &Path) -> anyhow::Result<()> {
    let file = FleetFile::read(path).await?;
    if file.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "prb: warning: the fleet file {} names no pools and no workers: nothing would run",
            path.display()
        );
    }
    // Secrets are read and checked, but not sealed: a check must not need or generate an identity.
    let edits = file.edits(&MemoryInventory::default(), &DiscardVault).await;
    edits.map(drop).with_context(|| format!("in the fleet file {}", path.display()))
}
