//! Checks docs/metrics.md and docs/alerts.yml against the sources and against running daemons.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use prb_walkie::proto::Role;
use promql_parser::parser::{self, Expr};
use serde_json::Value;

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, TestPeer, assign, manager, provider},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(90);
/// Names of crates, which are quoted as log targets.
const NO_METRICS: [&str; 4] = ["prb_core", "prb_chain", "prb_queue", "prb_walkie"];

struct Row {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// Parses the table of docs/metrics.md.
fn documented() -> BTreeMap<String, Row> {
    let code = |text: &str| text.trim().trim_matches('`').to_owned();
    let rows = include_str!("../../../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, _, help] = cells[..] else { panic!("{line}") };
        let labels =
            labels.trim_matches('|').split(',').map(code).filter(|label| !label.is_empty()).collect();
        (code(name), Row { kind: kind.to_owned(), labels, help: help.to_owned() })
    };
    // An empty cell has one space.
    rows.map(|line| row(&line.replace("| |", "|  |"))).collect()
}

/// Collects the quoted metric names in the sources.
fn named(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let quoted =
                text.split('"').filter(|part| part.starts_with("prb_") || part.starts_with("process_"));
            let letters =
                |part: &&str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            names.extend(
                quoted.filter(letters).filter(|part| !part.starts_with("prb_ops_test")).map(str::to_owned),
            );
        }
    }
}

#[test]
fn every_metric_is_documented_under_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = BTreeSet::new();
    for folder in ["prb-core/src", "prb-chain/src", "prb-queue/src", "prb-walkie/src", "bins/prb/src"] {
        named(&root.join(folder), &mut names);
    }
    names.retain(|name| !NO_METRICS.contains(&name.as_str()));
    let documented = documented();
    assert_eq!(names, documented.keys().cloned().collect());
    for (name, row) in documented {
        assert_eq!(
            row.kind == "counter",
            name.ends_with("_total"),
            "{name}: counters, and they alone, end so"
        );
        let has_unit = ["_seconds", "_bytes", "_calls"].iter().any(|unit| name.ends_with(unit));
        assert!(row.kind != "histogram" || has_unit, "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&row.kind.as_str()), "{name}");
        for part in
            ["_gauge", "_counter", "_histogram", "_ms", "_milliseconds", "_kb", "_mib", "_count", "_sum"]
        {
            assert!(!name.ends_with(part) && !name.contains(&format!("{part}_")), "{name}");
        }
    }
}

/// Checks a daemon's metrics against the table; returns their names.
fn check(daemon: &Daemon) -> BTreeSet<String> {
    let text = daemon.ops("/metrics").unwrap().1;
    let documented = documented();
    let (mut helps, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "{name} is described twice");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            check_sample(line, &kinds, &documented);
        }
    }
    for (name, kind) in &kinds {
        let row = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
        assert_eq!((kind, helps.get(name)), (&row.kind, Some(&row.help)), "{name}");
    }
    kinds.into_keys().collect()
}

fn check_sample(line: &str, kinds: &BTreeMap<String, String>, documented: &BTreeMap<String, Row>) {
    let name = line.split(['{', ' ']).next().unwrap();
    let family = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end).filter(|family| kinds.contains_key(*family)))
        .unwrap_or(name);
    let row = documented.get(family).unwrap_or_else(|| panic!("{family} is not documented"));
    let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
    for (label, _) in labels.split("\",").filter_map(|label| label.split_once("=\"")) {
        assert!(label == "le" || row.labels.contains(label), "{family}: the label {label} is not documented");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_export_and_describe_all_documented_metrics() {
    let net = Net::start(chain(), 1).await;
    let redis = Redis::start(net.dir.path());
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm")
        .set("PHALA_Q_REDIS_ENDPOINT", redis.url())
        .set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(&net, &client, &[0], &[0]).await;
    net.until_active([0], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    check(&provider);
    check(&manager);
    alerts_have_their_metrics_from_the_start(&[&provider, &manager]);
    let ready = manager.ops("/metrics").unwrap().1;
    assert!(ready.contains("\nprb_ready 1\n"), "{ready}");
    drop(redis);
    manager.until_unready(&["queue_unreachable"], LIMIT).await;
    let until = std::time::Instant::now() + LIMIT;
    while !manager.ops("/metrics").unwrap().1.contains("prb_unready_reason{code=\"queue_unreachable\"} 1") {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    check(&manager);
    manager.stop().await;
    provider.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}

/// Counters that no event has increased exist as well: `increase` does not see the first event otherwise.
fn alerts_have_their_metrics_from_the_start(daemons: &[&Daemon]) {
    let texts: Vec<_> = daemons.iter().map(|daemon| daemon.ops("/metrics").unwrap().1).collect();
    let samples: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    for (alert, expr) in alerts() {
        let mut metrics = Vec::new();
        selectors(&expr, &mut metrics);
        for selected in metrics.iter().filter(|selected| selected.name != "up") {
            let fits = |line: &&&str| {
                line.strip_prefix(&*selected.name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && selected
                        .labels
                        .iter()
                        .all(|(name, value)| name == "job" || line.contains(&format!("{name}=\"{value}\"")))
            };
            let sample = samples.iter().find(fits);
            assert!(sample.is_some(), "{alert}: {} {:?} does not exist", selected.name, selected.labels);
        }
    }
    for (name, what) in [("prb_worker_panics_total", ""), ("prb_rpc_node_demotions_total", "relay")] {
        let of = |line: &&&str| line.starts_with(name) && line.contains(what);
        let sample = samples.iter().find(of).unwrap_or_else(|| panic!("{name} {what} does not exist"));
        assert!(sample.ends_with(" 0"), "{sample}");
    }
    // Accounts have the form that operators know.
    let balance = samples.iter().find(|line| line.starts_with("prb_operator_balance_pha{")).unwrap();
    assert!(!balance.contains("0x"), "{balance}");
}

/// Parses the expressions of docs/alerts.yml.
fn alerts() -> Vec<(String, Expr)> {
    let file: Value = serde_saphyr::from_str(include_str!("../../../docs/alerts.yml")).unwrap();
    let rules =
        file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let parsed = rules.map(|rule| {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let expr = parser::parse(rule["expr"].as_str().unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, expr)
    });
    parsed.collect()
}

#[test]
fn functions_of_alerts_fit_the_metrics() {
    let documented = documented();
    let wrong = |expr: &Expr| {
        let mut calls = Vec::new();
        functions(expr, &mut calls);
        calls.retain(|(function, metric)| {
            let kind = documented.get(metric).map(|row| row.kind.as_str());
            match function.as_str() {
                "increase" | "rate" | "irate" => kind != Some("counter"),
                "delta" | "idelta" | "deriv" | "predict_linear" => kind != Some("gauge"),
                _ => false,
            }
        });
        calls
    };
    for (name, expr) in alerts() {
        assert_eq!(wrong(&expr), [], "{name}");
    }
    for bad in [
        "increase(prb_jobs[5m]) > 0",
        "1 < sum(rate(prb_jobs[5m]))",
        "delta(prb_worker_panics_total[1h]) > 0",
    ] {
        assert_eq!(wrong(&parser::parse(bad).unwrap()).len(), 1, "{bad}");
    }
}

/// Collects the functions over ranges of an expression, with the metric that they are of.
fn functions(expr: &Expr, found: &mut Vec<(String, String)>) {
    match expr {
        Expr::Call(call) => {
            for argument in &call.args.args {
                if let Expr::MatrixSelector(selector) = &**argument {
                    found.push((call.func.name.to_owned(), selector.vs.name.clone().unwrap()));
                }
                functions(argument, found);
            }
        }
        Expr::Aggregate(aggregate) => functions(&aggregate.expr, found),
        Expr::Unary(unary) => functions(&unary.expr, found),
        Expr::Paren(paren) => functions(&paren.expr, found),
        Expr::Binary(binary) => {
            functions(&binary.lhs, found);
            functions(&binary.rhs, found);
        }
        _ => {}
    }
}

#[test]
fn alert_rules_parse_and_use_existing_metrics() {
    let file: Value = serde_saphyr::from_str(include_str!("../../../docs/alerts.yml")).unwrap();
    let documented = documented();
    let mut names = BTreeSet::new();
    for group in file["groups"].as_array().unwrap() {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name), "{name} is there twice");
            let keys = ["alert", "expr", "for", "labels", "annotations"];
            assert!(rule.as_object().unwrap().keys().all(|key| keys.contains(&key.as_str())), "{name}");
            assert!(
                ["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()),
                "{name}"
            );
            for part in ["summary", "description"] {
                assert!(rule["annotations"][part].as_str().is_some_and(|text| text.len() > 20), "{name}");
            }
            let expr =
                parser::parse(rule["expr"].as_str().unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut metrics = Vec::new();
            selectors(&expr, &mut metrics);
            assert!(!metrics.is_empty(), "{name}");
            for Selected { name: metric, labels } in metrics {
                if metric == "up" {
                    continue;
                }
                let row = documented.get(&metric).unwrap_or_else(|| panic!("{name}: there is no {metric}"));
                for label in labels.keys().filter(|label| *label != "job") {
                    assert!(row.labels.contains(label), "{name}: {metric} has no label {label}");
                }
            }
        }
    }
    assert!(names.len() > 10);
}

/// A metric in an expression, and the labels that it must have.
struct Selected {
    name: String,
    labels: BTreeMap<String, String>,
}

/// Collects the metrics that an expression selects, with their label matchers.
fn selectors(expr: &Expr, found: &mut Vec<Selected>) {
    let mut add = |selector: &parser::VectorSelector| {
        let matchers = selector.matchers.matchers.iter();
        let labels = matchers.map(|matcher| (matcher.name.clone(), matcher.value.clone())).collect();
        found.push(Selected { name: selector.name.clone().unwrap(), labels });
    };
    match expr {
        Expr::VectorSelector(selector) => add(selector),
        Expr::MatrixSelector(selector) => add(&selector.vs),
        Expr::Aggregate(aggregate) => selectors(&aggregate.expr, found),
        Expr::Unary(unary) => selectors(&unary.expr, found),
        Expr::Paren(paren) => selectors(&paren.expr, found),
        Expr::Binary(binary) => {
            selectors(&binary.lhs, found);
            selectors(&binary.rhs, found);
        }
        Expr::Call(call) => call.args.args.iter().for_each(|argument| selectors(argument, found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
        other => panic!("{other:?}"),
    }
}
