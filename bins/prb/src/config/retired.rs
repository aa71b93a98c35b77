//! Variables of the original that have no effect here, with the reasons.

/// Each variable with the reason, which follows its name in a message.
const RETIRED: [(&str, &str); 13] = [
    (
        "DEBUG_LIFECYCLE_ALLOW_BLOB_FROM_SYNCHING_STATE",
        "data of providers that are still syncing is always used",
    ),
    ("PHALA_DATA_PROVIDER_BOOT_NODES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_BOOT_NODES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_LISTEN_ADDRESSES", EXTERNAL),
    ("PHALA_DATA_PROVIDER_EXTERNAL_TRUSTED_ORIGINS", EXTERNAL),
    ("PHALA_DATA_PROVIDER_TRUSTED_ORIGINS", EXTERNAL),
    ("PHALA_ENABLE_PARA_BATCH_SYNC", "blocks are always sent in batches, as large as the worker accepts"),
    ("PHALA_HOLD_ON_SUBPROCESS_EXIT", "there are no subprocesses"),
    ("PHALA_LRU_CACHE_DBUG_LOG_INTERVAL", "the cache's figures are among the metrics of the ops port"),
    ("PHALA_NAMESPACE", "the queue page is a part of the trader"),
    ("PHALA_PARA_PARALLEL_BLOCKS", PARALLEL),
    ("PHALA_PARENT_PARALLEL_BLOCKS", PARALLEL),
    ("USE_LEGACY_SYNC", "the calls that a worker supports are detected"),
];
const EXTERNAL: &str = "a data provider has one peer-to-peer node, configured by PHALA_WALKIE_LISTEN_ADDRESSES and \
                        PHALA_WALKIE_BOOT_NODES";
const PARALLEL: &str = "the amount fetched at a time adapts to the nodes' speed";

/// Returns those that are set, with the reasons.
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
    fn retired_variables_are_documented_and_not_read() {
        fn names(command: &clap::Command, found: &mut Vec<String>) {
            let here = command.get_arguments().filter_map(clap::Arg::get_env);
            found.extend(here.filter_map(|name| name.to_str()).map(str::to_owned));
            command.get_subcommands().for_each(|sub| names(sub, found));
        }
        let mut read = Vec::new();
        names(&Cli::command(), &mut read);
        assert!(read.len() > 50);
        let docs = include_str!("../../../../docs/migration.md");
        for (name, _) in RETIRED {
            assert!(
                docs.contains(&format!("`{name}`")),
                "docs/migration.md does not say why {name} has no effect"
            );
        }
        let both: Vec<_> = read.into_iter().filter(|name| is_retired(name)).collect();
        assert!(both.is_empty(), "{both:?}");
    }
}
