//! `prb keys` as a process: peer ids are shown, keys never; backups can be restored, and replace nothing
//! without a flag; a rotated identity opens every operator's secret.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{Edit, Inventory, Operator, Pool},
    primitives::{AccountId, PoolId},
    vault::Vault,
};
use prb_walkie::{
    identity::{Identity, Role},
    vault::RsaVault,
};
use secrecy::ExposeSecret;
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse battery staple";

fn keys(folder: &Path, args: &[&str], passphrase: Option<&str>) -> Output {
    // After two minutes it has hung.
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_prb")]);
    command.env_clear().arg("keys").args(args).arg("--peer-id-prefix").arg(folder).stdin(Stdio::null());
    if let Some(passphrase) = passphrase {
        command.env("PRB_KEYS_PASSPHRASE", passphrase);
    }
    command.output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(says), "{error}");
    // Once, and as text.
    assert!(error.starts_with("prb: ") && error.lines().count() == 1, "{error}");
}

fn made(folder: &Path, role: Role) -> Identity {
    let identity = Identity::generate().unwrap();
    identity.store(folder, role).unwrap();
    identity
}

#[test]
fn peer_ids_are_shown_and_keys_are_not() {
    let folder = TempDir::new().unwrap();
    refused(&keys(folder.path(), &["show"], None), "no identity");
    let provider = made(folder.path(), Role::DataProvider);
    let manager = made(folder.path(), Role::Lifecycle);
    let shown = done(&keys(folder.path(), &["show"], None));
    let lines: Vec<Vec<_>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    let (provider, manager) = (provider.peer_id().to_string(), manager.peer_id().to_string());
    assert_eq!(lines, [["DATA_PROVIDER", provider.as_str()], ["LIFECYCLE", manager.as_str()]]);
}

#[test]
fn an_encrypted_backup_restores_with_its_passphrase_only() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let identity = made(folder.path(), Role::Lifecycle);
    let original = fs::read(folder.path().join("LIFECYCLE")).unwrap();
    let file = other.path().join("lifecycle.age");
    let path = file.to_str().unwrap();
    let to = ["backup", "--to", path];
    refused(&keys(folder.path(), &to, None), "PRB_KEYS_PASSPHRASE");
    refused(&keys(folder.path(), &to, Some("short")), "at least 12");
    refused(&keys(folder.path(), &to, Some("aaaaaaaaaaaa")), "follows a pattern");
    // MD5 of `password`: random digits, but not for somebody who tries digests.
    refused(
        &keys(folder.path(), &to, Some("5f4dcc3b5aa765d61d8327deb882cf99")),
        "digest of a common password",
    );
    assert!(!file.exists());
    done(&keys(folder.path(), &to, Some(PASSPHRASE)));
    let backup = fs::read(&file).unwrap();
    assert!(backup.starts_with(b"age-encryption.org/v1"));
    assert!(!backup.windows(32).any(|part| original.windows(32).any(|of| of == part)), "the key shows");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let new = other.path().join("keys/id");
    let from = ["restore", "--from", path];
    refused(&keys(&new, &from, None), "PRB_KEYS_PASSPHRASE");
    refused(&keys(&new, &from, Some("correct horse battery stable")), "cannot decrypt");
    assert!(!new.exists());
    let said = done(&keys(&new, &from, Some(PASSPHRASE)));
    assert!(said.contains(&identity.peer_id().to_string()), "{said}");
    assert_eq!(fs::read(new.join("LIFECYCLE")).unwrap(), original);
    assert_eq!(fs::metadata(new.join("LIFECYCLE")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = done(&keys(&new, &from, Some(PASSPHRASE)));
    assert!(again.contains("already"), "{again}");
}

/// As made by versions that took any passphrase of 12 bytes.
#[test]
fn backup_with_a_weak_passphrase_is_restored() {
    let folder = TempDir::new().unwrap();
    let identity = Identity::generate().unwrap();
    let recipient = age::scrypt::Recipient::new("aaaaaaaaaaaa".to_owned().into());
    let file = folder.path().join("lifecycle.age");
    fs::write(&file, age::encrypt(&recipient, &identity.to_bytes().unwrap()).unwrap()).unwrap();
    let from = ["restore", "--from", file.to_str().unwrap()];
    let said = done(&keys(&folder.path().join("id"), &from, Some("aaaaaaaaaaaa")));
    assert!(said.contains(&identity.peer_id().to_string()), "{said}");
}

#[test]
fn existing_keys_are_not_replaced_without_a_flag() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    made(folder.path(), Role::Trade);
    let file = other.path().join("trade");
    let path = file.to_str().unwrap();
    let to = ["backup", "--role", "trade", "--plain", "--to", path];
    fs::write(&file, "mine").unwrap();
    refused(&keys(folder.path(), &to, None), "--force");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let output = keys(folder.path(), &[&to[..], &["--force"]].concat(), None);
    done(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not encrypted"));
    assert_eq!(fs::read(&file).unwrap(), fs::read(folder.path().join("TRADE")).unwrap());

    let holder = TempDir::new().unwrap();
    let there = made(holder.path(), Role::Trade);
    let before = fs::read(holder.path().join("TRADE")).unwrap();
    let from = ["restore", "--role", "trade", "--from", path];
    refused(&keys(holder.path(), &from, None), &there.peer_id().to_string());
    assert_eq!(fs::read(holder.path().join("TRADE")).unwrap(), before);
}

#[test]
fn files_that_are_no_backup_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("backup");
    for content in [&b"hello"[..], b"", b"age-encryption.org/v1\n-> X25519 x\n", &[0x0a; 100_000]] {
        fs::write(&file, content).unwrap();
        let from = ["restore", "--from", file.to_str().unwrap()];
        let output = keys(&folder.path().join("id"), &from, Some(PASSPHRASE));
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!folder.path().join("id").exists());
    }
}

/// The inventory of a stopped manager, and its identity.
struct Stopped {
    folder: TempDir,
}

impl Stopped {
    /// Creates one with two pools that have operators, and one without.
    async fn new() -> Self {
        let stopped = Self { folder: TempDir::new().unwrap() };
        let vault = RsaVault::new(&made(&stopped.keys(), Role::Lifecycle));
        let mut edits = Vec::new();
        for pid in [1, 2, 3] {
            let mut pool = Pool::new(uuid::Uuid::from_u128(pid.into()), PoolId(pid), format!("pool {pid}"));
            let key = vault.seal(&format!("secret of {pid}").into()).await.unwrap();
            pool.operator = (pid < 3).then_some(Operator { account: AccountId([pid as u8; 32]), key });
            edits.push(Edit::PutPool(pool));
        }
        stopped.inventory().apply(edits).await.unwrap();
        stopped
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("id")
    }

    fn inventory(&self) -> HeedInventory {
        HeedInventory::open(&self.folder.path().join("db"), Config::default()).unwrap()
    }

    fn rotate(&self, args: &[&str]) -> Output {
        let db = self.folder.path().join("db");
        let args = [&["rotate", "--local-db-path", db.to_str().unwrap()], args].concat();
        keys(&self.keys(), &args, None)
    }

    fn peer_id(&self) -> String {
        Identity::load(&self.keys(), Role::Lifecycle).unwrap().unwrap().peer_id().to_string()
    }

    /// Returns the operators' secrets by pool, as the identity in the folder opens them.
    async fn secrets(&self) -> Vec<(u64, Option<String>)> {
        let vault = Identity::load(&self.keys(), Role::Lifecycle).unwrap().map(|of| RsaVault::new(&of));
        let snapshot = self.inventory().snapshots().borrow().clone();
        let mut secrets = Vec::new();
        for pool in &snapshot.pools {
            let secret = match (&pool.operator, &vault) {
                (Some(operator), Some(vault)) => Some(vault.open(&operator.key).await.unwrap()),
                _ => None,
            };
            secrets.push((pool.pid.0, secret.map(|secret| secret.expose_secret().to_owned())));
        }
        secrets.sort();
        secrets
    }
}

fn all_secrets() -> Vec<(u64, Option<String>)> {
    vec![(1, Some("secret of 1".into())), (2, Some("secret of 2".into())), (3, None)]
}

#[tokio::test]
async fn a_new_identity_opens_all_secrets() {
    let stopped = Stopped::new().await;
    let old = stopped.peer_id();
    let in_use = stopped.inventory();
    refused(&stopped.rotate(&[]), "must be stopped");
    drop(in_use);
    let said = done(&stopped.rotate(&[]));
    let new = stopped.peer_id();
    assert!(old != new && said.contains(&old) && said.contains(&new), "{said}");
    assert!(!said.contains("secret of"), "{said}");
    assert_eq!(stopped.secrets().await, all_secrets());
    let left: Vec<_> =
        fs::read_dir(stopped.keys()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["LIFECYCLE"]);
    assert_eq!(fs::metadata(stopped.keys().join("LIFECYCLE")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Interrupted after the secrets were sealed and before the new identity replaced the old one.
#[tokio::test]
async fn an_interrupted_rotation_is_completed() {
    let stopped = Stopped::new().await;
    let (file, pending) = (stopped.keys().join("LIFECYCLE"), stopped.keys().join("rotating"));
    let old = fs::read(&file).unwrap();
    done(&stopped.rotate(&[]));
    let new = stopped.peer_id();
    fs::create_dir(&pending).unwrap();
    fs::rename(&file, pending.join("LIFECYCLE")).unwrap();
    fs::write(&file, old).unwrap();
    done(&stopped.rotate(&[]));
    assert_eq!(stopped.peer_id(), new);
    assert_eq!(stopped.secrets().await, all_secrets());
}

#[tokio::test]
async fn secrets_of_a_lost_identity_are_discarded_on_request_only() {
    let stopped = Stopped::new().await;
    fs::remove_file(stopped.keys().join("LIFECYCLE")).unwrap();
    refused(
        &stopped.rotate(&[]),
        "nothing was changed: the identity does not open the operators' secrets of the pools 1, 2",
    );
    assert!(!stopped.keys().join("LIFECYCLE").exists() && !stopped.keys().join("rotating").exists());
    let said = done(&stopped.rotate(&["--discard-unopened"]));
    assert!(said.contains("`prb pool set`: 1, 2"), "{said}");
    assert_eq!(stopped.secrets().await, [(1, None), (2, None), (3, None)]);
}
