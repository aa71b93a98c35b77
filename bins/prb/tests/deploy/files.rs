//! Checks of the deployment files' content.

use std::{collections::BTreeSet, process::Command};

use crate::compose::{File, Service, path, text};

/// Returns the variables in the help of `prb`.
fn known_variables() -> BTreeSet<String> {
    let mut known: BTreeSet<_> =
        ["PHALA_MODULE", "PRB_API_TOKEN", "PRB_WALKIE_PSK"].map(str::to_owned).into();
    for daemon in ["data-provider", "lifecycle", "trader", "monitor", "all"] {
        let help = Command::new(env!("CARGO_BIN_EXE_prb")).args([daemon, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        // Wrapped lines.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let names = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
        known.extend(names.map(str::to_owned));
    }
    assert!(known.len() > 50, "{known:?}");
    known
}

fn ours() -> Vec<(&'static str, String, Service)> {
    let files = ["compose/data-provider.yml", "compose/lifecycle.yml"];
    let services = files.into_iter().flat_map(|file| {
        let services = File::read(&text(file)).services;
        services.into_iter().map(move |(name, service)| (file, name, service))
    });
    services.filter(|(_, _, service)| service.image == "prb").collect()
}

#[test]
fn compose_files_use_existing_variables() {
    let known = known_variables();
    let modules: BTreeSet<_> = ours()
        .into_iter()
        .map(|(file, name, service)| {
            let variables = service.variables(&[]);
            for (variable, _) in &variables {
                assert!(known.contains(variable), "{file}, {name}: nothing reads {variable}");
            }
            assert_eq!(
                (service.network_mode.as_str(), service.restart.as_str()),
                ("host", "always"),
                "{name}"
            );
            assert!(service.volumes.iter().any(|volume| volume.ends_with(":/var/data")), "{name}");
            variables.into_iter().find(|(name, _)| name == "PHALA_MODULE").unwrap().1
        })
        .collect();
    assert_eq!(modules.into_iter().collect::<Vec<_>>(), ["data_provider", "lifecycle", "monitor", "trade"]);
    let lifecycle = File::read(&text("compose/lifecycle.yml"));
    assert_eq!(lifecycle.service("trade").profiles, ["apart"]);
    assert!(
        lifecycle
            .services
            .values()
            .all(|service| { service.depends_on.iter().all(|other| lifecycle.services.contains_key(other)) })
    );
    // Only required ports are published to other machines.
    let redis = &lifecycle.service("redis-q").command;
    assert!(redis.windows(2).any(|words| words == ["--bind", "127.0.0.1"]), "{redis:?}");
    let node = File::read(&text("compose/node.yml"));
    let rpc: Vec<_> = node.service("node").ports.iter().filter(|port| port.contains(":99")).collect();
    assert!(rpc.len() == 2 && rpc.iter().all(|port| port.starts_with("127.0.0.1:")), "{rpc:?}");
}

/// Returns a Dockerfile's instructions and arguments, with continuation lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.trim().to_owned()))
        .collect()
}

#[test]
fn image_is_small_and_runs_unprivileged() {
    const KNOWN: [&str; 12] = [
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "ENV",
    ];
    let all = instructions(&text("Dockerfile"));
    for (name, argument) in &all {
        assert!(KNOWN.contains(&name.as_str()), "{name} {argument}");
        assert!(!argument.contains(":latest"), "{name} {argument}");
    }
    let stages: Vec<_> = (0..all.len()).filter(|at| all[*at].0 == "FROM").collect();
    assert_eq!(stages.len(), 2);
    let last = &all[stages[1]..];
    // The last stage runs nothing and has only the program and its folder.
    assert!(last[0].1.contains("distroless") && !last.iter().any(|(name, _)| name == "RUN"));
    assert!(last.iter().filter(|(name, _)| name == "COPY").all(|(_, what)| what.starts_with("--from=build")));
    let of =
        |name: &str| &last.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1;
    assert_eq!((of("USER").as_str(), of("STOPSIGNAL").as_str()), ("65532:65532", "SIGTERM"));
    assert_eq!(of("ENTRYPOINT"), r#"["prb"]"#);
    assert!(of("HEALTHCHECK").ends_with(r#"CMD ["prb", "healthcheck"]"#));
    let build: Vec<_> = all[..stages[1]].iter().map(|(_, argument)| argument.as_str()).collect();
    assert!(
        build
            .iter()
            .any(|run| run.contains("--locked") && run.contains("ln -s prb") && run.contains("bin/node"))
    );
}

#[test]
fn build_context_has_only_required_files() {
    let rules = text("Dockerfile.dockerignore");
    let taken: BTreeSet<_> = rules.lines().filter_map(|rule| rule.strip_prefix('!')).collect();
    assert!(rules.starts_with("*\n"));
    let top = path("../..");
    for name in &taken {
        assert!(top.join(name).exists(), "{name} is not there");
    }
    let manifest: toml::Table = std::fs::read_to_string(top.join("Cargo.toml")).unwrap().parse().unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        assert!(
            taken.iter().any(|name| member == *name || member.starts_with(&format!("{name}/"))),
            "{member}"
        );
    }
    // Read during the build.
    assert!(taken.contains("docs/worker-states.md") && taken.contains("Cargo.lock"));
}

#[test]
fn unit_runs_one_program() {
    let unit = text("systemd/prb@.service");
    let value = |key: &str| unit.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
    assert_eq!(value("ExecStart="), ["/usr/local/bin/prb"]);
    // Exit code 2 means a bad configuration, after which it is not restarted.
    assert_eq!(value("RestartPreventExitStatus="), ["2"]);
    let known = known_variables();
    for variable in value("Environment=") {
        let name = variable.split_once('=').unwrap().0;
        assert!(known.contains(name), "nothing reads {name}");
    }
}

const DOCS: [&str; 4] = ["../../README.md", "../operating.md", "../data-provider.md", "../migration.md"];

/// Returns the targets in `](…)`, without external URLs.
fn links(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    links.filter(|link| !link.is_empty() && !link.contains("://")).collect()
}

#[test]
fn docs_mention_only_existing_files_and_variables() {
    let known = known_variables();
    for name in DOCS {
        let doc = text(name);
        let folder = path(name).parent().unwrap().to_owned();
        assert!(!links(&doc).is_empty(), "{name}");
        for link in links(&doc) {
            let file = folder.join(link);
            assert!(file.exists(), "{name}: {link} is not there");
            if link.ends_with(".png") {
                assert!(std::fs::metadata(&file).unwrap().len() < 200 * 1024, "{link} is large");
            }
        }
        // Variables without effect are in the migration table.
        let doc = doc.split("## Variables without effect").next().unwrap();
        let words = doc.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let variables = words.filter(|word| word.starts_with("PHALA_") || word.starts_with("PRB_"));
        for variable in
            variables.filter(|variable| variable.len() > "PHALA_".len() && *variable != "PRB_IMAGE")
        {
            assert!(known.contains(variable), "{name}: nothing reads {variable}");
        }
    }
}
