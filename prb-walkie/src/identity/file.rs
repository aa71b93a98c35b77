//! Reads and creates the file of an identity.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{Error, Identity, MAX_FILE_BYTES, Malformed};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

pub(super) fn load_or_generate(path: &Path) -> Result<Identity, Error> {
    if let Some(identity) = load(path)? {
        return Ok(identity);
    }
    let new = Identity::generate()?;
    match create(path, &new) {
        Ok(()) => Ok(new),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
            // Another process has created it in the meantime.
            load(path)?.ok_or_else(|| failed("read", path)(ErrorKind::NotFound.into()))
        }
        Err(e) => Err(e),
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

pub(super) fn load(path: &Path) -> Result<Option<Identity>, Error> {
    read(path, narrow)
}

/// Reads the file without changing its mode.
pub(super) fn peek(path: &Path) -> Result<Option<Identity>, Error> {
    read(path, |file, path| {
        if let Some(mode) = open_mode(file)? {
            let path = path.display();
            tracing::warn!(%path, mode, "the identity file is accessible to others; its mode will be changed to 600");
        }
        Ok(())
    })
}

fn read(path: &Path, mode: impl Fn(&File, &Path) -> io::Result<()>) -> Result<Option<Identity>, Error> {
    // Opening a pipe would wait for a writer.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(failed("read", path)(io::Error::other("it is not a regular file")));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", path)(e)),
    };
    let read = failed("read", path);
    mode(&file, path).map_err(&read)?;
    // Allocated at full size: a growing buffer would leave copies of the key in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 1));
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(&read)?;
    let malformed = |source| Error::Malformed { path: path.to_owned(), source };
    if bytes.is_empty() {
        return Err(malformed(Malformed::Missing("content")));
    }
    Identity::from_bytes(&bytes).map(Some).map_err(malformed)
}

/// The file's mode in octal digits if others may use it.
fn open_mode(file: &File) -> io::Result<Option<String>> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    Ok((mode & !FILE_MODE != 0).then(|| format!("{mode:o}")))
}

/// Restricts the file's permissions: the original creates it readable by everybody.
fn narrow(file: &File, path: &Path) -> io::Result<()> {
    let Some(mode) = open_mode(file)? else { return Ok(()) };
    let path = path.display();
    match file.set_permissions(Permissions::from_mode(FILE_MODE)) {
        Ok(()) => {
            tracing::warn!(%path, mode, "the identity file was accessible to others; its mode is now 600")
        }
        // The mount may be read-only, or the file another user's: the key is usable nevertheless.
        Err(error) => {
            tracing::warn!(%path, mode, error = %prb_core::text::describe(&error), "the identity file is accessible to others and its mode cannot be changed");
        }
    }
    Ok(())
}

/// Creates a file that only this user can read, to be renamed once it is complete. Errors have the system's numbers,
/// which [`NamedTempFile::new_in`] drops; so does its `Write`, hence write to the file itself.
pub fn new_private(folder: &Path) -> io::Result<NamedTempFile> {
    let open = |path: &Path| OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(path);
    tempfile::Builder::new().make_in(folder, open)
}

/// Writes a temporary file and links it in place, unless the file exists.
pub(super) fn create(path: &Path, identity: &Identity) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("create", folder))?;
    let malformed = |source| Error::Malformed { path: path.to_owned(), source };
    let bytes = identity.to_bytes().map_err(malformed)?;
    let write = failed("write", path);
    // In the same folder, because a file can only be linked within a file system.
    let mut file = new_private(folder).map_err(&write)?;
    file.as_file_mut().write_all(&bytes).map_err(&write)?;
    file.as_file().sync_all().map_err(&write)?;
    // Fails if the file exists: of two processes that start at once, the first one's key is kept.
    file.persist_noclobber(path).map_err(|e| write(e.error))?;
    // The new name is durable only after the folder is synced.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(&write)
}
