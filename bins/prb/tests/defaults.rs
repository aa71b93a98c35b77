//! The docs of configurations state every field's default ("Default: 30 s."), and the right one: rustdoc shows
//! neither the body of `Default` nor the value of a constant that is computed.
//!
//! To add a structure, add a line to `documented`; a public configuration of [`CRATES`] that is missing there fails
//! the first test.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, fmt::Debug, fs, path::Path};

use prb_walkie::{identity::Identity, proto::Role};

const CRATES: [&str; 5] =
    ["prb-core/src", "prb-chain/src", "prb-queue/src", "prb-walkie/src", "bins/prb-devnet/src"];
/// What the names of configurations end with.
const SUFFIXES: [&str; 5] = ["Config", "Limits", "Settings", "Tuning", "Timings"];
/// Structures without defaults of their own: messages on the wire, whose defaults are those of protobuf, and parts of
/// other configurations.
const WITHOUT_DEFAULTS: [&str; 4] = [
    "prb-walkie/src/proto/detail.rs WorkerSettings",
    "prb-walkie/src/proto/detail.rs PoolSettings",
    "prb-core/src/sync/backoff.rs BackoffConfig",
    "prb-core/src/sync/transfer_budget.rs TransferLimits",
];

/// A configuration: its file, its name, its defaults, and the fields that have none because callers set them.
struct Documented {
    place: &'static str,
    defaults: String,
    required: &'static [&'static str],
}

fn documented() -> Vec<Documented> {
    fn of(place: &'static str, defaults: &dyn Debug) -> Documented {
        Documented { place, defaults: format!("{defaults:#?}"), required: &[] }
    }
    fn default<T: Debug + Default>(place: &'static str) -> Documented {
        of(place, &T::default())
    }
    let node = prb_walkie::node::Config::new(Identity::generate().unwrap(), Role::Client);
    let worker = prb_devnet::worker::WorkerConfig::new("", 0);
    let pccs = prb_core::attestation::pccs::PccsConfig::new([]);
    vec![
        Documented { required: &["urls"], ..of("prb-core/src/attestation/pccs.rs PccsConfig", &pccs) },
        default::<prb_core::blob::cache::Config>("prb-core/src/blob/cache.rs Config"),
        default::<prb_core::chain::memory::Config>("prb-core/src/chain/memory.rs Config"),
        default::<prb_core::fleet::Config>("prb-core/src/fleet.rs Config"),
        default::<prb_core::inventory::Limits>("prb-core/src/inventory/edit.rs Limits"),
        default::<prb_core::pruntime::http::HttpConfig>("prb-core/src/pruntime/http.rs HttpConfig"),
        default::<prb_core::pruntime::scripted::Timings>("prb-core/src/pruntime/scripted/script.rs Timings"),
        default::<prb_core::queue::memory::Config>("prb-core/src/queue/memory.rs Config"),
        default::<prb_core::sync::Limits>("prb-core/src/sync.rs Limits"),
        default::<prb_core::sync::HealthConfig>("prb-core/src/sync/health/problem.rs HealthConfig"),
        default::<prb_core::trade::Config>("prb-core/src/trade.rs Config"),
        default::<prb_core::worker::Settings>("prb-core/src/worker.rs Settings"),
        default::<prb_core::worker::Tuning>("prb-core/src/worker.rs Tuning"),
        default::<prb_chain::history::Config>("prb-chain/src/history/replay.rs Config"),
        default::<prb_chain::history::archive::Config>("prb-chain/src/history/archive/write.rs Config"),
        default::<prb_chain::history::archive::HttpConfig>(
            "prb-chain/src/history/archive/http.rs HttpConfig",
        ),
        default::<prb_chain::history::headers_cache::Config>("prb-chain/src/history/headers_cache.rs Config"),
        default::<prb_chain::ingest::Config>("prb-chain/src/ingest.rs Config"),
        default::<prb_chain::inventory::Config>("prb-chain/src/inventory.rs Config"),
        default::<prb_chain::reader::Config>("prb-chain/src/reader.rs Config"),
        default::<prb_chain::rpc::Config>("prb-chain/src/rpc.rs Config"),
        default::<prb_chain::store::Config>("prb-chain/src/store.rs Config"),
        default::<prb_chain::submit::Config>("prb-chain/src/submit.rs Config"),
        default::<prb_chain::verified::Config>("prb-chain/src/verified.rs Config"),
        default::<prb_queue::redis::Config>("prb-queue/src/redis/config.rs Config"),
        default::<prb_walkie::blob::client::Config>("prb-walkie/src/blob/client.rs Config"),
        default::<prb_walkie::blob::keyspace::Config>("prb-walkie/src/blob/keyspace.rs Config"),
        default::<prb_walkie::blob::remote::Config>("prb-walkie/src/blob/remote.rs Config"),
        default::<prb_walkie::blob::server::Config>("prb-walkie/src/blob/server.rs Config"),
        default::<prb_walkie::blob::tokens::Config>("prb-walkie/src/blob/tokens.rs Config"),
        Documented { required: &["identity", "role"], ..of("prb-walkie/src/node/config.rs Config", &node) },
        default::<prb_walkie::node::Limits>("prb-walkie/src/node/config.rs Limits"),
        default::<prb_devnet::Config>("bins/prb-devnet/src/config.rs Config"),
        default::<prb_devnet::RpcLimits>("bins/prb-devnet/src/rpc.rs RpcLimits"),
        Documented {
            required: &["seed", "index", "shared"],
            ..of("bins/prb-devnet/src/worker.rs WorkerConfig", &worker)
        },
    ]
}

/// Returns the fields of a structure in a source, with the text after "Default:" in their docs.
fn documented_defaults(source: &str, name: &str) -> BTreeMap<String, Option<String>> {
    let mut fields = BTreeMap::new();
    let mut doc = String::new();
    let is_head = |line: &str| line.strip_prefix("pub struct ").is_some_and(|rest| name_of(rest) == name);
    for line in source.lines().skip_while(|line| !is_head(line)).skip(1).take_while(|line| *line != "}") {
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some(field) = line.strip_prefix("pub ") {
            let stated = doc.split_once("Default: ").map(|(_, rest)| {
                rest.split_once(". ")
                    .map_or_else(|| rest.trim_end_matches('.'), |(stated, _)| stated)
                    .to_owned()
            });
            fields.insert(name_of(field).to_owned(), stated);
            doc.clear();
        }
    }
    fields
}

fn name_of(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Returns the fields in the alternate `Debug` output of a structure, with their values on one line.
fn actual_defaults(debug: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut last = None;
    for line in debug.lines().skip(1).take_while(|line| *line != "}") {
        match line.strip_prefix("    ").filter(|line| !line.starts_with([' ', '}', ']', ')'])) {
            Some(line) => {
                let (name, value) = line.split_once(": ").unwrap();
                last = Some(name.to_owned());
                fields.insert(name.to_owned(), value.to_owned());
            }
            None => fields.get_mut(last.as_ref().unwrap()).unwrap().push_str(line.trim_start()),
        }
    }
    fields.into_iter().map(|(name, value)| (name, value.trim_end_matches(',').to_owned())).collect()
}

/// Returns a number of seconds or bytes, or a plain number: in the docs ("15 minutes") or of `Debug` ("900s").
fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 15] = [
        ("", 1.0),
        ("ns", 1e-9),
        ("ms", 1e-3),
        ("s", 1.0),
        ("minute", 60.0),
        ("minutes", 60.0),
        ("hour", 3600.0),
        ("hours", 3600.0),
        ("days", 86_400.0),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("PHA", 1e12),
        ("µs", 1e-6),
        ("percent", 1.0),
    ];
    let end = text.find(|c: char| !c.is_ascii_digit() && !",._".contains(c)).unwrap_or(text.len());
    let number: f64 = text[..end].replace([',', '_'], "").parse().ok()?;
    let (_, scale) = UNITS.into_iter().find(|(unit, _)| *unit == text[end..].trim())?;
    Some(number * scale)
}

/// Returns whether a default in the docs is the value with this `Debug` output.
fn says(stated: &str, actual: &str) -> bool {
    let actual = actual.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(",)")).unwrap_or(actual);
    let close = |a: f64, b: f64| (a - b).abs() <= a.abs() * 1e-9;
    let same = |stated: &str, actual: &str| match (quantity(stated), quantity(actual)) {
        (Some(a), Some(b)) => close(a, b),
        _ => false,
    };
    let fields: Vec<&str> = actual
        .split_once('{')
        .into_iter()
        .flat_map(|(_, rest)| rest.trim_end_matches('}').split(','))
        .filter_map(|field| Some(field.split_once(": ")?.1))
        .collect();
    if let Some(name) = stated.strip_prefix("that of [`").or_else(|| stated.strip_prefix("those of [`")) {
        let (name, _) = name.split_once('`').unwrap_or((name, ""));
        return actual.split('{').next().map(str::trim) == name.rsplit("::").next();
    }
    match stated {
        // A link to an enum's variant.
        _ if stated.starts_with("[`") => {
            stated.trim_end_matches("`]").rsplit("::").next().is_some_and(|variant| variant == actual)
        }
        "none" => ["None", "[]", "false", "{}"].contains(&actual),
        "empty" => ["\"\"", "[]", "{}"].contains(&actual),
        "unlimited" => [u32::MAX.to_string(), u64::MAX.to_string()].iter().any(|most| most == actual),
        _ if stated == actual || same(stated, actual) => true,
        // Two bounds: "500 ms to 15 s".
        _ if stated.contains(" to ") => {
            let bounds: Vec<&str> = stated.split(" to ").collect();
            bounds.len() == fields.len() && bounds.iter().zip(&fields).all(|(a, b)| same(a, b))
        }
        // A list: "`a` and `b`".
        _ if stated.contains("` and `") => {
            let stated = stated.replace('`', "").split(" and ").collect::<Vec<_>>().join(",");
            actual.replace('"', "") == format!("[{stated},]")
        }
        _ if stated.starts_with('`') => {
            let plain = |text: &str| text.replace(['`', '"', ','], "");
            plain(stated) == plain(actual)
        }
        // A version: "2.2.0".
        _ => !stated.is_empty() && actual == format!("({},)", stated.replace('.', ",")),
    }
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Finds public configurations in a folder, as in [`Documented::place`].
fn find(folder: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let place = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            find(&place, found);
            continue;
        }
        let source = fs::read_to_string(entry.path()).unwrap();
        let names = source.lines().filter_map(|line| line.strip_prefix("pub struct ")).map(name_of);
        let configs = names.filter(|name| SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
        found.extend(configs.map(|name| format!("{place} {name}")));
    }
}

#[test]
fn no_configuration_is_forgotten() {
    let mut found = Vec::new();
    CRATES.iter().for_each(|folder| find(folder, &mut found));
    found.retain(|place| !WITHOUT_DEFAULTS.contains(&&place[..]));
    found.sort();
    let mut known: Vec<_> = documented().into_iter().map(|one| one.place.to_owned()).collect();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn documented_defaults_are_the_real_ones() {
    let mut faults = Vec::new();
    for Documented { place, defaults, required } in documented() {
        let (file, name) = place.split_once(' ').unwrap();
        let docs = documented_defaults(&fs::read_to_string(root().join(file)).unwrap(), name);
        let actual = actual_defaults(&defaults);
        assert!(!docs.is_empty(), "{place} has no public fields");
        for (field, stated) in docs {
            let value = actual.get(&field).map_or("", |value| &value[..]);
            match stated {
                _ if required.contains(&&field[..]) => {}
                None => faults.push(format!("{place}: {field} states no default; it is {value}")),
                Some(stated) if !says(&stated, value) => {
                    faults.push(format!("{place}: {field} is documented as {stated}, and is {value}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_way_to_state_a_default_is_understood() {
    for (stated, actual) in [
        ("30 s", "30s"),
        ("15 minutes", "900s"),
        ("500 ms", "500ms"),
        ("24 hours", "86400s"),
        ("256 MiB", "268435456"),
        ("10,000", "10000"),
        ("0.5", "0.5"),
        ("false", "false"),
        ("none", "None"),
        ("none", "[]"),
        ("`default`", "\"default\""),
        ("`Kept`", "Kept"),
        ("[`Mode::Kept`]", "Kept"),
        ("1,000", "Some(1000,)"),
        ("0 s", "0ns"),
        ("those of [`Limits`]", "Limits {pools: 1,}"),
        ("500 ms to 15 s", "BackoffConfig {first: 500ms,max: 15s,}"),
        ("2.2.0", "(2,2,0,)"),
        ("`/a` and `/b`", "[/a,/b,]"),
        ("`/a` and `/b`", "[\"/a\",\"/b\",]"),
    ] {
        assert!(says(stated, actual), "{stated} {actual}");
        assert!(!says(stated, "7"), "{stated}");
    }
    for (stated, actual) in
        [("30 s", "30ms"), ("", "()"), ("none", "Some(1)"), ("1 s to 3 s", "B {a: 1s,b: 2s,}")]
    {
        assert!(!says(stated, actual), "{stated} {actual}");
    }
}
