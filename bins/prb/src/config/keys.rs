//! Settings of `prb keys`.

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
    /// The action.
    #[command(subcommand)]
    pub action: KeysAction,
}

/// An action on identity keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysAction {
    /// Show the peer id of each identity in the folder. Never shows a key.
    Show,
    /// Write an identity to a file. It opens all operators' keys that were sealed with it: keep it safe.
    Backup(BackupArgs),
    /// Restore an identity from a backup into the folder, if there is none yet.
    Restore(RestoreArgs),
    /// Replace a lifecycle manager's identity by a new one, for instance if somebody else may have seen it, and seal
    /// the operators' secrets in its inventory with the new one. The daemon must be stopped.
    Rotate(RotateArgs),
}

/// The role of an identity.
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
    /// The role of the identity.
    #[arg(long, value_enum, default_value_t = KeyRole::Lifecycle)]
    pub role: KeyRole,
    /// The file to write (mode 600).
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    /// Write the key unencrypted. By default it is encrypted with a passphrase (in the format of age: `age -d`
    /// opens it).
    #[arg(long, conflicts_with = "passphrase_file")]
    pub plain: bool,
    /// The passphrase.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// `prb keys restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// The role of the identity.
    #[arg(long, value_enum, default_value_t = KeyRole::Lifecycle)]
    pub role: KeyRole,
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The passphrase, if the backup has one.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// `prb keys rotate`.
#[derive(Clone, Debug, Args)]
pub struct RotateArgs {
    /// Folder of the manager's pools and workers; of a `prb all`, the folder `inventory` in its data folder.
    #[arg(long, env = "PHALA_LOCAL_DB_PATH", default_value = "/var/data/local.db", value_name = "DIR")]
    pub local_db_path: PathBuf,
    /// Discard the operators' secrets that the identity does not open, or all if it is lost. The pools stay, without an
    /// operator.
    #[arg(long)]
    pub discard_unopened: bool,
}

/// The source of a passphrase: the file, otherwise the variable PRB_KEYS_PASSPHRASE, otherwise the terminal.
#[derive(Clone, Debug, Args)]
pub struct PassphraseArgs {
    /// File whose first line is the passphrase; otherwise it is read from the variable PRB_KEYS_PASSPHRASE, or
    /// from the terminal.
    #[arg(long, env = "PRB_KEYS_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}
