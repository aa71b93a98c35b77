//! `prb keys`: shows peer ids, backs up, restores and rotates identities.
//!
//! A backup is the identity file itself, encrypted with a passphrase in the format of age
//! (<https://age-encryption.org/v1>), so that `age -d` opens it without this program, or unencrypted on
//! request. It opens all operators' keys that were sealed with it.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use prb_walkie::{
    identity::{Identity, Role, new_private},
    rpc::auth,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::{
    config::{BackupArgs, KeysAction, KeysArgs, PassphraseArgs, RestoreArgs, first_line},
    daemon::Failure,
    input,
};

mod rotate;

/// The variable that holds a passphrase.
const PASSPHRASE_VARIABLE: &str = "PRB_KEYS_PASSPHRASE";
/// The shortest passphrase for a new backup, in bytes.
const MIN_PASSPHRASE_BYTES: usize = 12;
/// New passphrases that take fewer guesses, as a power of ten, are refused.
const MIN_GUESSES_LOG10: f64 = 12.0;
/// The largest passphrase file, in bytes.
const MAX_PASSPHRASE_BYTES: u64 = 4096;
/// The largest backup that is accepted, in bytes: an identity has under 3 KiB, and age adds little.
const MAX_BACKUP_BYTES: u64 = 64 * 1024;
/// The first bytes of an age file.
const AGE: &[u8] = b"age-encryption.org/v1";

/// Carries out the action and reports it on standard output.
///
/// # Errors
/// [`Failure::Configuration`] if the folder, a file or the passphrase is not suitable; nothing was changed then.
pub async fn run(args: &KeysArgs) -> Result<(), Failure> {
    let folder = &args.peer_id_prefix;
    match &args.action {
        KeysAction::Show => show(folder),
        KeysAction::Backup(args) => backup(folder, args),
        KeysAction::Restore(args) => restore(folder, args),
        KeysAction::Rotate(args) => rotate::rotate(folder, args).await,
    }
    .map_err(Failure::Configuration)
}

fn show(folder: &Path) -> anyhow::Result<()> {
    let mut found = false;
    for role in Role::ALL {
        if let Some(identity) = Identity::load(folder, role)? {
            found = true;
            say(&format!("{:<14} {}", role.file_name(), identity.peer_id()))?;
        }
    }
    ensure!(
        found,
        "there is no identity in {}; a daemon creates its own at its first start",
        folder.display()
    );
    Ok(())
}

fn backup(folder: &Path, args: &BackupArgs) -> anyhow::Result<()> {
    let role = Role::from(args.role);
    let identity = Identity::load(folder, role)?
        .with_context(|| format!("there is no {} in {}", role.file_name(), folder.display()))?;
    let to = args.to.display();
    // Not `exists`, which is false for a dangling link.
    if !args.force && fs::symlink_metadata(&args.to).is_ok() {
        bail!("{to} exists already; use --force to replace it");
    }
    let bytes = identity.to_bytes()?;
    let bytes = if args.plain { bytes } else { encrypted(&bytes, &args.passphrase)? };
    write(&args.to, &bytes, args.force)?;
    say(&format!("{} of peer {} written to {to}", role.file_name(), identity.peer_id()))?;
    if args.plain {
        let _ = writeln!(
            std::io::stderr(),
            "prb: {to} is not encrypted: everybody who can read it can open the operators' keys sealed with it"
        );
    }
    Ok(())
}

fn restore(folder: &Path, args: &RestoreArgs) -> anyhow::Result<()> {
    let role = Role::from(args.role);
    let from = args.from.display();
    let bytes = read(&args.from)?;
    let bytes = if bytes.starts_with(AGE) {
        decrypted(&bytes, &args.passphrase).with_context(|| format!("cannot decrypt {from}"))?
    } else {
        bytes
    };
    let identity =
        Identity::from_bytes(&bytes).with_context(|| format!("{from} is not a backup of an identity"))?;
    let name = role.file_name();
    match Identity::load(folder, role)? {
        Some(there) if there.peer_id() == identity.peer_id() => {
            say(&format!("{name} of peer {} exists already", identity.peer_id()))?;
            return Ok(());
        }
        Some(there) => bail!(
            "{} holds another identity, {}, and is not replaced: move it away first if it is not needed",
            folder.join(name).display(),
            there.peer_id()
        ),
        None => identity.store(folder, role)?,
    }
    say(&format!("{name} of peer {} restored to {}", identity.peer_id(), folder.display()))
}

/// Prints what was done. A closed pipe (`prb keys show | head -1`) is not a failure.
fn say(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let input = input::read(path, MAX_BACKUP_BYTES);
    input.map(|input| input.bytes).with_context(|| format!("cannot read a backup from {}", path.display()))
}

/// Writes a temporary file in the same folder and renames it, so that there is never a part of a backup.
fn write(path: &Path, bytes: &[u8], replace: bool) -> anyhow::Result<()> {
    let shown = path.display();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut file = new_private(folder)?;
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()?;
        if replace { file.persist(path) } else { file.persist_noclobber(path) }.map_err(|e| e.error)?;
        // The new name survives a power failure only once the folder is synced.
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {shown}"))
}

fn encrypted(bytes: &[u8], from: &PassphraseArgs) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let passphrase = passphrase(from, true)?;
    let length = passphrase.expose_secret().len();
    ensure!(
        length >= MIN_PASSPHRASE_BYTES,
        "the passphrase has {length} bytes; it must have at least {MIN_PASSPHRASE_BYTES}"
    );
    // Whoever finds the backup can try guesses at will; each one takes about a second.
    if let Some(problem) = auth::guessable(passphrase.expose_secret(), MIN_GUESSES_LOG10) {
        bail!("the passphrase {problem}; use six random words, or the output of: openssl rand -base64 24");
    }
    let recipient = age::scrypt::Recipient::new(passphrase);
    let sealed = age::encrypt(&recipient, bytes).context("cannot encrypt the backup")?;
    Ok(Zeroizing::new(sealed))
}

fn decrypted(bytes: &[u8], from: &PassphraseArgs) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let identity = age::scrypt::Identity::new(passphrase(from, false)?);
    Ok(Zeroizing::new(age::decrypt(&identity, bytes)?))
}

/// Returns the passphrase: from its file or the variable, of which only one may be set, otherwise from the
/// terminal, which asks twice for a new one.
fn passphrase(from: &PassphraseArgs, new: bool) -> anyhow::Result<SecretString> {
    if let Some(file) = &from.passphrase_file {
        ensure!(
            std::env::var_os(PASSPHRASE_VARIABLE).is_none_or(|text| text.is_empty()),
            "both {PASSPHRASE_VARIABLE} and {PASSPHRASE_VARIABLE}_FILE are set; set one"
        );
        let passphrase = first_line(file, MAX_PASSPHRASE_BYTES);
        return passphrase.with_context(|| format!("--passphrase-file ({PASSPHRASE_VARIABLE}_FILE)"));
    }
    match std::env::var(PASSPHRASE_VARIABLE) {
        Ok(passphrase) if !passphrase.is_empty() => return Ok(passphrase.into()),
        Err(std::env::VarError::NotUnicode(_)) => bail!("{PASSPHRASE_VARIABLE} is not UTF-8"),
        _ => {}
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "there is no passphrase: set --passphrase-file or {PASSPHRASE_VARIABLE}{}",
        if new { ", or --plain for none" } else { "" }
    );
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map(SecretString::from);
    let passphrase = ask("Passphrase: ").context("cannot read the passphrase")?;
    if new {
        let again = ask("Again: ").context("cannot read the passphrase")?;
        ensure!(passphrase.expose_secret() == again.expose_secret(), "the passphrases differ");
    }
    Ok(passphrase)
}
