//! Disks that fail, by a library that is preloaded into daemons (`disk_faults.c`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::daemons::Daemon;

/// The disk of one folder. It works until [`fail`](Self::fail).
pub struct FaultyDisk {
    folder: PathBuf,
    /// Has the current fault.
    control: PathBuf,
    library: PathBuf,
}

impl FaultyDisk {
    /// Compiles the library into `tools`, which must not be on that disk.
    pub fn new(folder: &Path, tools: &Path) -> Self {
        fs::create_dir_all(tools).unwrap();
        let library = tools.join("disk_faults.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/disk_faults.c"))
            .output()
            .expect("a C compiler (cc) is missing: install gcc or clang");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { folder: folder.to_owned(), control: tools.join("fault"), library }
    }

    /// Makes a daemon see it.
    pub fn under(&self, daemon: Daemon) -> Daemon {
        daemon
            .set("LD_PRELOAD", self.library.display())
            .set("DISK_FAULT_FOLDER", self.folder.display())
            .set("DISK_FAULT_FILE", self.control.display())
    }

    /// Lets calls fail from now on; see the library for the words.
    pub fn fail(&self, fault: &str) {
        // Replaced at once: half a line is another fault.
        let new = self.control.with_extension("new");
        fs::write(&new, fault).unwrap();
        fs::rename(&new, &self.control).unwrap();
    }

    pub fn work(&self) {
        let _ = fs::remove_file(&self.control);
    }
}
