//! Checks the ports, folders and databases that a start would open.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use prb_chain::{
    inventory::{self, HeedInventory},
    store::{self, Store},
};
use prb_core::{
    inventory::{Inventory, memory::MemoryInventory},
    vault::DiscardVault,
};
use prb_walkie::identity::{Identity, Role};
use tokio::net::TcpSocket;

use crate::{
    blocks::{self, Location},
    config::{Listener, PageArgs},
    container,
    daemon::Failure,
    fleet_file::{Changes, FleetFile},
    identity_check, legacy_files, output, redact,
    token::Access,
};

/// Whose keys an inventory has.
pub(super) enum Keys<'a> {
    /// The identity in this folder seals them.
    SealedBy(&'a Path),
    /// This fleet file has them, so that they are sealed again at each start.
    InFile(FleetFile, &'a Path),
}

/// The ports and folders of a daemon.
pub(super) struct Resources {
    /// The ops port, which answers while the daemon runs.
    ops: Option<SocketAddr>,
    listeners: Vec<Listener>,
    folders: Vec<(&'static str, PathBuf)>,
    /// Whether a process has the daemon's data open.
    in_use: bool,
}

impl Resources {
    /// Creates the list of a daemon with these ports, the ops port first.
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        let ops = listeners.first().filter(|first| first.setting == "PRB_OPS_LISTEN");
        Self { ops: ops.map(|ops| ops.address), listeners, folders: Vec::new(), in_use: false }
    }

    /// Checks an identity, if there is one; otherwise a start creates it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn check_identity(&mut self, folder: &Path, role: Role) -> anyhow::Result<()> {
        if Identity::peek(folder, role)?.is_none() {
            self.folders.push(("PHALA_PEER_ID_PREFIX", folder.to_owned()));
        }
        Ok(())
    }

    /// Checks the token, if one is configured or was generated; otherwise a start creates it in the folder.
    ///
    /// # Errors
    /// As at a start.
    pub(super) fn check_token(
        &mut self,
        args: &PageArgs,
        folder: &Path,
        setting: &'static str,
    ) -> anyhow::Result<()> {
        if !Access::check(args, folder)? {
            self.folders.push((setting, folder.to_owned()));
        }
        Ok(())
    }

    /// Checks an inventory, if there is one: whether it can be read, and whether its keys can be opened, or what a
    /// fleet file changes.
    ///
    /// # Errors
    /// As at a start, unless a process has it open.
    pub(super) async fn check_inventory(
        &mut self,
        path: &Path,
        setting: &'static str,
        keys: Keys<'_>,
    ) -> anyhow::Result<()> {
        legacy_files::check_inventory(path, setting)?;
        self.folders.push((setting, path.to_owned()));
        let opened = self.open_inventory(path, setting)?;
        match (opened, keys) {
            (Some(inventory), Keys::SealedBy(folder)) => {
                identity_check::check_manager(folder, &inventory).await
            }
            (None, Keys::SealedBy(_)) => Ok(()),
            (Some(inventory), Keys::InFile(file, path)) => show_changes(file, path, &inventory).await,
            (None, Keys::InFile(file, path)) if self.in_use => {
                changes(file, path, &MemoryInventory::default()).await.map(drop)
            }
            (None, Keys::InFile(file, path)) => show_changes(file, path, &MemoryInventory::default()).await,
        }
    }

    /// Opens an inventory. `None` if there is none, or a process has it open.
    fn open_inventory(&mut self, path: &Path, setting: &str) -> anyhow::Result<Option<HeedInventory>> {
        // Opening would create them.
        let is_new = !path.join("data.mdb").exists() && !path.join("in-use").is_dir();
        if is_new && (path.is_dir() || !path.exists()) {
            return Ok(None);
        }
        match HeedInventory::open(path, inventory::Config::default()) {
            Ok(inventory) => Ok(Some(inventory)),
            Err(inventory::Error::InUse { .. }) => {
                let shown = path.display();
                note(&format!("the inventory at {shown} is in use, so its keys and changes are not checked"));
                self.in_use = true;
                Ok(None)
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot open the inventory {} ({setting})", path.display())),
        }
    }

    /// Checks a block store, if there is one, and notes whether a process has it open.
    ///
    /// # Errors
    /// As at a start.
    pub(super) fn check_store(&mut self, location: Location<'_>) -> Result<(), Failure> {
        let Location { path, setting } = location;
        self.folders.push((setting, path.to_owned()));
        match Store::check(path) {
            Err(store::Error::InUse { .. }) => {
                note(&format!("the block store at {} is in use", path.display()));
                self.in_use = true;
                Ok(())
            }
            checked => checked.map_err(|error| blocks::unusable(location, error)),
        }
    }

    /// Checks the ports and folders. A port in use is only noted while the daemon itself seems to run, and an
    /// address that this machine lacks always.
    ///
    /// # Errors
    /// As at a start.
    pub(super) async fn check(self) -> anyhow::Result<()> {
        for (setting, path) in &self.folders {
            check_folder(path)
                .with_context(|| format!("{setting}: cannot use {}", redact::shown_path(path)))?;
        }
        let mut running = self.in_use;
        // Where its default is taken, a daemon runs without the port.
        for Listener { setting, address, .. } in self.listeners.iter().filter(|port| !port.is_default) {
            let Err(error) = bind(*address) else { continue };
            let cannot = || format!("{setting}: cannot listen on {address}");
            match error.kind() {
                ErrorKind::PermissionDenied => return Err(error).with_context(cannot),
                ErrorKind::AddrInUse => {}
                _ => {
                    // The configuration may be meant for another machine, or for when its network is up.
                    note(&format!("{address} ({setting}) is not available here: {error}"));
                    continue;
                }
            }
            // Asked once, and only if a port is in use.
            running = running || self.is_live().await;
            if !running {
                return Err(error).with_context(cannot);
            }
            note(&format!("{address} ({setting}) is in use, as it seems by this daemon"));
        }
        Ok(())
    }

    async fn is_live(&self) -> bool {
        match self.ops {
            Some(address) => container::is_live(address).await,
            None => false,
        }
    }
}

/// Reads everything that a fleet file refers to (variables with secrets, keys, addresses), and returns what it changes.
///
/// # Errors
/// As at a start, but for removals.
pub(super) async fn changes(file: FleetFile, path: &Path, known: &dyn Inventory) -> anyhow::Result<Changes> {
    // Secrets are read and checked, but not sealed: a check must not need or generate an identity.
    let planned = file.plan(known, &DiscardVault).await;
    planned.map(|(_, changes)| changes).with_context(|| format!("in the fleet file {}", path.display()))
}

/// Prints what a start with a fleet file changes, and refuses what the start refuses.
async fn show_changes(file: FleetFile, path: &Path, known: &dyn Inventory) -> anyhow::Result<()> {
    let changes = changes(file, path, known).await?;
    note(&format!("a start with the fleet file {} {changes}", path.display()));
    changes.check()
}

fn note(text: &str) {
    output::error_line(&format!("prb: note: {text}"));
}

/// Takes an address for a moment, without listening.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            // Without IPv6, a daemon listens on every address of IPv4.
            Err(_) if address.ip().is_unspecified() => {
                return bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            socket => socket?,
        },
    };
    // As the listeners do: connections that have ended are not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Checks that a folder exists or can be created.
fn check_folder(path: &Path) -> anyhow::Result<()> {
    let existing = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if !existing.is_dir() {
        bail!("{} is not a folder", redact::shown_path(existing));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if let Err(error) = rustix::fs::access(existing, access) {
        let user = rustix::process::getuid().as_raw();
        bail!(
            "the user with id {user} cannot write to {}: {}",
            redact::shown_path(existing),
            io::Error::from(error)
        );
    }
    Ok(())
}
