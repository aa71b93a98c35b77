//! Settings of the web pages, and the token for changes.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use prb_walkie::rpc::auth;
use secrecy::{ExposeSecret, SecretString};

use crate::redact;

use super::{
    secret::{ReadOnce, first_line},
    values::{OpsListen, listen_at},
};

/// The variable that holds the token. It is never a flag, because every user can read arguments.
pub const TOKEN_VARIABLE: &str = "PRB_API_TOKEN";
/// The shortest token, in bytes: a shorter one can be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Tokens that take fewer guesses, as a power of ten, are refused. Each guess is a request.
const MIN_GUESSES_LOG10: f64 = 12.0;
/// The largest token file, in bytes.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// The web pages.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Pages")]
pub struct PageArgs {
    /// Address of the queue page, or none. By default 127.0.0.1:4567 if a trader runs; if that is in use, the
    /// daemon runs without it. Everybody who can reach it can read it.
    #[arg(long, env = "PRB_QUEUE_PAGE_LISTEN", value_name = "ADDRESS", value_parser = page_listen)]
    pub queue_page_listen: Option<OpsListen>,
    /// Address of the console, or none. By default 127.0.0.1:3000 for all in one and for a lifecycle manager (if
    /// that is in use, the daemon runs without it), and as set by HOST and PORT for a monitor. Everybody who can
    /// reach it can read it.
    #[arg(long, env = "PRB_CONSOLE_LISTEN", value_name = "ADDRESS", value_parser = console_listen)]
    pub console_listen: Option<OpsListen>,
    /// Host names by which browsers reach the pages, separated by commas, besides IP addresses and localhost
    /// (such as a reverse proxy's). Requests for other names are refused.
    #[arg(long, env = "PRB_PAGE_HOSTS", value_delimiter = ',', value_name = "NAME", value_parser = host_name)]
    pub page_hosts: Vec<String>,
    /// File whose first line is the token for changes on the pages (at least 16 bytes). The variable
    /// PRB_API_TOKEN may hold the token itself. Without either, daemons with a management API and the monitor
    /// generate one in the file api-token of their folder.
    #[arg(long, env = "PRB_API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// The token once it was read: the file may be a pipe, which can be read once.
    #[arg(skip)]
    pub token: ReadOnce,
}

impl PageArgs {
    /// Returns the token, if one is set.
    ///
    /// # Errors
    /// It is set twice, cannot be read, or is too short.
    pub fn token(&self) -> anyhow::Result<Option<SecretString>> {
        self.token.get_or_read(|| self.read_token())
    }

    fn read_token(&self) -> anyhow::Result<Option<SecretString>> {
        let variable = std::env::var_os(TOKEN_VARIABLE).filter(|value| !value.is_empty());
        let (token, place) = match (variable, &self.api_token_file) {
            (None, None) => return Ok(None),
            // Refused, because neither is obviously the one that is meant.
            (Some(_), Some(_)) => bail!("both {TOKEN_VARIABLE} and PRB_API_TOKEN_FILE are set; set one"),
            (Some(value), None) => {
                let text =
                    value.into_string().map_err(|_| anyhow::anyhow!("{TOKEN_VARIABLE} is not UTF-8"))?;
                (SecretString::from(text), TOKEN_VARIABLE.to_owned())
            }
            (None, Some(file)) => {
                let token = first_line(file, MAX_TOKEN_FILE_BYTES).context("PRB_API_TOKEN_FILE")?;
                (token, format!("{} (PRB_API_TOKEN_FILE)", redact::shown_path(file)))
            }
        };
        check_token(&token).with_context(|| format!("the token in {place}"))?;
        Ok(Some(token))
    }
}

fn check_token(token: &SecretString) -> anyhow::Result<()> {
    let text = token.expose_secret();
    let bytes = text.len();
    if bytes < MIN_TOKEN_BYTES {
        bail!("has {bytes} bytes; it must have at least {MIN_TOKEN_BYTES}, or it can be guessed");
    }
    // Only characters that fit into a header and are visible.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("has characters that cannot be sent in a header; use visible ASCII characters");
    }
    if let Some(problem) = auth::guessable(text, MIN_GUESSES_LOG10) {
        bail!("{problem}; take one from a random generator, such as the output of: openssl rand -hex 32");
    }
    Ok(())
}

fn page_listen(text: &str) -> Result<OpsListen, String> {
    listen_at(text, 4567)
}

fn console_listen(text: &str) -> Result<OpsListen, String> {
    listen_at(text, 3000)
}

fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !name.is_empty() && name.len() <= 253 && name.chars().all(allowed) {
        Ok(name)
    } else {
        Err("must be a host name without a port, such as queue.example.org".into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weak_token_is_refused_without_being_shown() {
        let error = check_token(&"hunter2".into()).unwrap_err().to_string();
        assert!(error.contains("7 bytes") && !error.contains("hunter2"), "{error}");
        let error = check_token(&"sixteen bytes, or".into()).unwrap_err().to_string();
        assert!(error.contains("header") && !error.contains("sixteen"), "{error}");
        for pattern in ["aaaaaaaaaaaaaaaa", "tokentokentokentoken", "0123456789abcdef"] {
            let error = check_token(&pattern.into()).unwrap_err().to_string();
            assert!(error.contains("pattern") && !error.contains(pattern), "{error}");
        }
        let digest = "5f4dcc3b5aa765d61d8327deb882cf99";
        let error = check_token(&digest.into()).unwrap_err().to_string();
        assert!(error.contains("digest") && !error.contains(digest), "{error}");
        assert!(check_token(&"b39aa1c7f2ed4f7b".into()).is_ok());
    }

    #[test]
    fn names_and_addresses() {
        assert_eq!(host_name(" Queue.Example.org"), Ok("queue.example.org".into()));
        for bad in ["", "a b", "http://x", "x:80"] {
            assert!(host_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(page_listen("none"), Ok(OpsListen::Off));
        assert!(page_listen("4567").unwrap_err().contains("127.0.0.1:4567"));
    }
}
