//! [`DataFile`]: LMDB's file, examined with plain reads before LMDB maps it.
//!
//! LMDB trusts its pages. Where the file is shorter than its meta page says, the first touch of a missing page ends
//! the process with SIGBUS; an offset in a damaged page can end it with SIGSEGV.
//!
//! The layout is that of `mdb.c` (`MDB_page`, `MDB_meta`, `MDB_db`, `MDB_node`), data version 1, 64-bit, in the
//! machine's byte order.

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::RangeInclusive,
    os::unix::fs::FileExt,
    path::Path,
};

use heed::MdbError;

use super::OpenError;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// `MDB_metabuf`: a page header and a `MDB_meta`.
const META_BYTES: usize = 152;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
/// Sizes that a page can have; the largest is `MAX_PAGESIZE`.
const PAGE_BYTES: RangeInclusive<u32> = 256..=32768;

// Flags of pages.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
// Flags of nodes.
const BIG_DATA: u16 = 0x01;
const SUB_DATA: u16 = 0x02;

/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;
/// More levels than a tree can have (`CURSOR_STACK`).
const MAX_DEPTH: u32 = 32;

/// What the newer meta page says.
struct Meta {
    page_bytes: u32,
    free_root: u64,
    main_root: u64,
    last_page: u64,
    transaction: u64,
}

impl Meta {
    fn read(page: &[u8; META_BYTES]) -> Option<Self> {
        let is_meta = u16_at(page, 10)? & META != 0;
        if !is_meta || u32_at(page, 16)? != MAGIC || u32_at(page, 20)? != VERSION {
            return None;
        }
        Some(Self {
            page_bytes: u32_at(page, 40)?,
            free_root: u64_at(page, 80)?,
            main_root: u64_at(page, 128)?,
            last_page: u64_at(page, 136)?,
            transaction: u64_at(page, 144)?,
        })
    }

    fn expected_bytes(&self) -> u64 {
        self.last_page.saturating_add(1).saturating_mul(self.page_bytes.into())
    }
}

/// The file of an LMDB database, and what its newer meta page says.
pub(super) struct DataFile {
    file: File,
    bytes: u64,
    meta: Meta,
}

impl DataFile {
    /// Opens the file in a folder; `None` if LMDB would create it, or finds itself that the file is not its own.
    pub(super) fn open(folder: &Path) -> Result<Option<Self>, OpenError> {
        let file = match File::open(folder.join("data.mdb")) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let bytes = file.metadata()?.len();
        let Some(first) = meta_at(&file, 0)? else { return Ok(None) };
        // LMDB divides by it.
        let invalid = || heed::Error::Mdb(MdbError::Invalid);
        if !first.page_bytes.is_power_of_two() || !PAGE_BYTES.contains(&first.page_bytes) {
            return Err(invalid().into());
        }
        let Some(second) = meta_at(&file, first.page_bytes.into())? else {
            let expected = first.expected_bytes();
            let is_cut = bytes < 2 * u64::from(first.page_bytes);
            return if is_cut { Err(OpenError::Truncated { bytes, expected }) } else { Ok(None) };
        };
        if second.page_bytes != first.page_bytes {
            return Err(invalid().into());
        }
        let meta = if second.transaction > first.transaction { second } else { first };
        Ok(Some(Self { file, bytes, meta }))
    }

    /// Checks that the file has all pages that are in use.
    pub(super) fn check_length(&self) -> Result<(), OpenError> {
        let expected = self.meta.expected_bytes();
        if self.bytes >= expected {
            return Ok(());
        }
        // A page that was allocated at the end and freed by one transaction is never written. It is in the list of
        // free pages, like each page that no table has.
        let pages = self.pages();
        let missing = self.meta.last_page.saturating_add(1).saturating_sub(pages);
        match self.free_pages_from(pages) {
            Ok(free) if free == missing => Ok(()),
            Err(e) if !matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Err(e.into()),
            _ => Err(OpenError::Truncated { bytes: self.bytes, expected }),
        }
    }

    /// Checks the structure of all pages in use: what LMDB follows without a check of its own. Reads all of them
    /// but the contents of large values.
    pub(super) fn check_pages(&self) -> Result<(), OpenError> {
        self.check_length()?;
        let mut tables = Vec::new();
        let checked = self.walk(self.meta.free_root, &mut |_| Ok(())).and_then(|()| {
            self.walk(self.meta.main_root, &mut |node| {
                if node.flags & SUB_DATA != 0 {
                    tables.push(u64_at(node.value, 40).ok_or_else(damaged)?);
                }
                Ok(())
            })
        });
        let checked =
            checked.and_then(|()| tables.iter().try_for_each(|root| self.walk(*root, &mut |_| Ok(()))));
        checked.map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => heed::Error::Mdb(MdbError::Corrupted).into(),
            _ => e.into(),
        })
    }

    /// Whether the file ends before the last page.
    #[cfg(test)]
    pub(super) fn is_short(&self) -> bool {
        self.bytes < self.meta.expected_bytes()
    }

    /// Number of whole pages in the file.
    fn pages(&self) -> u64 {
        self.bytes / u64::from(self.meta.page_bytes)
    }

    /// Counts the free pages from a number on.
    fn free_pages_from(&self, first: u64) -> io::Result<u64> {
        let mut free = 0;
        self.walk(self.meta.free_root, &mut |node| {
            // A list: its length, and the pages' numbers.
            let list = match node.overflow {
                None => node.value.to_vec(),
                Some(page) => self.read(self.start_of(page) + PAGE_HEADER as u64, node.bytes)?,
            };
            let mut numbers = list.chunks_exact(8).filter_map(|number| u64_at(number, 0));
            let count = numbers.next().and_then(|count| usize::try_from(count).ok()).ok_or_else(damaged)?;
            free += numbers.take(count).filter(|number| *number >= first).count() as u64;
            Ok(())
        })?;
        Ok(free)
    }

    /// Calls `take` with the nodes of all leaves of a tree.
    fn walk(&self, root: u64, take: &mut dyn FnMut(Node<'_>) -> io::Result<()>) -> io::Result<()> {
        if root == NO_PAGE {
            return Ok(());
        }
        // A page is in one tree, once. A damaged tree must not be walked for ever.
        let mut left = self.pages();
        let mut waiting = vec![(root, 0)];
        while let Some((number, depth)) = waiting.pop() {
            left = left.checked_sub(1).filter(|_| depth < MAX_DEPTH).ok_or_else(damaged)?;
            let page = self.page(number)?;
            let is_branch = is_branch(&page).ok_or_else(damaged)?;
            let nodes = offsets(&page).ok_or_else(damaged)?;
            for at in nodes {
                let node = at.and_then(|at| page.get(at..)).filter(|node| node.len() >= NODE_HEADER);
                let node = node.ok_or_else(damaged)?;
                if is_branch {
                    waiting.push((child(node).ok_or_else(damaged)?, depth + 1));
                } else {
                    take(self.leaf_node(node)?)?;
                }
            }
        }
        Ok(())
    }

    fn start_of(&self, page: u64) -> u64 {
        page.saturating_mul(self.meta.page_bytes.into())
    }

    fn page(&self, number: u64) -> io::Result<Vec<u8>> {
        if number > self.meta.last_page {
            return Err(damaged());
        }
        let page = self.read(self.start_of(number), self.meta.page_bytes as usize)?;
        if u64_at(&page, 0) == Some(number) { Ok(page) } else { Err(damaged()) }
    }

    /// Reads a node of a leaf, whose value is in the page or in a run of pages of its own.
    fn leaf_node<'p>(&self, node: &'p [u8]) -> io::Result<Node<'p>> {
        let parts = || {
            let (bytes, flags) = (u32_at(node, 0)? as usize, u16_at(node, 4)?);
            let value = node.get(NODE_HEADER + usize::from(u16_at(node, 6)?)..)?;
            let in_page = if flags & BIG_DATA == 0 { bytes } else { size_of::<u64>() };
            Some((bytes, flags, value.get(..in_page)?))
        };
        let (bytes, flags, value) = parts().ok_or_else(damaged)?;
        let mut overflow = None;
        if flags & BIG_DATA != 0 {
            let first = u64_at(value, 0).filter(|first| *first <= self.meta.last_page).ok_or_else(damaged)?;
            self.check_overflow(first, bytes)?;
            overflow = Some(first);
        }
        Ok(Node { flags, value, bytes, overflow })
    }

    /// Checks that a large value is within its pages, and they within the file.
    fn check_overflow(&self, first: u64, bytes: usize) -> io::Result<()> {
        let header = self.read(self.start_of(first), PAGE_HEADER)?;
        let pages = u32_at(&header, 12).map(u64::from).ok_or_else(damaged)?;
        let is_sound = u64_at(&header, 0) == Some(first)
            && u16_at(&header, 10).is_some_and(|flags| flags & OVERFLOW != 0)
            && (PAGE_HEADER + bytes) as u64 <= self.start_of(pages)
            && first + pages <= self.pages();
        if is_sound { Ok(()) } else { Err(damaged()) }
    }

    fn read(&self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if at.saturating_add(bytes as u64) > self.bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut read = vec![0; bytes];
        self.file.read_exact_at(&mut read, at)?;
        Ok(read)
    }
}

/// A node of a leaf.
struct Node<'p> {
    flags: u16,
    /// The value, or the number of its first page.
    value: &'p [u8],
    /// Size of the value.
    bytes: usize,
    /// The first page of a large value.
    overflow: Option<u64>,
}

fn damaged() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// `None` if it is neither a branch nor a leaf.
fn is_branch(page: &[u8]) -> Option<bool> {
    match u16_at(page, 10)? {
        BRANCH => Some(true),
        LEAF => Some(false),
        _ => None,
    }
}

/// Offsets of the page's nodes; `None` if their number is wrong.
fn offsets(page: &[u8]) -> Option<impl Iterator<Item = Option<usize>>> {
    let (lower, upper) = (usize::from(u16_at(page, 12)?), usize::from(u16_at(page, 14)?));
    let is_sound = lower > PAGE_HEADER && lower % 2 == 0 && lower <= upper && upper <= page.len();
    let offsets = page.get(PAGE_HEADER..lower).filter(|_| is_sound)?;
    Some(offsets.chunks_exact(2).map(move |at| u16_at(at, 0).map(usize::from).filter(|at| *at >= upper)))
}

/// The page that a node of a branch leads to; `None` if its key does not end within the page.
fn child(node: &[u8]) -> Option<u64> {
    node.get(NODE_HEADER..)?.get(..usize::from(u16_at(node, 6)?))?;
    Some(u64::from(u32_at(node, 0)?) | u64::from(u16_at(node, 4)?) << 32)
}

fn meta_at(file: &File, at: u64) -> io::Result<Option<Meta>> {
    let mut page = [0; META_BYTES];
    match file.read_exact_at(&mut page, at) {
        Ok(()) => Ok(Meta::read(&page)),
        // A folder, or a file that is too short: LMDB names it.
        Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::IsADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}
