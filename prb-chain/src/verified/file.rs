//! Stores the authority sets, so that a restarted process need not collect them again.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use codec::{Decode, Encode};
use prb_core::primitives::Hash;

use super::sets::AuthoritySets;

/// The first bytes of the file.
const MAGIC: &[u8; 16] = b"prb-authorities1";
/// Magic and checksum.
const HEAD_BYTES: usize = MAGIC.len() + 4;

/// The chain whose sets these are: the parachain's id, and the hash of its block 1.
pub(super) type ChainKey = (u32, Hash);

/// Reads the sets and their chain; `None` if there is no file.
pub(super) fn read(path: &Path, max_bytes: usize) -> io::Result<Option<(ChainKey, AuthoritySets)>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    // A bound for damaged files: the encoding is smaller than the sets in memory.
    file.take(2 * max_bytes as u64 + 4096).read_to_end(&mut content)?;
    let (head, body) = content.split_at_checked(HEAD_BYTES).ok_or_else(bad)?;
    let sum = head.strip_prefix(MAGIC).ok_or_else(bad)?;
    if sum != crc32c::crc32c(body).to_be_bytes() {
        return Err(bad());
    }
    let mut rest = body;
    let key = ChainKey::decode(&mut rest).map_err(|_| bad())?;
    let sets = AuthoritySets::decode(rest, max_bytes).ok_or_else(bad)?;
    Ok(Some((key, sets)))
}

/// Replaces the file atomically: a killed process leaves the previous one.
pub(super) fn write(path: &Path, chain: ChainKey, sets: &[u8]) -> io::Result<()> {
    let body = [&chain.encode()[..], sets].concat();
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32c::crc32c(&body).to_be_bytes())?;
    file.write_all(&body)?;
    // Before the rename: or after a power failure the new name could point to an empty file.
    file.sync_all()?;
    fs::rename(&new, path)
}
