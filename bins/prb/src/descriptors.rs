//! The limit on open files and sockets, and the limits derived from it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for everything but inbound connections: files, nodes, Redis, logs, the ops port and
/// the pages.
const RESERVE: u64 = 320;
/// The assumed limit if the system has none.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit to the hard one: the usual soft limit of 1,024 is meant for programs that use
/// `select`.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

/// Returns how many descriptors this process may have open.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}

/// Shares of the limit for a data provider's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections of the blob server.
    pub(crate) blobs: usize,
    /// Connections of the peer-to-peer node.
    pub(crate) peers: u32,
}

/// Divides the limit: the defaults if they fit, otherwise a share of what is there.
pub(crate) fn shares(limit: u64, most: Shares) -> Shares {
    let free = limit.saturating_sub(RESERVE).max(16);
    let wanted = most.blobs as u64 + u64::from(most.peers);
    if free >= wanted {
        return most;
    }
    // Workers depend on blobs, so peers get the smaller share.
    let peers = (free / 4).min(u64::from(most.peers));
    Shares {
        blobs: usize::try_from(free - peers).unwrap_or(most.blobs).min(most.blobs),
        peers: u32::try_from(peers).unwrap_or(most.peers),
    }
}

/// The most connections of a node that shares the process with workers' connections or other work.
pub(crate) fn shares_of_node(most: u32) -> u32 {
    let free = limit().saturating_sub(RESERVE).max(16);
    u32::try_from(free / 4).unwrap_or(most).min(most)
}

/// Warns if there are too few descriptors for that many workers, each of which may have two connections.
pub(crate) fn warn_if_too_few(workers: usize) {
    let (limit, needed) = (limit(), RESERVE + 2 * workers as u64);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            workers,
            "the limit on open files is too low for that many workers, some will not be reached: raise the hard limit \
             (LimitNOFILE of systemd, --ulimit nofile of docker, ulimit -Hn of a shell)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Shares = Shares { blobs: 4096, peers: 512 };

    #[test]
    fn connections_fit_into_any_limit() {
        assert_eq!(shares(1 << 20, MOST), MOST);
        for limit in [64, 256, 1024, 4096] {
            let Shares { blobs, peers } = shares(limit, MOST);
            assert!(blobs > 0 && peers > 0);
            let used = blobs as u64 + u64::from(peers);
            assert!(used <= limit.saturating_sub(RESERVE).max(16), "{limit}: {used}");
        }
    }
}
