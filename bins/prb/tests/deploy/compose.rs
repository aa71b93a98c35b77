//! Parses compose files, as far as ours and the original guide's need it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::support::Process;

/// A compose file.
#[derive(Debug, Deserialize)]
pub(crate) struct File {
    pub(crate) services: BTreeMap<String, Service>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) image: String,
    pub(crate) network_mode: String,
    pub(crate) restart: String,
    pub(crate) profiles: Vec<String>,
    pub(crate) depends_on: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) ports: Vec<String>,
}

/// Returns the path of a file of the docs.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy").join(name)
}

pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl File {
    /// Parses a compose file, with the defaults of its `${NAME:-default}`.
    pub(crate) fn read(text: &str) -> Self {
        let value: serde_json::Value = serde_saphyr::from_str(&interpolated(text)).expect("it is no YAML");
        serde_json::from_value(value).expect("it is no compose file")
    }

    pub(crate) fn service(&self, name: &str) -> &Service {
        self.services.get(name).unwrap_or_else(|| panic!("there is no service {name}"))
    }
}

/// Replaces `${NAME:-default}` by its default and `${NAME:?message}` by a placeholder.
fn interpolated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, after) = after.split_once('}').expect("a variable does not end");
        out.push_str(before);
        match inner.split_once(":-") {
            Some((_, default)) => out.push_str(default),
            None => {
                assert!(inner.contains(":?"), "{inner} has neither a default nor says what it wants");
                out.push_str("given");
            }
        }
        rest = after;
    }
    out + rest
}

impl Service {
    /// Returns its variables, with each `from` replaced by `to`.
    pub(crate) fn variables(&self, changes: &[(&str, String)]) -> Vec<(String, String)> {
        let variable = |line: &String| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line} has no value"));
            let value = changes.iter().fold(value.to_owned(), |value, (from, to)| value.replace(from, to));
            (name.to_owned(), value)
        };
        self.environment.iter().map(variable).collect()
    }

    /// Runs it as a process. Its entry point is looked up in `bin`, as in the image's PATH.
    pub(crate) fn run(&self, bin: &Path, log: &Path, variables: &[(String, String)]) -> Process {
        let prb = ["prb".to_owned()];
        let words = if self.entrypoint.is_empty() { &prb[..] } else { &self.entrypoint };
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new(bin.join(&words[0]))
            .args(&words[1..])
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process::of(child)
    }
}
