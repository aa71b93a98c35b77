//! The documentation of every setting states its default, and the stated one is the actual one.
#![allow(clippy::unwrap_used, missing_docs)]

mod check;

use check::{Defaults, faults};
use prb_core::{attestation::pccs, blob, chain, fleet, inventory, pruntime, queue, sync, trade, worker};

#[test]
fn defaults_are_documented() {
    Defaults::of_crate(env!("CARGO_MANIFEST_DIR"))
        .check("attestation/pccs.rs", &pccs::PccsConfig::new([]))
        .check("blob/cache.rs", &blob::cache::Config::default())
        .check("chain/memory.rs", &chain::memory::Config::default())
        .check("fleet.rs", &fleet::Config::default())
        .check("inventory/edit.rs", &inventory::Limits::default())
        .check("pruntime/http.rs", &pruntime::http::HttpConfig::default())
        .check("pruntime/scripted/script.rs", &pruntime::scripted::Timings::default())
        .check("queue/memory.rs", &queue::memory::Config::default())
        .check("sync.rs", &sync::Limits::default())
        .check("sync/health/problem.rs", &sync::HealthConfig::default())
        .check("trade.rs", &trade::Config::default())
        .check("worker.rs", &worker::Settings::default())
        .check("worker.rs", &worker::Tuning::default())
        .finish();
}

const SOURCE: &str = "
/// Settings.
pub struct Config {
    /// A wait. Default: WAIT.
    #[serde(default)]
    pub wait: Duration,
}
";

#[test]
fn wrong_and_missing_defaults_are_found() {
    for (stated, actual) in [
        ("1.5 s", "1.5s"),
        ("30 min", "1800s"),
        ("604,800 (seven days)", "604800"),
        ("7 days", "604800s"),
        ("500 ms", "500ms"),
        ("8 MiB", "8388608"),
        ("10 PHA", "10000000000000"),
        ("10,000", "Some(10000)"),
        ("none", "None"),
        ("none", "[]"),
        ("unlimited", "18446744073709551615"),
        ("`true`", "true"),
        ("[`Mode::Off`]", "Off"),
        ("[`Other::default`]", "Other { a: 1 }"),
        ("`first` 1 s, `max` 60 s", "Backoff { first: 1s, max: 60s }"),
    ] {
        let found = |stated: &str| {
            faults(
                &SOURCE.replace("WAIT", stated),
                "Config",
                &format!("Config {{ wait: {actual}, more: 1 }}"),
            )
        };
        assert_eq!(found(stated), [""; 0], "{stated} is {actual}");
        for other in ["2 s", "31 min", "9 MiB", "`false`", "`first` 1 s, `max` 61 s", "[`Wrong::default`]"] {
            assert_eq!(found(other).len(), 1, "{other} is not {actual}");
        }
    }
    let silent = SOURCE.replace(" Default: WAIT.", "");
    assert!(faults(&silent, "Config", "Config { wait: 1s }")[0].contains("states no default; it is 1s"));
    assert!(faults(SOURCE, "Other", "Other { wait: 1s }")[0].contains("no public struct Other"));
}
