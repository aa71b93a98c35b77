//! Checks the ports, folders and databases that a start would open.

use std::{
    fs::{File, TryLockError},
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use multiaddr::{Multiaddr, Protocol};
use prb_chain::inventory::{self, HeedInventory};
use tokio::net::TcpSocket;

use crate::{config::OpsListen, container, identity_check, redact};

/// Whose keys an inventory has.
#[derive(Clone, Copy)]
pub(super) enum Keys<'a> {
    /// The identity in this folder seals them.
    SealedBy(&'a Path),
    /// A fleet file has them, so that they are sealed again at each start.
    InFile,
}

/// The ports and folders of a daemon.
pub(super) struct Resources {
    /// The ops port, which answers while the daemon runs.
    ops: Option<SocketAddr>,
    ports: Vec<(&'static str, SocketAddr)>,
    folders: Vec<(&'static str, PathBuf)>,
    /// Whether a process has the daemon's data open.
    in_use: bool,
}

impl Resources {
    /// Creates the list of a daemon with this ops port.
    pub(super) fn new(ops: Option<OpsListen>, default_port: u16) -> Self {
        let ops_address = match ops {
            Some(OpsListen::Off) => None,
            Some(OpsListen::At(address)) => Some(address),
            None => Some((Ipv4Addr::LOCALHOST, default_port).into()),
        };
        let new = Self { ops: ops_address, ports: Vec::new(), folders: Vec::new(), in_use: false };
        new.with_port("PRB_OPS_LISTEN", ops)
    }

    /// Adds a port that may be configured. Where its default is taken, a daemon runs without it.
    pub(super) fn with_port(mut self, setting: &'static str, port: Option<OpsListen>) -> Self {
        if let Some(OpsListen::At(address)) = port {
            self.ports.push((setting, address));
        }
        self
    }

    /// Adds the blob server's port.
    pub(super) fn with_blob_server(mut self, address: Option<IpAddr>, port: u16) -> Self {
        let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        self.ports.push(("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", (address, port).into()));
        self
    }

    /// Adds the ports for peers.
    pub(super) fn with_peers(mut self, addresses: &[Multiaddr]) -> Self {
        let addresses = addresses.iter().filter_map(socket_address);
        self.ports.extend(addresses.map(|address| ("PHALA_WALKIE_LISTEN_ADDRESSES", address)));
        self
    }

    /// Adds a folder, which a start creates if it is missing.
    pub(super) fn with_folder(mut self, setting: &'static str, path: &Path) -> Self {
        self.folders.push((setting, path.to_owned()));
        self
    }

    /// Checks an inventory, if there is one: whether it can be read, and whether its keys can be opened.
    ///
    /// # Errors
    /// As at a start, unless a process has it open.
    pub(super) async fn check_inventory(&mut self, path: &Path, keys: Keys<'_>) -> anyhow::Result<()> {
        if !path.join("data.mdb").is_file() {
            return Ok(());
        }
        let opened = HeedInventory::open(path, inventory::Config::default());
        match (opened, keys) {
            (Err(inventory::Error::InUse { .. }), _) => {
                note(&format!("the inventory at {} is in use, so its keys are not checked", path.display()));
                self.in_use = true;
                Ok(())
            }
            (Err(error), _) => Err(error.into()),
            (Ok(inventory), Keys::SealedBy(folder)) => {
                identity_check::check_manager(folder, &inventory).await
            }
            (Ok(_), Keys::InFile) => Ok(()),
        }
    }

    /// Notes whether a process has a block store open.
    pub(super) fn check_store(&mut self, path: &Path) {
        let lock = File::open(path.join("in-use")).map(|lock| lock.try_lock());
        if matches!(lock, Ok(Err(TryLockError::WouldBlock))) {
            note(&format!("the block store at {} is in use", path.display()));
            self.in_use = true;
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
        for (setting, address) in &self.ports {
            let Err(error) = bind(*address) else { continue };
            if error.kind() != ErrorKind::AddrInUse {
                // The configuration may be meant for another machine or user.
                note(&format!("this user cannot listen on {address} ({setting}) here: {error}"));
                continue;
            }
            // Asked once, and only if a port is in use.
            running = running || self.is_live().await;
            if !running {
                return Err(error).with_context(|| format!("{setting}: cannot listen on {address}"));
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

fn note(text: &str) {
    // Ignored: standard error may be closed.
    let _ = writeln!(io::stderr(), "prb: note: {text}");
}

/// The address of a TCP port, if it is a fixed one.
fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port @ 1..) => Some((ip, port).into()),
        _ => None,
    }
}

/// Takes an address for a moment, without listening.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
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
    if rustix::fs::access(existing, access).is_err() {
        // The daemon may run as another user.
        note(&format!("this user cannot write to {}", redact::shown_path(existing)));
    }
    Ok(())
}
