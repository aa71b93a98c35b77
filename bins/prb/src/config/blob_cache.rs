//! Settings of the blob cache.

use std::time::Duration;

use clap::{ArgAction, Args};
use prb_core::blob::cache;

use super::values::{millis, whole, yes_no};
use crate::memory_limit;

/// One MiB in bytes, which is also the assumed size of a cached blob.
const MIB: u64 = 1024 * 1024;

/// The cache of blobs in front of the workers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chain, trade queue and blobs")]
pub struct BlobCacheArgs {
    /// Maximum number of cached blobs, each counted as 1 MiB: values above PRB_LRU_CACHE_MIB, such as the
    /// default, have no effect.
    #[arg(long, env = "PHALA_LRU_CACHE_SIZE", default_value_t = 5000, value_parser = whole(1u32..=100_000_000))]
    pub lru_cache_size: u32,
    /// Maximum size of the blob cache in MiB, for headers and for blocks each; at most a quarter of the memory limit of
    /// this container or service.
    #[arg(long, env = "PRB_LRU_CACHE_MIB", default_value_t = 256, value_parser = whole(1u32..=1_048_576))]
    pub lru_cache_mib: u32,
    /// How long a blob is cached, in ms.
    #[arg(long, env = "PHALA_LRU_CACHE_MAX_AGE", default_value = "1800000", value_parser = millis)]
    pub lru_cache_max_age: Duration,
    /// Disable the cache. Concurrent requests of workers for one blob still share one fetch.
    #[arg(long, env = "DISABLE_LRU", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub disable_lru: bool,
}

impl BlobCacheArgs {
    /// The cache's configuration; a disabled cache has a size of 0.
    pub fn config(&self) -> cache::Config {
        // The original limits the number of blobs, whose sizes differ widely; bytes are what memory has.
        let mib = if self.disable_lru { 0 } else { self.lru_cache_mib.min(self.lru_cache_size) };
        let mib = memory_limit::cache_mib(mib);
        cache::Config::default().with_max_bytes(u64::from(mib) * MIB).with_max_age(self.lru_cache_max_age)
    }
}
