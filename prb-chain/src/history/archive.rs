//! An archive: a folder of files with the complete content of a store, from which another data provider can
//! start.
//!
//! [`export`] writes one from a store and, called again, adds what is new; [`ArchiveHistory`] reads one as a
//! [`HistorySource`](super::HistorySource), and [`HttpArchive`] reads one that was copied to an object store or a web
//! server. Files are written under another name and renamed once they are whole,
//! and never change after that, so that any tool may copy them, object stores included.
//!
//! # Format, version 1
//!
//! | file | content |
//! |---|---|
//! | `genesis.prb` | one frame: the start of the chains |
//! | `relay-NNNNNNNNNN.prb` | relay headers from that number on, in pieces that end at justified ones |
//! | `headers-NNNNNNNNNN.prb` | parachain headers from that number on |
//! | `changes-NNNNNNNNNN.prb` | storage changes of parachain blocks from that number on |
//!
//! Integers are little-endian; hashes are blake2-256.
//!
//! A file is a head of 120 bytes, frames, and an end of 48 bytes. The head: `PRBBLKS` and a zero byte; version
//! (u16); kind (u8: 0 genesis, 1 relay, 2 headers, 3 changes) and a zero byte; parachain id (u32); hash of
//! parachain block 1 (32 bytes); number (u32) and hash (32 bytes) of the relay block that workers start after;
//! number of the file's first block (u32); hash of the head so far (32 bytes).
//!
//! A frame: length of its content (u32) and of the content packed (u32); number of its first block (u32); how many
//! blocks it has (u32); hash of these four and the packed content (32 bytes); the content, packed as one Zstandard
//! frame. Content has at most 256 MiB and a frame 1,048,576 blocks; a writer starts the next frame after some
//! 4 MiB. The end is like a frame's first 48 bytes: two zero lengths, the number after the last block, how many
//! frames there are, and the hash over them: that of the head, and for each frame the hash of what it was before
//! and the frame's own.
//!
//! A list is the number of its items (u32), the end of each item among their bytes (u32 each), and the items. The
//! content of headers and changes is a list. That of relay frames is pieces, each of three parts with their length
//! before them (u32): the list of headers, the justification of the last one, the list of proof nodes (nothing
//! where there are none). That of the genesis is the SCALE encoding of the relay block's `GenesisBlockInfo` and the
//! genesis state's pairs, each as a byte vector.

mod format;
mod http;
mod read;
mod write;

pub use http::{HttpArchive, HttpConfig};
pub use read::ArchiveHistory;
pub use write::{Config, Error, Exported, Progress, export};
