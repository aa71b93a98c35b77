//! Compaction: the database without the free pages that it has gathered.

use std::{
    fs::{self, File},
    io,
};

use heed::CompactionOption;

use super::{Error, Store};

/// The copy, until it takes the database's place.
const COPY: &str = "data.mdb.compact";

/// What a compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Bytes of the database before.
    pub before: u64,
    /// Bytes of it now.
    pub after: u64,
}

impl Store {
    /// Copies what is stored into a new database and puts that in the old one's place, in one step: at any
    /// moment one of the two is there whole. Both take room on the disk until then.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::DiskFull`] where there is no room for the copy, or what the disk says; the store is as it was.
    pub fn compact(self) -> Result<Compacted, Error> {
        let (copy, database) = (self.path.join(COPY), self.path.join("data.mdb"));
        let io = |source| Error::from_io(&self.path, source);
        let before = self.disk_bytes()?;
        let copied = self.hold().and_then(|held| {
            let file =
                held.env().copy_to_path(&copy, CompactionOption::Enabled).map_err(|e| self.error(e))?;
            file.sync_all().and_then(|()| file.metadata()).map_err(io)
        });
        let after = match copied {
            Ok(file) => file.len(),
            Err(e) => {
                // What there is of the copy takes room that somebody may need.
                let _ = fs::remove_file(&copy);
                return Err(e);
            }
        };
        let replace = || -> io::Result<()> {
            fs::set_permissions(&copy, fs::metadata(&database)?.permissions())?;
            fs::rename(&copy, &database)?;
            File::open(&self.path)?.sync_all()
        };
        self.close();
        replace().map_err(io)?;
        Ok(Compacted { before, after })
    }
}
