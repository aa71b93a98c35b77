//! Secrets from files.

use std::{path::Path, sync::OnceLock};

use anyhow::Context;
use secrecy::SecretString;

use crate::{input, redact};

/// A secret that is read when it is first needed and then kept: its file may be a pipe, as in `<(command)`, which can
/// only be read once.
#[derive(Clone, Debug, Default)]
pub struct ReadOnce(OnceLock<Option<SecretString>>);

impl ReadOnce {
    pub(super) fn get_or_read(
        &self,
        read: impl FnOnce() -> anyhow::Result<Option<SecretString>>,
    ) -> anyhow::Result<Option<SecretString>> {
        if let Some(secret) = self.0.get() {
            return Ok(secret.clone());
        }
        let read = read()?;
        // Concurrent first reads are possible; all get the value of the first that ends.
        Ok(self.0.get_or_init(|| read).clone())
    }
}

/// Reads the first line of a file with a secret.
pub(crate) fn first_line(path: &Path, max_bytes: u64) -> anyhow::Result<SecretString> {
    of_text(path, max_bytes, |text| text.lines().next().unwrap_or_default().into())
}

/// Reads a file with a list: each line is an item, or several with the delimiter between them.
pub(super) fn joined_lines(path: &Path, max_bytes: u64, delimiter: char) -> anyhow::Result<SecretString> {
    of_text(path, max_bytes, |text| {
        let lines = text.lines().map(|line| line.trim().trim_end_matches(delimiter));
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        lines.join(&delimiter.to_string())
    })
}

fn of_text(path: &Path, max_bytes: u64, of: impl Fn(&str) -> String) -> anyhow::Result<SecretString> {
    let cannot = || format!("cannot read {}", redact::shown_path(path));
    let input = input::read(path, max_bytes).with_context(cannot)?;
    Ok(SecretString::from(of(input.text().with_context(cannot)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, path::PathBuf, process::Command, thread};

    use clap::Parser;
    use secrecy::ExposeSecret;

    use crate::config::{PageArgs, WalkieArgs};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        walkie: WalkieArgs,
    }

    const SECRET: &str = "b39aa1c7f2ed4f7b8e02d5d1c4a6309f";

    #[test]
    fn secret_from_a_pipe_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = |name: &str| -> PathBuf {
            let path = folder.path().join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            let to = path.clone();
            thread::spawn(move || fs::write(to, format!("{SECRET}\n")).unwrap());
            path
        };
        let pages = PageArgs { api_token_file: Some(pipe("token")), ..PageArgs::default() };
        let psk = pipe("psk").into_os_string();
        let walkie = Line::parse_from(["prb".into(), "--walkie-psk-file".into(), psk]).walkie;
        // At the check of the arguments, and at the start.
        for _ in 0..2 {
            assert_eq!(pages.token().unwrap().unwrap().expose_secret(), SECRET);
            assert_eq!(walkie.psk().unwrap().unwrap().expose_secret(), SECRET);
        }
    }
}
