//! `prb keys` as a process: peer ids are shown, keys never; backups can be restored, and replace nothing
//! without a flag.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use prb_walkie::identity::{Identity, Role};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse battery staple";

fn keys(folder: &Path, args: &[&str], passphrase: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
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
