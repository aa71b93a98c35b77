//! `--check`: reports what would fail at a start, without starting anything.

use std::{io::Write, path::Path};

use anyhow::Context;
use prb_core::{inventory::memory::MemoryInventory, vault::DiscardVault};
use prb_walkie::identity::{Identity, Role};

use crate::{
    config::{Cli, Command, NodeUrl, WorkerArgs},
    daemon::{Failure, pool},
    fleet_file::FleetFile,
    identity_check, legacy_files,
};

/// Prints the effective settings to standard output and checks what they refer to, without creating, writing
/// or connecting to anything.
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
        Command::All(args) => {
            nodes("relay", &args.parent_chain_endpoint)?;
            nodes("para", &args.chain_endpoint)?;
            let folder = args.peer_id_prefix.clone().unwrap_or_else(|| args.data.join("id"));
            Identity::load(&folder, Role::Lifecycle)?;
            workers(&args.workers)?;
            match &args.fleet {
                Some(path) => fleet_file(path).await,
                // Pools and workers are in the data folder, which only a start opens.
                None => legacy_files::check_inventory(&args.data.join("inventory"), "PRB_DATA"),
            }
        }
        Command::DataProvider(args) => {
            if !args.chain_endpoint.is_empty() {
                nodes("relay", &args.parent_chain_endpoint)?;
                nodes("para", &args.chain_endpoint)?;
            }
            Identity::load(&args.walkie.peer_id_prefix, Role::DataProvider)?;
            Ok(())
        }
        Command::Lifecycle(args) => {
            nodes("para", &args.chain_endpoint)?;
            legacy_files::check_inventory(&args.local_db_path, "PHALA_LOCAL_DB_PATH")?;
            Identity::load(&args.walkie.peer_id_prefix, Role::Lifecycle)?;
            workers(&args.workers)
        }
        Command::Trader(args) => {
            nodes("para", &args.chain_endpoint)?;
            identity_check::check_trader(&args.peer_id_prefix, args.trader_pools.is_some())?;
            match &args.trader_pools {
                Some(file) => fleet_file(file).await,
                None => Ok(()),
            }
        }
        Command::Monitor(args) => {
            Identity::load(&args.walkie.peer_id_prefix, Role::Monitor)?;
            Ok(())
        }
        Command::Keys(_) | Command::Import(_) | Command::Healthcheck(_) | Command::Request(_) => Ok(()),
    }
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
    let file = FleetFile::read(path)?;
    if file.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "prb: warning: the fleet file {} names no pools and no workers: nothing would run",
            path.display()
        );
    }
    let edits = file.edits(&MemoryInventory::default(), &DiscardVault).await;
    edits.map(drop).with_context(|| format!("in the fleet file {}", path.display()))
}
