//! Compacts the database, which releases its free pages.

use std::{
    fs::{self, File},
    io,
};

use heed::CompactionOption;

use super::{Error, Store};

/// The copy, until it replaces the database.
const COPY: &str = "data.mdb.compact";

impl Store {
    /// Copies the store into a new database and atomically replaces the old one: at any moment one of them is
    /// complete. Needs disk space for both until then. Returns the size of the database before and after, in bytes.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no space for the copy, or an I/O error; the store is unchanged then.
    pub fn compact(self) -> Result<(u64, u64), Error> {
        let (copy, database) = (self.path.join(COPY), self.path.join("data.mdb"));
        let io = |source| Error::from_io(&self.path, source);
        let before = self.disk_bytes()?;
        let copied = self.lock_shared().and_then(|guard| {
            let file =
                guard.env().copy_to_path(&copy, CompactionOption::Enabled).map_err(|e| self.error(e))?;
            file.sync_all().and_then(|()| file.metadata()).map_err(io)
        });
        let after = match copied {
            Ok(file) => file.len(),
            Err(e) => {
                // A partial copy takes up space.
                let _ = fs::remove_file(&copy);
                return Err(e);
            }
        };
        let replace = || -> io::Result<()> {
            // The store's files are private to its user; a new file has the permissions of the umask.
            fs::set_permissions(&copy, fs::metadata(&database)?.permissions())?;
            fs::rename(&copy, &database)?;
            // The rename survives a power failure only once the folder is synced.
            File::open(&self.path)?.sync_all()
        };
        // LMDB has the old file mapped.
        self.close();
        replace().map_err(io)?;
        Ok((before, after))
    }
}
