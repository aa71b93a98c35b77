//! `prb keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use prb_walkie::identity::Role;

/// `prb keys`.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    /// Folder of the identity keys.
    #[arg(
        long,
        env = "PHALA_PEER_ID_PREFIX",
        default_value = "/var/data/keys/id",
        value_name = "DIR",
        global = true
    )]
    pub peer_id_prefix: PathBuf,
    /// What to do with them.
    #[command(subcommand)]
    pub action: KeysAction,
}

/// What to do with identity keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysAction {
    /// Show the peer id of each identity in the folder. Never shows a key.
    Show,
    /// Write an identity to a file. It is everything that opens the sealed operators' keys: keep it safe.
    Backup(BackupArgs),
    /// Put a backup's identity into the folder, where there is none yet.
    Restore(RestoreArgs),
}

/// Whose identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyRole {
    /// A data provider's.
    DataProvider,
    /// A lifecycle manager's; it seals operators' keys.
    Lifecycle,
    /// A trader's.
    Trade,
    /// A monitor's.
    Monitor,
}

impl From<KeyRole> for Role {
    fn from(role: KeyRole) -> Self {
        match role {
            KeyRole::DataProvider => Self::DataProvider,
            KeyRole::Lifecycle => Self::Lifecycle,
            KeyRole::Trade => Self::Trade,
            KeyRole::Monitor => Self::Monitor,
        }
    }
}

/// `prb keys backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// Whose identity.
    #[arg(long, value_enum, default_value_t = KeyRole::Lifecycle)]
    pub role: KeyRole,
    /// The file to write (mode 600).
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace the file where it is there.
    #[arg(long)]
    pub force: bool,
    /// Write the key as it is. Without this a passphrase encrypts it (the format of age: `age -d` opens it).
    #[arg(long, conflicts_with = "passphrase_file")]
    pub plain: bool,
    /// The passphrase.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// `prb keys restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// Whose identity.
    #[arg(long, value_enum, default_value_t = KeyRole::Lifecycle)]
    pub role: KeyRole,
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The passphrase, where it has one.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// Where a passphrase comes from: the file, else the variable PRB_KEYS_PASSPHRASE, else the terminal.
#[derive(Clone, Debug, Args)]
pub struct PassphraseArgs {
    /// File whose first line is the passphrase; else it is taken from the variable PRB_KEYS_PASSPHRASE, else
    /// asked for on the terminal.
    #[arg(long, env = "PRB_KEYS_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}
