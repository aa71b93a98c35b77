//! Records a worker's requests as text, so that another verifier can replay them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

use parking_lot::Mutex;
use prb_core::prpc::Method;

/// Writes `METHOD hex-of-protobuf` lines to `DIR/worker-N.log`.
///
/// After a loss of state the worker starts a new file (`worker-N.2.log`, …): each file can be replayed from
/// its first line.
#[derive(Debug)]
pub(crate) struct Recorder {
    dir: PathBuf,
    index: u32,
    file: Mutex<(u32, File)>,
}

impl Recorder {
    /// Opens the first file, creating the directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn open(dir: PathBuf, index: u32) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let file = append(&dir, index, 1)?;
        Ok(Self { dir, index, file: Mutex::new((1, file)) })
    }

    pub(crate) fn write(&self, method: Method, body: &[u8]) {
        let line = format!("{} {}\n", method.name(), hex::encode(body));
        // One write per line: the file is unbuffered, so that it is complete whenever the process ends.
        let mut file = self.file.lock();
        if let Err(error) = file.1.write_all(line.as_bytes()) {
            tracing::error!(worker = self.index, %error, "cannot record a request");
        }
    }

    /// Starts the next file.
    pub(crate) fn start_next_file(&self) {
        let mut file = self.file.lock();
        let number = file.0 + 1;
        match append(&self.dir, self.index, number) {
            Ok(next) => *file = (number, next),
            Err(error) => tracing::error!(worker = self.index, %error, "cannot create a new record file"),
        }
    }
}

fn append(dir: &std::path::Path, index: u32, number: u32) -> io::Result<File> {
    let name = match number {
        1 => format!("worker-{index}.log"),
        _ => format!("worker-{index}.{number}.log"),
    };
    OpenOptions::new().create(true).append(true).open(dir.join(name))
}
