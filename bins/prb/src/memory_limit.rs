//! The memory limit of this process's control group (a container's, or `MemoryMax` of systemd), and what follows from it.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MIB: u64 = 1 << 20;
/// Part of the limit that each of the two caches of blobs may take.
const CACHE_PART: u64 = 4;

/// Warns if the limit is below what a daemon may need: the kernel would kill it at a load that it is made for.
pub(crate) fn warn_if_too_low(needed_mib: u64) {
    let Some(limit) = limit().filter(|limit| limit / MIB < needed_mib) else { return };
    tracing::warn!(
        limit_mib = limit / MIB,
        needed_mib,
        "the memory limit of this daemon's container or service is lower than what it may need, so that the kernel may \
         kill it: raise the limit (--memory of docker, MemoryMax of systemd)"
    );
}

/// Returns the size of a cache that fits into the limit.
pub(crate) fn cache_mib(configured: u32) -> u32 {
    let fits = fitting(configured, limit());
    if fits < configured {
        tracing::warn!(
            configured_mib = configured,
            used_mib = fits,
            "the blob cache is smaller than PRB_LRU_CACHE_MIB: the memory limit of this container or service has no room \
             for more"
        );
    }
    fits
}

fn fitting(configured: u32, limit: Option<u64>) -> u32 {
    let part = limit.map_or(u64::MAX, |limit| limit / CACHE_PART / MIB);
    configured.min(u32::try_from(part).unwrap_or(u32::MAX))
}

/// Returns the limit in bytes; `None` if there is none, or if the system has no control groups.
fn limit() -> Option<u64> {
    limit_of(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Reads the limits of the groups that `/proc/self/cgroup` names, and of their parents. The lowest applies.
fn limit_of(groups: &str, root: &Path) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // Version 2 has one hierarchy, without names of controllers.
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some((root, PathBuf::from(path.trim_start_matches('/')), file))
    });
    // In a container, the group's own path may not be visible, but its files are at the root.
    let limits = files.flat_map(|(root, path, file)| {
        let read = |group: &Path| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok();
        path.ancestors().filter_map(read).collect::<Vec<u64>>()
    });
    // Version 1 writes the largest number for no limit.
    limits.min().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn lowest_limit_of_the_group_and_its_parents_applies() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let groups = "3:cpu,memory:/docker/abc\n1:name=systemd:/x\n0::/system.slice/prb.service\n";
        assert_eq!(limit_of(groups, root), None);
        put(root, "memory.max", "max\n");
        put(root, "memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_of(groups, root), None);
        put(root, "system.slice/prb.service/memory.max", "1073741824\n");
        assert_eq!(limit_of(groups, root), Some(1 << 30));
        put(root, "system.slice/memory.max", "536870912\n");
        assert_eq!(limit_of(groups, root), Some(512 << 20));
        put(root, "memory/memory.limit_in_bytes", "268435456\n");
        assert_eq!(limit_of(groups, root), Some(256 << 20));
        for broken in ["", "0", "0::", "::", "x"] {
            assert_eq!(limit_of(broken, &root.join("none")), None, "{broken:?}");
        }
    }

    #[test]
    fn caches_take_at_most_half_of_the_limit() {
        assert_eq!(fitting(256, None), 256);
        assert_eq!(fitting(256, Some(4 << 30)), 256);
        assert_eq!(fitting(256, Some(512 << 20)), 128);
        assert_eq!(fitting(0, Some(512 << 20)), 0);
    }
}
