//! An archive: a folder of files with the complete content of a store, from which another data provider can
//! start.
//!
//! [`export`] writes an archive from a store and, called again, adds new blocks. [`ArchiveHistory`] reads one as a
//! [`HistorySource`](super::HistorySource), and [`HttpArchive`] reads one that was copied to an object store or a web
//! server. Files are written under a temporary name, renamed when they are complete, and never changed afterwards, so
//! that any tool can copy them.
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
//! A frame: length of its content (u32) and of the compressed content (u32); number of its first block (u32); number
//! of blocks (u32); hash of these four and the compressed content (32 bytes); the content, compressed as one Zstandard
//! frame. Content has at most 256 MiB and a frame at most 1,048,576 blocks; the writer starts the next frame after
//! about 4 MiB. The end is like the first 48 bytes of a frame: two zero lengths, the number after the last block, the
//! number of frames, and a running hash: it starts as the hash of the head, and each frame replaces it by the hash of
//! the previous value and the frame's own hash.
//!
//! A list is the number of items (u32), the end offset of each item within the items' bytes (u32 each), and the items.
//! The content of headers and changes is a list. The content of relay frames is a sequence of pieces, each of three
//! parts prefixed with their length (u32): the list of headers, the justification of the last one, and the list of
//! proof nodes (empty if there are none). The content of the genesis is the SCALE encoding of the relay block's
//! `GenesisBlockInfo` and of the genesis state's pairs, each as a byte vector.

mod format;
mod http;
mod read;
mod write;

#[doc(hidden)]
pub use format::read_archive;
pub use http::{HttpArchive, HttpConfig};
pub use read::ArchiveHistory;
pub use write::{Config, Error, Exported, export};
