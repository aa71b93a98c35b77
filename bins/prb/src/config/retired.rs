//! Variables of the original that are known here and have no effect, with the reasons.

/// Each with why, as the end of a sentence that starts with its name.
const RETIRED: [(&str, &str); 13] = [
    ("DEBUG_LIFECYCLE_ALLOW_BLOB_FROM_SYNCHING_STATE", "data of providers that still fetch is always used"),
    ("PHALA_DATA_PROVIDER_BOOT_NODES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_BOOT_NODES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_LISTEN_ADDRESSES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_TRUSTED_ORIGINS", EXTERNAL),
    ("PHALA_DATA_PROVIDER_TRUSTED_ORIGINS", EXTERNAL),
    ("PHALA_ENABLE_PARA_BATCH_SYNC", "blocks always go in batches, as large as the worker takes"),
    ("PHALA_HOLD_ON_SUBPROCESS_EXIT", "there are no subprocesses"),
    ("PHALA_LRU_CACHE_DBUG_LOG_INTERVAL", "the cache's figures are among the metrics of the ops port"),
    ("PHALA_NAMESPACE", "the queue's page is a part of the trader"),
    ("PHALA_PARA_PARALLEL_BLOCKS", PARALLEL),
    ("PHALA_PARENT_PARALLEL_BLOCKS", PARALLEL),
    ("USE_LEGACY_SYNC", "each worker is asked for the calls that it takes"),
];
const EXTERNAL: &str = "a data provider has one place among its peers, that of PHALA_WALKIE_LISTEN_ADDRESSES and \
                        PHALA_WALKIE_BOOT_NODES";
const PARALLEL: &str = "how much is fetched at a time follows the nodes' answers";

/// Those that are set, with why they have no effect.
pub fn retired_variables() -> Vec<(&'static str, &'static str)> {
    RETIRED.into_iter().filter(|(name, _)| super::variable(name).is_some()).collect()
}

pub(super) fn is_retired(name: &str) -> bool {
    RETIRED.iter().any(|(retired, _)| *retired == name)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Cli;

    #[test]
    fn nothing_reads_what_is_retired() {
        fn names(command: &clap::Command, found: &mut Vec<String>) {
            let here = command.get_arguments().filter_map(clap::Arg::get_env);
            found.extend(here.filter_map(|name| name.to_str()).map(str::to_owned));
            command.get_subcommands().for_each(|sub| names(sub, found));
        }
        let mut read = Vec::new();
        names(&Cli::command(), &mut read);
        assert!(read.len() > 50);
        let both: Vec<_> = read.into_iter().filter(|name| is_retired(name)).collect();
        assert!(both.is_empty(), "{both:?}");
    }
}
